"""Prediction ids: UUIDs of version 7 (RFC 9562), which sort by time and contain the day they belong to."""

import os
import re
import threading
import time
from datetime import UTC, datetime
from uuid import UUID

PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}(-\d+)?")

_lock = threading.Lock()
_last = 0


def new() -> str:
    """Return an id later than every other id of this process, whatever the clock does.

    48 bits of milliseconds, 12 bits for the fraction of a millisecond (RFC 9562, method 3), 62 random bits.
    """
    global _last
    with _lock:
        _last = max(_last + 1, time.time_ns() * 4096 // 1_000_000)
        milliseconds, rest = divmod(_last, 4096)
    tail = bytearray(os.urandom(8))
    tail[0] = tail[0] & 0x3F | 0x80
    return str(UUID(bytes=milliseconds.to_bytes(6, "big") + (0x7000 | rest).to_bytes(2, "big") + bytes(tail)))


def of_row(prediction_id: str, position: int, many: bool) -> str:
    """Return the id of one row: the request's id, followed by the row's position if there are several."""
    return f"{prediction_id}-{position}" if many else prediction_id


def moment(prediction_id: str) -> datetime:
    """Return when the id was made, in UTC, to the millisecond."""
    milliseconds = int(prediction_id[:8] + prediction_id[9:13], 16)
    return datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)


def day(prediction_id: str) -> str:
    """Return the day the id was made, in UTC, as YYYY-MM-DD."""
    return moment(prediction_id).date().isoformat()
