"""The figures of every run, in append-only Parquet files, and the verdicts computed from them.

A verdict is not stored: it comes from running the state machine over the figures, window by window, using the newest
run of each window. So a run that is repeated, or that a crash cut short, changes nothing.
"""

import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replacing
from .summary import text
from .verdicts import Figure, State, fold

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = Path(".lifecycle/monitoring/history")
# The grain of figures for the current moment, like freshness. Each is judged on its own.
NOW = "now"


@dataclass(frozen=True)
class Measured:
    """A window and its measurements. `grain` and `source` as in window.Window, or NOW and freshness."""

    source: str
    grain: str
    window: str
    start: datetime
    end: datetime
    rows: int
    figures: list[Figure]
    # Rows with a known outcome; None if not applicable.
    outcomes: int | None = None


@dataclass(frozen=True)
class Point:
    """One figure of a series, and the state after it."""

    window: str
    start: datetime
    value: float | None
    reference: float | None
    fire: float | None
    clear: float | None
    rows: int
    state: State

    @property
    def judged(self) -> bool:
        """Whether it was compared with bounds. A window with too few rows is not."""
        return self.value is not None and self.fire is not None and self.clear is not None


@dataclass(frozen=True)
class Series:
    """A check of one subject over time, oldest first."""

    source: str
    grain: str
    check: str
    subject: str
    points: list[Point]

    @property
    def now(self) -> Point:
        """The newest judged figure, or the newest if none was judged. An open breach always has one."""
        return next((point for point in reversed(self.points) if point.judged), self.points[-1])

    @property
    def unjudged(self) -> list[Point]:
        """Windows newer than `now`: they have too few rows to change the verdict."""
        return self.points[self.points.index(self.now) + 1 :]

    @property
    def caveat(self) -> str:
        """A note if the figure is not from the newest window; empty if it is."""
        if not (newer := self.unjudged):
            return ""
        last = newer[-1]
        more = f" and {len(newer) - 1} before it" if len(newer) > 1 else ""
        return f"last judged in {self.now.window}: {last.window} (rows: {last.rows:,}){more} cannot be judged"

    @property
    def open(self) -> bool:
        """Whether the series is in breach."""
        return self.now.state.open


def _schema() -> "pa.Schema":
    import pyarrow as pa

    names = ("release", "source", "grain", "window", "check", "subject")
    numbers = ("value", "reference", "fire", "clear")
    return pa.schema(
        [("at", pa.timestamp("us"))]
        + [(name, pa.string()) for name in names]
        + [(name, pa.timestamp("us")) for name in ("start", "end")]
        + [(name, pa.float64()) for name in numbers]
        + [("rows", pa.int64())]
    )


def append(release: str, at: datetime, measured: list[Measured]) -> Path | None:
    """Write a file with all figures of a run. Return its path, or None if there are no figures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = [
        {
            "at": at,
            "release": release,
            "source": each.source,
            "grain": each.grain,
            "window": each.window,
            "start": each.start,
            "end": each.end,
            **asdict(figure),
        }
        for each in measured
        for figure in each.figures
    ]
    if not rows:
        return None
    path = FOLDER / f"{at:%Y%m%dT%H%M%S%f}-{os.getpid()}.parquet"
    with replacing(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), aside)
    return path


def read(release: str, consecutive: dict[str, int], folder: Path = FOLDER) -> list[Series]:
    """Read every series of a release, with its states."""
    from .window import connect

    files = sorted(folder.glob("*.parquet"))
    if not files:
        return []
    rows = connect().execute(
        f"""
        select source, grain, "check", subject, "window", start, value, reference, fire, clear, rows
        from read_parquet([{", ".join(text(str(file)) for file in files)}], filename = true)
        where release = {text(release)}
        qualify row_number() over (
            partition by source, grain, "window", "check", subject order by "at" desc, filename desc
        ) = 1
        order by source, grain, "check", subject, start, "window"
        """
    )
    found: dict[tuple[str, str, str, str], list[tuple[Any, ...]]] = {}
    for source, grain, check, subject, *figure in rows.fetchall():
        found.setdefault((source, grain, check, subject), []).append(tuple(figure))
    return [Series(*name, _points(figures, consecutive.get(name[1], 1))) for name, figures in found.items()]


def in_breach(series: list[Series]) -> list[Series]:
    """Return the series that are in breach now, the most severe first."""
    return sorted((each for each in series if each.open), key=lambda each: -_excess(each.now))


def _excess(point: Point) -> float:
    return (point.value or 0.0) / point.fire if point.fire else 0.0


def last_run(release: str, folder: Path = FOLDER) -> datetime | None:
    """Return when the monitor last measured a release, in UTC, or None if it never has."""
    from .window import connect

    files = sorted(folder.glob("*.parquet"))
    if not files:
        return None
    (found,) = (
        connect()
        .execute(
            f"""
        select max("at") from read_parquet([{", ".join(text(str(file)) for file in files)}])
        where release = {text(release)}
        """
        )
        .fetchall()
    )
    at: datetime | None = found[0]
    return at


@dataclass(frozen=True)
class Sighting:
    """When runs first found a window above its upper bound, and below the lower one."""

    above: datetime | None
    below: datetime | None


def sightings(folder: Path = FOLDER) -> dict[tuple[str, str, str, str, str], Sighting]:
    """Return sightings by release, source, check, subject and window. Counts every run, not only a window's newest."""
    from .window import connect

    files = sorted(folder.glob("*.parquet"))
    if not files:
        return {}
    rows = connect().execute(
        f"""
        select release, source, "check", subject, "window",
            min("at") filter (value > fire), min("at") filter (value < clear)
        from read_parquet([{", ".join(text(str(file)) for file in files)}])
        group by all
        """
    )
    return {(row[0], row[1], row[2], row[3], row[4]): Sighting(*row[5:]) for row in rows.fetchall()}


def _points(figures: list[tuple[Any, ...]], needed: int) -> list[Point]:
    states = fold(((window, value, fire, clear) for window, _, value, _, fire, clear, _ in figures), needed)
    return [
        Point(window, start, value, reference, fire, clear, rows, state)
        for (window, start, value, reference, fire, clear, rows), state in zip(figures, states, strict=True)
    ]
