"""What the error of a stage says: the reason, and where it was."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lifecycle.releases.pipeline import Pipeline, StageError
from lifecycle.testing import with_own_settings

# A user's mistake, two kinds of traceback, and an end without a word.
SCRIPTS = {
    "mistake": ("import sys\nprint('error: mend it')\nsys.exit(2)\n", "mend it"),
    "key": ("def by_slice(row):\n    return row['kind']\n\nby_slice({})\n", "KeyError: 'kind' (key.py:2)"),
    "library": ("import json\njson.loads('{')\n", "JSONDecodeError: Expecting property name *(library.py:2)"),
    "chained": (
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('two\\nlines') from error\n",
        "ValueError: two (chained.py:4)",
    ),
    "after": ("print('error: one of many', flush=True)\n1 / 0\n", "ZeroDivisionError: division by zero (after.py:2)"),
    "silent": ("raise SystemExit(3)\n", "exited with 3"),
}


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A stage for each script, in a project of its own; the test stands in its folder."""
    with_own_settings(tmp_path, monkeypatch)
    for command in (["git"], [sys.executable, "-m", "dvc"]):
        subprocess.run([*command, "init", "--quiet"], check=True)
    for name, (text, _) in SCRIPTS.items():
        Path(f"{name}.py").write_text(text, encoding="utf-8")
    stages = {name: {"cmd": f"python {name}.py"} for name in SCRIPTS}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    return Pipeline()


def test_a_stage_that_fails_says_why_and_where(pipeline: Pipeline) -> None:
    for name, (_, reason) in SCRIPTS.items():
        with pytest.raises(StageError) as failed:
            pipeline.run(name)
        start, _, end = reason.rpartition("*")
        assert start in failed.value.reason, name
        assert failed.value.reason.endswith(end), name
        assert str(failed.value).endswith(f"(log: logs/{name}.log; try again with `dvc repro -s {name}`)")
