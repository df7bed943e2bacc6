"""The replay files bake, and are what cookiecutter would write today.

`python tests/test_replay.py` writes them anew after a change of the questions.
"""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from baking import HOSTILE, SHORT, Refusal, bake, files_of

REPLAYS = Path(__file__).parent / "replay"
ANSWERS = {"ordinary": {}, "minimal": SHORT, "hostile": HOSTILE}
# What cookiecutter notes about the machine, and sets again when it replays.
OF_THE_MACHINE = ("_template", "_output_dir", "_repo_dir", "_checkout")


def replay_text(parent, answers):
    """Bake, and return the replay file without what belongs to this machine."""
    baked = bake(parent, answers)
    assert not isinstance(baked, Refusal), baked
    [replay] = Path(f"{parent}.replay").glob("*.json")
    answers = json.loads(replay.read_text())["cookiecutter"]
    kept = {key: value for key, value in answers.items() if key not in OF_THE_MACHINE}
    return json.dumps({"cookiecutter": kept}, indent=2) + "\n"


@pytest.mark.parametrize("name", ANSWERS)
def test_replay_files_are_current(name, tmp_path, no_git):
    expected = replay_text(tmp_path / "out", ANSWERS[name])
    assert (REPLAYS / f"{name}.json").read_text() == expected, "run: python tests/test_replay.py"


@pytest.mark.parametrize("name", ANSWERS)
def test_replay_bakes_what_the_answers_bake(name, tmp_path, no_git):
    answered = bake(tmp_path / "answered", ANSWERS[name])
    replayed = bake(tmp_path / "replayed", replay=str(REPLAYS / f"{name}.json"))
    assert not isinstance(replayed, Refusal), replayed
    assert files_of(replayed) == files_of(answered)
    for file in files_of(answered):
        assert (replayed / file).read_bytes() == (answered / file).read_bytes()


def main():
    for name, answers in ANSWERS.items():
        folder = Path(tempfile.mkdtemp())
        (REPLAYS / f"{name}.json").write_text(replay_text(folder / "out", answers))
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
