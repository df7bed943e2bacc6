"""The canary's share, the breaker, and threads that may hang."""

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.params import Breaker as Bounds
from lifecycle.serving import routing
from lifecycle.serving.routing import Breaker, BusyError, Lane, position

keys = st.text(min_size=1, max_size=50)
rollouts = st.from_regex(r"r-[0-9a-f]{12}", fullmatch=True)


@given(key=keys, rollout=rollouts, share=st.floats(0, 1), more=st.floats(0, 1))
def test_a_key_stays_where_it_is_and_a_growing_share_keeps_it(
    key: str, rollout: str, share: float, more: float
) -> None:
    lies = position(key, rollout)
    assert 0 <= lies < 1
    assert lies == position(key, rollout)
    if lies < share:
        assert lies < max(share, more)


@given(rollout=rollouts, share=st.sampled_from([0.01, 0.1, 0.5, 0.9]))
def test_the_canary_gets_its_share(rollout: str, share: float) -> None:
    many = 4000
    got = sum(position(f"customer {number}", rollout) < share for number in range(many)) / many
    # Six standard deviations: one in a billion is further off.
    assert abs(got - share) < 6 * (share * (1 - share) / many) ** 0.5


@given(one=rollouts, other=rollouts)
def test_the_next_rollout_mixes_anew(one: str, other: str) -> None:
    if one == other:
        return
    first = [key for key in range(4000) if position(str(key), one) < 0.5]
    again = sum(position(str(key), other) < 0.5 for key in first) / len(first)
    assert abs(again - 0.5) < 6 * 0.5 / len(first) ** 0.5


class Clock:
    """Time that passes when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(Bounds(failures=3, within_seconds=10, rest_seconds=60), clock)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.ended(well=False)


def test_it_opens_after_so_many_failures_and_not_before(breaker: Breaker) -> None:
    fail(breaker, 2)
    assert breaker.allows()
    fail(breaker, 1)
    assert breaker.is_open
    assert not breaker.allows()


def test_failures_that_lie_far_apart_do_not_open_it(breaker: Breaker, clock: Clock) -> None:
    for _ in range(10):
        fail(breaker, 1)
        clock.now += 6
    assert breaker.allows()


def test_after_a_rest_one_goes_through_and_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 60
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.ended(well=True)
    assert not breaker.is_open
    fail(breaker, 2)  # what was before no longer counts
    assert breaker.allows()


def test_a_trial_that_fails_or_is_never_heard_of_leaves_it_open(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 60
    assert breaker.allows()
    fail(breaker, 1)
    clock.now += 59
    assert not breaker.allows()
    clock.now += 1
    assert breaker.allows()  # nobody says how this one ended
    clock.now += 60
    assert breaker.allows()


def test_a_lane_returns_and_raises_what_the_work_does() -> None:
    lane = Lane("test")

    async def run() -> None:
        assert await lane.run(lambda: 7, 60) == 7
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 // 0)

    asyncio.run(run())


def test_who_waits_for_work_that_hangs_gives_up_and_a_full_lane_says_so_at_once() -> None:
    lane, go_on = Lane("test", threads=1), threading.Event()

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await lane.run(go_on.wait, 0.05)
        waiting = [asyncio.ensure_future(lane.run(lambda: 1, 60)) for _ in range(routing.WAITING)]
        await asyncio.sleep(0)
        start = time.monotonic()
        with pytest.raises(BusyError):
            await lane.run(lambda: 2, 60)
        assert time.monotonic() - start < 5
        go_on.set()
        assert await asyncio.gather(*waiting) == [1] * routing.WAITING

    asyncio.run(run())


def test_threads_without_work_go_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "IDLE_SECONDS", 0.01)
    lane = Lane("of its own")

    def threads() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "lane-of its own"]

    for _ in range(3):
        assert asyncio.run(lane.run(lambda: 7)) == 7
        for each in threads():
            each.join(timeout=60)
        assert threads() == []
