"""The monitor on a project with two releases: what it finds in months and in the log, and what it leaves behind."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from lifecycle.errors import UserError
from lifecycle.files import replacing
from lifecycle.monitoring import gauges, history, operation, page, profile
from lifecycle.monitoring.monitor import Monitored
from lifecycle.params import load_params
from lifecycle.predictions.log import FOLDER
from lifecycle.releases import ledger
from lifecycle.releases.record import Release
from lifecycle.releases.store import Store
from lifecycle.testing import Releases

AT = datetime(2031, 5, 6, 7, 8)
DRIFT = {"psi", "distance", "score_psi", "nulls", "outside"}


def record(releases: Releases) -> Release:
    return ledger.load().release(releases.first)


def table_of(release: Release) -> Path:
    return Path(release.model["feature_table"])


def numbers_of(release: Release) -> list[str]:
    return [name for name, kind in release.model["features"].items() if kind == "double"]


def write_month(release: Release, rows: pa.Table, month: str = "2999-01") -> None:
    """Add rows to the feature table of the work tree, as those of one more month."""
    columns = load_params().monitoring.columns
    names = rows.column_names
    rows = rows.set_column(names.index(columns.month), columns.month, pa.array([month] * rows.num_rows, pa.string()))
    path = table_of(release)
    whole = pa.concat_tables([pq.read_table(path), rows], promote_options="permissive")
    with replacing(path) as aside:
        pq.write_table(whole, aside)


def labelled_rows(release: Release) -> tuple[pa.Table, pa.Table]:
    """Rows that the release was trained on, and its holdout."""
    columns, split = load_params().monitoring.columns, load_params().split
    table = pq.read_table(table_of(release))
    known = table.filter(pa.compute.is_valid(table[columns.label]))
    months = sorted(set(known[columns.month].to_pylist()))
    trained, held_out = months[: -split.validation_months - split.holdout_months], months[-split.holdout_months :]
    train, holdout = (
        known.filter(pa.compute.is_in(known[columns.month], pa.array(part))) for part in (trained, held_out)
    )
    return train, holdout


def training_rows(release: Release, many: int = 600) -> pa.Table:
    """Rows that the release was trained on, drawn at random; as many as there are."""
    rows, _ = labelled_rows(release)
    return rows.take(np.random.default_rng(3).choice(rows.num_rows, min(many, rows.num_rows), replace=False))


def shifted(rows: pa.Table, names: list[str]) -> pa.Table:
    """The same rows, with three deviations added to some columns."""
    for name in names:
        values = rows[name].to_numpy()
        moved = pa.array(values + 3 * np.nanstd(values) + 1, pa.float64(), from_pandas=True)
        rows = rows.set_column(rows.column_names.index(name), name, moved)
    return rows


def run(*months: str, at: datetime = AT) -> Monitored:
    return operation.run("production", months, at).found


def open_drift(found: Monitored) -> set[tuple[str, str]]:
    return {(each.check, each.subject) for each in found.breaches if each.check in DRIFT}


def test_rows_like_those_of_the_training_do_not_fire_and_shifted_ones_do(releases: Releases) -> None:
    release = record(releases)
    rows = training_rows(release)
    write_month(release, rows, "2999-01")
    assert open_drift(run("2999-01")) == set()
    numbers = numbers_of(release)
    write_month(release, shifted(rows, numbers), "2999-02")
    found = run("2999-02")
    fired = {subject for check, subject in open_drift(found) if check == "psi"}
    matter = {name for name in numbers if found.profile.importance[name] >= load_params().monitoring.min_importance}
    assert matter and matter <= fired
    assert {point.window for each in found.breaches for point in each.points[-1:] if each.source == "features"} == {
        "2999-02"
    }


def test_by_default_the_months_after_training_are_looked_at(releases: Releases) -> None:
    found = run()
    there = sorted(set(pq.read_table(table_of(record(releases)))[load_params().monitoring.columns.month].to_pylist()))
    split = load_params().split
    trained = there[: -split.validation_months - split.holdout_months]
    assert list(found.profile.train) == trained
    assert [each.measured.window for each in found.seen] == there[len(trained) :]
    assert list(found.profile.holdout) == there[-split.holdout_months :]


def test_the_holdout_against_itself_has_lost_nothing(releases: Releases) -> None:
    write_month(record(releases), labelled_rows(record(releases))[1])
    found = run("2999-01")
    values = {each.check: each.now.value for each in found.series if each.subject == "score"}
    assert values["skill_drop"] == 0
    assert values["ranking_drop"] in (0, None), "only yes and no can be ranked"
    assert values["score_psi"] == pytest.approx(0, abs=1e-3)


def test_the_profile_is_kept_and_made_anew_when_what_it_depends_on_changes(releases: Releases) -> None:
    settings = load_params().monitoring
    made = profile.profile_of(record(releases), Store(), settings)
    path = profile.FOLDER / f"{releases.first}.json"
    written = path.read_bytes()
    path.write_bytes(written.replace(b'"release": "', b'"release": "kept-'))
    assert profile.profile_of(record(releases), Store(), settings).release.startswith("kept-")
    fewer = settings.model_copy(update={"slices": []})
    assert profile.profile_of(record(releases), Store(), fewer).usual["month"].keys() == {"score"}
    path.write_text("torn", encoding="utf-8")
    assert profile.profile_of(record(releases), Store(), settings) == made
    assert path.read_bytes() == written


def test_the_profile_is_of_the_rows_of_the_release_and_not_of_the_work_tree(releases: Releases) -> None:
    release = record(releases)
    before = profile.build(release, Store(), load_params().monitoring, "x")
    write_month(release, shifted(training_rows(release), numbers_of(release)), "2013-01")
    assert profile.build(release, Store(), load_params().monitoring, "x") == before


def log_rows(release: Release, many: int, day: str) -> list[dict[str, Any]]:
    names, key = list(release.model["features"]), load_params().monitoring.columns.key
    return [
        {
            "prediction_id": f"{day}-{number}",
            "at": f"{day}T{number % 24:02d}:00:00Z",
            "release": release.id,
            "channel": "production",
            "generation": 1,
            "key": row[key],
            "shadow": False,
            "score": None if number % 50 == 0 else 0.2,
            "latency_ms": 5.0 + number % 10,
            "error": "it broke" if number % 50 == 0 else None,
            "features": {name: row[name] for name in names} | {"unknown_to_the_model": 1},
        }
        for number, row in enumerate(training_rows(release, many).to_pylist())
    ]


def test_the_log_is_read_whatever_its_files_and_joined_with_what_happened(releases: Releases) -> None:
    release = record(releases)
    folder, next_day = FOLDER / "2031-05-04", FOLDER / "2031-05-05"
    folder.mkdir(parents=True)
    next_day.mkdir()
    first, second = log_rows(release, 400, "2031-05-04"), log_rows(release, 400, "2031-05-05")
    other = [row | {"release": "r-other", "prediction_id": "x" + row["prediction_id"]} for row in second]
    lines = "".join(json.dumps(row) + "\n" for row in [*second, *other])
    (next_day / "1-a.jsonl").write_text(lines + json.dumps(second[0])[:90], encoding="utf-8")
    moved = [row | {"at": datetime.fromisoformat(row["at"]), "features": json.dumps(row["features"])} for row in first]
    pq.write_table(pa.Table.from_pylist(moved), folder / "1-a.parquet")
    # Rotated, and not yet deleted: it is in both files.
    (folder / "1-a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in first[:100]), encoding="utf-8")

    found = run()
    windows = {each.measured.window: each.measured for each in found.seen if each.measured.source == "log"}
    assert {name: each.rows for name, each in windows.items()} == {"2031-05-04": 400, "2031-05-05": 400}
    values = {(e.check, e.subject): e for e in found.series if e.source == "log"}
    assert values["errors", "predictions"].now.value == 0.02
    assert values["p99_ms", "predictions"].now.value == 14
    assert values["errors", "predictions"].open  # two days in a row
    unlabelled = values["unlabelled", "score"].now.value
    assert unlabelled == pytest.approx(0.02, abs=0.001)  # those without a score have no outcome to compare
    # All were given the same score, which is no longer the holdout's, and ranks nothing.
    fired = {check for (check, _), each in values.items() if each.open}
    ranks = {check for (check, _), each in values.items() if check == "ranking_drop" and each.now.value is not None}
    # How far that score is off, overall and by slice, is the team's data's.
    assert fired - {"bias", "slice_skill_drop"} == {"errors", "score_psi", "skill_drop"} | ranks


def test_every_run_adds_a_file_and_the_newest_run_of_a_window_counts(releases: Releases) -> None:
    release = record(releases)
    write_month(release, shifted(training_rows(release), numbers_of(release)))
    assert open_drift(run("2999-01"))
    kept = {path: path.read_bytes() for path in history.FOLDER.iterdir()}
    again = run("2999-01", at=datetime(2031, 5, 7))
    assert {path: path.read_bytes() for path in history.FOLDER.iterdir()}.items() >= kept.items()
    assert len(list(history.FOLDER.iterdir())) == len(kept) + 1
    assert {len(each.points) for each in again.series if each.grain == "month"} == {1}


def test_page_and_gauges_hold_what_was_found_and_fetch_nothing(releases: Releases) -> None:
    release = record(releases)
    write_month(release, shifted(training_rows(release), numbers_of(release)))
    found = run("2999-01")
    text = page.FILE.read_text(encoding="utf-8")
    assert f"{len(found.breaches)} of " in text
    assert all(name in text for name in release.model["features"])
    assert not any(f in text for f in ("http://", "https://", "@import", "<script", "url("))
    lines = gauges.read().splitlines()
    assert sum(line.startswith("monitor_breach{") and line.endswith(" 1") for line in lines) == len(found.breaches)
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == {
        line.split("{")[0].split()[0] for line in lines if not line.startswith("#")
    }


def test_what_cannot_be_looked_at_is_said(releases: Releases) -> None:
    with pytest.raises(UserError, match="no month 1999-01: it has"):
        run("1999-01")
    names = pq.read_schema(table_of(record(releases))).names
    feature = numbers_of(record(releases))[0]
    with replacing(table_of(record(releases))) as aside:
        pq.write_table(pq.read_table(table_of(record(releases)), columns=[n for n in names if n != feature]), aside)
    with pytest.raises(UserError, match=feature):
        run()
    table_of(record(releases)).unlink()
    with pytest.raises(UserError, match="`run` makes it"):
        run()
