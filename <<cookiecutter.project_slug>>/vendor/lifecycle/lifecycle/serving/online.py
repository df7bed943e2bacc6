"""Fill in features that a request leaves out, from the online table, by the row's key.

Values in the request take precedence, including null. A release only gets features from its own SQL: a table made by
other SQL would mix two meanings of a feature.
"""

import logging
import math
import sqlite3
import weakref
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, Protocol

from ..errors import UserError, one_line
from ..files import sha256
from ..releases import online
from ..releases.online import OnlineTable, quoted
from ..releases.record import Release
from .schema import MOST_PROBLEMS, InvalidError, Problem, Schema, shown
from .watch import Watch

log = logging.getLogger(__name__)


class UnfilledError(InvalidError):
    """A row leaves features out, and there is no table here to fill them in from."""

    status = 503
    outcome = "unready"


class Opened:
    """An open online table. Its file never changes, so no locking or rereading is needed."""

    def __init__(self, about: OnlineTable) -> None:
        """Args: about: the table's entry in the pointer.

        Raises:
            UserError: its file is missing or altered.
        """
        self.about = about
        try:
            if sha256(about.path) != about.sha256:
                raise UserError(f"{about.path} was altered: run `refresh` to make it again")
            place = f"{about.path.resolve().as_uri()}?mode=ro&immutable=1"
            connection = sqlite3.connect(place, uri=True, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{about.path} cannot be read: {one_line(error)}") from None
        self._connection = connection
        self._mismatches: dict[str, str] = {}
        weakref.finalize(self, connection.close)

    @property
    def digest(self) -> str:
        """The table's name in answers and log lines."""
        return self.about.name

    def of_key(self, key: str | int, names: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the values of a row, or None if there is no such row.

        Raises:
            sqlite3.Error: the file can no longer be read.
        """
        found = self._connection.execute(_select(names, self.about.key), (key,)).fetchone()
        if found is None:
            return None
        values = dict(zip(names, found, strict=True))
        for name in self._booleans:
            if values.get(name) is not None:
                values[name] = bool(values[name])
        return values

    def of_claim(self, key: str, names: tuple[str, ...]) -> dict[str, Any] | None:
        """Return the values for a key given as text, or None if they cannot be read."""
        try:
            return self.of_key(key if self.takes_text else int(key), names)
        except (ValueError, OverflowError, sqlite3.Error):
            return None

    @cached_property
    def _booleans(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.about.columns.items() if kind == "bool")

    def mismatch(self, release: Release) -> str:
        """Return which of a release's features the table lacks or has in another type. Empty if all match."""
        if (known := self._mismatches.get(release.id)) is None:
            known = self._mismatches[release.id] = self._compare(release)
        return known

    def _compare(self, release: Release) -> str:
        table, has = release.model["feature_table"], self.about.columns
        if table != self.about.table:
            return f"the online table is made of {self.about.table}, and {release.id} reads {table}"
        for name, kind in release.model["features"].items():
            if name != self.about.key and has.get(name) != kind:
                return f"the online table has {name} as {has.get(name, 'nothing')}, and {release.id} as {kind}"
        return ""

    @cached_property
    def takes_text(self) -> bool:
        """Whether its key is text, and not an integer."""
        return "string" in self.about.key_type

    def age_hours(self) -> float | None:
        """Return the age of its newest row in hours, or None if its time is not valid."""
        try:
            newest = datetime.fromisoformat(self.about.newest).replace(tzinfo=UTC)
        except ValueError:
            return None
        return (datetime.now(UTC) - newest).total_seconds() / 3600


@lru_cache(maxsize=64)
def _select(names: tuple[str, ...], key: str) -> str:
    wanted = ", ".join(map(quoted, names)) or "1"
    return f"select {wanted} from {online.TABLE} where {quoted(key)} = ?"  # noqa: S608  names of the release's record


def _same(known: Any, sent: Any) -> bool:
    """Return whether two values are equal, up to the precision of a 32-bit number or six digits of text."""
    if known == sent:
        return True
    numbers = isinstance(known, int | float) and isinstance(sent, int | float)
    return numbers and math.isclose(known, sent, rel_tol=online.SAME)


class Loaded(Protocol):
    """The release of a request, and how to read its rows."""

    @property
    def release(self) -> Release:
        """The release."""

    @property
    def schema(self) -> Schema:
        """The schema of its rows."""


@dataclass(frozen=True)
class Tables:
    """The open tables, newest first, and what is wrong with the others. Never changed, only replaced."""

    key: str = ""
    tables: tuple[Opened, ...] = ()
    problem: str = ""

    def complete(self, rows: list[Any], loaded: Loaded) -> tuple[list[Any], str | None]:
        """Return the rows with missing features filled in, and the table used, or None if none was.

        Raises:
            InvalidError: there is no row with that key.
            UnfilledError: there is no table of the release's SQL, or it cannot be read.
        """
        names = loaded.schema.names
        wanting = [number for number, row in enumerate(rows) if self._is_wanting(row, names)]
        if not wanting:
            return rows, None
        table = self.for_release(loaded.release)
        order, rows, problems = loaded.schema.order, list(rows), []
        for number in wanting:
            row = rows[number]
            try:
                found = self._find(table, row[self.key], order)
            except ValueError as error:
                problems.append(Problem(number, self.key, str(error)))
                if len(problems) == MOST_PROBLEMS:
                    break
            else:
                rows[number] = found | row
        if problems:
            raise InvalidError(*problems)
        return rows, table.digest

    def _is_wanting(self, row: Any, names: frozenset[str]) -> bool:
        return bool(self.key) and isinstance(row, dict) and self.key in row and not names <= row.keys()

    def _find(self, table: Opened, key: Any, names: tuple[str, ...]) -> dict[str, Any]:
        if table.takes_text and type(key) is not str:
            raise ValueError(f"expected text, got {shown(key)}")
        if not table.takes_text and type(key) is not int:
            raise ValueError(f"expected an integer, got {shown(key)}")
        try:
            found = table.of_key(key, names)
        except OverflowError:
            found = None
        except sqlite3.Error as error:
            reason = f"the online table {table.digest} cannot be read: {one_line(error)}"
            raise UnfilledError(Problem(None, self.key, reason)) from None
        if found is None:
            raise ValueError(
                f"the online table has no {shown(key)} (its newest row is from {table.about.newest}): "
                "send the row's features, or `refresh` if it should be there"
            )
        return found

    def agreement(
        self, keys: list[str | None], sent: list[Any], rows: list[dict[str, Any]], loaded: Loaded
    ) -> list[bool | None]:
        """Return whether each row's features match the table's for its key; None if the table does not have the key.

        Args:
            keys: the keys that will identify the rows' outcomes.
            sent: the rows of the request.
            rows: the same rows after filling in, as read by the schema.
            loaded: the release that answers.
        """
        unknown: list[bool | None] = [None] * len(rows)
        if not self.tables or not any(keys):
            return unknown
        try:
            table = self.for_release(loaded.release)
        except UnfilledError:
            return unknown
        order, found, agrees = loaded.schema.order, dict[str, dict[str, Any] | None](), unknown
        for number, (key, before, row) in enumerate(zip(keys, sent, rows, strict=True)):
            if key is None:
                continue
            if len(before) == 1 and str(before.get(self.key)) == key and len(row) > 1:  # all of it is from the table
                agrees[number] = True
                continue
            if key not in found:
                found[key] = table.of_claim(key, order)
            if (values := found[key]) is not None:
                agrees[number] = all(_same(values[name], row[name]) for name in order)
        return agrees

    def for_release(self, release: Release) -> Opened:
        """Return the table to fill in a release's rows from.

        Raises:
            UnfilledError: there is no such table.
        """
        table = next((each for each in self.tables if each.about.sql == release.sql_digest), None)
        if table is not None:
            if not (reason := table.mismatch(release)):
                return table
        elif self.problem:
            reason = self.problem
        elif self.tables:
            made = ", ".join(each.about.sql[:12] for each in self.tables)
            reason = (
                f"{release.id} was built with the SQL {release.sql_digest[:12]}, the online table here with {made}: "
                "run `refresh` where the pipeline has run with that SQL"
            )
        else:
            reason = "there is no online table here: `refresh` makes it"
        raise UnfilledError(Problem(None, self.key, f"features are left out, and cannot be filled in: {reason}"))

    def why_not(self, release: Release) -> str:
        """Return why a release's rows cannot be filled in, or an empty string if they can."""
        try:
            self.for_release(release)
        except UnfilledError as error:
            return error.problems[0].reason
        return ""


@dataclass
class Follower:
    """Keep the open tables in step with the pointer. If a new table cannot be opened, the current ones stay open."""

    key: str
    tables: Tables = field(init=False)
    _watch: Watch = field(default_factory=lambda: Watch(online.POINTER))

    def __post_init__(self) -> None:
        self.tables = Tables(self.key)

    def look(self) -> Tables:
        """Return the current tables."""
        if not self.key or not self._watch.due():
            return self.tables
        before = self.tables
        try:
            self.tables = self._open(online.current())
        except UserError as error:
            self.tables = replace(before, problem=one_line(error))
        if self.tables.problem:
            if self._watch.refuse(self.tables.problem):
                log.error("online table: %s", self.tables.problem)
            return self.tables
        self._watch.accept()
        if self.tables != before:
            log.info("online table: %s", ", ".join(each.digest for each in self.tables.tables) or "none")
        return self.tables

    def _open(self, named: list[OnlineTable]) -> Tables:
        before = self.tables.tables
        if not named and before:
            raise UserError(f"{online.POINTER} is gone: `refresh` writes it again")
        opened, problem = [], ""
        for about in named:
            table = next((each for each in before if each.about == about), None)
            try:
                opened.append(table or Opened(about))
            except UserError as error:
                problem = one_line(error)
                opened += [each for each in before if each.about.sql == about.sql][:1]
        return Tables(self.key, tuple(opened), problem)
