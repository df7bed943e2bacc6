"""Prediction ids: UUIDs of version 7 (RFC 9562), so that they sort by time and name the day they belong to."""

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
    """An id later than every other of this process, whatever the clock does.

    48 bits of milliseconds, 12 bits of what is left of the time (RFC 9562, method 3), 62 random bits.
    """
    global _last
    with _lock:
        _last = max(_last + 1, time.time_ns() * 4096 // 1_000_000)
        milliseconds, rest = divmod(_last, 4096)
    tail = bytearray(os.urandom(8))
    tail[0] = tail[0] & 0x3F | 0x80
    return str(UUID(bytes=milliseconds.to_bytes(6, "big") + (0x7000 | rest).to_bytes(2, "big") + bytes(tail)))


def of_row(prediction_id: str, position: int, many: bool) -> str:
    """The id of one row: that of the request, and the row's position where it has several."""
    return f"{prediction_id}-{position}" if many else prediction_id


def moment(prediction_id: str) -> datetime:
    """When it was made, in UTC, to the millisecond."""
    milliseconds = int(prediction_id[:8] + prediction_id[9:13], 16)
    return datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)


def day(prediction_id: str) -> str:
    """The day it was made, in UTC, as YYYY-MM-DD."""
    return moment(prediction_id).date().isoformat()
