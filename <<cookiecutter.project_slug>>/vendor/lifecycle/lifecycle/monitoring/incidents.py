"""List incidents: when each began, was detected, was alerted and was resolved. Stores nothing.

Incidents are derived from the monitor's history (breaches), the log of alerts, and the ledger (what ended them, and
rollbacks without a breach). Overlapping breaches of one release are one incident.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from ..params import Monitoring
from ..releases import operations
from ..releases.ledger import Entry, Ledger
from . import alerts, history
from .history import Series, Sighting

# A rollback has lasted if it was not reversed for this long.
HELD = timedelta(hours=24)
UNSEEN = ", before it was found"


@dataclass(frozen=True)
class Incident:
    """One incident. All times are in UTC without a zone, and all spans are counted from `began`.

    `began`: the first row of the first window above its bound; for a rollback without a breach, when the channel began
    serving the release that it left. `how`: how it ended, if it has.
    """

    release: str
    what: tuple[str, ...]
    began: datetime
    detected: datetime
    alerted: datetime | None = None
    ended: datetime | None = None
    how: str = "open"

    @property
    def title(self) -> str:
        """A short description of the incident."""
        return self.what[0] + (f" and {len(self.what) - 1} more" if len(self.what) > 1 else "")

    @property
    def to_detect(self) -> float:
        """Seconds from the beginning until the monitor or a person detected it."""
        return (self.detected - self.began).total_seconds()

    @property
    def to_alert(self) -> float | None:
        """Seconds from the beginning until the alert was in the log."""
        return None if self.alerted is None else (self.alerted - self.began).total_seconds()

    @property
    def to_restore(self) -> float | None:
        """Seconds from the beginning until it was resolved."""
        return None if self.ended is None else (self.ended - self.began).total_seconds()


@dataclass(frozen=True)
class Summary:
    """Statistics over all incidents: medians in seconds, over those that are resolved, and rollbacks.

    `tried`: rollbacks in the ledger, plus those that failed and left the channel as it was (on this machine; a typo or
    a move by another operation first does not count). `lasted`: those in the ledger, each verified before and after its
    commit, that were not reversed within 24 hours: the channel did not serve again what it left, and was not rolled
    back once more. `success`: lasted / tried.
    """

    count: int
    open: int
    to_detect: float | None
    to_alert: float | None
    to_restore: float | None
    tried: int
    lasted: int
    success: float | None


def find(ledger: Ledger, settings: Monitoring) -> list[Incident]:
    """Return every incident, newest first."""
    entries = [entry for _, entry in ledger.entries()]
    told: dict[str, datetime] = {}
    for line in alerts.read():
        if line["to"] == alerts.LOG:
            told.setdefault(line["breach"], datetime.fromisoformat(line["at"]))
    seen = history.sightings()
    consecutive = {str(grain): many for grain, many in settings.consecutive.items()}
    found: list[Incident] = []
    for release in sorted({name[0] for name in seen}):
        breaches = [
            replace(each, alerted=told.get(name))
            for series in history.read(release, consecutive)
            for name, each in _breaches(release, series, seen, settings)
        ]
        found += _merged(_ended_by_a_move(each, entries) for each in breaches)
    found += _without_a_breach(entries, found)
    return sorted(found, key=lambda each: (each.began, each.release), reverse=True)


def _breaches(
    release: str, series: Series, seen: dict[tuple[str, str, str, str, str], Sighting], settings: Monitoring
) -> Iterator[tuple[str, Incident]]:
    """Yield each opening of a series, with the name that alerts and triggers use for it."""
    began: datetime | None = None
    now: tuple[str, Incident] | None = None
    for point in series.points:
        sighting = seen[(release, series.source, series.check, series.subject, point.window)]
        if point.judged and point.state.above == 1 and not now:
            began = point.start
        if point.state.open and not now and began and sighting.above:
            # For past data examined as if it were current, the delay until detection means nothing.
            past = settings.clock == "data" and series.source == "features"
            first = sighting.above if past else began
            what = f"{series.check} of {series.subject} ({series.source})"
            now = (
                alerts.name_of(release, series, point.state.since),
                Incident(release, (what,), first, sighting.above),
            )
        elif now and not point.state.open:
            yield now[0], replace(now[1], ended=sighting.below, how="it went away")
            now = None
    if now:
        yield now


def _ended_by_a_move(incident: Incident, entries: Iterable[Entry]) -> Incident:
    """End a breach of a release that production has left, whatever its later figures.

    If the release came back before the monitor found the breach, it did not leave because of it.
    """
    left: Entry | None = None
    for entry in entries:
        if entry.channel != "production" or entry.kind not in ("promote", "rollback"):
            continue
        at = time_of(entry.at)
        if left and entry.release == incident.release and at <= incident.detected:
            left = None
        elif not left and entry.previous == incident.release != entry.release and at >= _second(incident.began):
            left = entry
    if left is None or (incident.ended is not None and incident.ended < time_of(left.at)):
        return incident
    at = max(time_of(left.at), incident.began)
    unseen = UNSEEN if at < _second(incident.detected) else ""
    return replace(incident, ended=at, how=how(left) + unseen)


def _merged(breaches: Iterable[Incident]) -> list[Incident]:
    """Merge overlapping breaches of one release into one incident."""
    merged: list[Incident] = []
    for each in sorted(breaches, key=lambda each: (each.began, each.detected, each.what)):
        last = merged[-1] if merged else None
        if last is None or (last.ended is not None and last.ended < each.began):
            merged.append(each)
            continue
        first = min(last, each, key=lambda one: one.detected)
        over = None if last.ended is None or each.ended is None else max(last.ended, each.ended)
        merged[-1] = replace(
            first,
            what=tuple(dict.fromkeys((*last.what, *each.what))),
            began=min(last.began, each.began),
            alerted=min((one.alerted for one in (last, each) if one.alerted), default=None),
            ended=over,
            how="open" if over is None else (last if last.ended == over else each).how,
        )
    return merged


def _without_a_breach(entries: list[Entry], found: list[Incident]) -> Iterator[Incident]:
    """Yield rollbacks by a rollout or a person, and by the monitor if its history is gone."""
    explained = {(each.release, each.how.removesuffix(UNSEEN)) for each in found}
    for number, entry in enumerate(entries):
        if entry.kind != "rollback" or entry.previous is None:
            continue
        if entry.channel == "production" and (entry.previous, how(entry)) in explained:
            continue
        at = time_of(entry.at)
        since = [
            time_of(each.at)
            for each in entries[:number]
            if each.channel == entry.channel and each.release == entry.previous
        ]
        began = since[-1] if since else at
        yield Incident(entry.previous, (f"{entry.channel}: {entry.reason}",), began, at, None, at, how(entry))


def how(entry: Entry) -> str:
    """Describe what a move did and who made it."""
    who = "by itself" if entry.automation else f"by {entry.by.split(' <')[0]}"
    return f"{entry.kind} to {entry.release or 'nothing'} {who}"


def time_of(at: str) -> datetime:
    """Return the time of a ledger entry: UTC, without a zone."""
    return datetime.fromisoformat(at).astimezone(UTC).replace(tzinfo=None)


def _second(time: datetime) -> datetime:
    """Truncate to seconds, the ledger's resolution."""
    return time.replace(microsecond=0)


def summary(incidents: list[Incident], ledger: Ledger) -> Summary:
    """Return medians over the incidents, and the rollback statistics."""
    entries = [entry for _, entry in ledger.entries()]
    rollbacks = [(number, entry) for number, entry in enumerate(entries) if entry.kind == "rollback"]
    lasted = sum(_has_lasted(entry, entries[number + 1 :]) for number, entry in rollbacks)
    tried = len(rollbacks) + len(operations.failed_rollbacks())
    over = [each for each in incidents if each.ended is not None]
    return Summary(
        count=len(incidents),
        open=len(incidents) - len(over),
        to_detect=_median(each.to_detect for each in over),
        to_alert=_median(each.to_alert for each in over),
        to_restore=_median(each.to_restore for each in over),
        tried=tried,
        lasted=lasted,
        success=lasted / tried if tried else None,
    )


def _has_lasted(rollback: Entry, later: list[Entry]) -> bool:
    return not any(
        each.channel == rollback.channel
        and time_of(each.at) - time_of(rollback.at) < HELD
        and ((each.kind == "rollback" and each.previous == rollback.release) or each.release == rollback.previous)
        for each in later
        if each.kind in ("promote", "rollback")
    )


def _median(values: Iterable[float | None]) -> float | None:
    known: list[Any] = [value for value in values if value is not None]
    return float(median(known)) if known else None
