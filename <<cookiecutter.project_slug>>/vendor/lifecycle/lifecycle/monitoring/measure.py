"""What is measured of a window, against a release's profile, and from where on it is a breach."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ..params import Check, Fresh, Monitoring
from . import drift
from .history import NOW, Measured
from .profile import SCORE, Profile
from .quality import Quality, quality, service
from .summary import Summary, quoted, summarise, text
from .verdicts import Figure
from .window import Window

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


# What the training rows' own windows reach is exceeded by so much before it counts.
MARGIN = 1.25


@dataclass(frozen=True)
class Seen:
    """A window, measured; and what its columns look like, for the page."""

    measured: Measured
    summaries: dict[str, Summary]


def measure(connection: "DuckDBPyConnection", window: Window, profile: Profile, settings: Monitoring) -> Seen:
    """Every figure of a window."""
    summaries = summarise(connection, window.relation, [*profile.columns, profile.score])["all"]
    figures = [
        *_of_columns(window, summaries, profile, settings),
        *_of_quality(connection, window, profile, settings),
        *_of_service(connection, window, settings),
    ]
    measured = Measured(window.source, window.grain, window.name, window.start, window.end, window.rows, figures)
    return Seen(measured, summaries)


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
    """A figure with its bounds. What windows of the training rows do by themselves (`natural`) is no breach."""
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
    # What is missing or was never seen is a fault upstream, however little the model makes of the column.
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
    """Requests that failed have no score: they are counted as errors, and not as drift."""
    return scores.model_copy(update={"rows": scores.rows - scores.nulls, "nulls": 0})


def _of_quality(
    connection: "DuckDBPyConnection", window: Window, profile: Profile, settings: Monitoring
) -> list[Figure]:
    found = quality(connection, window.relation).get("all")
    labelled = found.labelled if found else 0
    figures = [_figure(settings, "unlabelled", "score", 1 - labelled / window.rows, window.rows)]
    if found is None or profile.quality is None:
        return figures
    before = profile.quality
    figures += [
        _figure(settings, "skill_drop", "score", _drop(before.skill, found.skill), labelled, before.skill),
        _figure(settings, "ranking_drop", "score", _drop(before.ranking, found.ranking), labelled, before.ranking),
        _figure(settings, "bias", "score", abs(found.bias) if found.bias is not None else None, labelled, before.bias),
    ]
    figures += [
        Figure(name, "score", getattr(found, name), labelled, getattr(before, name))
        for name in ("loss", "skill", "ranking", "outcome")
    ]
    for column, values in profile.slices.items():
        for value, each in quality(connection, window.relation, quoted(column)).items():
            if usual := values.get(value):
                figures.append(_of_slice(settings, f"{column}={value}", usual, each))
    return figures


def _of_slice(settings: Monitoring, subject: str, before: Quality, found: Quality) -> Figure:
    known = min(found.labelled, before.labelled)
    return _figure(settings, "slice_skill_drop", subject, _drop(before.skill, found.skill), known, before.skill)


def _drop(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else before - now


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
    """Hours by which the newest row of each source lags behind `clock`; and what could not be looked at.

    Measured at `at`. Both times are UTC, without a zone.
    """
    import duckdb

    figures, notes = [], []
    for name, source in sources.items():
        if source.files.endswith(".json"):
            if not Path(source.files).exists():  # nobody asked for it
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
    """The first moment after a month, for data of the past: what `clock: data` takes for now."""
    year, number = map(int, month.split("-"))
    return datetime(year + number // 12, number % 12 + 1, 1)
