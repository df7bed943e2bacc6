"""A process that works on projects when told to, and whose work can be made to die, or to wait, at any step.

Each piece of work is done by a process of its own, forked from the worker: a real one, without the seconds of imports.
A step is what changes something on the disk or elsewhere: a call of git that writes, a file that is opened for writing,
moved or deleted, a write to MLflow. Between two steps nothing changes, so to die at each of them is to die everywhere.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import psutil

from lifecycle.testing import ROOT, environment

# These only read, or write an index that is nobody's but ours.
GIT_READS = ("archive", "cat-file", "config", "diff", "diff-tree", "for-each-ref", "log", "ls-files", "ls-tree")
GIT_READS += ("merge-base", "read-tree", "remote", "rev-list", "rev-parse", "rm", "status", "update-index", "var")
FILES = {"os.rename": "move", "os.remove": "delete", "os.rmdir": "delete", "os.link": "link", "shutil.rmtree": "delete"}
# What happens below one of these in a row is one step.
CROWDED = (".dvc/cache", ".dvc/tmp", ".dvc-remote", ".lifecycle/releases", ".lifecycle/scratch", "mlartifacts")
MLFLOW_WRITES = ("create_", "delete_", "log_", "set_")
PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Ended:
    """How a piece of work ended: killed (where, or when), or with a result or an error; `steps`: what it did."""

    killed: str = ""
    result: Any = None
    error: str = ""
    text: str = ""
    steps: tuple[str, ...] = ()


class Worker:
    """The worker, as the test sees it."""

    def __init__(self) -> None:
        paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            cwd=ROOT,
            env=environment(ROOT, PYTHONPATH=paths),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self,
        folder: Path,
        work: str,
        *,
        die_at: int = 0,
        die_after: float = 0,
        wait: tuple[str, Path] | None = None,
        env: dict[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        """Begin a piece of work in a project.

        Args:
            folder: the project.
            work: the name of one of the functions below.
            die_at: kill it, and all it has started, at this step, if it gets so far.
            die_after: kill it after so many seconds, if it takes so long.
            wait: before the first step whose name starts like the first, leave a file whose name starts like the
                second, and wait for another's.
            env: more of an environment.
            arguments: of the function.
        """
        assert self._process.stdin
        asked = {
            "folder": str(folder),
            "work": work,
            "die_at": die_at,
            "die_after": die_after,
            "wait": [str(each) for each in wait] if wait else None,
            "env": environment(folder, **(env or {})),
            "with": arguments,
        }
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()

    def end(self) -> Ended:
        """How it ended."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the worker has ended"
        return Ended(**json.loads(line))

    def do(self, folder: Path, work: str, **arguments: Any) -> Ended:
        """Both."""
        self.start(folder, work, **arguments)
        return self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def end_all_in(folder: Path) -> None:
    """Kill every other process that stands in a folder, and wait until they are gone."""
    others = [each for each in psutil.process_iter() if each.pid != os.getpid() and _stands_in(each, folder)]
    for each in others:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    until = time.monotonic() + PATIENCE_SECONDS
    while not all(map(_is_dead, others)):
        assert time.monotonic() < until
        time.sleep(0.005)


def _stands_in(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        return Path(process.cwd()).is_relative_to(folder)
    return False


def _is_dead(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


# What the worker does, in processes that it forks.


def release() -> Any:
    made = _module("operations").release().result
    return {"release": made.release.id, "new": made.new}


def promote(**arguments: Any) -> Any:
    return asdict(_module("operations").promote(**arguments).result)


def rollback(**arguments: Any) -> Any:
    return asdict(_module("operations").rollback(**arguments).result)


def move(what: str, to: str, reason: str = "", traffic: float | None = None) -> Any:
    """A promotion without what follows from it in MLflow."""
    params = importlib.import_module("lifecycle.params").load_params()
    channels, opened = _module("channels"), _module("reconcile").open_ledger(network=True)
    policy = _module("policy").Policy(params.promotion, params.evaluate)
    release = opened.ledger.release(what)
    made = channels.promote(opened.ledger, release, to, policy, opened.store, reason=reason, traffic=traffic)
    return asdict(made)


def move_back(channel: str, reason: str) -> Any:
    """A rollback without what follows from it in MLflow."""
    opened = _module("reconcile").open_ledger(network=True, offline=True)
    return asdict(_module("channels").rollback(opened.ledger, channel, opened.store, reason=reason))


def rollout(what: str) -> Any:
    """One pass."""
    done = importlib.import_module("lifecycle.monitoring.rollout").advance(what)
    return {"state": done.stop.state, "why": done.stop.why, "steps": [str(step) for step in done.steps]}


def score(channel: str) -> Any:
    """Every month, one after the other."""
    columns = importlib.import_module("lifecycle.params").load_params().monitoring.columns
    jobs, _ = _module("scoring").plan(channel, [], columns)
    return [asdict(each) for each in _module("scoring").score(jobs, workers=1)]


def refresh() -> Any:
    """The online table."""
    columns = importlib.import_module("lifecycle.params").load_params().monitoring.columns
    return asdict(_module("online").refresh(columns).table)


def restore(what: str, data_only: bool = False) -> Any:
    opened = _module("reconcile").open_ledger()
    return asdict(_module("restore").restore(opened.ledger.release(what), opened.store, data_only))


def approve(what: str) -> Any:
    ledger = _module("reconcile").open_ledger(network=True).ledger
    return _module("approving").approve(ledger, ledger.release(what))[0].by


def history() -> Any:
    return _module("reconcile").open_ledger().done


def doctor() -> Any:
    return _module("reconcile").doctor().done


def _module(name: str) -> Any:
    return importlib.import_module(f"lifecycle.releases.{name}")


def serve() -> None:
    """Do what is asked for on standard input, until that is closed."""
    os.environ.update(_module("tracking").SETTINGS)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        found = _in_a_process_of_its_own(json.loads(line))
        imported = found.pop("imported", [])
        print(json.dumps(found), file=answers, flush=True)
        for name in imported:  # so that the next one need not
            with suppress(ImportError):
                importlib.import_module(name)


def _in_a_process_of_its_own(asked: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["env"] | _module("tracking").SETTINGS)
        with os.fdopen(writing, "w", encoding="utf-8") as answer:
            json.dump(_do(asked, writing), answer, default=str)
        os._exit(0)
    os.close(writing)
    if asked["die_after"] and not select.select([reading], [], [], asked["die_after"])[0]:
        os.killpg(pid, signal.SIGKILL)
    with os.fdopen(reading, encoding="utf-8") as answer:
        said = answer.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"signal {os.WTERMSIG(status)}"
        return {"killed": said or f"after {asked['die_after']:.3f} s"}
    found: dict[str, Any] = json.loads(said)
    return found


def _do(asked: dict[str, Any], answer: int) -> dict[str, Any]:
    before = set(sys.modules)
    steps = _watch(asked["die_at"], asked["wait"], answer)
    found: dict[str, Any]
    try:
        found = {"result": globals()[asked["work"]](**asked["with"])}
    except Exception as error:
        found = {"error": type(error).__name__, "text": str(error)}
    return found | {"steps": steps, "imported": [name for name in sys.modules if name not in before]}


def _watch(die_at: int, wait: list[str] | None, answer: int) -> list[str]:
    here = f"{Path.cwd()}{os.sep}"
    steps: list[str] = []

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal wait
        step = _step(event, arguments, here)
        if not step or steps[-1:] == [step]:
            return
        steps.append(step)
        if len(steps) == die_at:
            os.write(answer, f"step {die_at}, {step}".encode())
            os.killpg(0, signal.SIGKILL)
        if wait and step.startswith(wait[0]):
            barrier, wait = Path(wait[1]), None
            _wait(barrier)

    _announce_writes_to_mlflow()
    sys.addaudithook(look)
    return steps


def _step(event: str, arguments: tuple[Any, ...], here: str) -> str:
    """The name of what is about to change something; empty for anything else."""
    if event == "subprocess.Popen":
        command = [os.fsdecode(part) for part in arguments[1]]
        if command[0] != "git":
            return f"start {' '.join(command)}"
        verb = next(part for before, part in pairwise(command) if "-" not in (part[0], before[0]))
        return "" if verb in GIT_READS else " ".join(["git", *command[command.index(verb) :]])
    if event == "mlflow":
        return f"MLflow {arguments[0]}"
    if event == "open":
        writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return _file_step("write", arguments[0], here) if writes else ""
    inside_a_folder = event == "os.remove" and arguments[1] != -1  # which is deleted: a step already
    return _file_step(FILES[event], arguments[0], here) if event in FILES and not inside_a_folder else ""


def _file_step(verb: str, path: Any, here: str) -> str:
    if not isinstance(path, str | bytes | os.PathLike):
        return ""
    full = os.path.join(here, os.fsdecode(path))  # noqa: PTH118  a path may be bytes
    if not full.startswith(here):
        return ""
    name = full.removeprefix(here)
    crowd = next((crowd for crowd in CROWDED if name.startswith(crowd)), None)
    return f"change {crowd}" if crowd else f"{verb} {name}"


def _announce_writes_to_mlflow() -> None:
    from mlflow import MlflowClient

    def announced(name: str, method: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            sys.audit("mlflow", name)
            return method(*args, **kwargs)

        return wrapped

    for name in dir(MlflowClient):
        if name.startswith(MLFLOW_WRITES):
            setattr(MlflowClient, name, announced(name, getattr(MlflowClient, name)))


def _wait(barrier: Path) -> None:
    """Say that one has got so far, and wait until another has."""
    barrier.with_name(f"{barrier.name}.{os.getpid()}").touch()
    until = time.monotonic() + PATIENCE_SECONDS
    while len(list(barrier.parent.glob(f"{barrier.name}.*"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.0005)


if __name__ == "__main__":
    serve()
