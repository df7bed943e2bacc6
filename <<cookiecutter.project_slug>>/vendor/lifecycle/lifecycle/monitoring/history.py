"""Every figure of every run, in Parquet files that are only ever added to; and the verdicts that follow from them.

A verdict is no state of its own: it is the state machine run over the figures, window by window, the newest run of a
window counting. So a run that is repeated, or that a crash cut short, changes nothing.
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
# A figure that is of the moment and of no window, like freshness, is judged by itself.
NOW = "now"


@dataclass(frozen=True)
class Measured:
    """A window and what was measured of it. `grain` and `source` as in window.Window; or NOW and freshness."""

    source: str
    grain: str
    window: str
    start: datetime
    end: datetime
    rows: int
    figures: list[Figure]
    # Rows whose outcome is known; None where nobody asks.
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
        """Whether it was held against bounds. A window with too few rows is not."""
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
        """The newest figure that was judged; where none was, the newest. An open breach always has one."""
        return next((point for point in reversed(self.points) if point.judged), self.points[-1])

    @property
    def unjudged(self) -> list[Point]:
        """Newer windows than `now`: too thin to change the verdict."""
        return self.points[self.points.index(self.now) + 1 :]

    @property
    def caveat(self) -> str:
        """That the figure is not of the newest window, in words; empty where it is."""
        if not (newer := self.unjudged):
            return ""
        last = newer[-1]
        more = f" and {len(newer) - 1} before it" if len(newer) > 1 else ""
        return f"last judged in {self.now.window}: {last.window} (rows: {last.rows:,}){more} cannot be judged"

    @property
    def open(self) -> bool:
        """Whether it is in breach."""
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
    """Add a file with all figures of a run; returns it, None where there are no figures."""
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
    """Every series of a release, with its states."""
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
    """Those that are in breach now, the furthest out first."""
    return sorted((each for each in series if each.open), key=lambda each: -_excess(each.now))


def _excess(point: Point) -> float:
    return (point.value or 0.0) / point.fire if point.fire else 0.0


def last_run(release: str, folder: Path = FOLDER) -> datetime | None:
    """When the monitor measured a release last, in UTC; None where it never has."""
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
    """When runs first found a window above its bound, and below the lower one."""

    above: datetime | None
    below: datetime | None


def sightings(folder: Path = FOLDER) -> dict[tuple[str, str, str, str, str], Sighting]:
    """By release, source, check, subject and window; every run counts, and not the newest of a window alone."""
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
