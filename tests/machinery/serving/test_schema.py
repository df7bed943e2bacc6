"""What a row may hold, and what is said of one that does not fit."""

import math
from typing import Any

import pytest

from lifecycle.serving.schema import MOST_PROBLEMS, Field, InvalidError, Problem, Schema

FIELDS = (
    Field("small", "integer", "int8", -128, 127),
    Field("level", "number", "double"),
    Field("colour", "string", "string", categories=("blue", "red")),
    Field("name", "string", "string"),
    Field("open", "boolean", "bool"),
)
SCHEMA = Schema(FIELDS)
GOOD = {"small": 3, "level": 0.5, "colour": "red", "name": "x", "open": True}


def problems(*rows: Any, known: frozenset[str] = frozenset()) -> list[Problem]:
    with pytest.raises(InvalidError) as refusal:
        SCHEMA.read(list(rows), known)
    return list(refusal.value.problems)


def test_values_come_in_the_order_of_the_features() -> None:
    backwards = dict(reversed(GOOD.items()))
    assert SCHEMA.read([GOOD, backwards]) == [[3, 0.5, "red", "x", True]] * 2


@pytest.mark.parametrize("name", GOOD)
def test_null_says_that_a_value_is_not_known(name: str) -> None:
    (values,) = SCHEMA.read([GOOD | {name: None}])
    assert values == [None if each == name else GOOD[each] for each in GOOD]


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [("small", -128, -128), ("small", 127, 127), ("small", 3.0, 3), ("level", 7, 7.0), ("level", -1e308, -1e308)],
)
def test_what_fits(name: str, value: Any, taken: Any) -> None:
    (values,) = SCHEMA.read([GOOD | {name: value}])
    found = values[list(GOOD).index(name)]
    assert found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("small", 128, "between -128 and 127"),
        ("small", -129, "between"),
        ("small", 3.5, "an integer"),
        ("small", "3", "an integer"),
        ("small", True, "an integer"),
        ("small", math.nan, "an integer"),
        ("small", math.inf, "an integer"),
        ("level", "0.5", "a number"),
        ("level", False, "a number"),
        ("level", [0.5], "a number"),
        ("level", math.nan, "finite"),
        ("level", -math.inf, "finite"),
        ("level", 10**400, "too large"),
        ("colour", "green", 'never seen "green"'),
        ("colour", "", "never seen"),
        ("colour", 3, "expected text"),
        ("colour", {"a": 1}, "expected text"),
        ("name", 3, "expected text"),
        ("open", 1, "true or false"),
        ("open", "yes", "true or false"),
    ],
)
def test_what_does_not_is_named_with_row_field_and_reason(name: str, value: Any, says: str) -> None:
    (problem,) = problems(GOOD, GOOD | {name: value})
    assert (problem.row, problem.field) == (1, name)
    assert says in problem.reason


def test_a_missing_and_an_unknown_field() -> None:
    row = {name: GOOD[name] for name in GOOD if name != "level"} | {"levle": 0.5}
    assert [(each.row, each.field) for each in problems(row)] == [(0, "level"), (0, "levle")]


def test_a_field_that_another_release_takes_may_be_there() -> None:
    row = GOOD | {"new": 1}
    assert SCHEMA.read([row], frozenset({"new"})) == SCHEMA.read([GOOD])
    assert problems(row | {"other": 1}, known=frozenset({"new"}))[0].field == "other"


@pytest.mark.parametrize("row", [None, 3, "x", [1], []])
def test_a_row_that_is_no_object(row: Any) -> None:
    (problem,) = problems(row)
    assert (problem.row, problem.field) == (0, None)


def test_of_many_problems_the_first_are_told() -> None:
    assert len(problems(*[{}] * 1000)) == MOST_PROBLEMS


def test_a_category_never_seen_may_count_as_missing() -> None:
    schema = Schema(FIELDS, closed=False)
    assert schema.read([GOOD | {"colour": "green"}])[0][2] is None
    assert schema.read([GOOD])[0][2] == "red"


def test_a_category_that_was_filled_in_and_never_seen_counts_as_missing() -> None:
    row = GOOD | {"colour": "green"}
    sent = {name: value for name, value in GOOD.items() if name != "colour"}
    assert SCHEMA.read([row], sent=[sent]) == Schema(FIELDS, closed=False).read([row])
    with pytest.raises(InvalidError):
        SCHEMA.read([row], sent=[row])


def test_its_json_schema() -> None:
    found = SCHEMA.as_json_schema()
    assert found["required"] == list(GOOD)
    assert found["additionalProperties"] is False
    assert found["properties"]["small"] == {"type": ["integer", "null"], "minimum": -128, "maximum": 127}
    assert found["properties"]["colour"]["enum"] == ["blue", "red", None]
    assert "enum" not in Schema(FIELDS, closed=False).as_json_schema()["properties"]["colour"]
