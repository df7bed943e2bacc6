"""Drift against independent computations, on any column, and how often it cries wolf."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.monitoring import drift, summary
from lifecycle.monitoring.window import connect

from rows import compare

numbers = st.one_of(st.none(), st.floats(), st.integers(-3, 3).map(float))
words = st.one_of(st.none(), st.sampled_from(["a", "b", "", "other", "\u00e9", "it's"]), st.text(max_size=3))


def psi_in_numpy(reference: np.ndarray, recent: np.ndarray, edges: np.ndarray) -> float:
    """Bins closed to the right, missing values apart, half a row added to each."""
    shares = []
    for values in (reference, recent):
        there = values[~np.isnan(values)]
        inner = np.histogram(there, [-np.inf, *np.nextafter(edges, np.inf), np.inf])[0]
        counts = np.append(inner, np.isnan(values).sum()) + 0.5
        shares.append(counts / counts.sum())
    p, q = shares
    return float(np.sum((q - p) * np.log(q / p)))


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_psi_is_what_numpy_makes_of_the_same_bins(shift: float) -> None:
    random = np.random.default_rng(7)
    reference, recent = random.normal(size=5000), random.normal(shift, 1.2, size=3000)
    reference[::10], recent[::7] = np.nan, np.nan
    column, before, now = compare(reference, recent)
    edges = np.quantile(reference[~np.isnan(reference)], np.arange(1, 10) / 10, method="inverted_cdf")
    assert column.edges == pytest.approx(edges, abs=1e-2)
    assert drift.psi(before, now) == pytest.approx(psi_in_numpy(reference, recent, np.array(column.edges)), rel=1e-9)


def test_the_distance_is_the_area_between_the_quantile_functions() -> None:
    random = np.random.default_rng(8)
    reference, recent = random.gamma(2, size=4000), random.gamma(2.5, size=4000)
    _, before, now = compare(reference, recent)
    exact = np.abs(np.sort(reference) - np.sort(recent)).mean() / reference.std()
    assert drift.distance(before, now) == pytest.approx(exact, rel=0.02)


def test_a_shift_by_one_deviation_is_a_distance_of_one() -> None:
    values = np.random.default_rng(9).normal(size=4000)
    _, before, now = compare(values, values + values.std())
    assert drift.distance(before, now) == pytest.approx(1.0, rel=1e-6)


def test_a_sample_of_the_reference_does_not_fire_and_a_shifted_one_does() -> None:
    random = np.random.default_rng(1)
    population = np.where(random.random(20_000) < 0.3, 0.0, random.gamma(2, size=20_000))
    draws = np.repeat(np.arange(300), 300)
    sample = random.choice(population, len(draws))
    connection = connect()
    connection.register("reference", pa.table({"x": population}))
    connection.register("same", pa.table({"x": sample, "draw": draws}))
    connection.register("other", pa.table({"x": sample * 1.5 + 0.5, "draw": draws}))
    columns = summary.cut(connection, "reference", {"x": "number"})
    before = summary.summarise(connection, "reference", columns)["all"]["x"]

    def fired(relation: str) -> list[bool]:
        found = summary.summarise(connection, relation, columns, "draw").values()
        measured = [(drift.psi(before, each["x"]), drift.distance(before, each["x"])) for each in found]
        return [(psi or 0) > 0.3 or (distance or 0) > 0.75 for psi, distance in measured]

    assert (len(fired("same")), sum(fired("same")), sum(fired("other"))) == (300, 0, 300)


@given(st.lists(numbers, max_size=60), st.lists(numbers, max_size=60))
def test_any_column_of_numbers_is_counted_to_the_last_row(reference: list[float | None], recent: list[float]) -> None:
    column, before, now = compare(reference, recent)
    for values, found in ((reference, before), (recent, now)):
        assert found.rows == len(values)
        if values:
            assert found.nulls == sum(value is None or not math.isfinite(value) for value in values)
            assert sum(found.bins) + found.nulls == found.rows
    check(before, now)
    if reference:
        assert drift.psi(before, before) == 0
        assert len(column.labels) == len(before.bins)


@given(st.lists(words, max_size=60), st.lists(words, max_size=60))
def test_any_column_of_text_is_counted_to_the_last_row(reference: list[str | None], recent: list[str | None]) -> None:
    column, before, now = compare(reference, recent, "text")
    if recent:
        assert sum(now.bins) + now.nulls == now.rows == len(recent)
        assert now.outside == sum(value is not None and value not in reference for value in recent)
    if reference:
        assert (before.outside, len(column.labels)) == (0, len(before.bins))
    check(before, now)


def check(before: object, now: object) -> None:
    """Every check is finite and not negative, or says that it cannot tell."""
    for measure in drift.CHECKS.values():
        value = measure(before, now)  # type: ignore[arg-type]
        assert value is None or (math.isfinite(value) and value >= 0), value


def test_a_constant_that_becomes_another_one_is_seen() -> None:
    for other in (4.0, 6.0):
        _, before, now = compare([5.0] * 500, [other] * 500)
        assert (drift.psi(before, now) or 0) > 5
        assert drift.outside(before, now) == 1.0
        assert drift.distance(before, now) is None


def test_a_column_that_goes_missing_and_one_that_is_no_longer_a_number_are_seen() -> None:
    _, before, now = compare([1.0, 2.0] * 300, [None] * 600)
    assert drift.null_rise(before, now) == 1.0
    assert (drift.psi(before, now) or 0) > 5


def test_a_new_category_is_outside_and_a_rare_known_one_is_not() -> None:
    reference = [f"c{number % 40}" for number in range(4000)]
    _, before, now = compare(reference, ["c39"] * 90 + ["new"] * 10, "text")
    assert drift.outside(before, now) == pytest.approx(0.1)


def test_edges_are_read_by_sql_as_the_very_numbers_they_are() -> None:
    values = [number / 10 + 0.1 + 0.2 for number in range(-50, 50)] * 5
    column, before, _ = compare(values, values)
    expected = np.histogram(values, [-np.inf, *np.nextafter(column.edges, np.inf), np.inf])[0]
    assert before.bins == tuple(expected)
