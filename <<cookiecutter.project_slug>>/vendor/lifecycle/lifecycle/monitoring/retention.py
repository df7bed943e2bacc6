"""How long the log of predictions is kept: `serving.log.keep_days`, and longer where something still needs it."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from ..files import locked
from ..params import Params
from ..releases.ledger import Ledger
from . import incidents
from .window import LOG_FOLDER


def expire(ledger: Ledger, params: Params, at: datetime, folder: Path = LOG_FOLDER) -> list[str]:
    """Delete the days of the log that nothing needs any more; returns which.

    Whole days that are over and stand in Parquet files alone, so no server still writes to one; and no reader has one
    open, since each holds the folder's lock.
    """
    keep = params.serving.log.keep_days
    if keep is None:
        return []
    first = min([at - timedelta(days=keep), *_needed(ledger, params)]).date().isoformat()
    gone = []
    for day in sorted(folder.glob("????-??-??")):
        if day.name < first and (files := sorted(day.iterdir())) and all(file.suffix == ".parquet" for file in files):
            with locked(folder, alone=True):
                for file in files:
                    file.unlink(missing_ok=True)
                with suppress(OSError):  # a file has come meanwhile
                    day.rmdir()
            gone.append(day.name)
    return gone


def _needed(ledger: Ledger, params: Params) -> Iterator[datetime]:
    """When open incidents began, and since when the canary has its release: a rollout looks at all of that time."""
    yield from (each.began for each in incidents.find(ledger, params.monitoring) if each.ended is None)
    canary = ledger.channel("canary")
    if canary and canary.release:
        moves = [entry for _, entry in ledger.entries() if entry.channel == "canary"]
        yield from (incidents.time_of(entry.at) for entry in moves if entry.release == canary.release)
