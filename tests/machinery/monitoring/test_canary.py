"""What is read of the prediction log, and what follows from it."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest

from lifecycle.monitoring.canary import Stay, Watched, judge, read_log, stability, watch
from lifecycle.monitoring.shadow import deciles, parts
from lifecycle.params import Rollout

from predictions import FOLDER, predictions, write

START = datetime(2020, 1, 1, tzinfo=UTC)
RULES = Rollout.model_validate(
    {
        "alpha": 0.05,
        "shadow": {"margin": 0.005, "min_rows": 300, "wait_days": 14},
        "canary": {
            "shares": [0.1, 0.5],
            "min_requests": 100,
            "error_rate": 0.01,
            "p99_ms": 100,
            "score_psi": 0.25,
            "quiet_minutes": 30,
            "wait_days": 7,
        },
    }
)
SCORES = np.random.default_rng(1).random(1000)
EXPECTED = (deciles(SCORES), parts(SCORES, deciles(SCORES)))
STAYS = [Stay(1, 0.1, START.isoformat()), Stay(2, 0.5, (START + timedelta(hours=1)).isoformat())]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def requests(channel: str, many: int = 1000, generation: int = 2, **more: Any) -> list[dict[str, Any]]:
    release = "r-new" if channel == "canary" else "r-old"
    start = START + timedelta(hours=generation - 1, seconds=1)
    return predictions(release, channel, generation, np.resize(SCORES, many).tolist(), start=start, **more)


def seen() -> Watched:
    return watch("r-new", STAYS, RULES, EXPECTED)


def verdict(watched: Watched, minutes: int = 61) -> tuple[str, str]:
    found, why, _ = judge(watched, RULES, START + timedelta(minutes=minutes))
    return found, why


def test_a_log_that_is_not_there_has_no_rows() -> None:
    assert len(read_log(START.isoformat())) == 0
    assert verdict(seen()) == ("undecided", "100 more requests at 50%")


def test_the_log_is_read_whatever_state_it_is_in() -> None:
    rows = requests("canary", 10) + requests("canary", 3, shadow=True, name="shadow")
    write(rows)
    frame = pd.DataFrame(rows[:4]).drop(columns="features")
    frame["at"] = pd.to_datetime(frame["at"], format="ISO8601")
    day = FOLDER / rows[0]["at"][:10]
    frame.to_parquet(day / "it's.parquet")
    with (day / "1-a.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(requests("canary", 11)[-1])[:40])
    found = read_log(START.isoformat())
    assert list(found["unit"]) == [row["key"] for row in rows[:10]], "once each, without the shadow's and the torn one"
    assert len(read_log((START + timedelta(hours=2)).isoformat())) == 0


def test_only_this_release_and_its_own_time_in_the_canary_count() -> None:
    write(requests("canary", 50) + requests("production", 70, errors=7))
    write(predictions("r-other", "canary", 2, SCORES, start=START + timedelta(hours=2)))
    write(predictions("r-new", "canary", 7, SCORES, start=START + timedelta(hours=2)))
    found = seen()
    assert (found.requests, found.production_requests, found.production_errors) == (50, 70, 7)


def test_a_key_that_fails_again_and_again_counts_once() -> None:
    write(requests("canary", 1000, errors=30))
    write(requests("production", 1000, errors=30))
    by_chance = seen().e_excess
    rows = [row | {"key": "one customer"} if row["error"] else row for row in requests("canary", 1000, errors=900)]
    for number, row in enumerate(rows):
        row["prediction_id"] = f"more-{number}"
    write(rows)
    found = seen()
    assert found.e_excess < 4 * by_chance
    assert (found.requests, found.errors) == (1000 + 1, 30 + 1)


def again(row: dict[str, Any], many: int) -> list[dict[str, Any]]:
    """The same request, sent so many times more."""
    return [row | {"prediction_id": f"again-{row['prediction_id']}-{number}"} for number in range(many)]


def test_a_request_that_is_sent_again_and_again_takes_a_release_nowhere() -> None:
    row, other = requests("canary", 2)
    write([row, *again(row, 1000)])
    assert verdict(seen()) == ("undecided", "99 more requests at 50%")
    write(requests("canary", 1000))
    assert seen().score_psi == pytest.approx(0, abs=0.03)
    write(again(other | {"score": None, "error": "RuntimeError", "latency_ms": 500.0}, 1000))
    found, why = verdict(seen())
    assert (found, why.split(" of ")[0]) == ("undecided", "33.3%"), "a person looks at it"


def test_a_request_that_failed_is_no_evidence_when_one_of_its_rows_is_not_that_of_its_key() -> None:
    request, rows = uuid4(), requests("canary", 2, errors=2)
    pair = [row | {"prediction_id": f"{request}-{n}", "agrees": n == 0} for n, row in enumerate(rows)]
    write(pair)
    assert len(read_log(START.isoformat())) == 0
    write([row | {"channel": "production", "error": None} for row in pair])
    assert list(read_log(START.isoformat())["unit"]) == [rows[0]["key"]], "answered, the true row counts"


def test_a_request_of_many_rows_is_one_request() -> None:
    write(requests("canary", 400) + requests("production", 400))
    few = seen()
    rows = requests("canary", 300, errors=300, name="rows")
    write([row | {"prediction_id": f"{uuid4()!s:.35}0-{n}", "key": None} for n, row in enumerate(rows[:2])])
    one = str(uuid4())
    write([row | {"prediction_id": f"{one}-{n}", "key": None} for n, row in enumerate(rows)])
    found = seen()
    assert (found.requests, found.errors) == (few.requests + 3, 3)
    assert found.e_excess < 10


def test_the_same_errors_weigh_by_the_share_that_the_canary_had() -> None:
    write(requests("canary", 500, errors=12) + requests("production", 500, errors=12))
    assert seen().e_excess < 1, "at half of the requests, half of the errors"
    shutil.rmtree(FOLDER)
    write(requests("canary", 500, 1, errors=12) + requests("production", 500, 1, errors=12))
    assert seen().e_excess > 1e4, "at a tenth, far too many"


def test_healthy_requests_promote_and_each_trouble_has_its_verdict() -> None:
    write(requests("canary", 1000) + requests("production", 1000))
    good = seen()
    assert verdict(good)[0] == "promote"
    assert verdict(replace(good, e_excess=80))[0] == "roll back"
    assert verdict(replace(good, e_errors=80))[0] == "roll back"
    assert verdict(replace(good, e_slow=80))[0] == "roll back"
    assert verdict(replace(good, e_excess=79))[0] == "promote", "four tests share alpha"
    assert verdict(replace(good, e_within=19))[0] == "undecided"
    assert verdict(replace(good, p99_ms=101))[0] == "undecided"
    assert verdict(replace(good, p99_ms=None))[0] == "undecided"
    assert verdict(replace(good, score_psi=0.3))[0] == "undecided"
    assert verdict(replace(good, at_share=99))[0] == "undecided"
    assert verdict(good, minutes=120)[0] == "undecided", "the log has gone quiet"


def test_one_slow_request_in_a_hundred_is_allowed_and_five_are_not() -> None:
    write(requests("canary", 990) + requests("canary", 10, latency_ms=500, name="slow"))
    assert seen().e_slow < 1
    write(requests("canary", 50, latency_ms=500, name="slower"))
    assert seen().e_slow > 1000


def test_scores_as_expected_are_stable_and_shifted_ones_are_not() -> None:
    random = np.random.default_rng(2)
    assert stability(random.random(1000), *EXPECTED) < 0.03
    assert stability(random.random(1000) ** 3, *EXPECTED) > 0.25
    same = np.full(500, 0.25)
    assert stability(same, deciles(same), parts(same, deciles(same))) < 0.02, "a model that says one thing alone"
