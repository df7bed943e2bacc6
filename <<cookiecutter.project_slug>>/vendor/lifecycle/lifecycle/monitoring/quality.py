"""Prediction quality where the outcome is known, and service quality. All in SQL.

A relation here has the columns `_score` (the prediction), `_label` (the outcome; null: not known yet) and, from the
log, `_request`, `_latency_ms` and `_error`. A boolean outcome makes it a classification, a number a regression.

A window is compared with windows of the same length from the holdout, and not with the holdout as a whole. Part of a
model's gain over a year is the difference between months, which is absent within a single month. `Usual` is such a
reference:

    skill_drop  (loss - expected - z * standard error) / usual best
    expected    classification: best * usual loss / usual best (how hard rows are to predict depends on their base rate)
                regression: usual loss (how large errors are does not depend on where the outcomes lie)

where loss is the log loss or the squared error, by row, and best is that of the best constant of each window. Only a
drop beyond chance counts: z is 2.33, so a window as good as the usual one exceeds 0 once in a hundred.
"""

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING

from pydantic import Field

from ..params import Record
from .summary import rounded

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class Quality(Record):
    """`skill` is the share of the best constant's loss that the predictions remove; `bias` is the mean
    prediction minus the mean outcome, for a regression in standard deviations of the outcome.
    """

    labelled: int
    outcome: float | None
    loss: float | None
    skill: float | None
    bias: float | None
    # Area under the ROC curve; None for a regression, or if only one outcome occurred.
    ranking: float | None
    # Means over the rows: the loss that is compared (log loss, squared error), and that of the best constant.
    row_loss: float
    row_best: float
    # Variances over the rows: of the loss, of the best constant's loss, and their covariance.
    loss_variance: float
    best_variance: float
    covariance: float
    # Prediction minus outcome: mean and variance.
    error: float
    error_variance: float


# Mann and Whitney's U over the pairs, ties counted half, is the area under the ROC curve (Hanley and McNeil, 1982).
CLASSIFICATION = """
with known as (
    select {by} as part, _score as s, _label::integer as y
    from {relation}
    where _label is not null and _score is not null
),
ranked as (
    select
        *,
        rank() over (partition by part order by s) + (count(*) over (partition by part, s) - 1) / 2.0 as r,
        -ln(greatest(case when y = 1 then s else 1 - s end, 1e-6)) as l,
        -ln(case when y = 1 then avg(y) over (partition by part) else 1 - avg(y) over (partition by part) end) as c
    from known
),
summed as (
    select
        part,
        count(*) as n,
        sum(y) as n1,
        avg(y) as base,
        avg(s) as mean_score,
        avg(l) as loss,
        avg(c) as best,
        sum(r) filter (y = 1) as r1,
        [var_pop(l), var_pop(c), covar_pop(l, c), var_pop(s - y)] as variances
    from ranked
    group by part
)
select
    part::varchar,
    n,
    base,
    loss,
    case when base > 0 and base < 1 then 1 - loss / best end,
    mean_score - base,
    case when n1 > 0 and n1 < n then (r1 - n1 * (n1 + 1) / 2) / (n1 * (n - n1)) end,
    loss,
    best,
    variances[1],
    variances[2],
    variances[3],
    mean_score - base,
    variances[4]
from summed
order by 1
"""

REGRESSION = """
with known as (
    select ({by})::varchar as part, _score - _label as e, _label as y
    from {relation}
    where _label is not null and _score is not null
),
rows as (select *, e ** 2 as l, (y - avg(y) over (partition by part)) ** 2 as c from known)
select
    part,
    count(*),
    avg(y),
    sqrt(avg(l)),
    1 - avg(l) / nullif(avg(c), 0),
    avg(e) / nullif(sqrt(avg(c)), 0),
    null,
    avg(l),
    avg(c),
    var_pop(l),
    var_pop(c),
    covar_pop(l, c),
    avg(e),
    var_pop(e)
from rows
group by 1
order by 1
"""


def quality(connection: "DuckDBPyConnection", relation: str, by: str = "'all'") -> dict[str, Quality]:
    """Return the quality of predictions for each value of the expression `by`. Skips values without outcomes."""
    [(kind,)] = connection.execute(f"select any_value(typeof(_label)) from {relation}").fetchall()
    sql = CLASSIFICATION if kind == "BOOLEAN" else REGRESSION
    found = connection.execute(sql.format(by=by, relation=relation)).fetchall()
    names = list(Quality.model_fields)
    return {
        str(part): Quality.model_validate(dict(zip(names, map(_rounded, values), strict=True)))
        for part, *values in found
    }


def _rounded(value: float | None) -> float | None:
    return value if isinstance(value, int) else rounded(value)


# Standard errors by which a window must be worse before it counts: one in a hundred by chance, one-sided.
BEYOND_CHANCE = 2.33


class Usual(Record):
    """Prediction quality in the reference windows: means over all their `rows`.

    `natural`: by check, one standard error of the windows around their own mean.
    """

    rows: int
    loss: float
    best: float
    # None for a regression.
    ranking: float | None
    natural: dict[str, float] = Field(default_factory=dict)

    @property
    def skill(self) -> float | None:
        """The share of the best constants' loss that the predictions remove."""
        return 1 - self.loss / self.best if self.best > 0 else None

    def drops(self, found: Quality, beyond: float = BEYOND_CHANCE) -> dict[str, float | None]:
        """Return by how much a window is worse, beyond this many standard errors. None if unknown."""
        return {
            "skill_drop": self._skill_drop(found, beyond),
            "ranking_drop": self._ranking_drop(found, beyond),
            "bias": self._bias(found, beyond),
        }

    def _skill_drop(self, found: Quality, beyond: float) -> float | None:
        if self.best <= 0 or found.skill is None:
            return None
        # The best constant's loss shows how hard the rows of a classification are.
        share = 0.0 if self.ranking is None else self.loss / self.best
        expected = self.loss if self.ranking is None else share * found.row_best
        variance = found.loss_variance - 2 * share * found.covariance + share**2 * found.best_variance
        return _beyond(found.row_loss - expected, variance / found.labelled, beyond) / self.best

    def _ranking_drop(self, found: Quality, beyond: float) -> float | None:
        if self.ranking is None or found.ranking is None or found.outcome is None:
            return None
        # Hanley and McNeil, 1982.
        area, ones = found.ranking, found.outcome * found.labelled
        zeros = found.labelled - ones
        first, second = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
        variance = (area * (1 - area) + (ones - 1) * first + (zeros - 1) * second) / (ones * zeros)
        return _beyond(self.ranking - area, variance, beyond)

    def _bias(self, found: Quality, beyond: float) -> float | None:
        scale = sqrt(self.best) if self.ranking is None else 1.0
        off = _beyond(abs(found.error), found.error_variance / found.labelled, beyond)
        return off / scale if scale > 0 else None


def _beyond(difference: float, variance: float, beyond: float) -> float:
    return max(difference - beyond * sqrt(max(variance, 0.0)), 0.0)


def usual(windows: Sequence[Quality]) -> Usual:
    """Combine these windows into one reference. At least one is required."""
    ranked = [(each.labelled, each.ranking) for each in windows if each.ranking is not None]
    return Usual(
        rows=sum(each.labelled for each in windows),
        loss=_mean([(each.labelled, each.row_loss) for each in windows]),
        best=_mean([(each.labelled, each.row_best) for each in windows]),
        ranking=_mean(ranked) if ranked else None,
    )


def _mean(weighted: list[tuple[int, float]]) -> float:
    return sum(rows * value for rows, value in weighted) / sum(rows for rows, _ in weighted)


class Service(Record):
    """Error rate and latency of requests."""

    requests: int
    errors: float
    p50_ms: float | None
    p99_ms: float | None


def service(connection: "DuckDBPyConnection", relation: str) -> Service | None:
    """Return error rate and latency by request, of one row or many. None for rows without requests."""
    sql = f"""
        with requests as (
            select any_value(_latency_ms) as ms, bool_or(_error is not null) as failed
            from {relation}
            where _latency_ms is not null or _error is not null
            group by _request
        )
        select count(*), avg(failed::integer), quantile_disc(ms, 0.5), quantile_disc(ms, 0.99) from requests
    """
    [(requests, errors, p50, p99)] = connection.execute(sql).fetchall()
    return Service(requests=requests, errors=round(errors, 6), p50_ms=p50, p99_ms=p99) if requests else None
