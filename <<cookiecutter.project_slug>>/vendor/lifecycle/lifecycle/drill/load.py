"""Put a constant load on the server: real rows of the feature table, with the result of every request."""

import json
import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

CLIENTS = 2
A_SECOND = 20
TIMEOUT_SECONDS = 30
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """The answer to one request. `at`, `seconds`: on the monotonic clock; `status` is 0 if there was no answer."""

    at: float
    seconds: float
    status: int
    row: int
    drifted: bool
    release: str | None = None
    channel: str | None = None
    generation: int | None = None
    score: float | None = None


@dataclass
class Load:
    """Clients that send requests at a steady rate, each on its own connection, until stopped.

    `rows`: a key and the features. With `drifted`, send `shifted` instead, with keys that have no known outcome yet.
    """

    port: int
    rows: list[tuple[str, dict[str, Any]]]
    shifted: list[dict[str, Any]]
    drifted: bool = False
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)

    def _ask(self, number: int) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        due = time.monotonic()
        while not self._stop.wait(max(due - time.monotonic(), 0)):
            due = max(due + 1 / A_SECOND, time.monotonic() - 1)  # catch up after a slow answer, by at most one second
            self.answers.append(self._one(connection, number % len(self.rows)))
            number += CLIENTS

    def _one(self, connection: HTTPConnection, row: int) -> Answer:
        drifted, start = self.drifted, time.monotonic()
        key, features = self.rows[row]
        body = {"row": self.shifted[row], "key": f"drill-{row}"} if drifted else {"row": features, "key": key}
        try:
            connection.request("POST", "/predict", json.dumps(body), JSON)
            reply = connection.getresponse()
            said = json.loads(reply.read())
        except (OSError, HTTPException, ValueError):
            with suppress(OSError):
                connection.close()
            return Answer(time.monotonic(), time.monotonic() - start, 0, row, drifted)
        score = said["predictions"][0]["score"] if reply.status == 200 else None
        names = (said.get("release"), said.get("channel"), said.get("generation"))
        return Answer(time.monotonic(), time.monotonic() - start, reply.status, row, drifted, *names, score)


def plain(value: Any) -> Any:
    """Convert a value for JSON. NaN becomes None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shift(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return drifted rows: every number is as large as the largest in the data."""
    names = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
    top = {name: max(row[name] for row in rows if row[name] is not None) for name in names}
    return [{name: top.get(name, value) for name, value in row.items()} for row in rows]
