"""The pipeline as DVC knows it: its stages in order, which are stale and why, and running one stage."""

import contextlib
import hashlib
import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import reduce
from graphlib import TopologicalSorter
from operator import getitem
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import yaml

from ..errors import USER_ERROR, UserError, one_line, redacted
from ..params import PARAMS_FILE, SAFE_LOADER

if TYPE_CHECKING:
    pass

PIPELINE_FILE = Path("dvc.yaml")
LOCK_FILE = Path("dvc.lock")
LOGS = Path("logs")


class StageError(Exception):
    """A stage failed. `for_good`: a retry will not help."""

    def __init__(self, stage: str, reason: str, log: Path, for_good: bool) -> None:
        reason = redacted(reason)
        super().__init__(f"stage {stage} failed: {reason} (log: {log}; try again with `dvc repro -s {stage}`)")
        self.stage, self.reason, self.for_good = stage, reason, for_good


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml. Retries back off: backoff_seconds, twice that, four times that, ...

    `run_on`: the work pool of other machines that it runs on; here if that is empty.
    """

    name: str
    description: str
    retries: int = 0
    backoff_seconds: float = 0
    timeout_seconds: float | None = None
    run_on: str = ""


@dataclass(frozen=True)
class StageStatus:
    """Whether a stage's outputs match its dependencies, and if not, why."""

    stage: str
    reasons: tuple[str, ...] = ()

    @property
    def fresh(self) -> bool:
        """Whether the stage is up to date."""
        return not self.reasons


@dataclass(frozen=True)
class StageResult:
    """The outcome of running a stage. `cached`: DVC already had the outputs, here or in its cache."""

    stage: str
    outcome: Literal["ran", "cached"]
    seconds: float
    log: Path = field(default_factory=Path)


class Pipeline:
    """The dvc.yaml in this folder. Reuse one instance for a whole run: opening it is the expensive part."""

    def __init__(self) -> None:
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.repo import Repo

        # dvc.yaml says `python`: make that this interpreter, whether or not its environment is activated.
        bin_folder = str(Path(sys.executable).parent)
        os.environ["PATH"] = os.pathsep.join([bin_folder, os.environ.get("PATH", "")])
        try:
            self._repo: Repo = Repo(".")
            graph = self._repo.index.graph
        except NotDvcRepoError:
            raise UserError("this is not the project's folder (no .dvc here): change to it and try again") from None
        except DvcException as error:
            if LOCK_FILE.exists():
                locked()  # raises a clearer error if dvc.lock is the cause
            raise UserError(f"dvc.yaml cannot be used: {one_line(error)}") from None

        # An edge in DVC's graph points from a stage to one that it needs.
        self._needs = {node.name: sorted(each.name for each in graph.successors(node)) for node in graph}
        by_name = {node.name: node for node in graph}
        self._order = [by_name[name] for name in TopologicalSorter(dict(sorted(self._needs.items()))).static_order()]

    def stages(self) -> list[Stage]:
        """Return every stage, each after those it depends on."""
        ours = {each.name for each in fields(Stage)}
        return [
            Stage(
                stage.name, stage.desc or "", **{key: value for key, value in (stage.meta or {}).items() if key in ours}
            )
            for stage in self._order
        ]

    def outs(self) -> dict[str, list[str]]:
        """Return the paths of each stage's outputs, in stage order."""
        return {stage.name: [str(out.def_path) for out in stage.outs] for stage in self._order}

    def status(self) -> list[StageStatus]:
        """Return which stages are stale and why, in stage order. A stage that depends on a stale one is stale too.

        Raises:
            UserError: DVC cannot tell, for example because another run holds its lock.
        """
        from dvc.exceptions import DvcException

        try:
            with _without_bars():
                changes = self._repo.status()
        except DvcException as error:
            raise UserError(one_line(error)) from None
        found: list[StageStatus] = []
        stale: set[str] = set()
        for stage in self._order:
            reasons = tuple(_reasons(stage.name, changes.get(stage.addressing, [])))
            reasons += tuple(f"{name} is stale" for name in self._needs[stage.name] if name in stale)
            if reasons:
                stale.add(stage.name)
            found.append(StageStatus(stage.name, reasons))
        return found

    def run(self, stage: str) -> StageResult:
        """Bring one stage's outputs up to date. The stage's output goes to logs/<stage>.log.

        Raises:
            StageError: the stage failed. Its previous outputs are restored.
        """
        from dvc.exceptions import DvcException, ReproductionError
        from dvc.stage.exceptions import StageCmdFailedError

        log = LOGS / f"{stage}.log"
        start = time.monotonic()
        try:
            with output_to(log), _no_child_left_behind():
                self._repo.reproduce(targets=[stage], single_item=True)
        except ReproductionError as error:
            self._put_back(stage, log)
            cause = error.__cause__
            for_good = isinstance(cause, StageCmdFailedError) and str(cause).endswith(f"exited with {USER_ERROR}")
            raise StageError(stage, _last_line(log, str(cause)), log, for_good) from None
        except DvcException as error:
            raise StageError(stage, one_line(error), log, for_good=False) from None
        except BaseException:
            self._put_back(stage, log)
            raise
        outcome: Literal["ran", "cached"] = "ran" if "Running stage" in log.read_text(encoding="utf-8") else "cached"
        return StageResult(stage, outcome, time.monotonic() - start, log)

    def run_cache_key(self, stage: str, params: str = "") -> str:
        """Return the name under which DVC keeps the stage's results for its inputs, or for this params.yaml."""
        # Private in DVC: requirements.lock pins the version, and a test compares it with what DVC wrote.
        from dvc.dependency import ParamsDependency
        from dvc.stage.cache import _can_hash, _get_stage_hash
        from dvc.utils.serialize import parse_yaml

        node = next(each for each in self._order if each.name == stage)
        node.save_deps()
        for dep in node.deps if params else []:
            if isinstance(dep, ParamsDependency) and dep.def_path == PARAMS_FILE.name:
                values = parse_yaml(params, PARAMS_FILE)
                dep.hash_info.value = {name: reduce(getitem, name.split("."), values) for name in dep.params}
        if not _can_hash(node):
            raise UserError(f"DVC cannot keep results of the stage {stage}: it needs deps and outs in the project")
        return str(_get_stage_hash(node))

    def _put_back(self, stage: str, log: Path) -> None:
        # DVC deletes a stage's outputs before it runs. After a failure, restore the last good ones.
        from dvc.exceptions import DvcException

        with contextlib.suppress(DvcException), output_to(log, mode="a"):
            self._repo.checkout(targets=[stage], force=True)


def _reasons(stage: str, changes: list[Any]) -> Iterator[str]:
    """Flatten DVC's status of a stage: `data/raw modified`, `params.yaml: train.seed 1, was 2`."""
    for change in changes:
        if isinstance(change, str):
            yield change
            continue
        for path, what in (item for changed in change.values() for item in changed.items()):
            if isinstance(what, dict):
                yield from (
                    f"{path}: {reason}" for key, how in what.items() for reason in _param(stage, path, key, how)
                )
            else:
                yield f"{path} {what}"


def _param(stage: str, path: str, key: str, how: str) -> Iterator[str]:
    """Yield changes below a parameter that DVC calls modified. DVC only names the section that the stage declares."""
    before = locked().get(stage, {}).get("params", {}).get(path, {}).get(key) if LOCK_FILE.exists() else None
    now = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for part in key.split("."):
        now = now.get(part) if isinstance(now, dict) else None
    if before is None or now is None:
        yield f"{key} {how}"
        return
    old, new = dict(flat({key: before})), dict(flat({key: now}))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name} {new.get(name, 'gone')}, was {old.get(name, 'not there')}"


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings, by dotted name."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def tail(log: Path) -> str:
    """Return the end of a stage's log, for engines that keep logs of their own."""
    return log.read_text(encoding="utf-8", errors="replace")[-20_000:]


TRACEBACK = "Traceback (most recent call last):"
FRAME = re.compile(r'  File "(.+)", line (\d+), in ')


def _last_line(log: Path, otherwise: str) -> str:
    """Return why a stage failed, from its log: its own error, or the traceback's last line and its location."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for number in reversed(range(len(lines))):
        if lines[number].startswith("error: "):
            return lines[number].removeprefix("error: ").strip()
        if lines[number] == TRACEBACK:
            return _raised(lines[number + 1 :]) or otherwise
    return otherwise


def _raised(lines: list[str]) -> str | None:
    """Extract `KeyError: 'kind' (evaluate.py:88)` from a traceback. The location is the last one in this project."""
    frames = list(itertools.takewhile(lambda line: line.startswith(" "), lines))
    if len(frames) == len(lines):
        return None  # the process was killed while writing it
    places = [(Path(found[1]), found[2]) for line in frames if (found := FRAME.match(line))]
    own = [(path, line) for path, line in places if path.is_relative_to(Path.cwd()) and ".venv" not in path.parts]
    where = [f" ({path.name}:{line})" for path, line in own or places][-1:]
    return one_line(lines[len(frames)]) + "".join(where)


@contextlib.contextmanager
def output_to(log: Path, mode: str = "w") -> Iterator[None]:
    """Redirect the output of this process and its children to a file."""
    log.parent.mkdir(exist_ok=True)
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    kept = [os.dup(1), os.dup(2)]
    with log.open(mode, buffering=1, encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            # Redirect all three: children write to the descriptors, DVC in this process to sys.stdout, and DVC's log to
            # the sys.stdout from when DVC was imported.
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file), _dvc_log_to(file):
                yield
        finally:
            file.flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
    said = log.read_text(encoding="utf-8", errors="replace")
    if (clean := redacted(said)) != said:
        log.write_text(clean, encoding="utf-8")


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Hide DVC's progress bars, which would flash by for a second."""
    bars = logging.getLogger("dvc.progress")
    bars.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        bars.setLevel(logging.NOTSET)


@contextlib.contextmanager
def _dvc_log_to(file: IO[str]) -> Iterator[None]:
    handlers = [each for each in logging.getLogger("dvc").handlers if isinstance(each, logging.StreamHandler)]
    streams = [handler.stream for handler in handlers]
    for handler in handlers:
        handler.setStream(file)
    try:
        yield
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            handler.setStream(stream)


@contextlib.contextmanager
def _no_child_left_behind() -> Iterator[None]:
    """If the block fails, kill the processes it started: a stage that timed out must not keep writing."""
    import psutil

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    try:
        yield
    except BaseException:
        for child in psutil.Process().children(recursive=True):
            if child.pid not in before:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        raise


def locked() -> dict[str, Any]:
    """Return dvc.lock's stages, with their dependencies and outputs.

    Raises:
        UserError: nothing has been built yet, or the file is damaged.
    """
    try:
        return whole_lock(LOCK_FILE.read_bytes())
    except FileNotFoundError:
        raise UserError("nothing has been built yet: there is no dvc.lock") from None
    except ValueError:
        raise UserError("dvc.lock is damaged: `git restore dvc.lock` puts the committed one back") from None


def whole_lock(content: bytes) -> dict[str, Any]:
    """Return the stages in a dvc.lock.

    Raises:
        ValueError: it is not a dvc.lock, or it is truncated because DVC was killed while writing it.
    """
    try:
        stages: dict[str, Any] = yaml.load(content, SAFE_LOADER)["stages"]  # noqa: S506
        files = [each for stage in stages.values() for key in ("deps", "outs") for each in stage.get(key, [])]
        complete = all(map(_complete, files))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(one_line(error)) from None
    if not complete or not content.endswith(b"\n"):
        raise ValueError("the end is missing")
    return stages


def _complete(file: dict[str, Any]) -> bool:
    if "md5" not in file:  # it may have the ETag of a URL
        return len(file.keys() - {"path", "hash"}) > 0
    return "size" in file and ("nfiles" in file or not file["md5"].endswith(".dir"))


def outputs() -> list[dict[str, Any]]:
    """Return every output in dvc.lock, of all stages: path, md5, size."""
    return [out for stage in locked().values() for out in stage.get("outs", [])]


def result_digest() -> str:
    """Return one digest for everything built: SHA-256 over path and hash of every output, sorted."""
    outs = sorted(f"{out['path']} {out['md5']}" for out in outputs())
    return hashlib.sha256("\n".join(outs).encode()).hexdigest()


def artifacts() -> dict[str, dict[str, Any]]:
    """Return the `artifacts` of dvc.yaml: the pipeline's named products."""
    declared: dict[str, dict[str, Any]] = yaml.safe_load(PIPELINE_FILE.read_text(encoding="utf-8"))["artifacts"]
    return declared
