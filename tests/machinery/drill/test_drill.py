"""A drill tells what holds from what does not, in a copy: the project stays as it was, to the byte."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lifecycle.drill import defects, drill
from lifecycle.drill.drill import REPORT, TABLE
from lifecycle.drill.faults import FAULTS
from lifecycle.drill.load import Answer, shift
from lifecycle.drill.sandbox import UnexpectedError
from lifecycle.drill.scenario import Fault, Scenario
from lifecycle.errors import UserError
from lifecycle.testing import digests

REAL = tuple(fault.name for fault in FAULTS)


def break_something(scenario: Scenario) -> str:
    """A fault that nobody deals with: production serves what the ledger does not say."""
    scenario.watch.found()
    shutil.rmtree(scenario.sandbox.folder / "data")
    raise UnexpectedError("nobody has noticed")


def test_a_drill_tells_what_holds_from_what_does_not_and_touches_nothing(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "FAULTS", (*FAULTS, Fault("broken", "somebody notices", break_something)))
    before = digests(built)
    said: list[str] = []
    done = drill.drill([], said.append)
    rows = {row.fault: row for row in done.rows}
    assert len(REAL) == 9
    assert {name: row.passed for name, row in rows.items()} == {**dict.fromkeys(REAL, True), "broken": False}, rows
    assert not done.passed
    assert rows["broken"].happened == "nobody has noticed"
    for name in REAL:
        row = rows[name]
        assert row.wrong == 0 and (row.failed == 0 or name == "killed-process"), row
        assert row.requests > 10, row
        assert row.to_detect is not None and row.to_detect > 0, row
        assert row.to_restore is None or row.to_detect <= row.to_restore, row
    assert rows["worse-model"].exposed > 0, "the worse model has answered"
    assert "skill_drop" in rows["worse-model"].happened
    assert rows["worse-model"].to_alert is not None
    assert done.tried == done.rolled_back >= 1
    assert Path.cwd() == built
    reports = {str(built / path) for path in (REPORT, TABLE)}
    after = digests(built)
    assert {name: digest for name, digest in after.items() if name not in reports} == before
    assert json.loads(REPORT.read_text(encoding="utf-8"))["passed"] is False
    assert "| broken | **FAILED** |" in TABLE.read_text(encoding="utf-8")


def test_there_is_no_drill_without_something_built_or_of_an_unknown_fault(project: Path) -> None:
    with pytest.raises(UserError, match="there is no fault fire: there are corrupt-batch, "):
        drill.drill(["fire"], print)
    with pytest.raises(UserError, match="nothing is built here: `run` first"):
        drill.drill(["lost-registry"], print)


class Sound:
    """A model, as serving sees one."""

    features = ("x",)

    def predict(self, table: Any) -> Any:
        return np.asarray(table)

    def predict_rows(self, rows: Any) -> Any:
        return np.asarray(rows)


def defective(defect: defects.Defect) -> Any:
    module: dict[str, Any] = {"load": lambda folder: Sound()}
    exec(compile(defects.code(defect), "model.py", "exec"), module)
    model = module["load"](Path())
    assert model.features == ("x",)
    for number in range(defects.AFTER):
        assert model.predict_rows([number]).tolist() == [number]
    return model


def test_a_worse_model_answers_with_what_it_said_before() -> None:
    model = defective("worse")
    assert model.predict([1.0]).tolist() == [defects.AFTER - 1]
    assert model.predict_rows([2.0]).tolist() == [1.0]


def test_a_crashing_model_crashes_and_a_slow_one_is_slow() -> None:
    with pytest.raises(RuntimeError):
        defective("crashing").predict_rows([1.0])
    slow = defective("slow")
    start = time.monotonic()
    assert slow.predict_rows([1.0]).tolist() == [1.0]
    assert time.monotonic() - start >= 1


def test_a_model_without_the_quick_way_has_none_with_a_defect() -> None:
    module: dict[str, Any] = {"load": lambda folder: SimpleNamespace(predict=lambda table: table)}
    exec(compile(defects.code("slow"), "model.py", "exec"), module)
    assert getattr(module["load"](Path()), "predict_rows", None) is None


MOVES = {("production", 1, "r-a"), ("canary", 1, "r-b")}


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (("r-a", "production", 1, 0.5), False),
        (("r-a", "production", 1, 0.6), True),
        (("r-a", "production", 2, 0.5), True),
        (("r-b", "production", 1, 0.5), True),
        (("r-b", "canary", 1, 0.9), False),
    ],
)
def test_an_answer_is_wrong_by_its_release_or_by_its_score(answer: tuple[Any, ...], wrong: bool) -> None:
    scenario: Any = SimpleNamespace(sound="r-a")
    given = Answer(0.0, 0.0, 200, 0, False, *answer)
    assert drill._is_wrong(given, scenario, MOVES, [0.5]) == wrong
    assert not drill._is_wrong(Answer(0.0, 0.0, 503, 0, False), scenario, MOVES, [0.5])


def test_drifted_rows_have_every_number_at_its_top() -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": 2.5, "c": "x"}, {"a": 3, "b": None, "c": "y"}]
    assert shift(rows) == [{"a": 3, "b": 2.5, "c": "x"}, {"a": 3, "b": 2.5, "c": "y"}]
