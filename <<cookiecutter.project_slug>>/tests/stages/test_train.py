"""The split by time, and the model: the same bytes every time, the same predictions after a round trip."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lifecycle.contract import Split, UserError
from lifecycle.testing import digests, edit_params

from << cookiecutter.__package_name >> import model, train
from << cookiecutter.__package_name >>.tables import FEATURES, LABEL, NOT_FEATURES

SETTINGS = model.Settings(
    seed=1,
    threads=1,
    rounds=30,
    early_stopping_rounds=5,
    learning_rate=0.2,
    num_leaves=15,
    min_data_in_leaf=5,
    feature_fraction=0.7,
    lambda_l2=1.0,
)
NAMES = ["kind", "hour", "wind"]


def table(rows: int, seed: int) -> pa.Table:
    """Made-up rows whose label depends on all three features; a tenth of the cells is null."""
    random = np.random.default_rng(seed)
    kind = random.choice(["a", "b", "c", "d"], rows)
    hour = random.integers(5, 23, rows)
    wind = random.normal(10, 4, rows)
    chance = 1 / (1 + np.exp(-(0.2 * (hour - 14) + 0.2 * (wind - 10) + np.where(kind == "d", 1.5, -0.5))))

    def holed(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=random.random(rows) < 0.1)

    return pa.table(
        {
            "kind": holed(kind, pa.string()),
            "hour": holed(hour, pa.int32()),
            "wind": holed(wind, pa.float64()),
            "late": pa.array(random.random(rows) < chance),
        }
    )


def fit(settings: model.Settings = SETTINGS, rows: int = 2000) -> model.Model:
    return model.fit(table(rows, 1), table(500, 2), "late", NAMES, settings, lambda *_: None)


def labelled(*months: str, label: bool | None = True) -> pa.Table:
    return pa.table({"month": list(months), LABEL: pa.array([label] * len(months), pa.bool_())})


@pytest.mark.parametrize(
    ("validation", "holdout", "expected"),
    [
        (1, 2, [["2012-11", "2012-12", "2012-11"], ["2013-01"], ["2013-02", "2013-03"]]),
        (2, 1, [["2012-11", "2012-12", "2012-11"], ["2013-02", "2013-01"], ["2013-03"]]),
    ],
)
def test_the_split_is_by_month_and_the_last_are_held_out(
    validation: int, holdout: int, expected: list[list[str]]
) -> None:
    rows = labelled("2012-11", "2013-02", "2012-12", "2013-01", "2012-11", "2013-03")
    parts = train.split(rows, Split(validation_months=validation, holdout_months=holdout))
    assert [part["month"].to_pylist() for part in (parts.train, parts.validation, parts.holdout)] == expected


def test_rows_without_an_outcome_are_left_out() -> None:
    rows = pa.concat_tables([labelled("2013-01", "2013-02", "2013-03"), labelled("2013-04", label=None)])
    parts = train.split(rows, Split(validation_months=1, holdout_months=1))
    assert parts.holdout["month"].to_pylist() == ["2013-03"]


def test_too_few_months_say_how_many_it_takes() -> None:
    with pytest.raises(
        UserError, match=r"has 2 months \(2013-01, 2013-02\) and the split needs 3: raise data\.through"
    ):
        train.split(labelled("2013-01", "2013-02"), Split(validation_months=1, holdout_months=1))


def test_it_learns() -> None:
    fitted, unseen = fit(), table(2000, 3)
    predicted = fitted.predict(unseen)
    truth = np.array(unseen["late"].to_pylist())
    assert predicted[truth].mean() > predicted[~truth].mean() + 0.15


def test_the_same_bytes_again_and_on_two_threads(tmp_path: Path) -> None:
    fit().save(tmp_path / "one")
    fit().save(tmp_path / "again")
    fit(SETTINGS.model_copy(update={"threads": 2})).save(tmp_path / "two")
    one, again, two = (list(digests(tmp_path / name).values()) for name in ("one", "again", "two"))
    assert one == again == two


def test_the_seed_matters(tmp_path: Path) -> None:
    fit().save(tmp_path / "one")
    fit(SETTINGS.model_copy(update={"seed": 2})).save(tmp_path / "other")
    assert (tmp_path / "one/model.txt").read_bytes() != (tmp_path / "other/model.txt").read_bytes()


def test_a_saved_model_predicts_the_same_and_saves_the_same(tmp_path: Path) -> None:
    fitted, rows = fit(), table(500, 3)
    fitted.save(tmp_path / "model")
    loaded = model.load(tmp_path / "model")
    assert np.array_equal(loaded.predict(rows), fitted.predict(rows))
    assert np.array_equal(loaded.predict(rows, threads=2), fitted.predict(rows))
    loaded.save(tmp_path / "again")
    assert list(digests(tmp_path / "model").values()) == list(digests(tmp_path / "again").values())
    assert loaded.features == fitted.features


def test_a_category_never_seen_counts_as_missing() -> None:
    fitted, rows = fit(), table(200, 3)
    at = rows.column_names.index("kind")
    strange = rows.set_column(at, "kind", pa.array(["??"] * 200))
    missing = rows.set_column(at, "kind", pa.array([None] * 200, pa.string()))
    assert np.array_equal(fitted.predict(strange), fitted.predict(missing))
    assert not np.array_equal(fitted.predict(strange), fitted.predict(rows))


def test_columns_are_found_by_name_whatever_their_order_and_company() -> None:
    fitted, rows = fit(), table(200, 3)
    shuffled = rows.select(["wind", "late", "kind", "hour"]).append_column("more", pa.array(range(200)))
    assert np.array_equal(fitted.predict(shuffled), fitted.predict(rows))
    with pytest.raises(KeyError, match="wind"):
        fitted.predict(rows.drop_columns(["wind"]))


def test_rows_do_not_influence_each_other() -> None:
    fitted, rows = fit(), table(200, 3)
    one_by_one = np.concatenate([fitted.predict(rows.slice(row, 1)) for row in range(20)])
    assert np.array_equal(one_by_one, fitted.predict(rows)[:20])
    assert len(fitted.predict(rows.slice(0, 0))) == 0


def test_training_stops_when_validation_gets_no_better() -> None:
    curve: list[tuple[int, float, float]] = []
    settings = SETTINGS.model_copy(update={"rounds": 500})
    fitted = model.fit(table(2000, 1), table(500, 2), "late", NAMES, settings, lambda *row: curve.append(row))
    assert len(curve) < 500
    best = min(curve, key=lambda row: row[2])[0]
    assert fitted.booster.num_trees() == best
    assert len(curve) == best + settings.early_stopping_rounds
    assert [number for number, *_ in curve] == list(range(1, len(curve) + 1))
    # More rounds than it takes change nothing.
    more = fit(settings.model_copy(update={"rounds": 600}))
    assert np.array_equal(more.predict(table(100, 3)), fitted.predict(table(100, 3)))


def test_importance_is_shares_largest_first() -> None:
    shares = fit().importance()
    assert set(shares) == set(NAMES)
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_the_stage_gives_the_same_bytes_on_two_threads(built: Path) -> None:
    names = (train.MODEL, train.LEARNING_CURVE)
    before = digests(*names)
    edit_params(built, {"train": {"threads": 2}})
    train.main()
    assert digests(*names) == before


def test_no_feature_says_which_row_it_is_or_is_the_label(built: Path) -> None:
    features = {feature.name for feature in model.load(train.MODEL).features}
    assert features == {*pq.read_schema(FEATURES).names} - {*NOT_FEATURES}
    assert not features & {LABEL, "month"}
