"""The log of predictions is kept for so many days, and longer where something still needs it."""

import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from lifecycle.files import locked
from lifecycle.monitoring import history
from lifecycle.monitoring.history import Measured
from lifecycle.monitoring.retention import expire
from lifecycle.monitoring.verdicts import Figure
from lifecycle.params import Params, load_params
from lifecycle.releases.ledger import Ledger
from lifecycle.testing import ROOT

FOLDER = Path("logs/predictions")
NOW = datetime(2026, 5, 31, 12)


@pytest.fixture
def params(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Params:
    found = load_params(ROOT / "params.yaml").model_dump()
    monkeypatch.chdir(tmp_path)
    found["serving"]["log"]["keep_days"] = 10
    found["monitoring"]["consecutive"] = {"day": 1}
    for day in ("2026-05-01", "2026-05-18", "2026-05-20", "2026-05-21", "2026-05-31"):
        add(f"{day}/1-a.parquet")
    return Params.model_validate(found)


def add(name: str) -> None:
    (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).touch()


def days() -> list[str]:
    return sorted(day.name[5:] for day in FOLDER.iterdir())


def test_days_that_are_older_are_deleted_whole(params: Params) -> None:
    add("2026-05-18/2-b.jsonl")  # somebody may still write to it
    assert expire(Ledger(None), params, NOW) == ["2026-05-01", "2026-05-20"]
    assert days() == ["05-18", "05-21", "05-31"]
    assert expire(Ledger(None), params, NOW) == []
    forever = params.serving.log.model_copy(update={"keep_days": None})
    serving = params.serving.model_copy(update={"log": forever})
    assert expire(Ledger(None), params.model_copy(update={"serving": serving}), NOW + timedelta(days=900)) == []


def test_an_open_incident_keeps_its_days(params: Params) -> None:
    start = datetime(2026, 5, 18, 3)
    figure = Figure("errors", "predictions", 0.5, 400, None, 0.01, 0.002)
    history.append("r-0", NOW, [Measured("log", "day", "2026-05-18", start, start, 400, [figure])])
    assert expire(Ledger(None), params, NOW) == ["2026-05-01"]
    assert days() == ["05-18", "05-20", "05-21", "05-31"]


def test_what_is_being_read_is_deleted_later(params: Params) -> None:
    deleting = threading.Thread(target=expire, args=(Ledger(None), params, NOW))
    with locked(FOLDER), locked(FOLDER):
        deleting.start()
        deleting.join(timeout=1)
        assert deleting.is_alive()
        assert len(days()) == 5
    deleting.join(timeout=60)
    assert days() == ["05-21", "05-31"]
