"""Quality in SQL against scikit-learn, and the bounds that a figure is given."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, r2_score, roc_auc_score

from lifecycle.monitoring import measure, profile
from lifecycle.monitoring.quality import quality, service
from lifecycle.monitoring.window import connect
from lifecycle.params import Monitoring, load_params
from lifecycle.testing import ROOT

SEASONS, A_DAY = 40, 10


def test_a_classification_by_slices_with_ties_and_unknown_outcomes() -> None:
    random = np.random.default_rng(5)
    # Two digits: many scores are equal.
    score = np.round(random.random(2000), 2)
    label = random.random(2000) < score
    known, slices = random.random(2000) < 0.8, random.choice(["a", "b'c"], 2000)
    outcome = pa.array([bool(y) if k else None for y, k in zip(label, known, strict=True)], pa.bool_())
    connection = connect()
    connection.register("rows", pa.table({"_score": score, "_label": outcome, "slice": slices}))
    found = quality(connection, "rows", "slice") | quality(connection, "rows")
    assert found.keys() == {"all", "a", "b'c"}
    for name, each in found.items():
        chosen = known & ((slices == name) | (name == "all"))
        y, p = label[chosen], score[chosen]
        loss = log_loss(y, np.clip(p, 1e-6, 1 - 1e-6))
        assert each.labelled == chosen.sum()
        assert each.ranking == pytest.approx(roc_auc_score(y, p), abs=1e-6)
        assert each.loss == pytest.approx(loss, abs=1e-5)
        assert each.skill == pytest.approx(1 - loss / log_loss(y, np.full(len(y), y.mean())), abs=1e-5)
        assert each.bias == pytest.approx(p.mean() - y.mean(), abs=1e-6)


def test_a_regression() -> None:
    random = np.random.default_rng(6)
    truth = random.normal(10, 3, size=500)
    predicted = truth + random.normal(1, 1, size=500)
    connection = connect()
    connection.register("rows", pa.table({"_score": predicted, "_label": truth}))
    found = quality(connection, "rows")["all"]
    assert found.skill == pytest.approx(r2_score(truth, predicted), abs=1e-6)
    assert found.bias == pytest.approx((predicted - truth).mean() / truth.std(), abs=1e-6)
    assert found.loss == pytest.approx(np.sqrt(np.mean((predicted - truth) ** 2)), abs=1e-6)
    assert found.ranking is None


def test_no_outcome_is_no_quality_and_one_outcome_has_no_ranking() -> None:
    connection = connect()
    connection.register("none", pa.table({"_score": [0.5], "_label": pa.array([None], pa.bool_())}))
    connection.register("one", pa.table({"_score": [0.5, 0.2], "_label": [True, True]}))
    assert quality(connection, "none") == {}
    found = quality(connection, "one")["all"]
    assert (found.ranking, found.skill, found.labelled) == (None, None, 2)


def test_a_request_counts_once_however_many_rows_it_has() -> None:
    rows = [("many", 900.0, "slow")] * 300 + [(f"one-{number}", 5.0, None) for number in range(199)]
    names = ("_request", "_latency_ms", "_error")
    connection = connect()
    connection.register("rows", pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))))
    found = service(connection, "rows")
    assert found is not None
    assert (found.requests, found.errors, found.p99_ms) == (200, 1 / 200, 5.0)


def test_a_bound_is_where_the_seasons_are_or_where_params_say() -> None:
    settings = load_params(ROOT / "params.yaml").monitoring
    psi = settings.thresholds["psi"]

    def bounds(natural: float, rows: int = settings.min_rows, judged: bool = True) -> tuple[float | None, float | None]:
        figure = measure._figure(settings, "psi", "x", 1.0, rows, natural=natural, judged=judged)
        return figure.fire, figure.clear

    assert bounds(0.0) == (psi.fire, psi.clear)
    assert bounds(psi.fire * 4) == pytest.approx((psi.fire * 4 * measure.MARGIN, psi.clear * 4 * measure.MARGIN))
    assert bounds(0.0, rows=settings.min_rows - 1) == bounds(0.0, judged=False) == (None, None)


def made_up(random: np.random.Generator, first: int, years: int, classes: bool) -> pa.Table:
    """Rows with a strong season, in what happens and in how hard it is to tell; and a model that knows both."""
    day = np.repeat(np.arange(first * 365, (first + years) * 365), A_DAY)
    season = np.cos(2 * np.pi * day / 365)
    known = random.normal(size=len(day))
    if classes:
        score = 1 / (1 + np.exp(1.5 - 1.2 * season - known))
        label: np.ndarray = random.random(len(day)) < score
    else:
        score = 12 - 9 * season + 2 * known
        label = score + random.normal(size=len(day)) * (2.5 + season)
    at = np.datetime64("2001-01-01", "us") + day * np.timedelta64(1, "D")
    return pa.table({"_at": at, "_part": at.astype("datetime64[M]").astype(str), "_score": score, "_label": label})


def breaches(seed: int, classes: bool, lost: bool) -> list[str]:
    """The months of a year in which a model has lost skill, says the monitor; it has `lost` it, or it has not."""
    random, connection = np.random.default_rng(seed), connect()
    settings = load_params(ROOT / "params.yaml").monitoring
    settings = Monitoring.model_validate(settings.model_dump() | {"slices": [], "min_rows": 200})
    connection.register("train", made_up(random, 0, 3, classes))
    connection.register("holdout", made_up(random, 3, 1, classes))
    later = made_up(random, 4, 1, classes)
    if lost:  # each row gets the answer that was meant for another one of about that time
        later = later.set_column(2, "_score", pa.array(np.roll(later["_score"].to_numpy(), A_DAY)))
    connection.register("later", later)
    reference = profile._usual(connection, "_part", settings)["score"]
    months = []
    for month, found in quality(connection, "later", "_part").items():
        for check in ("skill_drop", "ranking_drop"):
            args = (reference.drops(found)[check], found.labelled, None, reference.natural[check])
            figure = measure._figure(settings, check, "score", *args)
            if figure.value is not None and figure.fire is not None and figure.value > figure.fire:
                months.append(month)
    return months


@pytest.mark.parametrize("classes", [False, True])
def test_a_season_is_no_loss_of_skill_and_a_loss_is_seen_in_the_first_month(classes: bool) -> None:
    fired = [seed for seed in range(SEASONS) if breaches(seed, classes, lost=False)]
    assert len(fired) <= 0.05 * SEASONS, fired
    for seed in range(3):
        assert breaches(seed, classes, lost=True)[0] == "2005-01"
