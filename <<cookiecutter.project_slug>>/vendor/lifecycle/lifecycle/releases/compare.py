"""Compare two releases on the same holdout: run the newer one's evaluation with the older one's model."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from .. import project
from ..errors import UserError, one_line
from . import loading
from .pipeline import PIPELINE_FILE
from .record import METRICS_FILE, Release
from .store import Store

SCRATCH = Path(".lifecycle/scratch")
# Used if the stage has no timeout_seconds in its meta in dvc.yaml.
SECONDS = 900


def compare(candidate: Release, champion: Release, store: Store) -> dict[str, Any]:
    """Return the champion's metrics on the candidate's holdout, next to the candidate's own.

    The stage that writes the metrics runs again in a separate folder, with the code, parameters and data of the
    candidate and the model of the champion. If that fails, for example because the champion needs a feature that is no
    longer made, `problem` says why, and the policy holds the release until a person decides.

    Returns: {"champion": id, "metrics": {name: {"champion", "candidate", "change"}}} or {"champion", "problem"}.
    """
    try:
        theirs = _measure(candidate, champion, store)
    except UserError as error:
        return {"champion": champion.id, "problem": one_line(error)}
    ours = candidate.evidence["metrics"]
    return {
        "champion": champion.id,
        "metrics": {
            name: {"champion": theirs[name], "candidate": value, "change": round(value - theirs[name], 6)}
            for name, value in ours.items()
            if isinstance(value, float) and isinstance(theirs.get(name), float | int)
        },
    }


def _measure(candidate: Release, champion: Release, store: Store) -> dict[str, Any]:
    """Return the champion's metrics. Raises UserError if they cannot be computed."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compare-", dir=SCRATCH) as name:
        folder = Path(name).resolve()
        loading.extract(candidate.commit, folder)
        stage = _stage_of_metrics(folder)
        model = champion.model["path"]
        needed = candidate.outputs(*stage["deps"])
        if wrong := store.fetch([output for output in needed if output.path != model]):
            raise UserError(str(wrong[0]))
        store.copy([output for output in needed if output.path != model], folder)
        shutil.copytree(loading.materialise(champion, store) / model, folder / candidate.model["path"])
        environment = os.environ | {"PYTHONPATH": project.python_path(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
        command = shlex.split(stage["cmd"])
        seconds = (stage.get("meta") or {}).get("timeout_seconds", SECONDS)
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"its evaluation took longer than {seconds:g} s (timeout_seconds of the stage in {PIPELINE_FILE})"
            ) from None
        except OSError as error:
            raise UserError(f"its evaluation cannot be started: {error}") from None
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}, no output"]
            raise UserError(f"its evaluation failed: {lines[-1]}")
        try:
            theirs: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"its evaluation wrote no {METRICS_FILE}") from None
    return theirs


def _stage_of_metrics(folder: Path) -> dict[str, Any]:
    stages: dict[str, dict[str, Any]] = yaml.safe_load((folder / PIPELINE_FILE).read_text(encoding="utf-8"))["stages"]
    return next(
        stage
        for stage in stages.values()
        for out in (*stage.get("metrics", []), *stage.get("outs", []))
        if (next(iter(out)) if isinstance(out, dict) else out) == METRICS_FILE
    )
