"""Which channel answers a request, and what happens when a canary does not."""

import asyncio
import hashlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ..params import Breaker as Bounds

# How many predictions may wait for a thread, and how long a thread without work stays.
WAITING = 64
IDLE_SECONDS = 30

T = TypeVar("T")
Work = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


def position(key: str, rollout: str) -> float:
    """Where a key lies in [0, 1), by a hash keyed with the rollout.

    A canary with a share of 10% gets the keys below 0.1. A key stays where it is for as long as a rollout lasts, so
    that a growing share keeps whom it has; the next rollout mixes anew, so that nobody is always among the first.
    """
    keyed = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), key=rollout.encode()[:64], digest_size=8)
    return int.from_bytes(keyed.digest(), "big") // 2**11 / 2**53


class Breaker:
    """Counts the failures of a channel, and says when it is to be left alone.

    Closed: requests go through. Open: none do, until it has rested; then one goes through now and then, and when that
    ends well, it is closed again.
    """

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=bounds.failures)
        self._next_trial: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is left alone."""
        return self._next_trial is not None

    def allows(self) -> bool:
        """Whether a request may go through now."""
        if self._next_trial is None:
            return True
        now = self._clock()
        if now < self._next_trial:
            return False
        self._next_trial = now + self._bounds.rest_seconds  # one trial, and should nobody hear of it, another one
        return True

    def ended(self, well: bool) -> None:
        """Take note of how a request that went through has ended."""
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
    """All threads are taken, and enough is waiting."""


class Lane:
    """A few threads for work that may hang: who waits may give up, and the process may end."""

    def __init__(self, name: str, threads: int = 2) -> None:
        self._name = name
        self._most = threads
        self._threads = 0
        self._idle = 0
        self._lock = threading.Lock()
        self._work: queue.Queue[Work] = queue.Queue(maxsize=WAITING)

    async def run(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """What `work` returns or raises.

        Raises:
            BusyError: too much is waiting already.
            TimeoutError: it took longer; its thread goes on with it.
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
            except Exception as raised:  # it is for who waits
                result, error = None, raised
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the loop has ended meanwhile
                return


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():  # who waited has given up
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
