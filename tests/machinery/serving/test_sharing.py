"""The prediction logs of several hosts come together, each file once and whole."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lifecycle.errors import UserError
from lifecycle.params import PredictionLog
from lifecycle.predictions import ids, sharing
from lifecycle.predictions import log as predictions
from lifecycle.processes import wait_until
from lifecycle.serving import rotation
from lifecycle.serving.log import Log, Scored

STORE = Path("store")
DIE = """
import os, signal, sys
from fsspec.implementations.local import LocalFileSystem
from lifecycle.predictions import sharing
where = LocalFileSystem if hasattr(LocalFileSystem, sys.argv[1]) else sharing
setattr(where, sys.argv[1], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
getattr(sharing, sys.argv[2])(sys.argv[3])
"""


@pytest.fixture(autouse=True)
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts, each a folder; a store beside them. The test starts on the first."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    move_to("one", tmp_path, monkeypatch)


def move_to(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / host)


def answered(log: Log) -> str:
    """A prediction that the server has logged; its id."""
    made = ids.new()
    log.put(Scored(made, False, [{"x": 1}], [0.5], "r-1", "production", 1, [None], False, 1.0, None, "0" * 64))
    log.flush()
    return made


def store(tmp_path: Path) -> str:
    return str(tmp_path / STORE)


def test_each_host_finds_the_predictions_of_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = (tmp_path / STORE).as_uri()
    made = {}
    for host in ("one", "two"):
        move_to(host, tmp_path, monkeypatch)
        log = Log(PredictionLog(store=url, ship_seconds=0.1))
        log.start()
        made[host] = answered(log)
        wait_until(lambda: [*(tmp_path / STORE).rglob(f"{os.getpid()}-*.jsonl")])
        log.stop()
        assert log.behind == ""
    assert len([*(tmp_path / STORE).rglob("*.jsonl")]) == 2
    for host, other in (("one", "two"), ("two", "one")):
        move_to(host, tmp_path, monkeypatch)
        assert predictions.find(made[other]) == []
        assert sharing.collect_recent(url) == 1
        assert len(predictions.find(made[other])) == 1
        assert (sharing.collect_recent(url), sharing.ship(url)) == (0, 0)


def test_a_file_that_became_parquet_is_not_copied_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(PredictionLog())
    made = answered(log)
    log.stop()
    for file in log._files.values():
        file.close()
    days = 2 * 86_400
    sharing.ship(store(tmp_path))
    move_to("two", tmp_path, monkeypatch)
    sharing.collect(store(tmp_path))
    for host in ("two", "one"):
        move_to(host, tmp_path, monkeypatch)
        (path,) = predictions.FOLDER.rglob("*.jsonl")
        assert rotation.rotate(now=path.stat().st_mtime + days) == 0
        assert [*predictions.FOLDER.rglob("*.parquet")]
        assert (sharing.collect(store(tmp_path)), sharing.ship(store(tmp_path))) == (0, 0)
        assert len(predictions.find(made)) == 1


def test_a_file_that_is_written_to_waits(tmp_path: Path) -> None:
    log = Log(PredictionLog())
    answered(log)
    assert sharing.ship(store(tmp_path)) == 0
    for file in log._files.values():
        file.close()
    assert sharing.ship(store(tmp_path)) == 1


@pytest.mark.parametrize("step", ["_put", "mv", "_remember"])
def test_a_killed_copy_is_made_again(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(PredictionLog())
    made = answered(log)
    for file in log._files.values():
        file.close()

    def die(action: str) -> None:
        killed = subprocess.run([sys.executable, "-c", DIE, step, action, store(tmp_path)])
        assert killed.returncode == -signal.SIGKILL

    die("ship")
    assert bool([*(tmp_path / STORE).rglob("*.jsonl")]) == (step == "_remember"), "half a file looks like a whole one"
    sharing.ship(store(tmp_path))
    move_to("two", tmp_path, monkeypatch)
    if step == "_remember":
        die("collect")
    sharing.collect(store(tmp_path))
    sharing.ship(store(tmp_path))
    assert len(predictions.find(made)) == 1
    assert len([*(tmp_path / STORE).rglob("*.jsonl")]) == 1


def test_without_the_store_nothing_is_judged(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"cannot be read from .*: it does not exist yet\. A server creates it .* Nothing is judged"
    ):
        sharing.collect(store(tmp_path))
    (tmp_path / STORE).write_text("not a folder", encoding="utf-8")
    log = Log(PredictionLog())
    answered(log)
    for file in log._files.values():
        file.close()
    with pytest.raises(UserError, match="cannot be copied to"):
        sharing.ship(store(tmp_path))
    (tmp_path / STORE).unlink()
    assert sharing.ship(store(tmp_path)) == 1
    with pytest.raises(UserError, match=r"serving\.log\.store in params\.yaml, nowhere://x, cannot be opened"):
        sharing.collect("nowhere://x")
    shutil.rmtree(predictions.FOLDER)
    assert sharing.collect(None) == 0
