"""The log of predictions: nothing lost that was flushed, whatever happens to the process, the disk or the files."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lifecycle.params import PredictionLog
from lifecycle.predictions import ids
from lifecycle.predictions import log as predictions
from lifecycle.predictions.log import COLUMNS, FOLDER
from lifecycle.serving import rotation
from lifecycle.serving.log import Log, Scored

NEXT_DAY = 86_400 + rotation.SETTLED_SECONDS


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log(PredictionLog(flush_seconds=60))
    made.start()
    yield made
    made.stop()


def scored(rows: int = 1, **changes: Any) -> Scored:
    values: dict[str, Any] = {
        "prediction_id": ids.new(),
        "many": rows > 1,
        "rows": [{"a": number, "b": None, "c": "ä'\"\n"} for number in range(rows)],
        "scores": [number / 8 for number in range(rows)],
        "release": "r-0123456789ab",
        "channel": "production",
        "generation": 3,
        "keys": ["k"] * rows,
        "shadow": False,
        "latency_ms": 0.25,
        "error": None,
        "request": "00" * 32,
    }
    return Scored(**values | changes)


def logged() -> list[str]:
    with duckdb.connect() as connection:
        return [
            row[0]
            for row in predictions.relation(connection).order("prediction_id").project("prediction_id").fetchall()
        ]


def the_file() -> Path:
    (path,) = FOLDER.glob("*/*.jsonl")
    return path


def test_what_is_put_can_be_found_with_all_its_columns(log: Log) -> None:
    one, many, failed = scored(), scored(rows=3), scored(scores=None, error="error: x", keys=[None])
    for each in (one, many, failed):
        log.put(each)
    log.flush()
    (found,) = predictions.find(one.prediction_id)
    assert list(found) == list(COLUMNS)
    assert abs((found["at"] - ids.moment(one.prediction_id).replace(tzinfo=None)).total_seconds()) == 0
    assert isinstance(found["at"], datetime)
    assert found["features"] == one.rows[0]
    assert (found["score"], found["generation"], found["shadow"]) == (0, 3, False)
    assert [row["prediction_id"] for row in predictions.find(many.prediction_id)] == [
        f"{many.prediction_id}-{number}" for number in range(3)
    ]
    assert [row["score"] for row in predictions.find(f"{many.prediction_id}-2")] == [0.25]
    (found,) = predictions.find(failed.prediction_id)
    assert (found["score"], found["error"], found["key"]) == (None, "error: x", None)
    assert predictions.find(ids.new()) == []
    assert predictions.counts() == {"r-0123456789ab": 4}


def test_a_parquet_file_of_before_a_column_was_there_is_read(log: Log) -> None:
    import pyarrow.parquet as pq

    one, other = scored(), scored(online="a-b")
    log.put(one)
    log.flush()
    file = the_file().with_name("old.parquet")
    with duckdb.connect() as connection:
        rows = predictions.relation(connection).project("* exclude (online), 1 as more").to_arrow_table()
    log.put(other)
    log.flush()
    the_file().write_bytes(the_file().read_bytes().splitlines(keepends=True)[1])
    pq.write_table(rows, file)
    found = [predictions.find(each.prediction_id) for each in (one, other)]
    assert [[row["online"] for row in rows] for rows in found] == [[None], ["a-b"]]
    assert list(found[0][0]) == list(COLUMNS)


def test_no_log_is_an_empty_one() -> None:
    assert logged() == []
    assert predictions.counts() == {}


def test_a_line_that_was_not_finished_is_left_out_everywhere(log: Log) -> None:
    for _ in range(3):
        log.put(scored())
    log.stop()
    content = the_file().read_bytes()
    for kept in (len(content) - 1, len(content) - 20, content.rindex(b"\n", 0, -1) + 1):
        the_file().write_bytes(content[:kept])
        whole = [json.loads(line)["prediction_id"] for line in content[:kept].splitlines() if line.endswith(b"}")]
        assert logged() == whole
    the_file().write_bytes(content[:-20])
    assert rotation.rotate(now=time.time() + NEXT_DAY) == 1
    assert len(logged()) == 2


def test_a_day_that_is_over_becomes_a_parquet_file_with_the_same_rows(log: Log) -> None:
    sent = [scored(rows=2) for _ in range(50)]
    for each in sent:
        log.put(each)
    log.stop()

    def rows() -> list[Any]:
        with duckdb.connect() as connection:
            return predictions.relation(connection).order("prediction_id").fetchall()

    before, counted, one = rows(), predictions.counts(), predictions.find(sent[7].prediction_id)
    assert len(before) == 100
    assert rotation.rotate() == 0  # today is not over
    the_file()
    assert rotation.rotate(now=time.time() + NEXT_DAY) == 0
    assert [path.suffix for path in FOLDER.glob("*/*")] == [".parquet"]
    assert rows() == before
    assert (predictions.counts(), predictions.find(sent[7].prediction_id)) == (counted, one)


def test_a_file_that_its_process_still_holds_is_left_alone(log: Log) -> None:
    log.put(scored())
    log.flush()
    rotation.rotate(now=time.time() + NEXT_DAY)
    the_file()
    log.stop()
    rotation.rotate(now=time.time() + NEXT_DAY)
    assert list(FOLDER.glob("*/*.jsonl")) == []


def test_a_rotation_that_was_killed_loses_and_doubles_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        log.put(scored())
    log.stop()
    before = logged()
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".jsonl":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        rotation.rotate(now=time.time() + NEXT_DAY)
    assert {path.suffix for path in FOLDER.glob("*/*")} == {".jsonl", ".parquet"}
    assert logged() == before
    rotation.rotate(now=time.time() + NEXT_DAY)
    assert logged() == before


def test_a_full_queue_drops_and_counts() -> None:
    log = Log(PredictionLog(queue=10))
    for _ in range(4):
        log.put(scored(rows=3))
    assert (log.waiting, log.dropped) == (9, 3)
    log.put(scored())
    assert (log.waiting, log.dropped) == (10, 3)
    log.flush()
    assert log.waiting == 0
    assert len(logged()) == 10


def test_what_the_disk_does_not_take_waits_until_it_does() -> None:
    log = Log(PredictionLog())
    FOLDER.parent.mkdir()
    FOLDER.touch()  # no folder can be made there
    log.put(scored())
    log.flush()
    log.put(scored())
    log.flush()
    assert log.problem
    assert log.waiting == 2
    FOLDER.unlink()
    log.flush()
    assert (log.problem, log.waiting, len(logged())) == ("", 0, 2)


def test_a_write_that_ends_halfway_goes_on_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    log, write = Log(PredictionLog()), os.write
    sent = [scored() for _ in range(3)]
    for each in sent:
        log.put(each)
    sizes = iter([100, -1, 50])

    def half(file: int, content: bytes) -> int:
        size = next(sizes, len(content))
        if size < 0:
            raise OSError(28, "No space left on device")
        return write(file, content[:size])

    monkeypatch.setattr(os, "write", half)
    log.flush()
    assert (log.waiting, log.problem) == (3, "[Errno 28] No space left on device")
    log.flush()
    assert log.waiting == 0
    assert logged() == [each.prediction_id for each in sent]


def test_files_that_somebody_deletes_are_begun_anew() -> None:
    log = Log(PredictionLog())
    log.put(scored())
    log.flush()
    shutil.rmtree(FOLDER)
    log.put(scored())
    log.flush()
    assert len(logged()) == 1


def test_days_have_folders_of_their_own() -> None:
    log = Log(PredictionLog())
    for prediction_id in ("019b76da-a7ff-7fff-bfff-ffffffffffff", "019b76da-a800-7000-8000-000000000000"):
        log.put(scored(prediction_id=prediction_id))
    log.flush()
    assert sorted(path.name for path in FOLDER.iterdir()) == ["2025-12-31", "2026-01-01"]
    with duckdb.connect() as connection:
        assert len(predictions.relation(connection, since="2026-01-01")) == 1
        assert len(predictions.relation(connection, until="2025-12-31")) == 1
