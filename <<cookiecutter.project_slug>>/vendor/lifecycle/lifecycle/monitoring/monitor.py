"""One run of the monitor: measure every window, store the figures, and report what is in breach."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..params import Check, Monitoring, Params
from ..predictions.log import FOLDER
from ..releases import loading
from ..releases.record import Release
from ..releases.store import Store
from . import history, measure
from .history import Measured, Series
from .measure import Seen
from .profile import Profile, profile_of
from .window import connect, months_of, of_features, of_log

# Checks that need outcomes.
ON_OUTCOMES: set[Check] = {"skill_drop", "ranking_drop", "bias"}


@dataclass(frozen=True)
class Thin:
    """Windows of one length with too few rows, or too few known outcomes, to be judged.

    `least`, `most`: the smallest and largest count in those windows; `needed`: `min_rows` of params.yaml.
    """

    source: str
    grain: str
    what: Literal["rows", "known outcomes"]
    windows: tuple[str, ...]
    least: int
    most: int
    needed: int

    def __str__(self) -> str:
        many = len(self.windows)
        windows = f"{many} {self.grain}{'s' if many > 1 else ''}" + (" of the prediction log" * (self.source == "log"))
        had = f"{self.least:,}" + (f" to {self.most:,}" if self.most > self.least else "")
        judge = "judge" if self.what == "rows" else "judge the quality"
        return f"{windows} had too few {self.what} to {judge}: {had}, min_rows is {self.needed:,}"


@dataclass(frozen=True)
class Monitored:
    """The outcome of a run. `series` holds everything known about the release, including this run's figures.

    `left_out`: for windows of the log, how many rows do not count because their features do not match their key.
    """

    release: str
    at: datetime
    profile: Profile
    seen: list[Seen]
    series: list[Series]
    thin: list[Thin]
    notes: list[str]
    left_out: dict[str, int]

    @property
    def verdict(self) -> str:
        """The result in one line. Anything that was not judged does not count as healthy."""
        figures = [figure for each in self.seen for figure in each.measured.figures]
        if not self.breaches and all(figure.fire is None for figure in figures):
            return "no window could be judged"
        judged = sum(each.now.judged for each in self.series)
        return f"{len(self.breaches) or 'none'} of {judged} checks in breach"

    @property
    def breaches(self) -> list[Series]:
        """The series in breach now, the most severe first."""
        return history.in_breach(self.series)


def now() -> datetime:
    """Return the current time in UTC, without a zone, as DuckDB uses it."""
    return datetime.now(UTC).replace(tzinfo=None)


def monitor(
    release: Release, store: Store, params: Params, at: datetime, months: Iterable[str] = (), log: Path = FOLDER
) -> Monitored:
    """Measure a release's recent inputs, and store the figures.

    Args:
        release: the release whose profile and model are used.
        store: has its feature table and its model.
        params: thresholds and columns.
        at: the current time, in UTC, without a zone.
        months: months of the feature table; by default those after the release's training months.
        log: folder of the prediction log. Not read if `months` is given.

    Raises:
        UserError: there is nothing to measure, or no profile can be made.
    """
    settings, months = params.monitoring, list(months)
    profile = profile_of(release, store, settings)
    connection = connect()
    table = Path(release.model["feature_table"])
    chosen = _months(months_of(connection, table, settings.columns), months, profile)
    seen, left_out = [], dict[str, int]()
    if chosen:
        model = loading.load_model(release, loading.materialise(release, store))
        for window in of_features(connection, table, chosen, settings.columns, model):
            seen.append(measure.measure(connection, window, profile, settings))
    if not months:
        features, labels = release.model["features"], (table, settings.columns)
        args = (connection, release.id, features, settings.log_window, settings.log_windows, labels, log)
        windows, left_out = of_log(*args)
        seen += [measure.measure(connection, window, profile, settings) for window in windows]
    if not seen:
        raise UserError(
            f"nothing to look at: {table} has no month after {profile.train[-1]}, "
            f"and {log} has no prediction of {release.id}"
        )
    clock = at if settings.clock == "now" else measure.end_of(params.data.through)
    fresh, notes = measure.freshness(connection, settings.freshness, clock, at)
    history.append(release.id, at, [*(each.measured for each in seen), fresh])
    series = history.read(release.id, {str(grain): many for grain, many in settings.consecutive.items()})
    thin = _thin([each.measured for each in seen], settings)
    return Monitored(release.id, at, profile, seen, series, thin, notes, left_out)


def _thin(windows: list[Measured], settings: Monitoring) -> list[Thin]:
    found: dict[tuple[str, str, Literal["rows", "known outcomes"]], list[tuple[str, int]]] = {}
    needs_outcomes = bool(ON_OUTCOMES & settings.thresholds.keys())
    for each in windows:
        if each.rows < settings.min_rows:
            found.setdefault((each.source, each.grain, "rows"), []).append((each.window, each.rows))
        elif needs_outcomes and each.outcomes is not None and each.outcomes < settings.min_rows:
            found.setdefault((each.source, each.grain, "known outcomes"), []).append((each.window, each.outcomes))
    return [
        Thin(*kind, tuple(name for name, _ in few), min(many for _, many in few), max(many for _, many in few), needed)
        for needed in [settings.min_rows]
        for kind, few in found.items()
    ]


def _months(there: list[str], asked: list[str], profile: Profile) -> list[str]:
    if missing := sorted(set(asked) - set(there)):
        known = f"{there[0]} to {there[-1]}" if there else "nothing"
        raise UserError(f"the feature table has no month {missing[0]}: it has {known}")
    return asked or [month for month in there if month > profile.train[-1]]
