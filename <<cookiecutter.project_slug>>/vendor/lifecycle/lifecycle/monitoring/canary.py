"""Measure a canary on real requests, compared with production, from the prediction log."""

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..files import locked
from ..params import Rollout
from ..predictions.log import FOLDER, relation
from .sequential import Array, Verdict, log_excess, log_rate
from .shadow import TESTS, parts
from .window import REQUEST

# At the 99th percentile, one request in 100 may be slower than the bound.
SLOW_SHARE = 0.01


@dataclass(frozen=True)
class Stay:
    """A period during which the canary received one share of the requests."""

    generation: int
    share: float
    since: str


@dataclass(frozen=True)
class Watched:
    """Measurements of the canary over all shares; `at_share` and `p99_ms` are for the current share.

    A key counts once, by its first request: repeating the same row adds no evidence. Only `failed_share` and `p99_ms`
    use all requests.
    `e_excess`: capital against "it errs no more than production". `e_errors`, `e_slow`: against "within its bound".
    `e_within`: against "not within the bound of errors".
    """

    share: float
    requests: int
    at_share: int
    errors: int
    production_requests: int
    production_errors: int
    failed_share: float
    p99_ms: float | None
    score_psi: float | None
    newest: str | None
    e_excess: float
    e_errors: float
    e_slow: float
    e_within: float

    def as_dict(self) -> dict[str, Any]:
        """Return the values as the ledger stores them."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.errors:,} of {self.requests:,} requests of the canary failed and "
            f"{self.production_errors:,} of {self.production_requests:,} of production"
        )


def read_log(since: str, folder: Path = FOLDER) -> Any:
    """Return the predictions logged since a time (ISO 8601), in order of time, as a pandas frame.

    Leaves out shadows, and rows whose features are not those of the online table for their key. Such a row may have
    made its request fail, so a failed request is left out with all its rows.

    Columns: at (UTC), release, channel, generation, request (its id), unit (the row's key, or its id if it has none),
    score, latency_ms, failed. One row for each row of a request; they succeed or fail together.
    """
    import duckdb

    with locked(folder), duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        relation(connection, since=since[:10], folder=folder).create_view("logged")
        rows: Any = connection.sql(
            'select "at"::timestamptz as "at", release, channel, generation, coalesce(key, prediction_id) as unit, '
            "request, score, latency_ms, coalesce(error, '') <> '' as failed "
            f"from (select * replace ({REQUEST} as request) from logged) "
            'where "at" >= ?::timestamptz and not coalesce(shadow, false) '
            'qualify row_number() over (partition by prediction_id, channel order by "at") = 1 '
            "and coalesce(case when failed then bool_and(agrees) over (partition by request, channel) "
            "else agrees end, true) "
            'order by "at", prediction_id, channel',
            params=[since],
        ).to_arrow_table()
        return rows.to_pandas()


def watch(
    release: str, stays: list[Stay], rules: Rollout, expected: tuple[tuple[float, ...], tuple[float, ...]]
) -> Watched:
    """Measure a canary.

    Args:
        release: its id.
        stays: the periods with its shares, the first one first.
        rules: from params.yaml.
        expected: edges between scores, and the share of scores in each part in the shadow.
    """
    import numpy as np

    log = read_log(stays[0].since)
    ours = log[(log["channel"] == "canary") & (log["release"] == release)]
    ours = ours[ours["generation"].isin([stay.generation for stay in stays])]
    theirs = log[log["channel"] == "production"]
    scores = ours.drop_duplicates("unit")["score"].dropna().to_numpy()
    ours, theirs = ours.drop_duplicates("request"), theirs.drop_duplicates("request")
    now = ours[ours["generation"] == stays[-1].generation]
    once, theirs_once = ours.drop_duplicates("unit"), theirs.drop_duplicates("unit")
    requests, errors = len(once), int(once["failed"].sum())
    latencies = now["latency_ms"].dropna().to_numpy()
    slow = int((once["latency_ms"] > rules.canary.p99_ms).sum())
    shares, hits = _first_errors(ours, theirs, stays)
    bound = rules.canary.error_rate
    return Watched(
        share=stays[-1].share,
        requests=requests,
        at_share=now["unit"].nunique(),
        errors=errors,
        production_requests=len(theirs_once),
        production_errors=int(theirs_once["failed"].sum()),
        failed_share=float(ours["failed"].mean()) if requests else 0.0,
        p99_ms=float(np.quantile(latencies, 1 - SLOW_SHARE)) if len(latencies) else None,
        score_psi=stability(scores, *expected) if len(scores) else None,
        newest=ours["at"].max().isoformat() if requests else None,
        e_excess=_capital(log_excess(shares, hits)),
        e_errors=_capital(log_rate(requests, errors, bound, "above")),
        e_slow=_capital(log_rate(requests, slow, SLOW_SHARE, "above")),
        e_within=_capital(log_rate(requests, errors, bound, "below")),
    )


def _first_errors(ours: Any, theirs: Any, stays: list[Stay]) -> tuple[Array, Array]:
    """Return the canary's share at the first error of each unit, and whether the canary made that error.

    A unit is assigned to the canary at random, once for all its requests, so the test counts units and not requests.
    """
    import numpy as np
    import pandas as pd

    failed = pd.concat([ours[ours["failed"]].assign(hit=True), theirs[theirs["failed"]].assign(hit=False)])
    first = failed.sort_values("at", kind="stable").drop_duplicates("unit")
    since = pd.to_datetime([stay.since for stay in stays], utc=True)
    at = np.searchsorted(since, pd.to_datetime(first["at"], utc=True), side="right") - 1
    return np.array([stay.share for stay in stays])[np.clip(at, 0, None)], first["hit"].to_numpy(dtype=bool)


def _capital(logarithm: float) -> float:
    """Return a number that JSON can hold."""
    return math.exp(min(logarithm, 700.0))


def stability(scores: Array, edges: tuple[float, ...], expected: tuple[float, ...]) -> float:
    """Return the population stability index of scores against the expected shares between edges; 0 if equal."""
    import numpy as np

    # Add half a row to each part, so that an empty one does not give infinity.
    counts = np.array(parts(scores, edges)) * len(scores) + 0.5
    actual, wanted = counts / counts.sum(), np.maximum(expected, 1e-4)
    return float(np.sum((actual - wanted) * np.log(actual / wanted)))


def judge(watched: Watched, rules: Rollout, now: datetime) -> tuple[Verdict, str, bool]:
    """Return what to do, why, and whether a person must decide if it is undecided."""
    bounds, enough = rules.canary, TESTS / rules.alpha
    failed = f"{watched.errors:,} of {watched.requests:,} requests"
    if watched.e_excess >= enough:
        theirs = f"{watched.production_errors:,} of {watched.production_requests:,} in production"
        return "roll back", f"it fails more often than production: {failed}, {theirs}", False
    if watched.e_errors >= enough:
        return "roll back", f"it fails more often than {bounds.error_rate:.1%}: {failed}", False
    if watched.e_slow >= enough:
        return "roll back", f"more than 1 in 100 requests take longer than {bounds.p99_ms:g} ms", False
    if watched.at_share < bounds.min_requests:
        missing = bounds.min_requests - watched.at_share
        return "undecided", f"{missing:,} more requests at {watched.share:.0%}", False
    newest = datetime.fromisoformat(watched.newest or "")
    if now - newest.astimezone(UTC) > timedelta(minutes=bounds.quiet_minutes):
        return "undecided", f"predictions: the newest in the log is of {newest:%Y-%m-%d %H:%M} UTC", False
    if watched.score_psi is not None and watched.score_psi > bounds.score_psi:
        far = f"its scores are far from those on the shadow's rows (PSI {watched.score_psi:.2f})"
        return "undecided", f"{far}: requests have changed, or the model gets other inputs than in training", True
    if watched.e_within < 1 / rules.alpha:
        return "undecided", f"evidence that it fails less often than {bounds.error_rate:.1%}: so far {failed}", False
    if watched.failed_share > bounds.error_rate:
        return "undecided", f"{watched.failed_share:.1%} of all requests failed, a few keys again and again", True
    if watched.p99_ms is None or watched.p99_ms > bounds.p99_ms:
        return "undecided", f"a 99th percentile of at most {bounds.p99_ms:g} ms: it is {watched.p99_ms} ms", False
    return "promote", str(watched), False
