"""`check` names each way in which a project does not meet the contract, and finds nothing wrong with one that does."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import lifecycle
from lifecycle.testing import OWN, ROOT, cli

MACHINERY = Path(lifecycle.__file__).parents[1]
SOURCE = Path("src", OWN)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's files, nothing run."""
    for name in ("data", "src", "transform", "dvc.yaml", "params.yaml", "pyproject.toml"):
        path = ROOT / name
        shutil.copytree(path, tmp_path / name) if path.is_dir() else shutil.copy(path, tmp_path)
    (tmp_path / "vendor").symlink_to(MACHINERY.parent)
    return tmp_path


def check(folder: Path) -> tuple[int, str]:
    paths = os.pathsep.join([str(folder / "src"), str(MACHINERY)])
    done = cli("check", folder=folder, PYTHONPATH=paths)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def replace(name: str | Path, old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return change


def add(name: str | Path, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).open("a", encoding="utf-8").write(text)


MODEL = f"{OWN}.model"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a function is missing": (replace(SOURCE / "model.py", "def losses", "def lost"), f"{MODEL} has no `losses`"),
    "the requirements are": (
        replace(SOURCE / "model.py", "REQUIREMENTS =", "NEEDS ="),
        f"{MODEL} has no `REQUIREMENTS`",
    ),
    "the model imports the machinery": (
        add(SOURCE / "model.py", "from lifecycle.contract import UserError\n"),
        f"{MODEL} imports lifecycle.contract: a release's model would run with another machinery",
    ),
    "the model cannot be imported": (
        add(SOURCE / "model.py", "1 / 0\n"),
        f"{MODEL} cannot be imported: ZeroDivisionError",
    ),
    "an output that nobody writes": (
        replace("dvc.yaml", "      - reports/gates.json\n", ""),
        "no stage of dvc.yaml writes reports/gates.json, which `run`, `release` and MLflow read",
    ),
    "a dependency that nobody makes": (
        replace(
            "dvc.yaml", "      - reports/learning_curve.csv\n      - src", "      - reports/curve.csv\n      - src"
        ),
        "stage evaluate reads reports/curve.csv, which is not here and no stage makes",
    ),
    "a stage that is not there": (
        replace("dvc.yaml", f"{OWN}.evaluate", f"{OWN}.rate"),
        f"stage evaluate runs {OWN}.rate, and there is no {OWN}/rate.py in src or vendor/lifecycle",
    ),
    "no model": (replace("dvc.yaml", "type: model", "type: other"), "dvc.yaml declares no artifact of type model"),
    "a parameter that nobody reads": (
        add("params.yaml", "ours: 1\n"),
        "no stage reads the parameters ours in params.yaml",
    ),
    "a parameter that is missing": (
        replace("dvc.yaml", "      - monitoring.slices\n", "      - monitoring.sizes\n"),
        "dvc.yaml asks for the parameter monitoring.sizes, which params.yaml does not have",
    ),
    "a wrong value": (replace("params.yaml", "holdout_months: 1", "holdout_months: -1"), "holdout_months"),
    "no dvc.yaml to read": (lambda folder: (folder / "dvc.yaml").write_text("stages: [\n"), "dvc.yaml has no readable"),
    "no such module": (
        replace("pyproject.toml", f'model = "{MODEL}"', f'model = "{OWN}.modell"'),
        f"there is no module {OWN}.modell, which [tool.lifecycle] in pyproject.toml names",
    ),
    "a key that is no column": (
        replace(SOURCE / "tables.py", "key=(", 'key=("ident", '),
        "names ident, which its contract lacks",
    ),
    "a contract without a table": (
        add(SOURCE / "contracts.py", 'CONTRACTS["more"] = Contract\n'),
        "the contract more belongs to no table",
    ),
    "an import that has moved": (
        add(SOURCE / "ours.py", "from .params import load_params\n"),
        f"imports {OWN}.params, which is not there: import what you need of it from lifecycle.contract",
    ),
    "an import beyond the contract": (
        add(SOURCE / "ours.py", "from lifecycle.releases import ledger\n"),
        "imports lifecycle.releases: only lifecycle.contract stays as it is",
    ),
    "not Python": (add(SOURCE / "ours.py", "def f(:\n"), f"{SOURCE}/ours.py is not Python"),
}


def test_the_project_meets_the_contract(copy: Path) -> None:
    code, printed = check(copy)
    assert (code, printed.split()[-2:]) == (0, ["checks", "pass"])


@pytest.mark.parametrize("how", BROKEN)
def test_what_does_not_meet_it_is_named(how: str, copy: Path) -> None:
    change, says = BROKEN[how]
    change(copy)
    code, printed = check(copy)
    assert code == 1
    assert says in printed


def test_outside_of_a_project_it_says_so(tmp_path: Path) -> None:
    done = cli("check", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no dvc.yaml here")
