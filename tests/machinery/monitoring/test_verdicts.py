"""The state machine: what opens a breach, what closes it, what leaves it alone."""

from hypothesis import given
from hypothesis import strategies as st

from lifecycle.monitoring.verdicts import State, fold, step

FIRE, CLEAR = 0.3, 0.2
levels = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40)


def states(values: list[float | None], needed: int = 1) -> list[State]:
    return fold(((f"w{number}", value, FIRE, CLEAR) for number, value in enumerate(values)), needed)


def opens(values: list[float | None], needed: int = 1) -> list[bool]:
    return [state.open for state in states(values, needed)]


def test_it_opens_above_fire_stays_open_between_and_closes_below_clear() -> None:
    assert opens([0.3, 0.31, 0.25, 0.2, 0.19, 0.25]) == [False, True, True, True, False, False]


def test_it_opens_with_the_nth_window_in_a_row() -> None:
    assert opens([0.4, 0.4, 0.1, 0.4, 0.4, 0.4], needed=3) == [False] * 5 + [True]
    assert states([0.4, 0.4, 0.4], needed=2)[-1].since == "w1"


def test_a_window_that_cannot_be_judged_changes_nothing() -> None:
    assert opens([0.4, None, 0.4], needed=2) == [False, False, True]
    assert opens([0.4, None]) == [True, True]
    assert step(State(), "w", 9.0, None, None, 1) == State()


@given(levels, st.integers(1, 4))
def test_against_the_rule_in_other_words(values: list[float | None], needed: int) -> None:
    known = [value for value in values if value is not None]
    expected = False
    for number in range(len(known)):
        run = known[max(number - needed + 1, 0) : number + 1]
        # A run that opens it came after the last closing: that one was below CLEAR, so not above FIRE.
        expected = known[number] >= CLEAR if expected else len(run) == needed and min(run) > FIRE
    assert (opens(values, needed) or [False])[-1] is expected


@given(levels, st.integers(1, 4))
def test_folding_goes_on_from_any_window(values: list[float | None], needed: int) -> None:
    whole, state = states(values, needed), State()
    for number, value in enumerate(values):
        state = step(state, f"w{number}", value, FIRE, CLEAR, needed)
        assert state == whole[number]


@given(levels, st.integers(1, 4))
def test_noise_between_the_bounds_never_opens_or_closes(values: list[float | None], needed: int) -> None:
    before = opens(values, needed)
    after = opens([*values, 0.25, 0.3, 0.2], needed)[-3:]
    assert len(set(after)) == 1
    assert not values or after[0] is before[-1]
