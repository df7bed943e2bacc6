"""Measure a window against a release's profile, and set the bounds for a breach."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from .. import parts
from ..params import Check, Fresh, Monitoring
from ..releases.online import POINTER
from . import drift
from .history import NOW, Measured
from .profile import SCORE, Profile
from .quality import Quality, quality, service
from .summary import Summary, quoted, summarise, text
from .verdicts import Figure
from .window import Window

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


# How far a window must exceed the range of the training rows' own windows before it counts.
MARGIN = 1.25


@dataclass(frozen=True)
class Seen:
    """A measured window, and its columns' distributions for the page."""

    measured: Measured
    summaries: dict[str, Summary]


def measure(connection: "DuckDBPyConnection", window: Window, profile: Profile, settings: Monitoring) -> Seen:
    """Return every figure of a window."""
    summaries = summarise(connection, window.relation, [*profile.columns, profile.score])["all"]
    found = quality(connection, window.relation).get("all")
    outcomes = found.labelled if found else 0
    # A key that was requested several times has one outcome.
    sql = f"select count(distinct _key) + count(*) filter (_key is null) from {window.relation}"
    [(asked,)] = connection.execute(sql).fetchall()
    figures = [
        *_of_columns(window, summaries, profile, settings),
        _figure(settings, "unlabelled", "score", 1 - outcomes / asked, asked),
        *(_of_quality(connection, window, profile, settings, found) if found else []),
        *_of_service(connection, window, settings),
    ]
    about = (window.source, window.grain, window.name, window.start, window.end, window.rows)
    return Seen(Measured(*about, figures, outcomes), summaries)


def _figure(
    settings: Monitoring,
    check: Check,
    subject: str,
    value: float | None,
    rows: int,
    reference: float | None = None,
    natural: float = 0.0,
    judged: bool = True,
) -> Figure:
    """Return a figure with its bounds. Variation that training windows show too (`natural`) is not a breach."""
    value = None if value is None else round(value, 6)
    bounds = settings.thresholds.get(check)
    if bounds is None or not judged or rows < settings.min_rows:
        return Figure(check, subject, value, rows, reference)
    up = max(natural * MARGIN / bounds.fire, 1.0) if bounds.fire else 1.0
    return Figure(check, subject, value, rows, reference, round(bounds.fire * up, 6), round(bounds.clear * up, 6))


def _of_columns(window: Window, summaries: dict[str, Summary], profile: Profile, settings: Monitoring) -> list[Figure]:
    natural = profile.natural[window.grain]
    figures = []
    checks: dict[Check, tuple[bool, str]] = {"psi": (True, "psi"), "distance": (True, "distance")}
    # Missing or unknown values are an upstream fault, even if the model makes little use of the column.
    checks |= {"nulls": (False, "nulls"), "outside": (False, "outside")}
    for check, (by_importance, name) in checks.items():
        for column in profile.columns:
            before, now = profile.reference[column.name], summaries[column.name]
            matters = not by_importance or profile.importance.get(column.name, 1.0) >= settings.min_importance
            value = drift.CHECKS[name](before, now)
            usual = natural[name][column.name]
            figures.append(_figure(settings, check, column.name, value, window.rows, natural=usual, judged=matters))
    score_checks: list[tuple[Check, str]] = [("score_psi", "psi"), ("score_distance", "distance")]
    for check, name in score_checks:
        scored = summaries[SCORE].rows - summaries[SCORE].nulls
        value = drift.CHECKS[name](profile.scores, _without_nulls(summaries[SCORE]))
        figures.append(_figure(settings, check, "score", value, scored, natural=natural[name][SCORE]))
    return figures


def _without_nulls(scores: Summary) -> Summary:
    """Drop nulls: failed requests have no score. They count as errors, not as drift."""
    return scores.model_copy(update={"rows": scores.rows - scores.nulls, "nulls": 0})


def _of_quality(
    connection: "DuckDBPyConnection", window: Window, profile: Profile, settings: Monitoring, found: Quality
) -> list[Figure]:
    usual = profile.usual[window.grain]
    before = usual.get("score")
    if before is None:
        return []
    drops = before.drops(found)
    checks: list[tuple[Check, float | None]]
    checks = [("skill_drop", before.skill), ("ranking_drop", before.ranking), ("bias", None)]
    figures = [
        _figure(settings, check, "score", drops[check], found.labelled, reference, before.natural[check])
        for check, reference in checks
    ]
    figures += [Figure(name, "score", getattr(found, name), found.labelled) for name in ("loss", "outcome")]
    figures += [
        Figure(name, "score", getattr(found, name), found.labelled, getattr(before, name))
        for name in ("skill", "ranking")
    ]
    for column in settings.slices:
        for value, each in quality(connection, window.relation, f"{quoted(column)}::varchar").items():
            subject = f"{column}={value}"
            if of := usual.get(subject):
                lost = of.drops(each)["skill_drop"]
                rows = min(each.labelled, of.rows)
                figures.append(_figure(settings, "slice_skill_drop", subject, lost, rows, of.skill))
    return figures


def _of_service(connection: "DuckDBPyConnection", window: Window, settings: Monitoring) -> list[Figure]:
    found = service(connection, window.relation)
    if found is None:
        return []
    return [
        _figure(settings, "errors", "predictions", found.errors, found.requests),
        _figure(settings, "p99_ms", "predictions", found.p99_ms, found.requests),
        Figure("p50_ms", "predictions", found.p50_ms, found.requests),
    ]


def freshness(
    connection: "DuckDBPyConnection", sources: dict[str, Fresh], clock: datetime, at: datetime
) -> tuple[Measured, list[str]]:
    """Return how many hours the newest row of each source lags behind `clock`, and which sources were unreadable.

    Measured at `at`. Both times are UTC, without a zone.
    """
    import duckdb

    figures, notes = [], []
    for name, source in sources.items():
        if source.files.endswith(".json"):
            left = Path(source.files) == POINTER and parts.why_off("serving")
            if left or not Path(source.files).exists():  # this source is not in use
                continue
            sql = f"select max({quoted(source.time)})::timestamp from read_json({text(source.files)})"
        else:
            sql = f"select max({quoted(source.time)})::timestamp from read_parquet({text(source.files)})"
        try:
            [(newest,)] = connection.execute(sql).fetchall()
        except duckdb.Error:
            newest = None
        if newest is None:
            notes.append(f"freshness of {name}: {source.files} has no {source.time} to look at")
            continue
        hours = max((clock - newest) / timedelta(hours=1), 0.0)
        figures.append(Figure("freshness", name, round(hours, 3), 1, None, source.fire, source.clear))
    return Measured("freshness", NOW, at.isoformat(timespec="microseconds"), at, at, len(figures), figures), notes


def end_of(month: str) -> datetime:
    """Return the first moment after a month. For past data, `clock: data` uses it as the current time."""
    year, number = map(int, month.split("-"))
    return datetime(year + number // 12, number % 12 + 1, 1)
