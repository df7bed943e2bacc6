"""How good predictions were where the outcome is known by now, and how well they were served. All in SQL.

A relation here has the columns `_score` (the prediction), `_label` (what happened; null: not known yet) and, from the
log, `_latency_ms` and `_error`. An outcome that is true or false makes it a classification, a number a regression.
"""

from typing import TYPE_CHECKING

from ..params import Record

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class Quality(Record):
    """`skill` is the share of the loss of the best constant that the predictions take away; `bias` is the mean
    prediction minus the mean outcome, for a regression in standard deviations of the outcome.
    """

    labelled: int
    outcome: float | None
    loss: float | None
    skill: float | None
    bias: float | None
    # Area under the ROC curve; None for a regression, or where only one outcome was seen.
    ranking: float | None


# Mann and Whitney's U over the pairs, ties counted half, is the area under the ROC curve (Hanley and McNeil, 1982).
CLASSIFICATION = """
with known as (
    select {by} as part, _score as s, _label::integer as y
    from {relation}
    where _label is not null and _score is not null
),
ranked as (
    select *, rank() over (partition by part order by s) + (count(*) over (partition by part, s) - 1) / 2.0 as r
    from known
),
summed as (
    select
        part,
        count(*) as n,
        sum(y) as n1,
        avg(y) as base,
        avg(s) as mean_score,
        avg(-ln(greatest(case when y = 1 then s else 1 - s end, 1e-6))) as loss,
        sum(r) filter (y = 1) as r1
    from ranked
    group by part
)
select
    part::varchar,
    n,
    base,
    loss,
    case when base > 0 and base < 1 then 1 - loss / -(base * ln(base) + (1 - base) * ln(1 - base)) end,
    mean_score - base,
    case when n1 > 0 and n1 < n then (r1 - n1 * (n1 + 1) / 2) / (n1 * (n - n1)) end
from summed
order by 1
"""

REGRESSION = """
select
    ({by})::varchar,
    count(*),
    avg(_label),
    sqrt(avg((_score - _label) ** 2)),
    1 - avg((_score - _label) ** 2) / nullif(var_pop(_label), 0),
    avg(_score - _label) / nullif(stddev_pop(_label), 0),
    null
from {relation}
where _label is not null and _score is not null
group by 1
order by 1
"""


def quality(connection: "DuckDBPyConnection", relation: str, by: str = "'all'") -> dict[str, Quality]:
    """The quality of predictions, for each value of the expression `by`; nothing for one without outcomes."""
    [(kind,)] = connection.execute(f"select any_value(typeof(_label)) from {relation}").fetchall()
    sql = CLASSIFICATION if kind == "BOOLEAN" else REGRESSION
    found = connection.execute(sql.format(by=by, relation=relation)).fetchall()
    names = list(Quality.model_fields)
    return {
        str(part): Quality.model_validate(dict(zip(names, map(_rounded, values), strict=True)))
        for part, *values in found
    }


def _rounded(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else round(float(value), 6)


class Service(Record):
    """How well requests were served."""

    requests: int
    errors: float
    p50_ms: float | None
    p99_ms: float | None


def service(connection: "DuckDBPyConnection", relation: str) -> Service | None:
    """Error rate and latency; None for rows that nobody asked for one by one."""
    sql = f"""
        select count(*), avg((_error is not null)::integer),
            quantile_disc(_latency_ms, 0.5), quantile_disc(_latency_ms, 0.99)
        from {relation}
        where _latency_ms is not null or _error is not null
    """
    [(requests, errors, p50, p99)] = connection.execute(sql).fetchall()
    return Service(requests=requests, errors=round(errors, 6), p50_ms=p50, p99_ms=p99) if requests else None
