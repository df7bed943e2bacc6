"""The capital of a bet against a true hypothesis is not expected to grow, whatever is looked at and whenever."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.monitoring.sequential import compare_losses, log_capital, log_excess, log_rate

ALPHA = 0.05
# Rounding, over a thousand terms.
EXACT = 1e-9


def expected(low: float, high: float, chance: float, most: float, steps: int = 10) -> float:
    """The exact mean of the capital after `steps` values, each `high` with this chance and else `low`."""
    total = 0.0
    for path in product((0, 1), repeat=steps):
        values = np.where(np.array(path) == 1, high, low)
        weight = chance ** sum(path) * (1 - chance) ** (steps - sum(path))
        total += weight * math.exp(log_capital(values, most, -1, 1)[-1])
    return total


@pytest.mark.parametrize(("low", "high", "chance"), [(-0.5, 0.5, 0.5), (-0.1, 0.9, 0.1), (-1, 0.25, 0.8)])
def test_at_fair_odds_the_capital_stays_what_it_was_on_average(low: float, high: float, chance: float) -> None:
    assert expected(low, high, chance, most=0.0) == pytest.approx(1, abs=EXACT)
    assert expected(low, high, chance * 0.9, most=0.0) < 1, "and falls where the hypothesis holds by far"
    assert expected(low, high, min(chance * 1.2, 1), most=0.0) > 1, "and grows where it does not"


def test_a_chance_that_depends_on_what_came_before_changes_nothing() -> None:
    total = 0.0
    for path in product((0, 1), repeat=10):
        values, weight = [], 1.0
        for up in path:
            # After a gain, the next values are small and rarely losses; the mean stays zero.
            chance = 0.8 if values and values[-1] > 0 else 0.5
            values.append(0.1 * (1 - chance) if up else -0.1 * chance)
            weight *= chance if up else 1 - chance
        total += weight * math.exp(log_capital(np.array(values), 0, -1, 1)[-1])
    assert total == pytest.approx(1, abs=EXACT)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=60), st.floats(-1, 1))
def test_a_bet_knows_nothing_of_what_it_is_on(values: list[float], other: float) -> None:
    one, two = np.array(values), np.array([*values[:-1], other])
    assert np.array_equal(log_capital(one, 0, -1, 1)[:-1], log_capital(two, 0, -1, 1)[:-1])
    assert np.isfinite(log_capital(one, 0, -1, 1)).all(), "and nobody is ruined by one value"


@pytest.mark.parametrize("bound", [0.01, 0.3])
def test_a_rate_at_its_bound_is_a_fair_bet_on_either_side(bound: float) -> None:
    def capital(rate: float, side: str) -> float:
        chances = [math.comb(40, k) * rate**k * (1 - rate) ** (40 - k) for k in range(41)]
        return sum(c * math.exp(log_rate(40, k, bound, side)) for k, c in enumerate(chances))  # type: ignore[arg-type]

    for side, within, beyond in (("above", 0.5, 1.5), ("below", 1.5, 0.5)):
        assert capital(bound, side) == pytest.approx(1, abs=EXACT)
        assert capital(bound * within, side) < 1 < capital(bound * beyond, side)


def test_errors_in_proportion_to_traffic_are_a_fair_bet_at_any_mix_of_shares() -> None:
    shares = np.array([0.05] * 6 + [0.5] * 6)

    def capital(odds: float) -> float:
        total = 0.0
        chance = shares * odds / (shares * odds + 1 - shares)
        for path in product((False, True), repeat=12):
            hit = np.array(path)
            total += np.where(hit, chance, 1 - chance).prod() * math.exp(log_excess(shares, hit))
        return total

    assert capital(1) == pytest.approx(1, abs=EXACT)
    assert capital(0.5) < 1 < capital(2)


def test_looking_after_every_row_rolls_back_an_equal_release_no_more_often_than_promised() -> None:
    random = np.random.default_rng(1)
    runs, alpha = 400, 0.2
    wrong = naive = 0
    for _ in range(runs):
        difference = random.choice([-0.3, -0.1, 0.4], 2000)  # the mean is zero, the tails are not alike
        wrong += bool(log_capital(difference, 0, -1, 1).max() >= math.log(1 / alpha))
        seen = np.arange(1, 2001)
        naive += bool((np.cumsum(difference) / np.sqrt(seen) / difference.std())[99::20].max() > 0.84)
    spread = 3 * math.sqrt(alpha * (1 - alpha) / runs)
    assert wrong / runs <= alpha + spread
    assert naive / runs > 2 * alpha + spread, "an ordinary test at the same level, looked at as often"


@given(st.lists(st.floats(-1, 1), max_size=99))
def test_without_enough_rows_nothing_is_decided(values: list[float]) -> None:
    compared = compare_losses(np.array(values), 0.01, ALPHA, ALPHA, at_least=100)
    assert (compared.verdict, compared.rows) == ("undecided", len(values))


@pytest.mark.parametrize(("value", "verdict"), [(1.0, "roll back"), (-1.0, "promote")])
def test_nor_where_the_rows_that_there_are_leave_no_doubt(value: float, verdict: str) -> None:
    assert compare_losses(np.full(99, value), 0.01, ALPHA, ALPHA, at_least=100).verdict == "undecided"
    assert compare_losses(np.full(100, value), 0.01, ALPHA, ALPHA, at_least=100).verdict == verdict


def test_a_canary_that_fails_twice_as_often_is_found_at_a_small_share() -> None:
    hit = np.arange(400) < 40
    assert log_excess(np.full(400, 0.05), hit) > math.log(1 / ALPHA)
    assert log_excess(np.full(400, 0.1), hit) < 0


def test_no_rows_at_all_promote_nothing_even_where_none_are_asked_for() -> None:
    assert compare_losses(np.zeros(0), 0.5, 0.5, 0.5, at_least=0).verdict == "undecided"
    assert log_rate(0, 0, 0.01, "below") == pytest.approx(0, abs=EXACT)
    assert log_excess(np.zeros(0), np.zeros(0, dtype=bool)) == pytest.approx(0, abs=EXACT)


def test_the_first_complete_evidence_decides_whatever_comes_later() -> None:
    random = np.random.default_rng(2)
    worse, better = random.normal(0.03, 0.1, 3000).clip(-1, 1), random.normal(-0.03, 0.1, 3000).clip(-1, 1)
    compared = compare_losses(np.concatenate([worse, better]), 0.005, ALPHA, ALPHA, 50)
    assert compared.verdict == "roll back"
    assert compared.rows < 3000
    assert compared.e_worse >= 1 / ALPHA
    assert compare_losses(worse[: compared.rows], 0.005, ALPHA, ALPHA, 50) == compared, "seen earlier, the same"
    assert compare_losses(np.concatenate([better, worse]), 0.005, ALPHA, ALPHA, 50).verdict == "promote"


def test_the_same_model_twice_is_promoted_and_a_worse_one_is_not() -> None:
    assert compare_losses(np.zeros(2000), 0.005, ALPHA, ALPHA, 100).verdict == "promote"
    assert compare_losses(np.full(2000, 0.005), 0.005, ALPHA, ALPHA, 100).verdict == "roll back"
    assert compare_losses(np.zeros(2000), 0.0005, ALPHA, ALPHA, 100).verdict == "undecided", (
        "a margin so small takes more"
    )


@pytest.mark.parametrize("values", [[0.0, 1.1], [-1.1], [0.0, math.nan]])
def test_a_loss_out_of_bounds_is_no_evidence(values: list[float]) -> None:
    with pytest.raises(ValueError, match="outside"):
        compare_losses(np.array(values), 0.005, ALPHA, ALPHA, 1)
