"""The prediction log: records the answers, but not who asked.

JSON lines, one for each row, in `logs/predictions/DAY/`: a file for each process and day (UTC), locked while the
process lives. Predictions go into a queue of bounded length. At every interval a thread writes them and flushes them
to disk (fsync), so a killed process loses only what came since then. Files of past days are converted to Parquet.

The columns: see predictions/log.py. A prediction that failed on a canary has two lines with its id: the canary's with
`error`, and production's. A prediction that a shadow computed too has a second line with `shadow`.
"""

import fcntl
import logging
import math
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ..errors import one_line
from ..params import PredictionLog
from ..predictions import ids
from ..predictions.log import FOLDER

# How many rows to write at once, and how long the process waits for the disk when it ends.
MANY = 5000
STOP_SECONDS = 30
ROTATE_SECONDS = 600

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scored:
    """The result of one request on one channel: a line for each of its rows."""

    prediction_id: str
    many: bool
    rows: list[dict[str, Any]]
    scores: list[float] | None
    release: str
    channel: str
    generation: int
    keys: list[str | None]
    shadow: bool
    latency_ms: float
    error: str | None
    request: str
    online: str | None = None
    agrees: list[bool | None] | None = None

    def lines(self) -> Iterator[bytes]:
        """Yield the lines as they are stored in the file."""
        at = ids.moment(self.prediction_id).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
        for position, row in enumerate(self.rows):
            line = {
                "prediction_id": ids.of_row(self.prediction_id, position, self.many),
                "at": at,
                "release": self.release,
                "channel": self.channel,
                "generation": self.generation,
                "key": self.keys[position],
                "shadow": self.shadow,
                "score": self.scores[position] if self.scores else None,
                "latency_ms": round(self.latency_ms, 3),
                "error": self.error,
                "request": self.request,
                "features": row,
                "online": self.online,
                "agrees": self.agrees[position] if self.agrees else None,
            }
            there = {name: value for name, value in line.items() if value is not None}
            yield orjson.dumps(there, option=orjson.OPT_APPEND_NEWLINE)


@dataclass
class _File:
    """The file of one day. `rest`: the bytes not yet on disk, and how many rows they are."""

    path: Path
    open: BinaryIO | None = None
    rest: bytes = b""
    rows: int = 0

    def write(self) -> int:
        """Write the rest and flush it to disk. Return how many rows that were.

        Raises:
            OSError: the disk did not accept all of it; `rest` keeps what is left.
        """
        if self.open is None or not _is_at(self.open, self.path):
            self.close()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.open = self.path.open("ab", buffering=0)
            fcntl.flock(self.open, fcntl.LOCK_EX | fcntl.LOCK_NB)
        while self.rest:
            self.rest = self.rest[os.write(self.open.fileno(), self.rest) :]
        os.fsync(self.open.fileno())
        rows, self.rows = self.rows, 0
        return rows

    def close(self) -> None:
        if self.open:
            self.open.close()
            self.open = None


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Return whether the path still names this file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _new_name() -> str:
    return f"{os.getpid()}-{secrets.token_hex(6)}.jsonl"


@dataclass
class Log:
    """The log of this process. `dropped`: number of rows lost because the queue was full."""

    settings: PredictionLog
    folder: Path = FOLDER
    dropped: int = 0
    problem: str = ""
    _name: str = field(default_factory=_new_name)
    _queue: deque[Scored] = field(default_factory=deque)
    _rows_in: int = 0
    _rows_out: int = 0
    _files: dict[str, _File] = field(default_factory=dict)
    _wake: threading.Event = field(default_factory=threading.Event)
    _stopping: bool = False
    _thread: threading.Thread | None = None
    _rotation: "subprocess.Popen[bytes] | None" = None
    _shipping: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start the writing thread."""
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the queued rows and stop."""
        self._stopping = True
        self._wake.set()
        if self._thread:
            self._thread.join(timeout=STOP_SECONDS)

    def put(self, scored: Scored) -> None:
        """Queue a result without waiting. Call it from one thread only."""
        rows = len(scored.rows)
        if self.waiting + rows > self.settings.queue:
            self.dropped += rows
            return
        self._rows_in += rows
        self._queue.append(scored)
        if self.waiting > self.settings.queue // 2:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """The number of rows not yet on disk."""
        return self._rows_in - self._rows_out

    @property
    def promise(self) -> str:
        """A description of what a crash can lose."""
        return (
            f"the rows of the last {self.settings.flush_seconds:g} s and of the time that one write to the disk "
            f"takes, {self.settings.queue:,} at most"
        )

    def _run(self) -> None:
        rotated, shipped = -math.inf, time.monotonic()
        while not self._stopping:
            self._wake.wait(self.settings.flush_seconds)
            self._wake.clear()
            self.flush()
            if time.monotonic() - rotated > ROTATE_SECONDS:
                rotated = time.monotonic()
                self._rotate()
            if self.settings.store and time.monotonic() - shipped > self.settings.ship_seconds:
                shipped = time.monotonic()
                self._ship()
        self.flush()
        for file in self._files.values():
            file.close()
        if self.settings.store:
            with suppress(subprocess.TimeoutExpired):
                if self._shipping:  # the last file is not in this copy
                    self._shipping.wait(STOP_SECONDS / 2)
                self._ship().wait(STOP_SECONDS / 2)

    def flush(self) -> None:
        """Write the queued rows. Whatever the disk does not accept is tried again next time."""
        try:
            while self._queue or any(file.rows for file in self._files.values()):
                if not any(file.rows for file in self._files.values()):
                    self._take()
                for file in self._files.values():
                    if file.rows:
                        self._rows_out += file.write()
        except OSError as error:
            if not self.problem:
                logger.error("predictions cannot be logged: %s", one_line(error))
            self.problem = one_line(error)
        else:
            if self.problem:
                logger.info("predictions are logged again")
            self.problem = ""

    @property
    def behind(self) -> str:
        """Why the store does not have all finished files, or an empty string."""
        failed = self._shipping is not None and self._shipping.poll()
        return f"the last copy to {self.settings.store} failed; the server's log says why" if failed else ""

    def _ship(self) -> "subprocess.Popen[bytes]":
        """Finish the current files, and copy them to the store in a low-priority process. Return the process."""
        from ..predictions import sharing

        for day in [day for day, file in self._files.items() if not file.rows]:
            self._files.pop(day).close()
        self._name = _new_name()
        if self._shipping is None or self._shipping.poll() is not None:
            command = [sys.executable, "-m", sharing.__name__, str(self.settings.store), str(self.folder)]
            self._shipping = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        return self._shipping

    def _rotate(self) -> None:
        """Close files of past days. Complete ones are converted to Parquet in a low-priority process."""
        from . import rotation

        today = datetime.now(UTC).date().isoformat()
        for day in [day for day, file in self._files.items() if day < today and not file.rows]:
            self._files.pop(day).close()
        if (self._rotation is None or self._rotation.poll() is not None) and rotation.complete(self.folder):
            command = [sys.executable, "-m", rotation.__name__, str(self.folder)]
            self._rotation = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def _take(self) -> None:
        """Move the first rows of the queue to the files that they belong to."""
        taken: dict[str, list[bytes]] = {}
        rows = 0
        while self._queue and rows < MANY:
            scored = self._queue.popleft()
            taken.setdefault(ids.day(scored.prediction_id), []).extend(scored.lines())
            rows += len(scored.rows)
        for day, lines in taken.items():
            file = self._files.setdefault(day, _File(self.folder / day / self._name))
            file.rest = b"".join(lines)
            file.rows = len(lines)
