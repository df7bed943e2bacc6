"""Tests that stay valid however often they are checked, and whenever they are stopped.

Each is an e-process: the capital of a gambler who starts with 1 and bets against a hypothesis, at odds that are fair or
unfavourable while it is true. It is never negative and is not expected to grow, so the chance that it ever reaches
1/alpha is at most alpha (Ville 1939): evidence is complete when it does. See Shafer, "Testing by betting", JRSS A 184
(2021), and Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38 (2023).
Capital is kept as its logarithm. Nothing here knows what is compared.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Verdict = Literal["promote", "roll back", "undecided"]

# The largest share of its capital that a bet may risk.
RISKED = 0.75
# Points of a mixture. Each point alone is valid, so the grid does not weaken the guarantee.
GRID = 256


def log_capital(values: Array, most: float, low: float, high: float) -> Array:
    """Return the log capital after each value, when betting that values are above `most`.

    Null: given the earlier values, the expected value is never above `most`. The bet is aGRAPA (approximate growth-rate
    adaptive, from the mean and variance so far) of Waudby-Smith and Ramdas, "Estimating means of bounded random
    variables by betting", JRSS B 86 (2024). It depends on earlier values alone, and starts at 0.

    Args:
        values: in order of arrival, each in [low, high].
        most: the mean under the null, above `low`.
        low: the lower bound of a value.
        high: the upper bound.
    """
    if len(values) == 0:
        return np.zeros(0)
    if not (low <= values.min() and values.max() <= high and low < most < high):  # NaN fails this check too
        raise ValueError(f"values lie in [{values.min()}, {values.max()}], outside [{low}, {high}] around {most}")
    gains = values - most
    seen = np.arange(1, len(gains) + 1)
    # One artificial value to start from, as wide as the bounds allow.
    mean = np.cumsum(gains) / (seen + 1)
    variance = ((high - low) ** 2 / 4 + np.cumsum((gains - mean) ** 2)) / (seen + 1)
    bet = np.clip(mean / (variance + mean**2), 0, RISKED / (most - low))
    before = np.concatenate([[0.0], bet[:-1]])
    return np.cumsum(np.log1p(before * gains))


@dataclass(frozen=True)
class Compared:
    """The result for paired losses. `rows`: rows until the decision, or all; `difference`: mean, candidate - champion.

    `e_worse`, `e_good`: the capital against "not worse" and against "worse by the margin or more", at that row.
    """

    verdict: Verdict
    rows: int
    difference: float | None
    e_worse: float
    e_good: float


def compare_losses(difference: Array, margin: float, alpha: float, alpha_good: float, at_least: int) -> Compared:
    """Compare candidate and champion on the same rows, in order; the first complete evidence decides.

    An equal candidate is rolled back with a probability of at most `alpha`. One that is worse by `margin` or more is
    promoted with a probability of at most `alpha_good`. Both hold over all checks together.

    Args:
        difference: loss of the candidate minus that of the champion, each loss in [0, 1].
        margin: how much worse, on average, still counts as equally good.
        alpha: probability of a wrong rollback.
        alpha_good: probability of a wrong promotion.
        at_least: rows required before any decision.
    """
    worse = log_capital(difference, 0.0, -1.0, 1.0)
    good = log_capital(-difference, -margin, -1.0, 1.0)
    complete = (worse >= -np.log(alpha)) | (good >= -np.log(alpha_good))
    complete[: max(at_least - 1, 0)] = False
    if len(difference) == 0:
        return Compared("undecided", 0, None, 1.0, 1.0)
    at = int(np.argmax(complete)) if complete.any() else len(difference) - 1
    verdict: Verdict = "undecided"
    if complete[at]:
        verdict = "roll back" if worse[at] >= -np.log(alpha) else "promote"
    # Capital that was not checked before `at_least` may be large: keep it finite.
    e_worse, e_good = (float(np.exp(min(each[at], 700.0))) for each in (worse, good))
    return Compared(verdict, at + 1, float(difference[: at + 1].mean()), e_worse, e_good)


def log_excess(shares: Array, canary: Array) -> float:
    """Return the log capital against "the canary errs no more than production", from which of the two made each error.

    Null: an error is no more likely to be the canary's than the canary's share of requests. The error rate does not
    matter, nor whether it changes over time. Each factor is a likelihood ratio, mixed by a
    Beta(1/2, 1/2) over the share of errors that the canary would have at half of the requests, truncated to above 1/2.
    After Robbins, "Statistical methods related to the law of the iterated logarithm", Ann. Math. Stat. 41 (1970), and
    Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS (2022).

    Args:
        shares: for each error, the canary's share of requests at that time, in (0, 1).
        canary: for each error, whether it was the canary's.
    """
    half, weights = _beta_grid(0.5, 1.0)
    total = np.zeros(GRID)
    for share in np.unique(shares):
        ours = int(np.sum(canary[shares == share]))
        theirs = int(np.sum(shares == share)) - ours
        alternative = share * half / (share * half + (1 - share) * (1 - half))
        total += ours * np.log(alternative / share) + theirs * np.log((1 - alternative) / (1 - share))
    return _log_mean(total, weights)


def log_rate(requests: int, happened: int, bound: float, side: Literal["above", "below"]) -> float:
    """Return the log capital of betting that an event is more (or less) frequent than `bound`, from its count.

    Null of "above": given the earlier requests, the probability is at most `bound` at each; of "below": at least. A
    binomial likelihood ratio, mixed by a Beta(1/2, 1/2) truncated to that side of `bound`; sources as above.
    """
    rates, weights = _beta_grid(bound, 1.0) if side == "above" else _beta_grid(0.0, bound)
    ratio = happened * np.log(rates / bound) + (requests - happened) * np.log((1 - rates) / (1 - bound))
    return _log_mean(ratio, weights)


def _beta_grid(low: float, high: float) -> tuple[Array, Array]:
    """Return points in (low, high), and their weights by a truncated Beta(1/2, 1/2)."""
    points = low + (high - low) * (np.arange(GRID) + 0.5) / GRID
    weights = 1 / np.sqrt(points * (1 - points))
    return points, weights / weights.sum()


def _log_mean(logs: Array, weights: Array) -> float:
    most = float(logs.max())
    return most + float(np.log(np.sum(weights * np.exp(logs - most))))
