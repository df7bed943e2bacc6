"""params.yaml: what is refused, in which words, and that the watermark moves without touching anything else."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifecycle.errors import UserError
from lifecycle.params import Data, Gate, load_params, only_window_moved, set_through
from lifecycle.testing import ROOT, edit_params

months = st.builds(lambda year, month: f"{year:04d}-{month:02d}", st.integers(1000, 2999), st.integers(1, 12))
SINCE = load_params(ROOT / "params.yaml").data.since


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def test_the_shipped_parameters_are_valid_and_all_used() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.model_dump(exclude_unset=True) == yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        ("data", {"through": "2013-13"}, "data.through"),
        ("data", {"through": "2013-1"}, "data.through"),
        ("data", {"through": 2013}, "data.through"),
        ("data", {"through": "2013-07\n"}, "data.through"),
        ("data", {"since": "2013-09", "through": "2013-08"}, "earlier than since"),
        ("split", {"holdout_months": 0}, "split.holdout_months"),
        ("evaluate", {"gates": {"roc_auc": {"minimum": 1}}}, "evaluate.gates.roc_auc.minimum"),
        ("promotion", {"self_approval": "perhaps"}, "promotion.self_approval"),
        ("promotion", {"may_not_approve": None}, "promotion.may_not_approve"),
        ("promotion", {"channels": {"prod": {"approvals": 0}}}, "promotion.channels.prod"),
        ("promotion", {"channels": {"production": {}}}, "promotion.channels.production.approvals"),
        ("promotion", {"channels": {"production": {"approvals": -1}}}, "promotion.channels.production.approvals"),
        ("promotion", {"channels": {"canary": {"approvals": 0, "after": "production"}}}, "canary.after"),
        ("promotion", {"channels": {"canary": {"approvals": 0, "after": "canary"}}}, "canary cannot come after canary"),
        ("promotion", {"channels": {"canary": {"approvals": 0, "after": "staging"}}}, "canary cannot come after stag"),
        (
            "promotion",
            {"channels": {"staging": {"approvals": 0, "after": "canary"}, "canary": {"approvals": 0}}},
            "staging cannot come after canary",
        ),
        ("fan_out", {"runner": "spark"}, "fan_out.runner"),
        ("sweep", {"trials": 0}, "sweep.trials"),
        ("sweep", {"space": {}}, "sweep.space"),
        ("sweep", {"space": {"split.holdout_months": {"choice": [1]}}}, "a sweep only tries settings of train"),
        ("sweep", {"space": {"train.a": {"choice": []}}}, "sweep.space.train.a.choice"),
        ("sweep", {"space": {"train.a": {}}}, "give one of choice, uniform and log_uniform"),
        ("sweep", {"space": {"train.a": {"choice": [1], "uniform": [0, 1]}}}, "give one of choice, uniform and log"),
        ("sweep", {"space": {"train.a": {"uniform": [2, 1]}}}, "the range must be [low, high], and is [2, 1]"),
        ("sweep", {"space": {"train.a": {"log_uniform": [0, 1]}}}, "log_uniform needs a low end above 0, and has 0"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(section: str, values: dict[str, Any], says: str, file: Path) -> None:
    edit_params(file.parent, {section: values})
    with pytest.raises(UserError) as refusal:
        load_params(file)
    assert says in str(refusal.value)
    assert str(refusal.value).startswith(f"{file}: ")
    assert "\n" not in str(refusal.value)


def test_the_old_name_of_fan_out_still_works(file: Path) -> None:
    new = load_params(file)
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub("(?m)^fan_out:", "scoring:", text), encoding="utf-8")
    assert load_params(file) == new


@pytest.mark.parametrize("text", ["", "data: [", "\t", "- a\n- b\n", "text", "data:\n  through: 2013-07\n"])
def test_a_file_that_holds_something_else(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        load_params(file)
    assert "\n" not in str(refusal.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no .*params\.yaml here"):
        load_params(tmp_path / "params.yaml")


def test_bytes_that_are_no_text(file: Path) -> None:
    file.write_bytes(b"data: \xff\xfe")
    with pytest.raises(UserError, match="YAML"):
        load_params(file)


@given(since=months, through=months)
def test_months_of_the_window(since: str, through: str) -> None:
    if through < since:
        since, through = through, since
    window = Data(source="x", since=since, through=through).months()
    assert window[0] == since
    assert window[-1] == through
    assert window == sorted(set(window))
    years, rest = int(through[:4]) - int(since[:4]), int(through[5:]) - int(since[5:])
    assert len(window) == 12 * years + rest + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(month=months.filter(lambda month: month >= SINCE))
def test_the_watermark_moves_and_every_other_byte_stays(month: str, file: Path) -> None:
    shutil.copy(ROOT / "params.yaml", file)
    before = file.read_text(encoding="utf-8")
    assert set_through(month, file) == before
    after = file.read_text(encoding="utf-8")
    assert load_params(file).data.through == month
    line = re.compile(r'through: "?[\d-]+"?')
    assert line.sub("", after) == line.sub("", before)
    set_through(load_params(ROOT / "params.yaml").data.through, file)
    assert file.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    "month", ["2013", "2013-00", "July", "1000-01", "", '2013-07"\n  since: "1999-01', "2013-07\n"]
)
def test_a_watermark_that_is_no_month_leaves_the_file_alone(month: str, file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(UserError):
        set_through(month, file)
    assert file.read_bytes() == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(month=months.filter(lambda month: month >= SINCE))
def test_a_moved_watermark_is_told_from_any_other_change(month: str, file: Path) -> None:
    before = Path(shutil.copy(ROOT / "params.yaml", file)).read_text(encoding="utf-8")
    assert only_window_moved(before, file)
    set_through(month, file)
    moved = file.read_text(encoding="utf-8")
    assert only_window_moved(before, file)
    assert not only_window_moved("", file)
    for edited in (moved + "# a comment\n", moved.replace("since: ", "since:  ")):
        assert edited != moved
        file.write_text(edited, encoding="utf-8")
        assert not only_window_moved(before, file)


def test_a_file_without_a_watermark(file: Path) -> None:
    file.write_text("data: {}\n", encoding="utf-8")
    with pytest.raises(UserError, match="through"):
        set_through("2013-07", file)


@pytest.mark.parametrize(
    ("bounds", "value", "passes"),
    [
        ({"min": 0.7}, 0.7, True),
        ({"min": 0.7}, 0.6999, False),
        ({"max": 0.1}, 0.1, True),
        ({"max": 0.1}, 0.1001, False),
        ({"min": 0.0, "max": 1.0}, 0.5, True),
        ({"min": 0.0, "max": 1.0}, 1.5, False),
        ({}, 5.0, True),
        ({}, float("nan"), False),
        ({"min": 0.0}, float("nan"), False),
        ({"max": 0.0}, float("nan"), False),
        ({"max": 0.0}, float("inf"), False),
        ({"min": 0.0}, float("-inf"), False),
    ],
)
def test_gates(bounds: dict[str, float], value: float, passes: bool) -> None:
    assert Gate(**bounds).passes(value) is passes
