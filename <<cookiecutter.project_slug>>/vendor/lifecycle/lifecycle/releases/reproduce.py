"""`reproduce`: rebuild a release from its source, and report how close the result is.

L0: identical bytes. L1: different bytes with equal rows and equal predictions. L2: metrics within a tolerance.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import yaml

from .. import project
from ..errors import UserError
from ..progress import say
from . import git, loading
from .pipeline import LOCK_FILE, PIPELINE_FILE, flat
from .record import GATES_FILE, LOCK, METRICS_FILE, Release, content_digest, same_predictions
from .store import File, Output, Store, file_md5

SCRATCH = Path(".lifecycle/scratch")
METRIC_TOLERANCE = 1e-3

Level = Literal["L0", "L1", "L2", "differs", "kept"]
LEVELS: tuple[Level, ...] = ("L0", "L1", "L2", "differs")


@dataclass(frozen=True)
class Artifact:
    """An output of the pipeline and how close the rebuilt one is.

    `kept`: its stage could not run because its source is gone, so the released bytes were hashed and used instead.
    """

    path: str
    level: Level
    detail: str = ""


@dataclass(frozen=True)
class Reproduction:
    """The outcome of a rebuild. `level` is the worst of its artifacts."""

    release: str
    artifacts: list[Artifact]
    environment: str
    seconds: float

    @property
    def level(self) -> Level:
        """The level that every rebuilt artifact reached."""
        return max((each.level for each in self.artifacts if each.level != "kept"), key=LEVELS.index, default="differs")


def reproduce(release: Release, store: Store, progress: Callable[..., None] = say) -> Reproduction:
    """Rebuild in a clean work tree, with the locked packages and without any cache.

    Raises:
        UserError: the source commit or the packages are not available, or a stage fails.
    """
    start = time.monotonic()
    with _clean_worktree(release) as folder:
        python, environment = _locked_python(release, folder)
        kept = _run_stages(release, folder, python, store, progress)
        artifacts = [
            Artifact(output.path, "kept", kept[output.path])
            if output.path in kept
            else _level(release, output, folder, store)
            for output in release.outputs()
        ]
    return Reproduction(release.id, artifacts, environment, time.monotonic() - start)


@contextmanager
def _clean_worktree(release: Release) -> Iterator[Path]:
    if git.resolve(release.commit) is None:
        raise UserError(
            f"the commit {release.commit[:12]} of {release.id} is not here: `git fetch --tags` may bring it"
        )
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="reproduce-", dir=SCRATCH, ignore_cleanup_errors=True) as name:
        tree = Path(name).resolve() / "tree"
        git.git("worktree", "add", "--quiet", "--detach", str(tree), release.commit)
        try:
            yield tree / git.git("rev-parse", "--show-prefix").strip()
        finally:
            git.git("worktree", "remove", "--force", str(tree))


def _locked_python(release: Release, folder: Path) -> tuple[Path, str]:
    """Return the interpreter to build with: this one if it has exactly the locked packages, otherwise a new one."""
    lock = (folder / LOCK).read_text(encoding="utf-8")
    if not (other := list(_not_as_locked(lock))):
        return Path(sys.executable), "the packages here, which are those of requirements.lock"
    done = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(
            f"{len(other)} packages here are not those of requirements.lock at {release.commit[:12]} (the first: "
            f"{other[0]}), and an environment of its own could not be made: {_error_of(done.stderr)}"
        )
    return folder / ".venv/bin/python", "an environment of its own, from requirements.lock"


def _not_as_locked(lock: str) -> Iterator[str]:
    """Yield locked packages installed here in another version. Skips packages that are not installed here."""
    wanted: dict[str, set[str]] = {}
    for name, locked in re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^\s;\\]+)", lock):
        wanted.setdefault(name, set()).add(locked)
    for name, versions in sorted(wanted.items()):
        try:
            if (here := version(name)) not in versions:
                yield f"{name} {here}, locked {' or '.join(sorted(versions))}"
        except PackageNotFoundError:
            continue


def _run_stages(
    release: Release, folder: Path, python: Path, store: Store, progress: Callable[..., None]
) -> dict[str, str]:
    """Run every stage in order. Return the outputs that were reused as released, each with the reason."""
    import time

    pipeline = yaml.safe_load((folder / PIPELINE_FILE).read_text(encoding="utf-8"))["stages"]
    (folder / LOCK_FILE).unlink(missing_ok=True)
    _bring_source(release, folder)
    environment = os.environ | {"PYTHONPATH": project.python_path(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PATH"] = os.pathsep.join([str(python.parent), environment.get("PATH", "")])
    kept: dict[str, str] = {}
    made = {out.path: out for out in release.outputs()}
    for stage in _in_order(pipeline):
        start = time.monotonic()
        command = [str(python), "-m", "dvc", "repro", "--single-item", "--no-run-cache", "--force", "--quiet", stage]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            progress(stage, "ran", time.monotonic() - start)
            continue
        said = _error_of(done.stderr)
        if any(dep in made for dep in pipeline[stage].get("deps", [])):
            raise UserError(f"{release.id} cannot be rebuilt: stage {stage} failed: {said}")
        # The first stage in the chain: its input is gone from the source, but its output is kept.
        outputs = [made[path] for path in _paths(pipeline[stage].get("outs", []))]
        if wrong := store.fetch(outputs):
            raise UserError(f"{release.id} cannot be rebuilt: stage {stage} failed ({said}), and {wrong[0]}")
        store.copy(outputs, folder)
        kept |= {output.path: said for output in outputs}
        progress(stage, "kept", time.monotonic() - start, f"not rebuilt: {said}")
    return kept


def _in_order(stages: dict[str, Any]) -> list[str]:
    """Sort the stages so that each comes after those whose outputs it reads."""
    from graphlib import TopologicalSorter

    makers = {
        path: name
        for name, stage in stages.items()
        for kind in ("outs", "metrics", "plots")
        for path in _paths(stage.get(kind, []))
    }
    needs = {name: [makers[dep] for dep in stage.get("deps", []) if dep in makers] for name, stage in stages.items()}
    return list(TopologicalSorter(needs).static_order())


def _paths(outs: list[Any]) -> list[str]:
    return [next(iter(out)) if isinstance(out, dict) else out for out in outs]


def _error_of(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")] or lines[-1:] or ["no output"]
    return errors[-1].removeprefix("error: ").strip()[:300]


def _bring_source(release: Release, folder: Path) -> None:
    """If the source is a folder of this project that is not under git, link it to where the parameters expect it."""
    source = Path(str(release.materials["params"].get("data", {}).get("source", "")))
    if source.parts and not source.is_absolute() and source.is_dir() and not (folder / source).exists():
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).symlink_to(source.resolve())


def _level(release: Release, output: Output, folder: Path, store: Store) -> Artifact:
    rebuilt = _rebuilt_files(output, folder)
    if wrong := store.fetch([output]):
        raise UserError(f"{output.path} cannot be compared: {wrong[0]}")
    released = {file.path: file for file in store.files([output])}
    differing = sorted(
        path for path in released.keys() | rebuilt.keys() if released.get(path) != File(path, rebuilt.get(path, ""))
    )
    if not differing:
        return Artifact(output.path, "L0")
    level, detail = _nearness(release, output, folder, store, released, differing)
    return Artifact(output.path, level, f"{', '.join(differing[:3])}: {detail}")


def _rebuilt_files(output: Output, folder: Path) -> dict[str, str]:
    path = folder / output.path
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file_md5(file) for file in files}


def _nearness(
    release: Release, output: Output, folder: Path, store: Store, released: dict[str, File], differing: list[str]
) -> tuple[Level, str]:
    if any(path not in released or not (folder / path).exists() for path in differing):
        return "differs", "other files"
    if output.path == release.model["path"]:
        return _model_nearness(release, folder)
    if all(path.endswith(".parquet") for path in differing):
        import pyarrow.parquet as pq

        same = all(
            content_digest(pq.read_table(folder / path))
            == content_digest(pq.read_table(store.object_path(released[path].md5)))
            for path in differing
        )
        return ("L1", "equal rows") if same else ("differs", "other rows")
    if output.path == METRICS_FILE:
        ours = dict(flat(json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))))
        theirs = dict(flat(release.evidence["metrics"]))
        worst = max((abs(ours.get(name, float("inf")) - value) for name, value in theirs.items()), default=0.0)
        return ("L2" if worst <= METRIC_TOLERANCE else "differs"), f"metrics differ by up to {worst:.2g}"
    if output.path == GATES_FILE:
        ours_passed = [gate["pass"] for gate in json.loads((folder / GATES_FILE).read_text(encoding="utf-8"))]
        same = ours_passed == [gate["pass"] for gate in release.evidence["gates"]]
        return ("L2", "equal verdicts") if same else ("differs", "other verdicts")
    return "L2", "derived from the above"


def _model_nearness(release: Release, folder: Path) -> tuple[Level, str]:
    import pyarrow as pa

    loaded = loading.load_model(release, folder)
    probe, types = release.model["probe"], release.model["features"]
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in types.items()])
    predicted = loaded.predict(pa.Table.from_pylist(probe["rows"], schema=schema)).tolist()
    same = same_predictions(probe["predictions"], predicted)
    return ("L1", "equal predictions for the probe") if same else ("L2", "other predictions for the probe")
