"""Define faults, and the scenario that they run in."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .load import Load
from .sandbox import Sandbox, UnexpectedError


@dataclass
class Watch:
    """When a fault began, was found and was over (monotonic clock). `to_alert`: seconds from newest row to alert."""

    began: float = 0.0
    detected: float | None = None
    to_alert: float | None = None
    restored: float | None = None

    def begin(self) -> None:
        """Record when the fault is injected."""
        self.began = time.monotonic()

    def found(self) -> None:
        """Record when the project detects the fault."""
        self.detected = self.detected or time.monotonic()

    def over(self) -> None:
        """Record when the fault is resolved."""
        self.restored = time.monotonic()


@dataclass(frozen=True)
class Scenario:
    """The context that a fault runs in. `sound`: the release that production serves at first."""

    sandbox: Sandbox
    load: Load
    sound: str
    watch: Watch


def expect(true: object, otherwise: str) -> None:
    """Check an expectation.

    Raises:
        UnexpectedError: it does not.
    """
    if not true:
        raise UnexpectedError(otherwise)


@dataclass(frozen=True)
class Fault:
    """One fault. `expected`: what must hold; `down`: whether requests may fail during it.

    `inject` injects it for real, and waits until the project itself has dealt with it. It records on the watch when the
    fault was found and when it was over, and returns what happened. Raises UnexpectedError if an expectation fails.
    """

    name: str
    expected: str
    inject: Callable[[Scenario], str]
    down: bool = False
