"""The schema of a request: the features of a release, and error messages for rows that do not match."""

import json
import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..errors import UserError, plain
from ..releases.record import Release

Kind = Literal["integer", "number", "string", "boolean"]
INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
NUMBERS = {"halffloat", "float", "double"}
STRINGS = {"string", "large_string"}
# More would not help anyone to fix a request.
MOST_PROBLEMS = 20
SHOWN = 8


@dataclass(frozen=True)
class Problem:
    """An error in a request. `row` counts from 0; None if it is not about a row."""

    row: int | None
    field: str | None
    reason: str


class InvalidError(Exception):
    """A request that the schema refuses. `status`, `outcome`: the HTTP status and the label in the metrics."""

    status = 422
    outcome = "invalid"

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems[0].reason)
        self.problems = problems


@dataclass(frozen=True)
class Field:
    """One feature. `categories`: the values seen in training, for a text feature."""

    name: str
    kind: Kind
    type: str
    low: int | None = None
    high: int | None = None
    categories: tuple[str, ...] | None = None

    def as_json_schema(self, closed: bool) -> dict[str, Any]:
        """Return the JSON schema for OpenAPI. null means that the value is unknown."""
        found: dict[str, Any] = {"type": [self.kind, "null"]}
        if self.low is not None:
            found |= {"minimum": self.low, "maximum": self.high}
        if self.categories is not None:
            found |= {"enum": [*self.categories, None]} if closed else {"examples": list(self.categories[:SHOWN])}
        return found


@dataclass(frozen=True)
class Schema:
    """The features of a release's model, in its order. `closed`: refuse categories that training did not have."""

    fields: tuple[Field, ...]
    closed: bool = True

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The names of all features."""
        return tuple(field.name for field in self.fields)

    @cached_property
    def names(self) -> frozenset[str]:
        """The same names as a set, for lookups."""
        return frozenset(self.order)

    @cached_property
    def _checks(self) -> list[tuple[str, Callable[[Any], Any]]]:
        return [(field.name, _check(field, self.closed)) for field in self.fields]

    def read(self, rows: list[Any], known: Set[str] = frozenset(), sent: list[Any] | None = None) -> list[list[Any]]:
        """Return the values of each row in the order of the features, with None for unknown values.

        Args:
            rows: the rows of the request, with missing features filled in.
            known: names that a row may have in addition to the features.
            sent: the rows before filling in, if anything was. A filled-in category that training did not have counts
                as missing, as in batch scoring: the client cannot fix it.

        Raises:
            InvalidError: a value is not valid; the message says which, with its row and field.
        """
        problems: list[Problem] = []
        found = []
        for number, row in enumerate(rows):
            if isinstance(row, dict):
                found.append(self._read(row, number, known, problems, row if sent is None else sent[number]))
            else:
                problems.append(Problem(number, None, f"a row is an object of features, not {shown(row)}"))
            if len(problems) >= MOST_PROBLEMS:
                break
        if problems:
            raise InvalidError(*problems[:MOST_PROBLEMS])
        return found

    def _read(
        self, row: dict[str, Any], number: int, known: Set[str], problems: list[Problem], sent: dict[str, Any]
    ) -> list[Any]:
        values = []
        for name, check in self._checks:
            try:
                value = row[name]
                values.append(value if value is None else check(value))
            except KeyError:
                problems.append(Problem(number, name, "it is missing; use null for unknown values"))
            except ValueError as error:
                values.append(None)
                if name in sent:
                    problems.append(Problem(number, name, str(error)))
        if len(row) != len(values):
            for name in sorted(row.keys() - self.names - known):
                problems.append(Problem(number, name[:100], "it is not a feature of the model"))
        return values

    def as_json_schema(self, key: str = "") -> dict[str, Any]:
        """Return the JSON schema of one row, for OpenAPI. `key`: the column used to fill in missing features."""
        found: dict[str, Any] = {
            "type": "object",
            "properties": {field.name: field.as_json_schema(self.closed) for field in self.fields},
            "additionalProperties": False,
        }
        if not key:
            return found | {"required": list(self.order)}
        about = "Names the row: features that are left out are filled in from the online table."
        found["properties"].setdefault(key, {"type": ["string", "integer"], "description": about})
        return found | {"anyOf": [{"required": list(self.order)}, {"required": [key]}]}


def of_release(release: Release, model: Any, closed: bool) -> Schema:
    """Build the schema of a release from its record and its model.

    Raises:
        UserError: a feature has a type that JSON cannot represent.
    """
    types: dict[str, str] = release.model["features"]
    return Schema(
        tuple(_field(each.name, types[each.name], getattr(each, "categories", None)) for each in model.features), closed
    )


def _field(name: str, type_: str, categories: tuple[str, ...] | None) -> Field:
    if type_ in INTEGERS:
        bits = int(type_.split("int")[1])
        low, high = (0, 2**bits - 1) if type_.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return Field(name, "integer", type_, low, high)
    if type_ in NUMBERS:
        return Field(name, "number", type_)
    if type_ in STRINGS:
        return Field(name, "string", type_, categories=categories)
    if type_ == "bool":
        return Field(name, "boolean", type_)
    raise UserError(f"the feature {name} is of type {type_}, which a request cannot carry: make it a number or a text")


def _check(field: Field, closed: bool) -> Callable[[Any], Any]:
    """Return a function that converts a value for the model, and raises ValueError if the value is not allowed."""
    if field.kind == "integer":
        return _integer(field.low or 0, field.high or 0)
    if field.kind == "number":
        return _number
    if field.kind == "boolean":
        return _boolean
    return _string(frozenset(field.categories), closed) if field.categories is not None else _text


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int:
            if type(value) is not float or not value.is_integer():  # JSON has one kind of number: 3.0 is 3
                raise ValueError(f"expected an integer, got {shown(value)}")
            value = int(value)
        if not low <= value <= high:
            raise ValueError(f"it must be between {low} and {high}, not {shown(value)}")
        return int(value)

    return check


def _number(value: Any) -> float:
    if type(value) is not float:
        if type(value) is not int:
            raise ValueError(f"expected a number, got {shown(value)}")
        try:
            value = float(value)
        except OverflowError:
            raise ValueError("it is too large for a number") from None
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {shown(value)}; use null for unknown values")
    return float(value)


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"expected true or false, got {shown(value)}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"expected text, got {shown(value)}")
    return value


def _string(categories: frozenset[str], closed: bool) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if type(value) is not str:
            raise ValueError(f"expected text, got {shown(value)}")
        if value in categories:
            return value
        if closed:
            raise ValueError(f"the model has never seen {shown(value)}; use null for unknown values")
        return None

    return check


def shown(value: Any) -> str:
    """Format a value for a message, as JSON."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value, ensure_ascii=False)
    return plain(text if len(text) <= 60 else f"{text[:57]}...")
