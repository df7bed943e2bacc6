"""Retention of the prediction log: `serving.log.keep_days`, or longer if something still needs it."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from ..files import locked
from ..params import Params
from ..predictions.log import FOLDER
from ..releases.ledger import Ledger
from . import incidents


def expire(ledger: Ledger, params: Params, at: datetime, folder: Path = FOLDER) -> list[str]:
    """Delete the days of the log that nothing needs any more. Return which.

    Deletes only whole past days that are in Parquet files alone, so no server still writes to them. No reader has one
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
                with suppress(OSError):  # a file was added in the meantime
                    day.rmdir()
            gone.append(day.name)
    return gone


def _needed(ledger: Ledger, params: Params) -> Iterator[datetime]:
    """Yield when open incidents began, and since when the canary has its release: a rollout reads all of that time."""
    yield from (each.began for each in incidents.find(ledger, params.monitoring) if each.ended is None)
    canary = ledger.channel("canary")
    if canary and canary.release:
        moves = [entry for _, entry in ledger.entries() if entry.channel == "canary"]
        yield from (incidents.time_of(entry.at) for entry in moves if entry.release == canary.release)
