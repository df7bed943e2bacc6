"""Two releases on the same holdout: the newer one's own evaluation, with the older one's model in place."""

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
from . import loading
from .pipeline import PIPELINE_FILE
from .record import METRICS_FILE, Release
from .store import Store

SCRATCH = Path(".lifecycle/scratch")
SECONDS = 900


def compare(candidate: Release, champion: Release, store: Store) -> dict[str, Any]:
    """The champion's metrics on the candidate's holdout, beside the candidate's own.

    The stage that writes the metrics runs once more, with the code, parameters and data of the candidate and the model
    of the champion, in a folder of its own. A champion that cannot be measured so, for example because it wants a
    feature that is no longer made, is a result too: `problem` says why.

    Returns: {"champion": id, "metrics": {name: {"champion", "candidate", "change"}}} or {"champion", "problem"}.
    """
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compare-", dir=SCRATCH) as name:
        folder = Path(name).resolve()
        loading.extract(candidate.commit, folder)
        stage = _stage_of_metrics(folder)
        model = champion.model["path"]
        needed = candidate.outputs(*stage["deps"])
        store.fetch([output for output in needed if output.path != model])
        store.copy([output for output in needed if output.path != model], folder)
        shutil.copytree(loading.materialise(champion, store) / model, folder / candidate.model["path"])
        environment = os.environ | {"PYTHONPATH": project.python_path(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
        command = shlex.split(stage["cmd"])
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return {"champion": champion.id, "problem": f"its evaluation took longer than {SECONDS} s"}
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            return {"champion": champion.id, "problem": lines[-1][:300]}
        theirs = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    ours = candidate.evidence["metrics"]
    return {
        "champion": champion.id,
        "metrics": {
            name: {"champion": theirs[name], "candidate": value, "change": round(value - theirs[name], 6)}
            for name, value in ours.items()
            if isinstance(value, float) and isinstance(theirs.get(name), float | int)
        },
    }


def _stage_of_metrics(folder: Path) -> dict[str, Any]:
    stages: dict[str, dict[str, Any]] = yaml.safe_load((folder / PIPELINE_FILE).read_text(encoding="utf-8"))["stages"]
    return next(
        stage
        for stage in stages.values()
        for out in (*stage.get("metrics", []), *stage.get("outs", []))
        if (next(iter(out)) if isinstance(out, dict) else out) == METRICS_FILE
    )
