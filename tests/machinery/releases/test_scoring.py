"""Batch scoring: the same once more changes nothing, a corrected month is a new version, and no file is ever half."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from lifecycle.errors import UserError
from lifecycle.lineage.trace import Tracer
from lifecycle.params import load_params
from lifecycle.releases import ledger as book
from lifecycle.releases import loading, operations, scoring
from lifecycle.releases.ledger import ChannelName
from lifecycle.releases.scoring import Scored, find_scored
from lifecycle.releases.store import Store
from lifecycle.testing import Releases, copy_project, digests

from synthetic import MONTHS
from workers import Worker


def score(channel: ChannelName = "production", *months: str) -> list[Scored]:
    jobs, _ = scoring.plan(channel, list(months), load_params().monitoring.columns)
    return scoring.score(jobs, workers=2)


def outcomes(done: list[Scored]) -> dict[str, str]:
    return {each.month: each.outcome for each in done}


def all_months(outcome: str, **others: str) -> dict[str, str]:
    return dict.fromkeys(load_params().data.months(), outcome) | others


def table() -> Path:
    return Path(book.load().release("production").model["feature_table"])


def correct(month: str) -> None:
    """Build the feature table anew, as if the source had taken back the month's first row."""
    rows = pq.read_table(table()).to_pandas()
    first = rows.index[rows[load_params().monitoring.columns.month] == month][0]
    write(pq.read_table(table()).take([number for number in range(len(rows)) if number != first]))


def write(rows: Any) -> None:
    table().unlink()  # a link into the cache
    pq.write_table(rows, table())
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    maker = next(name for name, stage in stages.items() for out in stage["outs"] if table().is_relative_to(str(out)))
    command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", maker]
    subprocess.run(command, check=True, capture_output=True)


def rows_of(done: Scored) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(done.file).to_pylist()
    return found


def test_every_row_of_every_month_is_scored_by_what_the_channel_serves(releases: Releases) -> None:
    done = score()
    assert outcomes(done) == all_months("scored")
    release = book.load().release(releases.first)
    features = pq.read_table(table())
    model = loading.try_out(release, loading.materialise(release, Store()))
    columns = load_params().monitoring.columns
    expected = dict(zip(map(str, features[columns.key].to_pylist()), model.predict(features).tolist(), strict=True))
    rows = [row for each in done for row in rows_of(each)]
    assert {row["key"]: row["score"] for row in rows} == expected
    assert len({row["prediction_id"] for row in rows}) == len(rows) == features.num_rows
    assert {row["release"] for row in rows} == {releases.first}


def test_the_same_once_more_changes_nothing(releases: Releases) -> None:
    months = MONTHS[1:3]
    first = score("production", *months)
    before = digests(scoring.FOLDER)
    again = score("production", *months)
    assert outcomes(again) == dict.fromkeys(months, "unchanged")
    assert [each.version for each in again] == [each.version for each in first]
    assert digests(scoring.FOLDER) == before
    for path in scoring.FOLDER.rglob("*.parquet"):
        path.unlink()
    assert outcomes(score("production", *months)) == dict.fromkeys(months, "scored")
    parquet = {name: digest for name, digest in before.items() if name.endswith(".parquet")}
    assert digests(*map(Path, parquet)) == parquet, "made again, the same bytes"


def test_a_corrected_month_is_a_new_version_and_both_can_be_traced(releases: Releases) -> None:
    first = {each.month: each for each in score()}
    month = load_params().data.months()[1]
    old = rows_of(first[month])[-1]
    correct(month)
    done = {each.month: each for each in score()}
    assert outcomes(list(done.values())) == all_months("unchanged", **{month: "scored"})
    assert done[month].replaced == first[month].version != done[month].version
    new = next(row for row in rows_of(done[month]) if row["key"] == old["key"])
    assert new["prediction_id"] != old["prediction_id"]
    for row, version in ((old, first[month].version), (new, done[month].version)):
        found = find_scored(row["prediction_id"])
        assert found
        assert (found.row, found.version.version) == (row, version)
        assert [each.version for each in found.versions] == [first[month].version, done[month].version]
        lines = "\n".join(Tracer(book.load(), Store()).trace(row["prediction_id"]).lines())
        assert releases.first in lines
        assert ("which holds" in lines) == (row is new)
    assert find_scored(old["prediction_id"][:-1] + "z") is None
    assert find_scored(f"b-{first[month].version}-{'0' * 16}") is None


def test_another_release_scores_every_month_anew_and_the_way_back_gives_the_old_ids(releases: Releases) -> None:
    month = load_params().data.months()[0]
    (first,) = score("production", month)
    operations.promote(releases.second, "production")
    (second,) = score("production", month)
    assert (second.replaced, second.outcome) == (first.version, "scored")
    operations.rollback("production", "worse")
    (third,) = score("production", month)
    assert third.version == first.version
    versions = scoring.versions_of(Path(third.file))
    assert [each.release for each in versions] == [releases.first, releases.second, releases.first]
    assert score("staging", month)[0].version == second.version, "and any channel's release can score"


@pytest.mark.parametrize("content", [b"", b"PAR1 torn"])
def test_a_damaged_file_is_made_again(releases: Releases, content: bytes) -> None:
    month = load_params().data.months()[0]
    (first,) = score("production", month)
    good = digests(Path(first.file))
    Path(first.file).write_bytes(content)
    with pytest.raises(UserError, match="gone or altered"):
        find_scored(f"b-{first.version}-{'0' * 16}")
    assert outcomes(score("production", month)) == {month: "scored"}
    assert digests(Path(first.file)) == good
    assert len(scoring.versions_of(Path(first.file))) == 1


def test_killed_anywhere_a_month_is_the_old_one_or_the_new_one(releases: Releases, tmp_path: Path) -> None:
    months = load_params().data.months()
    old = {each.month: digests(Path(each.file)) for each in score()}
    correct(months[0])
    start = releases.folder
    with Worker() as worker:
        whole = tmp_path / "whole"
        copy_project(start, whole)
        ended = worker.do(whole, "score", channel="production")
        new = digests(*sorted((whole / scoring.FOLDER).rglob("*.parquet")))
        by_name = {str(Path(name).relative_to(whole)): digest for name, digest in new.items()}
        interesting = [number for number, step in enumerate(ended.steps, 1) if str(scoring.FOLDER) in step]
        assert len(interesting) >= 4, ended.steps
        for die_at in interesting[:: len(interesting) // 4]:
            folder = tmp_path / f"{die_at}"
            copy_project(start, folder)
            assert worker.do(folder, "score", channel="production", die_at=die_at).killed
            file = next((folder / scoring.FOLDER).glob(f"*/{months[0]}.parquet"))
            name = str(file.relative_to(folder))
            assert digests(file)[str(file)] in (old[months[0]][name], by_name[name])
            assert not worker.do(folder, "score", channel="production").error
            after = digests(*sorted((folder / scoring.FOLDER).rglob("*.parquet")))
            assert {str(Path(name).relative_to(folder)): digest for name, digest in after.items()} == by_name


def test_what_cannot_be_scored_is_said_before_anything_is_written(releases: Releases) -> None:
    with pytest.raises(UserError, match=f"has no month 1999-01: it has {MONTHS[0]} to {MONTHS[-1]}"):
        score("production", "1999-01", MONTHS[0])
    with pytest.raises(UserError, match="canary serves nothing"):
        score("canary")
    rows = pq.read_table(table())
    name = next(iter(book.load().release("production").model["features"]))
    write(rows.drop_columns([name]))
    with pytest.raises(UserError, match=f"needs the feature {name}, and .* no longer has it"):
        score()
    assert not scoring.FOLDER.exists()
    write(rows.take(np.array([0, 0, 1])))
    with pytest.raises(UserError, match="is in the feature table twice"):
        score()
    assert list(scoring.FOLDER.rglob("*.parquet")) == []
