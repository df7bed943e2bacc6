"""What becomes of the watermark when a run that was to move it does not end well."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lifecycle.commands import run
from lifecycle.errors import UserError
from lifecycle.params import load_params
from lifecycle.releases import window
from lifecycle.releases.heal import heal
from lifecycle.testing import CLI, edit_params, environment, wait_until


@pytest.mark.parametrize("error", [UserError("no"), OSError("no"), KeyboardInterrupt("no"), SystemExit("no")])
@pytest.mark.parametrize("built_before_it_failed", [False, True])
def test_the_watermark_stays_where_the_results_are(
    error: BaseException, built_before_it_failed: bool, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path("params.yaml").read_bytes()
    lower = load_params().data.since

    def fail() -> bool:
        if built_before_it_failed:
            Path("dvc.lock").write_text("of the new window", encoding="utf-8")
        raise error

    monkeypatch.setattr(run, "_run", fail)
    with pytest.raises(type(error), match="no"):
        run.run_pipeline(lower)
    if built_before_it_failed:
        assert load_params().data.through == lower
    else:
        assert Path("params.yaml").read_bytes() == before
    assert not window.NOTE.exists()


# Where to die, in the order of a run: each is a function that is replaced by one that kills the process.
STEPS = {
    "before params.yaml": ("releases.window", "set_through", False),
    "after params.yaml": ("commands.run", "_run", False),
    "at the gate": ("stages.ingest", "admit", False),
    "after the first stage": ("releases.pipeline", "StageResult", True),
}
DIE = """
import importlib, os, signal
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(importlib.import_module("lifecycle." + {module!r}), {name!r}, die)
from lifecycle.cli import main
main()
"""


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_is_killed_has_moved_the_watermark_or_not(step: str, project: Path) -> None:
    before = Path("params.yaml").read_bytes()
    lower = load_params().data.since
    module, name, built = STEPS[step]
    command = [sys.executable, "-c", DIE.format(module=module, name=name), "run", "--through", lower]
    done = subprocess.run(command, env=environment(project), capture_output=True, text=True, start_new_session=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert window.NOTE.exists()
    said = " ".join(heal())
    if built:
        assert load_params().data.through == lower
        assert "params.yaml" not in said
    else:
        assert Path("params.yaml").read_bytes() == before
        assert ("ended before it built anything" in said) == (step != "before params.yaml")
    assert heal() == []


def test_parameters_edited_after_the_kill_are_left_alone(project: Path) -> None:
    lower = load_params().data.since
    command = [sys.executable, "-c", DIE.format(module="commands.run", name="_run"), "run", "--through", lower]
    subprocess.run(command, env=environment(project), check=False, capture_output=True)
    edit_params(project, {"train": {"seed": 7}})
    assert heal() == []
    assert (load_params().data.through, load_params().train["seed"]) == (lower, 7)


def test_a_run_that_is_at_work_keeps_its_watermark(project: Path) -> None:
    lower = load_params().data.since
    with window.moved(lower):
        assert heal() == []
        assert load_params().data.through == lower
        with pytest.raises(UserError, match="another `run --through` is at work"), window.moved(lower):
            pass


def test_sigterm_puts_the_watermark_back_and_ends_the_stage(project: Path) -> None:
    before = Path("params.yaml").read_bytes()
    Path("dvc.yaml").write_text(
        Path("dvc.yaml").read_text(encoding="utf-8").replace("python -m lifecycle.stages.ingest", "sleep 600"),
        encoding="utf-8",
    )
    with subprocess.Popen(
        [*CLI, "run", "--through", load_params().data.since], env=environment(project), stderr=subprocess.PIPE
    ) as process:
        try:
            wait_until(lambda: _stage(project) is not None or process.poll() is not None, seconds=240)
        finally:
            process.terminate()
        _, said = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert Path("params.yaml").read_bytes() == before
    assert _stage(project) is None


def _stage(project: Path) -> int | None:
    found = psutil.process_iter(["cmdline", "cwd"])
    return next(
        (each.pid for each in found if each.info["cwd"] == str(project) and each.info["cmdline"] == ["sleep", "600"]),
        None,
    )
