"""What a fault works with, and what it is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .load import Load
from .sandbox import NotHeldError, Sandbox


@dataclass
class Watch:
    """When it began, was found and was over (monotonic clock); `to_alert`: seconds from the newest row to the alert."""

    began: float = 0.0
    detected: float | None = None
    to_alert: float | None = None
    restored: float | None = None

    def begin(self) -> None:
        """Now it is in."""
        self.began = time.monotonic()

    def found(self) -> None:
        """Somebody but the drill knows."""
        self.detected = self.detected or time.monotonic()

    def over(self) -> None:
        """All is as it was."""
        self.restored = time.monotonic()


@dataclass(frozen=True)
class Scenario:
    """What a fault works with. `sound`: the release that production serves at first."""

    sandbox: Sandbox
    load: Load
    sound: str
    watch: Watch


def expect(true: object, otherwise: str) -> None:
    """See that something holds.

    Raises:
        NotHeldError: it does not.
    """
    if not true:
        raise NotHeldError(otherwise)


@dataclass(frozen=True)
class Fault:
    """One fault. `expected`: what must hold; `down`: requests may fail meanwhile.

    `inject` injects it for real, and waits until the project's own means have dealt with it. It notes on the watch when
    it was found and when it was over, returns what happened, and raises NotHeldError where what must hold does not.
    """

    name: str
    expected: str
    inject: Callable[[Scenario], str]
    down: bool = False
