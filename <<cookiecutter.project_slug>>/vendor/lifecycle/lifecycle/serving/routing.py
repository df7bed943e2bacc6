"""Decide which channel answers a request, and handle a canary that fails."""

import asyncio
import hashlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ..params import Breaker as Bounds

# How many predictions may wait for a thread, and how long an idle thread stays.
WAITING = 64
IDLE_SECONDS = 30

T = TypeVar("T")
Work = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


def position(key: str, rollout: str) -> float:
    """Return the position of a key in [0, 1), by a hash keyed with the rollout.

    A canary with a share of 10% gets the keys below 0.1. A key keeps its position during a rollout, so a growing share
    only adds keys. The next rollout shuffles the keys, so that the same clients are not always first.
    """
    keyed = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), key=rollout.encode()[:64], digest_size=8)
    return int.from_bytes(keyed.digest(), "big") // 2**11 / 2**53


class Breaker:
    """Count the failures of a channel, and stop requests to it after too many.

    Closed: requests go through. Open: none do until the rest period is over; then an occasional trial request does,
    and if it succeeds, the breaker closes again.
    """

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=bounds.failures)
        self._next_trial: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the breaker stops requests."""
        return self._next_trial is not None

    def allows(self) -> bool:
        """Return whether a request may go through now."""
        if self._next_trial is None:
            return True
        now = self._clock()
        if now < self._next_trial:
            return False
        self._next_trial = now + self._bounds.rest_seconds  # one trial, and another if this one never reports
        return True

    def ended(self, well: bool) -> None:
        """Record the result of a request that went through."""
        if well:
            if self._next_trial is not None:
                self._next_trial = None
                self._failures.clear()
            return
        now = self._clock()
        self._failures.append(now)
        if self._next_trial is not None or (
            len(self._failures) == self._bounds.failures and now - self._failures[0] <= self._bounds.within_seconds
        ):
            self._next_trial = now + self._bounds.rest_seconds


class BusyError(Exception):
    """All threads are busy, and the queue is full."""


class Lane:
    """A few threads for work that may hang. Callers can give up waiting, and the process can exit."""

    def __init__(self, name: str, threads: int = 2) -> None:
        self._name = name
        self._most = threads
        self._threads = 0
        self._idle = 0
        self._lock = threading.Lock()
        self._work: queue.Queue[Work] = queue.Queue(maxsize=WAITING)

    async def run(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Run `work`; return its result or raise its exception.

        Raises:
            BusyError: too many calls are waiting already.
            TimeoutError: it took too long; its thread continues.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        try:
            self._work.put_nowait((work, loop, future))
        except queue.Full:
            raise BusyError(f"{WAITING} predictions are waiting for {self._name}") from None
        self._see_to_threads()
        if seconds is None:
            return await future
        return await asyncio.wait_for(future, seconds)

    def _see_to_threads(self) -> None:
        with self._lock:
            if self._idle or self._threads == self._most:
                return
            self._threads += 1
        threading.Thread(target=self._serve, name=f"lane-{self._name}", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                work, loop, future = self._work.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    self._idle -= 1
                    if not self._work.empty():
                        continue
                    self._threads -= 1
                return
            with self._lock:
                self._idle -= 1
            try:
                result, error = work(), None
            except Exception as raised:  # pass it to the caller
                result, error = None, raised
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the event loop has been closed
                return


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():  # the caller has given up
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
