"""Render the monitor's results as one self-contained HTML file without scripts, breaches first."""

from dataclasses import dataclass
from pathlib import Path

from ..files import write_text
from ..releases.ledger import ChannelName, Entry, Ledger
from .history import Point, Series
from .incidents import how, time_of
from .measure import Seen
from .monitor import Monitored
from .profile import SCORE
from .summary import Column, Summary

FILE = Path(".lifecycle/monitoring/monitor.html")
# Older figures are only in the history.
SHOWN_POINTS = 60
WIDTH, HEIGHT, LEFT, TOP, FOOT = 340, 110, 44, 6, 16

NAMES = {
    "psi": "PSI",
    "distance": "Distance",
    "nulls": "Rise of nulls",
    "outside": "Out of range or never seen",
    "score_psi": "PSI of the predictions",
    "score_distance": "Distance of the predictions",
    "skill_drop": "Loss of skill",
    "ranking_drop": "Loss of ranking (ROC AUC)",
    "bias": "Bias",
    "slice_skill_drop": "Loss of skill",
    "unlabelled": "Outcome not known yet",
    "errors": "Error rate",
    "p99_ms": "Latency, 99th percentile (ms)",
    "p50_ms": "Latency, median (ms)",
    "freshness": "Hours behind",
    "loss": "Loss",
    "skill": "Skill",
    "ranking": "ROC AUC",
    "outcome": "Mean outcome",
}
ON_QUALITY = ("skill", "ranking", "loss", "outcome", "bias", "skill_drop", "ranking_drop", "unlabelled")


@dataclass(frozen=True)
class Line:
    """A chart of a series: points in pixels, and the heights of its bounds."""

    title: str
    note: str
    open: bool
    points: list[tuple[float, float, str, bool]]
    path: str
    fire: float | None
    clear: float | None
    ticks: list[tuple[float, str]]
    first: str
    last: str


@dataclass(frozen=True)
class Bars:
    """A chart of two distributions, bin by bin."""

    window: str
    bars: list[tuple[float, float, float, float, float, str]]


@dataclass(frozen=True)
class Feature:
    """A feature: its newest figures, its drift over time, its distribution."""

    name: str
    importance: float | None
    open: bool
    figures: list[tuple[str, float | None, bool]]
    lines: list[Line]
    bars: Bars | None


def write(found: Monitored, ledger: Ledger, file: Path = FILE) -> None:
    """Write the page atomically."""
    write_text(file, render(found, ledger))


def standing(release: str, ledger: Ledger) -> list[tuple[str, str, bool]]:
    """Return a release's status: the channels that serve it or have served it, and what production serves.

    Each item is a title, a text, and whether it is bad news.
    """
    entries = [entry for _, entry in ledger.entries()]
    names: tuple[ChannelName, ...] = ("production", "canary", "staging")
    places = [_place(name, release, ledger, [each for each in entries if each.channel == name]) for name in names]
    lines = [place for place in places if place]
    production = ledger.channel("production")
    if production and production.release != release:
        since = f"since {_shown(production.at)} (generation {production.generation})"
        now = ("Production now", f"serves {production.release or 'nothing'} {since}", False)
        lines.insert(1 if places[0] else 0, now)
    if not any(channel.release == release for channel in ledger.channels().values()):
        lines.append(("Now", "no channel serves this release", False))
    if held := ledger.held("production"):
        lines.append(("On hold", f"production, since {_shown(held.at)}: {held.reason}", True))
    if quarantine := ledger.quarantine(release):
        lines.append(("In quarantine", f"since {_shown(quarantine.at)}", True))
    made = [entry for entry in entries if entry.kind == "retrain" and entry.release == release]
    lines += [("Retrained", f"{_shown(entry.at)}: {entry.reason}", False) for entry in made[-1:]]
    return lines


def _place(name: ChannelName, release: str, ledger: Ledger, entries: list[Entry]) -> tuple[str, str, bool] | None:
    moves = [entry for entry in entries if entry.kind in ("promote", "rollback")]
    served = [number for number, entry in enumerate(moves) if entry.release == release]
    if not served:
        return None
    first = moves[served[-1]]
    channel = ledger.channel(name)
    if channel and channel.release == release:
        share = f", {channel.traffic:.0%} of the requests" if channel.traffic else ""
        came = f" after a rollback from {first.previous}: {first.reason}" if first.kind == "rollback" else ""
        since = f"serves it since {_shown(first.at)} (generation {first.generation}{share})"
        return name.capitalize(), since + came, False
    left = moves[served[-1] + 1]
    served_it = f"served it from {_shown(first.at)} until {_shown(left.at)}"
    why = f": {left.reason}" if left.reason else ""
    return name.capitalize(), f"{served_it}, {how(left)}{why}", left.kind == "rollback"


def _shown(at: str) -> str:
    return f"{time_of(at):%Y-%m-%d %H:%M} UTC"


def render(found: Monitored, ledger: Ledger) -> str:
    """Return the page as text. Equal figures and an equal ledger give equal bytes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader(__package__.rsplit(".", 1)[0], "monitoring")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("page.html.j2")
    text: str = template.render(
        found=found,
        profile=found.profile,
        names=NAMES,
        breaches=[line(each) for each in found.breaches],
        standing=standing(found.release, ledger),
        features=_features(found),
        score=_bars(found.profile.score, found.profile.scores, _newest(found.seen), SCORE),
        score_lines=_lines(found, "score_psi", "score_distance"),
        quality=_lines(found, *ON_QUALITY),
        service=_lines(found, "errors", "p99_ms", "p50_ms"),
        slices=[each for each in found.series if each.check == "slice_skill_drop"],
        freshness=[each for each in found.series if each.check == "freshness"],
        size=(WIDTH, HEIGHT, LEFT),
    )
    return text + "\n"


def _lines(found: Monitored, *checks: str) -> list[Line]:
    chosen = [each for each in found.series if each.check in checks]
    return [line(each) for each in sorted(chosen, key=lambda each: (not each.open, checks.index(each.check)))]


def line(series: Series) -> Line:
    """Return the chart of a series."""
    shown = series.points[-SHOWN_POINTS:]
    values = [point.value for point in shown if point.value is not None]
    top = max([*values, series.now.fire or 0.0, 1e-9]) * 1.08
    bottom = min([*values, 0.0])
    step = (WIDTH - LEFT - 10) / max(len(shown) - 1, 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - FOOT) * (1 - (value - bottom) / (top - bottom)), 1)

    points = [
        (round(LEFT + number * step, 1), y(point.value), _told(point), point.state.open)
        for number, point in enumerate(shown)
        if point.value is not None
    ]
    now = series.now
    return Line(
        title=f"{NAMES.get(series.check, series.check)}: {series.subject}",
        note="; ".join(filter(None, ("prediction log" * (series.source == "log"), series.caveat))),
        open=series.open,
        points=points,
        path=" ".join(f"{x},{height}" for x, height, *_ in points),
        fire=y(now.fire) if now.fire is not None else None,
        clear=y(now.clear) if now.clear is not None else None,
        ticks=[(y(value), f"{value:.2g}") for value in ((bottom if bottom < 0 else 0.0), top / 1.08)],
        first=shown[0].window[:16],
        last=shown[-1].window[:16] if len(shown) > 1 else "",
    )


def _told(point: Point) -> str:
    bounds = f", fires above {point.fire:.3g}" if point.fire is not None else ""
    return f"{point.window}: {point.value:.4g} ({point.rows:,} rows{bounds})"


def _newest(seen: list[Seen]) -> Seen | None:
    return seen[-1] if seen else None


def _bars(column: Column, reference: Summary, seen: Seen | None, name: str) -> Bars | None:
    if seen is None or not reference.rows:
        return None
    before, now = (_shares(each) for each in (reference, seen.summaries[name]))
    most = max(*before, *now, 1e-9)
    wide = (WIDTH - 10) / len(before)
    bars = []
    for number, (old, new, label) in enumerate(zip(before, now, [*column.labels, "missing"], strict=True)):
        then, high = (round((HEIGHT - TOP - FOOT) * share / most, 1) for share in (old, new))
        told = f"{label}: {old:.1%} in training, {new:.1%} now"
        bars.append((round(5 + number * wide, 1), round(wide * 0.4, 1), then, high, float(HEIGHT - FOOT), told))
    return Bars(seen.measured.window, bars)


def _shares(summary: Summary) -> list[float]:
    return [count / max(summary.rows, 1) for count in (*summary.bins, summary.nulls)]


def _features(found: Monitored) -> list[Feature]:
    newest, profile = _newest(found.seen), found.profile
    by_name: dict[str, list[Series]] = {}
    for each in found.series:
        by_name.setdefault(each.subject, []).append(each)
    features = [
        _feature(column, profile.importance.get(column.name), by_name.get(column.name, []), newest, profile.reference)
        for column in profile.columns
    ]
    return sorted(features, key=lambda each: (not each.open, -(each.importance or 0.0), each.name))


def _feature(
    column: Column, importance: float | None, series: list[Series], newest: Seen | None, reference: dict[str, Summary]
) -> Feature:
    of_newest = [each for each in series if newest and each.source == newest.measured.source]
    figures: list[tuple[str, float | None, bool]] = [
        (NAMES[check], each.now.value, each.open)
        for check in ("psi", "distance", "nulls", "outside")
        for each in of_newest
        if each.check == check and each.now.value is not None
    ]
    return Feature(
        name=column.name,
        importance=importance,
        open=any(each.open for each in series),
        figures=figures,
        lines=[line(each) for each in series if each.check == "psi"],
        bars=_bars(column, reference[column.name], newest, column.name),
    )
