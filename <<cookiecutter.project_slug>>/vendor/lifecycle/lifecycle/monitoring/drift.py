"""Distance of recent rows from the reference: effect sizes, not p-values, which are always small for so many rows."""

import math

from .summary import Summary

# In deviations; larger values are clipped to this.
FARTHEST = 1e6


def psi(reference: Summary, recent: Summary) -> float | None:
    """Return the population stability index over the bins, with missing values as one bin. None without rows.

    The sum of (q - p) ln(q / p): Jeffreys' divergence (Kullback and Leibler, 1951), under the name and with the rule of
    thumb (over 0.25: look at it) of Siddiqi, Credit Risk Scorecards, 2006. Half a row is added to each bin (Krichevsky
    and Trofimov, 1981), so that an empty one does not make it infinite.
    """
    if not reference.rows or not recent.rows:
        return None
    p, q = _shares(reference), _shares(recent)
    return sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def _shares(summary: Summary) -> list[float]:
    counts = (*summary.bins, summary.nulls)
    total = sum(counts) + 0.5 * len(counts)
    return [(count + 0.5) / total for count in counts]


def distance(reference: Summary, recent: Summary) -> float | None:
    """Return the Wasserstein distance in standard deviations of the reference. None without numbers to compare.

    In one dimension it is the area between the two quantile functions (Vallender, 1974), here by the midpoint rule over
    100 points: it measures how far values have moved, while PSI measures how many have changed bins.
    """
    if not reference.quantiles or not recent.quantiles or reference.std is None:
        return None
    moved = sum(abs(a - b) for a, b in zip(reference.quantiles, recent.quantiles, strict=True)) / len(recent.quantiles)
    if moved == 0:
        return 0.0
    return min(moved / reference.std, FARTHEST) if reference.std > 0 else None


def null_rise(reference: Summary, recent: Summary) -> float | None:
    """Return the increase in the share of missing values."""
    if not reference.rows or not recent.rows:
        return None
    return max(recent.nulls / recent.rows - reference.nulls / reference.rows, 0.0)


def outside(reference: Summary, recent: Summary) -> float | None:
    """Return the share of rows outside the reference's range, or in a category that it does not have."""
    if not reference.rows or not recent.rows or recent.outside is None:
        return None
    return recent.outside / recent.rows


# The checks on a column, by their names in params.yaml and the history.
CHECKS = {"psi": psi, "distance": distance, "nulls": null_rise, "outside": outside}
