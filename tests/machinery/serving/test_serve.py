"""`serve` as a process: releases that change under load, ends that are clean and ends that are not."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from lifecycle.predictions import log as predictions
from lifecycle.processes import free_port, running, wait_until
from lifecycle.testing import CLI, Releases, cli, environment

from clients import Asking, Client, probe, send
from workers import move, move_back

LOG = Path("serve.log")


@contextmanager
def server(folder: Path, *arguments: str, **more: str) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    port = free_port()
    with running([*CLI, "serve", "--port", str(port), *arguments], folder, LOG, environment(folder, **more)) as process:
        wait_until(lambda: process.poll() is not None or f":{port}  " in LOG.read_text(encoding="utf-8"))
        assert process.poll() is None, LOG.read_text(encoding="utf-8")
        yield process, Client(port)


class Load(Asking):
    """Each client has one connection."""

    def __init__(self, port: int, rows: list[dict[str, Any]], clients: int = 3) -> None:
        super().__init__(clients)
        self.answers: list[tuple[float, int, Any]] = []
        self.cut_off: list[Exception] = []
        self._port, self._rows = port, rows

    def _ask(self, number: int) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            while not self._stop.is_set():
                status, answer = send(connection, "POST", "/predict", {"rows": self._rows, "key": number})
                self.answers.append((time.monotonic(), status, answer))
        except (OSError, HTTPException) as error:  # right only where the test has ended the server
            self.cut_off.append(error)


def test_releases_change_under_load_and_no_answer_is_lost_or_mixed(releases: Releases) -> None:
    rows, _ = probe(releases.first)
    expected = {each: probe(each)[1] for each in (releases.first, releases.second)}
    with server(releases.folder) as (process, client):
        with Load(client.port, rows) as load:
            for _ in range(2):
                for release in (releases.second, releases.first):
                    if release == releases.second:
                        move(release, "production", reason="a test")
                    else:
                        move_back("production", "a test")
                    moved = time.monotonic()
                    wait_until(lambda release=release: load.answers[-1][2].get("release") == release)  # type: ignore[misc]
                    # A second where nothing else runs; here it is busy.
                    assert time.monotonic() - moved < 10
            assert load.cut_off == []
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        assert len(load.answers) > 20
        for _, status, answer in load.answers:
            assert status == 200, answer
            scores = [each["score"] for each in answer["predictions"]]
            assert scores == pytest.approx(expected[answer["release"]], rel=1e-9)
    assert {answer["generation"] for _, _, answer in load.answers} == {1, 2, 3, 4, 5}
    # What was answered is logged: a clean end loses nothing.
    (total,) = [predictions.counts()]
    assert sum(total.values()) >= len(load.answers) * len(rows)
    assert len(predictions.find(load.answers[-1][2]["prediction_id"])) == len(rows)


def test_a_kill_loses_no_more_than_is_said(releases: Releases) -> None:
    rows, _ = probe(releases.first)
    with server(releases.folder) as (process, client), Load(client.port, rows[:2]) as load:
        wait_until(lambda: load.answers and load.answers[-1][0] - load.answers[0][0] > 2)
        # How long the disk takes is not ours: see that it has kept up, as the promise has it.
        info = client.get("/info")["log"]
        assert (info["dropped"], info["problem"]) == (0, None)
        os.kill(process.pid, signal.SIGKILL)
        killed = time.monotonic()
        process.wait()
    bound = 0.2 + 1.0  # the interval, and a write to a disk that others use too
    assert "0.2 s" in info["a_crash_loses"]
    logged = predictions.counts()[releases.first]
    early = [answer for at, _, answer in load.answers if at < killed - bound]
    assert early
    assert logged >= 2 * len(early)
    for answer in (early[0], early[len(early) // 2], early[-1]):
        assert len(predictions.find(answer["prediction_id"])) == 2
    (traced,) = [cli("trace", early[-1]["predictions"][1]["prediction_id"], "--json")]
    assert traced.returncode == 0, traced.stderr
    assert releases.first in traced.stdout
    assert early[-1]["prediction_id"] in traced.stdout
    reached = cli("impact", "train.num_leaves")
    assert f"{logged:,}  answered with it" in reached.stdout, reached.stdout + reached.stderr


def test_what_is_wrong_is_said_in_one_line(releases: Releases) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("serve", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: 127.0.0.1:{port} cannot be listened on")
    assert len(done.stderr.splitlines()) == 1
    unknown = cli("trace", "019b76da-a800-7000-8000-000000000000")
    assert unknown.returncode == 1
    assert "of 2026-01-01 is not in logs/predictions" in unknown.stderr
    assert len(unknown.stderr.splitlines()) == 1


def test_the_token_comes_from_the_environment(releases: Releases) -> None:
    with server(releases.folder, SERVING_TOKEN="a secret") as (_, client):
        assert client.ask("GET", "/info")[0] == 401
        assert client.ask("GET", "/info", Authorization="Bearer a secret")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "token", "said"),
    [
        ([], "", "SERVING_TOKEN is empty"),
        ([], "geh\u00e4im", "SERVING_TOKEN must be printable ASCII"),
        ([], " a", "SERVING_TOKEN must be printable ASCII"),
        (["--host", "0.0.0.0"], None, "set SERVING_TOKEN in the environment, or add --no-token"),
    ],
)
def test_a_server_that_would_protect_nothing_does_not_start(
    arguments: list[str], token: str | None, said: str, releases: Releases
) -> None:
    more = {} if token is None else {"SERVING_TOKEN": token}
    done = subprocess.run(
        [*CLI, "serve", "--port", "0", *arguments],
        env=environment(releases.folder, **more),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_others_may_ask_without_a_token_where_somebody_says_so(releases: Releases) -> None:
    with server(releases.folder, "--host", "0.0.0.0", "--no-token") as (_, client):
        assert client.ask("GET", "/info", Host="10.1.2.3")[0] == 200
        assert client.ask("GET", "/info", Host="evil.example")[0] == 421


def test_an_ordinary_move_is_no_warning_and_nothing_in_the_log_moves_the_cursor(releases: Releases) -> None:
    with server(releases.folder) as (_, client):
        move(releases.second, "production", reason="a test")
        wait_until(lambda: client.get("/info")["channels"]["production"]["release"] == releases.second)
        pointer = Path(".lifecycle/channels/production.json")
        pointer.write_text(pointer.read_text(encoding="utf-8").replace(releases.second, "r-\\u001b[2J"))
        wait_until(lambda: client.get("/info")["channels"]["production"].get("problem"))
    said = LOG.read_text(encoding="utf-8")
    assert f"INFO production serves {releases.second}, generation 2" in said
    assert "WARNING" not in said
    assert "ERROR production: " in said
    assert "\x1b" not in said
