"""Watch a small file that other processes replace, like a channel's pointer."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Try again what was refused, in case the disk was the cause, with growing delays.
FIRST_RETRY, LAST_RETRY = 1.0, 60.0


@dataclass
class Watch:
    """A watched file. `problem`: why its newest content is not in use, or an empty string."""

    path: Path
    problem: str = ""
    _seen: Any = ()
    _retry: float = math.inf
    _wait: float = FIRST_RETRY

    def due(self) -> bool:
        """Return whether to read the file: it was replaced, or was refused a while ago. Also true the first time."""
        try:
            found = self.path.stat()
            now: Any = found.st_mtime_ns, found.st_ino, found.st_size
        except OSError as error:
            now = error.errno
        if now == self._seen and time.monotonic() < self._retry:
            return False
        if now != self._seen:
            self._wait = FIRST_RETRY
        self._seen = now
        return True

    def accept(self) -> None:
        """Its content is in use: until the file is replaced, there is nothing to do."""
        self.problem, self._retry, self._wait = "", math.inf, FIRST_RETRY

    def refuse(self, reason: str) -> bool:
        """Its content cannot be used for now. Return whether that is news."""
        new = reason != self.problem
        self.problem = reason
        self._retry = time.monotonic() + self._wait
        self._wait = min(self._wait * 2, LAST_RETRY)
        return new
