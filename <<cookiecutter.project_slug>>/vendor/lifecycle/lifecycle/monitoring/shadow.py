"""Compare candidate and champion on the same recent rows, with known outcomes, that neither was trained on."""

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UserError
from ..params import Data, MonitoredColumns, Rollout
from ..releases import loading
from ..releases.features import Built, built_for
from ..releases.record import Release
from ..releases.store import Store
from .sequential import Array, Compared, compare_losses

# alpha is split equally between the tests that can roll back a release: this one and three of the canary.
TESTS = 4
BINS = 10


@dataclass(frozen=True)
class Shadowed:
    """The result of the shadow. `edges`: deciles of the candidate's scores; `parts`: the share of rows in each."""

    champion: str
    table: str
    months: tuple[str, ...]
    rows: int
    margin: float
    alpha: float
    compared: Compared
    edges: tuple[float, ...]
    parts: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the values as the ledger stores them."""
        return asdict(self)

    def __str__(self) -> str:
        difference = self.compared.difference
        by = f", {difference:+.4f} of loss on average" if difference is not None else ""
        return f"{self.compared.rows:,} of {self.rows:,} labelled rows looked at, against {self.champion}{by}"


def shadow(candidate: Release, champion: Release, store: Store, rules: Rollout, columns: MonitoredColumns) -> Shadowed:
    """Score the newest labelled rows with both models, and bet on the difference of their losses, in order of time.

    Raises:
        UserError: one of the models does not load, or cannot be used on the current feature table.
    """
    table = built_for(candidate, store)
    if built_for(champion, store) != table:
        raise UserError(f"{candidate.id} and {champion.id} read different feature tables: they cannot be compared")
    rows = labelled(table, max(unseen_from(candidate), unseen_from(champion)), columns)
    scores = {each.id: _scores(each, store, rows) for each in (candidate, champion)}
    # Use the candidate's loss for both: losses of different kinds cannot be compared.
    losses = loading.load_module(candidate, loading.materialise(candidate, store)).losses
    ours, theirs = (losses(rows[columns.label], scores[each.id]) for each in (candidate, champion))
    compared = compare_losses(
        ours - theirs, rules.shadow.margin, rules.alpha / TESTS, rules.alpha, rules.shadow.min_rows
    )
    edges = deciles(scores[candidate.id])
    return Shadowed(
        champion=champion.id,
        table=table.md5,
        months=tuple(sorted(set(rows[columns.month].to_pylist()))),
        rows=rows.num_rows,
        margin=rules.shadow.margin,
        alpha=rules.alpha,
        compared=compared,
        edges=edges,
        parts=parts(scores[candidate.id], edges),
    )


def unseen_from(release: Release) -> str:
    """Return the first month that the model was not trained on: the holdout's first."""
    params = release.materials["params"]
    window = Data(**{name: params["data"][name] for name in Data.model_fields})
    return window.months()[-int(params["split"]["holdout_months"])]


def labelled(table: Built, since: str, columns: MonitoredColumns) -> Any:
    """Return the rows from this month on with a known outcome, in order of time."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = pq.read_table(table.file, filters=pc.field(columns.month) >= since)
    rows = rows.filter(pc.is_valid(rows[columns.label]))
    return rows.sort_by([(columns.time, "ascending"), (columns.key, "ascending")])


def _scores(release: Release, store: Store, rows: Any) -> Array:
    import numpy as np

    scores: Array = np.asarray(loading.try_out(release, loading.materialise(release, store)).predict(rows))
    if not np.isfinite(scores).all():
        raise UserError(f"{release.id} predicts nothing for {int(np.sum(~np.isfinite(scores))):,} labelled rows")
    return scores


def deciles(scores: Array) -> tuple[float, ...]:
    """Return the edges between tenths of the scores, without duplicates."""
    import numpy as np

    if len(scores) == 0:
        return ()
    return tuple(float(edge) for edge in np.unique(np.quantile(scores, np.arange(1, BINS) / BINS)))


def parts(scores: Array, edges: tuple[float, ...]) -> tuple[float, ...]:
    """Return the share of scores in each part between these edges."""
    import numpy as np

    counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)
    return tuple(float(share) for share in counts / max(len(scores), 1))
