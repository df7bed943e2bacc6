"""Load the releases that the channels' pointers name, after verifying and testing them.

The table of channels is replaced as a whole, in one assignment, and each request reads it once, so no answer mixes two
states. If a release cannot be loaded, the last good one stays in service.
"""

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from .. import params
from ..errors import UserError, one_line
from ..releases import ledger as book
from ..releases import loading, pointers
from ..releases.record import Release, read_release, same_predictions
from ..releases.store import Store
from . import schema
from .online import Follower, Tables
from .routing import Breaker, Lane, position
from .schema import Schema
from .watch import Watch

Name = Literal["production", "canary"]
NAMES: tuple[Name, ...] = ("production", "canary")
POLL_SECONDS = 0.2
# Up to this many rows, ask the model row by row if it supports that.
FEW_ROWS = 32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A loaded release that can predict."""

    release: Release
    model: Any
    schema: Schema

    def score(self, rows: list[list[Any]]) -> list[float]:
        """Return the model's predictions for rows that the schema has read.

        Raises:
            Exception: any error of the model; ValueError if it does not return one number for each row.
        """
        by_rows = self._by_rows
        found = by_rows(rows) if by_rows and len(rows) <= FEW_ROWS else self.by_table(rows)
        scores: list[float] = found.tolist()
        if len(scores) != len(rows) or not all(map(math.isfinite, scores)):
            raise ValueError("the model does not predict one finite number a row")
        return scores

    def by_table(self, rows: list[list[Any]]) -> Any:
        """Predict with a table, which every model supports."""
        import pyarrow as pa

        columns = zip(*rows, strict=True)
        arrays = [pa.array(values, type=each.type) for values, each in zip(columns, self._arrow, strict=True)]
        return self.model.predict(pa.Table.from_arrays(arrays, schema=self._arrow))

    @cached_property
    def _by_rows(self) -> Callable[[list[list[Any]]], Any] | None:
        return getattr(self.model, "predict_rows", None)

    @cached_property
    def _arrow(self) -> Any:
        import pyarrow as pa

        return pa.schema([(each.name, pa.type_for_alias(each.type)) for each in self.schema.fields])

    def warm_up(self) -> None:
        """Predict once in each way that requests use, and check that the results agree.

        Raises:
            UserError: they do not agree.
        """
        probe = self.release.model["probe"]
        rows = [[row[each.name] for each in self.schema.fields] for row in probe["rows"]]
        singly = [self.score([row])[0] for row in rows]
        if not (same_predictions(probe["predictions"], singly) and same_predictions(singly, self.by_table(rows))):
            raise UserError(f"the model of {self.release.id} predicts otherwise row by row than for a table")


@dataclass(frozen=True)
class Channel:
    """The state of one channel. `since`: when this server began to serve it."""

    name: Name
    generation: int
    traffic: float | None
    since: str
    loaded: Loaded
    breaker: Breaker
    lane: Lane

    @property
    def release_id(self) -> str:
        """The id of the release that the channel serves."""
        return self.loaded.release.id


@dataclass(frozen=True)
class Table:
    """Everything that a request needs. Never changed, only replaced."""

    production: Channel | None = None
    canary: Channel | None = None
    online: Tables = field(default_factory=Tables)

    @cached_property
    def known(self) -> frozenset[str]:
        """The names allowed in a row: the key, and the features of every release here, even if only one uses them."""
        key = {self.online.key} - {""}
        return frozenset(key).union(*(each.loaded.schema.names for each in self.channels))

    @property
    def channels(self) -> list[Channel]:
        """The channels that serve something."""
        return [each for each in (self.production, self.canary) if each]

    def is_for_canary(self, key: str) -> bool:
        """Return whether a request with this key belongs to the canary's share."""
        canary = self.canary
        return bool(canary and canary.traffic and position(key, canary.release_id) < canary.traffic)


@dataclass
class _Watch(Watch):
    """A channel's pointer. `refused`: the release that it names if that is not served; `warning`: see pointers.py."""

    refused: str | None = None
    warning: str = ""


@dataclass
class Loader:
    """Keep the table in step with the pointers, in a separate thread.

    `key`: the column that identifies a row; without one, no features are filled in.
    """

    settings: params.Serving
    key: str = ""
    table: Table = Table()
    _watched: dict[Name, _Watch] = field(default_factory=lambda: {name: _Watch(_path(name)) for name in NAMES})
    _stop: threading.Event = field(default_factory=threading.Event)
    _online: Follower = field(init=False)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._online = Follower(self.key)

    def start(self) -> None:
        """Start watching the pointers."""
        self._thread = threading.Thread(target=self._watch, name="loader", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching the pointers."""
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=5)

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                self.look()
            except Exception:  # whatever the error, the next attempt may succeed
                log.exception("the pointers could not be looked at")

    def problems(self) -> dict[Name, str]:
        """Return why a channel does not serve what it should, for each such channel."""
        return {name: watch.problem for name, watch in self._watched.items() if watch.problem}

    def warnings(self) -> dict[Name, str]:
        """Return ledger entries that a channel does not follow because they are not allowed."""
        return {name: watch.warning for name, watch in self._watched.items() if watch.warning}

    def refused(self, name: Name) -> str | None:
        """Return the release that a channel should serve but that was refused."""
        return self._watched[name].refused

    def look(self) -> None:
        """Follow every pointer that has moved, or whose release was refused a while ago."""
        tables = self._online.look()
        if tables is not self.table.online:
            self.table = replace(self.table, online=tables)
        for name in NAMES:
            watch = self._watched[name]
            if not watch.due():
                continue
            try:
                self._follow(name)
            except UserError as error:
                self._refuse(name, one_line(error))
            except Exception as error:  # an old release, a disk, git: clients must not notice
                self._refuse(name, f"{type(error).__name__}: {one_line(error)}")
            else:
                if watch.problem:
                    log.info("%s is in order again", name)
                watch.refused = None
                watch.accept()

    def _refuse(self, name: Name, reason: str) -> None:
        now: Channel | None = getattr(self.table, name)
        goes_on = f"{now.release_id} (generation {now.generation}) continues serving" if now else "nothing is served"
        if self._watched[name].refuse(reason):
            log.error("%s: %s; %s", name, reason, goes_on)

    def _follow(self, name: Name) -> None:
        now: Channel | None = getattr(self.table, name)
        pointer = _read_pointer(name)
        watch = self._watched[name]
        watch.refused = pointer.release if pointer else None
        if pointer and pointer.warning and pointer.warning != watch.warning:
            log.error("%s: %s", name, pointer.warning)
        watch.warning = pointer.warning if pointer else ""
        if pointer is None:  # nothing was ever promoted to it
            return
        if pointer.release is None:
            self._swap(name, None, pointer.generation)
            return
        if now and (now.release_id, now.generation, now.traffic) == (
            pointer.release,
            pointer.generation,
            pointer.traffic,
        ):
            return
        if now and now.release_id == pointer.release:
            after = replace(now, generation=pointer.generation, traffic=pointer.traffic)
        else:
            loaded = self._load(pointer.release)
            after = Channel(
                name,
                pointer.generation,
                pointer.traffic,
                datetime.now(UTC).isoformat(timespec="milliseconds"),
                loaded,
                Breaker(self.settings.breaker),
                Lane(f"{name}-{pointer.release}"),
            )
        self._swap(name, after, pointer.generation)

    def _swap(self, name: Name, channel: Channel | None, generation: int) -> None:
        if channel is None and getattr(self.table, name) is None:
            return
        self.table = (
            replace(self.table, production=channel) if name == "production" else replace(self.table, canary=channel)
        )
        log.info("%s serves %s, generation %d", name, channel.release_id if channel else "nothing", generation)

    def _load(self, release_id: str) -> Loaded:
        for channel in self.table.channels:
            if channel.release_id == release_id:
                return channel.loaded
        release = _record(release_id)
        model = loading.try_out(release, loading.materialise(release, Store()))
        closed = self.settings.unseen_categories == "refuse"
        loaded = Loaded(release, model, schema.of_release(release, model, closed))
        loaded.warm_up()
        return loaded


def _path(name: Name) -> Path:
    return pointers.FOLDER / f"{name}.json"


def _read_pointer(name: Name) -> pointers.Pointer | None:
    """Return the pointer, or None for a canary that never existed.

    Raises:
        UserError: it is missing although something should be served, or it is damaged.
    """
    pointer = pointers.read(name)
    if pointer and _is_whole(pointer):
        return pointer
    if _path(name).exists():
        raise UserError(f"{_path(name)} is damaged: `doctor` writes it again")
    if name == "canary" and not _was_promoted(name):
        return None
    raise UserError(f"there is no {_path(name)}: `promote RELEASE --to {name}`, or `doctor` if that was done")


def _is_whole(pointer: pointers.Pointer) -> bool:
    number = isinstance(pointer.traffic, int | float) and 0 <= pointer.traffic <= 1
    return (
        (pointer.release is None or isinstance(pointer.release, str))
        and isinstance(pointer.generation, int)
        and (pointer.traffic is None or number)
    )


def _was_promoted(name: Name) -> bool:
    try:
        return book.load().channel(name) is not None
    except UserError:  # an unreadable ledger proves nothing
        return False


def _record(release_id: str) -> Release:
    """Return a release's record: from its own folder, which its id verifies, or else from the ledger."""
    try:
        return read_release((loading.RELEASES / release_id / loading.RECORD).read_bytes(), release_id)
    except (OSError, UserError):
        return book.load().release(release_id)
