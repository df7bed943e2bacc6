"""Turn figures into verdicts: only a state machine with hysteresis, without a clock or files."""

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Figure:
    """One measured value of one window. Higher is worse; `fire` is None for values that are only recorded."""

    check: str
    subject: str
    value: float | None
    rows: int
    reference: float | None = None
    fire: float | None = None
    clear: float | None = None


@dataclass(frozen=True)
class State:
    """Whether a breach is open. `above`: consecutive windows above `fire`; `since`: the window it opened with."""

    open: bool = False
    above: int = 0
    since: str | None = None


def step(state: State, window: str, value: float | None, fire: float | None, clear: float | None, needed: int) -> State:
    """Return the state after one more window.

    A breach opens with the `needed`th window in a row above `fire`, and closes with the first below `clear`. A window
    that could not be judged changes nothing.
    """
    if value is None or fire is None or clear is None:
        return state
    if state.open:
        return State() if value < clear else replace(state, above=state.above + 1 if value > fire else 0)
    if value <= fire:
        return State()
    above = state.above + 1
    return State(above >= needed, above, window if above >= needed else None)


def fold(series: Iterable[tuple[str, float | None, float | None, float | None]], needed: int) -> list[State]:
    """Return the state after each window of a series (window, value, fire, clear), oldest first."""
    states, state = [], State()
    for window, value, fire, clear in series:
        state = step(state, window, value, fire, clear, needed)
        states.append(state)
    return states
