"""The temporary copy that a drill runs in: the checked-out commit, its data, its own ledger and its own server.

Writes nothing to the project. Fetches from its git repository, copies DVC's objects, and uses no remote, MLflow or
Prefect but its own.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from .. import project
from ..errors import UserError
from ..params import load_params
from ..releases import ledger as book
from ..releases import loading, registry, tracking
from ..releases.ledger import ChannelName, Ledger
from ..releases.pipeline import LOCK_FILE
from ..releases.record import Release
from . import defects
from .load import Load, plain, shift

CLI = [sys.executable, "-m", "lifecycle.cli"]
# Processes that an operation starts to update MLflow.
FOLLOWER = "lifecycle.lineage.mlflow_pages"
# Settings that point outside the copy.
FOREIGN = ("DASK_", "DVC_", "GIT_", "MLFLOW_", "OPENLINEAGE_", "PREFECT_", "RAY_", "SERVING_")
ROWS = 2000
# Longer than anything takes on a slow machine.
PATIENCE_SECONDS = 120
POLL_SECONDS = 0.05


class UnexpectedError(Exception):
    """Raised if the expected effect of a fault did not happen."""


class Sandbox:
    """The copy, with a server and a load on it. Created by `build`; the process runs in its folder."""

    def __init__(self, top: Path, folder: Path) -> None:
        self.folder = folder
        self.source = top / "source"
        self.environment = environment(folder)
        self.port = 0
        self._log = top / "serve.log"
        self._server: subprocess.Popen[bytes] | None = None

    # Commands that a person would type.

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the project in the copy."""
        return subprocess.run(
            [*CLI, *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900
        )

    def must(self, *arguments: str) -> Any:
        """Run a command that must succeed, and return its --json output."""
        done = self.cli(*arguments, "--json")
        if done.returncode:
            raise UnexpectedError(f"`{' '.join(arguments)}` failed: {last_line(done)}")
        return json.loads(done.stdout)

    def start_cli(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command that will be killed, as the leader of its own process group."""
        nowhere = subprocess.DEVNULL
        command = [*CLI, *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=nowhere, stderr=nowhere, start_new_session=True
        )

    def git(self, *arguments: str) -> None:
        """Run git in the copy."""
        run(["git", *arguments], self.folder, self.environment)

    # The server.

    def serve(self) -> None:
        """Start the server on its previous port. Returns once it answers."""
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                [*CLI, "serve", "--port", str(self.port)],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: self._address() and self.info() is not None, "the server does not answer")

    def _address(self) -> bool:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        if "http://127.0.0.1:" in text:
            self.port = int(text.split("http://127.0.0.1:")[1].split()[0])
        elif self._server and self._server.poll() is not None:
            raise UnexpectedError(f"the server has ended: {text[-300:]}")
        return bool(self.port)

    def info(self) -> dict[str, Any] | None:
        """Return what GET /info says about the channels, or None if the server does not answer."""
        with suppress(OSError, ValueError), urlopen(f"http://127.0.0.1:{self.port}/info", timeout=5) as answer:
            found: dict[str, Any] = json.loads(answer.read())["channels"]
            return found
        return None

    def kill_server(self) -> None:
        """Send SIGKILL, so that the server cannot shut down cleanly."""
        if self._server:
            self._server.kill()
            self._server.wait()

    # The current state.

    @property
    def ledger(self) -> Ledger:
        """The current ledger."""
        return book.load()

    def serves(self, name: ChannelName) -> str | None:
        """Return what a channel serves according to the ledger."""
        channel = self.ledger.channel(name)
        return channel.release if channel else None

    def shows(self, name: ChannelName) -> str | None:
        """Return what the server reports for a channel."""
        found: str | None = ((self.info() or {}).get(name) or {}).get("release")
        return found

    def until(self, true: Callable[[], object], otherwise: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until `true` returns something true.

        Raises:
            UnexpectedError: it did not in time.
        """
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise UnexpectedError(f"{otherwise}, within {seconds:g} s; the server says {self.info()}")
            time.sleep(POLL_SECONDS)

    # Releases.

    def release_defective(self, defect: defects.Defect) -> str:
        """Release a model with this defect, then restore the work tree. Return the release."""
        sound = self._head()
        file = self.folder / Path("src", *project.here().model.split(".")).with_suffix(".py")
        file.write_text(file.read_text(encoding="utf-8") + defects.code(defect), encoding="utf-8")
        self.git("commit", "--quiet", "--all", "-m", f"A {defect} model")
        # The defect does not affect the stages: their outputs are the same with this code.
        run([sys.executable, "-m", "dvc", "commit", "--quiet", "--force"], self.folder, self.environment)
        made: str = self.must("release", "--reason", f"drill: {defect}")["release"]
        self.git("reset", "--quiet", "--hard", sound)
        return made

    def _head(self) -> str:
        said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=self.folder, capture_output=True, text=True, check=True)
        return said.stdout.strip()

    def put_right(self, sound: str) -> None:
        """Restore the state before a fault, whatever its outcome: serve only `sound`, and delete logs and figures."""
        if self.info() is None:
            self.serve()
        canary = self.ledger.channel("canary")
        while canary and canary.release is not None:
            self.must("rollback", "canary", "--reason", "the drill goes on")
            canary = self.ledger.channel("canary")
        if self.serves("production") != sound:
            self.must("promote", sound, "--to", "production", "--reason", "the drill goes on")
        if self.ledger.held("production"):
            self.must("hold", "production", "--end")
        self.until(lambda: self.shows("production") == sound, "the server does not follow")
        for name in ("logs/predictions", ".lifecycle/monitoring"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def settle(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until MLflow follows the ledger: every operation leaves that to a separate process."""
        self.until(lambda: registry.in_step(self.ledger, registry.DESCRIBED), "MLflow does not follow", seconds)
        # A process with nothing to do may still be running, and would repair what a fault breaks.
        self.until(lambda: not self._follows(), "a process still updates MLflow", seconds)

    def _follows(self) -> bool:
        import psutil

        running = [each.info for each in psutil.process_iter(["cmdline", "cwd"])]
        return any(each["cwd"] == str(self.folder) and FOLLOWER in (each["cmdline"] or ()) for each in running)

    def load(self, release: Release) -> tuple[Load, list[float]]:
        """Return a load of the newest rows with a known outcome, and the release's predictions for them."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        columns, features = load_params().monitoring.columns, list(release.model["features"])
        names = [*dict.fromkeys([*features, columns.key, columns.label, columns.time])]
        table = pq.read_table(release.model["feature_table"], columns=names)
        table = table.filter(pc.is_valid(table[columns.label])).sort_by([(columns.time, "ascending")])
        table = table.slice(max(table.num_rows - ROWS, 0))
        model = loading.load_model(release, loading.RELEASES / release.id)
        # The server may correctly reject a category that training did not have.
        seen = {each.name: {*each.categories, None} for each in model.features if getattr(each, "categories", None)}
        rows = [
            (str(key), {name: plain(value) for name, value in row.items()}, score)
            for key, row, score in zip(
                table[columns.key].to_pylist(),
                table.select(features).to_pylist(),
                model.predict(table).tolist(),
                strict=True,
            )
            if all(row[name] in values for name, values in seen.items())
        ]
        asked = [(key, row) for key, row, _ in rows]
        return Load(self.port, asked, shift([row for _, row in asked])), [score for _, _, score in rows]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment for processes in the copy: its code and MLflow, without the user's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    own = {
        "PYTHONPATH": project.python_path(folder),
        "PATH": path,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": f"{folder}/.prefect",
    }
    return kept | own | {"DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site")}


def run(command: list[str], folder: Path, env: dict[str, str]) -> str:
    """Run a command that must succeed. Return its output.

    Raises:
        UserError: it fails.
    """
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the drill cannot run: `{' '.join(command[:4])}` failed: {last_line(done)}")
    return done.stdout


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of a command's output."""
    return ((done.stderr or done.stdout).strip().splitlines() or ["it said nothing"])[-1][:300]


def build(project: Path, top: Path) -> tuple[Sandbox, Path]:
    """Copy the checked-out commit of `project`, and its built results, to a folder below `top`.

    Raises:
        UserError: nothing is built, or the results are not in DVC's cache.
    """
    here = environment(project)
    prefix = run(["git", "rev-parse", "--show-prefix"], project, here).strip()
    root = top / "copy"
    folder = (root / prefix).resolve()
    repository = run(["git", "rev-parse", "--show-toplevel"], project, here).strip()
    root.mkdir()
    env = environment(folder)
    for arguments in (
        ["init", "--quiet", "--initial-branch=drill"],
        ["fetch", "--quiet", "--depth=1", repository, "HEAD"],
        ["reset", "--quiet", "--hard", "FETCH_HEAD"],
        ["config", "user.name", "Drill"],
        ["config", "user.email", "drill@localhost"],
        ["config", "core.hooksPath", os.devnull],
        ["config", "commit.gpgSign", "false"],
    ):
        run(["git", *arguments], root, env)
    for name in filter(lambda name: (project / name).exists(), tracking.WRITTEN_BY_RUNS):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(project / name, folder / name)
        run(["git", "add", name], folder, env)
    if not (folder / LOCK_FILE).exists():
        raise UserError("nothing is built here: `run` first")
    _copy_objects(project, folder)
    run([sys.executable, "-m", "dvc", "checkout", "--quiet", "--force"], folder, env)
    return Sandbox(top, folder), folder


def _copy_objects(project: Path, folder: Path) -> None:
    from dvc.config import Config

    config = Config(str(project / ".dvc"))
    cache = Path(config["cache"].get("dir") or project / ".dvc/cache") / "files/md5"
    # This one file replaces any remote that the project has.
    settings = f"[core]\n    remote = drill\n['remote \"drill\"']\n    url = {folder}/.dvc-remote\n"
    (folder / ".dvc/config.local").write_text(f"{settings}[cache]\n    dir = {folder}/.dvc/cache\n", encoding="utf-8")
    lock = yaml.safe_load((folder / LOCK_FILE).read_text(encoding="utf-8"))
    for out in (out for stage in lock["stages"].values() for out in stage.get("outs", [])):
        listing = _copy_object(cache, folder, out["md5"])
        for each in json.loads(listing.read_bytes()) if out["md5"].endswith(".dir") else []:
            _copy_object(cache, folder, each["md5"])


def _copy_object(cache: Path, folder: Path, md5: str) -> Path:
    target = folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy(cache / md5[:2] / md5[2:], target)
    except FileNotFoundError:
        raise UserError(f"{md5[:8]}, which dvc.lock names, is not in DVC's cache here: `dvc pull`") from None
    return target


def relax(sandbox: Sandbox) -> None:
    """Change settings in the copy's params.yaml that a drill cannot wait for, and use a separate folder for raw files.

    Keeps thresholds, gates and triggers unchanged: the drill tests them.
    """
    shutil.copytree(sandbox.folder / "data/raw", sandbox.source)
    path = sandbox.folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["data"]["source"] = str(sandbox.source)
    # The drill puts the defective models on their channels itself, regardless of their quality.
    nobody: dict[str, Any] = {"after": None, "approvals": 0}
    params["promotion"]["channels"] = dict.fromkeys(("staging", "canary", "production"), nobody)
    monitoring = params["monitoring"]
    monitoring |= {"log_window": "hour"}
    monitoring["consecutive"] |= {"hour": 1}
    monitoring["alerts"]["blocks"] = []
    triggers = monitoring.setdefault("triggers", {})
    triggers |= {"rollbacks_a_day": 1000, "cooldown_hours": {}}
    params["rollout"]["canary"] |= {"shares": [0.5], "min_requests": 100}
    params["serving"] = params.get("serving") or {}
    params["serving"]["breaker"] = (params["serving"].get("breaker") or {}) | {"rest_seconds": 1}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    sandbox.git("commit", "--quiet", "--all", "-m", "For a drill")
