"""The server on the wire: answers, refusals, the canary, and releases that come and go."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from lifecycle.files import write_text
from lifecycle.params import load_params
from lifecycle.processes import wait_until
from lifecycle.releases import loading, pointers
from lifecycle.serving.guard import MISDIRECTED, guard
from lifecycle.serving.routing import position
from lifecycle.testing import Releases

from clients import SWITCH, Serve, Served, probe
from workers import move, move_back

POINTER = pointers.FOLDER / "production.json"


def scores(answer: dict[str, Any]) -> list[float]:
    return [each["score"] for each in answer["predictions"]]


def test_one_row_and_many_are_answered_and_logged(releases: Releases, serve: Serve) -> None:
    server = serve()
    rows, expected = probe(releases.first)
    status, one = server.predict({"row": rows[0], "key": "a"})
    assert status == 200
    assert (one["release"], one["channel"], one["generation"]) == (releases.first, "production", 1)
    assert scores(one) == pytest.approx(expected[:1], rel=1e-9)
    status, many = server.predict({"rows": rows * 5})
    assert scores(many) == pytest.approx(expected * 5, rel=1e-9)
    (line,) = server.logged(one["predictions"][0]["prediction_id"])
    assert (line["release"], line["generation"], line["key"], line["error"]) == (releases.first, 1, "a", None)
    assert line["score"] == scores(one)[0]
    assert line["features"] == rows[0]
    assert line["latency_ms"] > 0
    assert len(server.logged(many["prediction_id"], len(rows) * 5)) == len(rows) * 5
    metrics = server.get("/metrics")
    assert (
        f'serving_predictions_total{{channel="production",release="{releases.first}"}} {len(rows) * 5 + 1}.0' in metrics
    )


def test_what_does_not_fit_is_refused_and_nothing_is_said_of_the_inside(releases: Releases, serve: Serve) -> None:
    server = serve(max_rows=3, max_body_kb=8)
    (row, *_), _ = probe(releases.first)
    name = server.loader.table.channels[0].loaded.schema.fields[0].name
    bodies: list[tuple[Any, int, str | None, str]] = [
        (b"", 422, None, "not JSON"),
        (b"{", 422, None, "not JSON"),
        (b"\xff", 422, None, "not JSON"),
        (b"[" * 5000, 422, None, "not JSON"),
        ([], 422, None, "the body must be"),
        ({}, 422, None, "the body must be"),
        ({"row": row, "rows": [row]}, 422, None, "the body must be"),
        ({"row": row, "kye": 1}, 422, "kye", "optionally"),
        ({"rows": []}, 422, "rows", "1 to 3"),
        ({"rows": [row] * 4}, 422, "rows", "1 to 3"),
        ({"rows": {"0": row}}, 422, "rows", "1 to 3"),
        ({"row": row, "key": ""}, 422, "key", "text of"),
        ({"row": row, "key": 1.5}, 422, "key", "text of"),
        ({"row": row, "key": "x" * 201}, 422, "key", "text of"),
        ({"row": 3}, 422, None, "a row is"),
        ({"row": {}}, 422, name, "missing"),
        ({"row": row | {"unheard_of": 1}}, 422, "unheard_of", "not a feature"),
        ({"row": row | {name: float("nan")}}, 422, name, "finite"),
        ({"row": row | {name: float("-inf")}}, 422, name, "finite"),
        ({"row": row | {name: {"a": 1}}}, 422, name, "got an object"),
        ({"row": row | {name: "\x1b[2J\x9b"}}, 422, name, "\\u001b[2J\\x9b"),
        (b'{"row": {"a": 1, "a": 2}}', 422, "a", "twice"),
        (b'{"row": {}, "key": "1", "key": "2"}', 422, "key", "twice"),
        (b'{"row": {"a": ":", "b": {"c": 1, "c": 1}}}', 422, "c", "twice"),
        (b'{"row": ' + b"[" * 1000 + b"]" * 1000 + b', "row": {}}', 422, None, "too deeply"),
        (b"x" * 9000, 413, None, "larger than 8 kB"),
    ]
    for body, wanted, field, reason in bodies:
        status, answer = server.predict(body)
        assert status == wanted, body
        assert (answer["release"], answer["channel"], answer["generation"]) == (releases.first, "production", 1)
        assert answer["prediction_id"]
        assert answer["errors"][0]["field"] == field, body
        assert reason in answer["errors"][0]["reason"], body
    assert server.predict({"row": row})[0] == 200
    assert server.predict({"row": row | {name: None}})[0] == 200
    _, answer = server.predict({"row": row | {name: []}})
    assert "got a list" in answer["errors"][0]["reason"]
    for method, path, wanted in (("GET", "/predict", 405), ("POST", "/info", 405), ("GET", "/none", 404)):
        status, answer = server.ask(method, path)
        assert (status, list(answer)) == (
            wanted,
            ["prediction_id", "release", "channel", "generation", "online", "errors"],
        )
        assert answer["errors"][0]["reason"]
    assert server.ask("POST", "/predict/", {"row": row})[0] == 404


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/json-seq"])
def test_only_json_is_taken(kind: str, releases: Releases, serve: Serve) -> None:
    """A web page may send the other types to any server, and no browser asks that server first."""
    server = serve()
    (row, *_), _ = probe(releases.first)
    status, answer = server.predict({"row": row}, **{"Content-Type": kind})
    assert (status, answer["errors"][0]["reason"]) == (415, "the Content-Type must be application/json")
    assert server.predict({"row": row}, **{"Content-Type": "Application/JSON; charset=utf-8"})[0] == 200


PATHS = (("POST", "/predict"), ("GET", "/info"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/none"))


def test_another_host_or_origin_gets_nothing_but_health(releases: Releases, serve: Serve) -> None:
    server = serve(names=["models.example.com", "other.example.com:8443"])
    (row, *_), _ = probe(releases.first)
    here = f"127.0.0.1:{server.port}"

    def ask(method: str, path: str, **headers: str) -> int:
        status, answer = server.ask(method, path, {"row": row} if method == "POST" else None, **headers)
        assert status in (200, 404) or answer["errors"][0]["reason"]
        return status

    known = [here, f"localhost:{server.port}", f"LOCALHOST:{server.port}", f"[::1]:{server.port}"]
    known += ["models.example.com", f"models.example.com:{server.port}", "other.example.com:8443"]
    strange = ["evil.example", f"evil.example:{server.port}", "127.0.0.1", "127.0.0.1:1", f"10.0.0.9:{server.port}"]
    strange += ["other.example.com", f"{here}.evil.example", ""]
    for method, path in PATHS:
        for host in known:
            assert ask(method, path, Host=host) == (404 if path == "/none" else 200), (path, host)
        for host in strange:
            assert ask(method, path, Host=host) == 421, (path, host)
        for origin in ("https://evil.example", "null", f"http://localhost:{server.port}", "http://127.0.0.1", ""):
            assert ask(method, path, Origin=origin) == 403, (path, origin)
        assert ask(method, path, Origin=f"http://{here}") == (404 if path == "/none" else 200)
        assert ask(method, path, Host="models.example.com", Origin="https://models.example.com") in (200, 404)
    assert ask("OPTIONS", "/predict", Origin="https://evil.example") == 403
    for path in ("/health", "/health/live", "/health/ready"):
        assert ask("GET", path, Host="evil.example", Origin="https://evil.example") == 200
    found = server.get("/metrics")
    assert 'serving_requests_total{channel="production",outcome="foreign"}' in found


def test_a_server_on_every_address_is_known_by_any_address_and_by_no_name() -> None:
    everywhere = guard("0.0.0.0", 80, ["models.example.com"])
    for host, known in ((b"10.1.2.3", True), (b"[fe80::1]:80", True), (b"10.1.2.3:80", True), (b"evil.example", False)):
        assert (everywhere.refuses([(b"host", host)]) is None) == known, host
    assert everywhere.refuses([(b"host", b"localhost")]) is None
    assert everywhere.refuses([]) == MISDIRECTED
    assert everywhere.refuses([(b"host", b"localhost"), (b"host", b"localhost")]) == MISDIRECTED


def test_a_client_that_leaves_within_its_body_costs_one_line(
    releases: Releases, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    caplog.set_level("INFO")
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f'{head}Content-Length: 5000\r\n\r\n{{"row'.encode())
    wait_until(lambda: 'outcome="gone"} 1.0' in server.get("/metrics"))
    lines = [each for each in caplog.records if each.levelname != "INFO" or "left within its body" in each.message]
    assert [(each.levelname, each.exc_info) for each in lines] == [("INFO", None)]


def test_a_client_that_sends_nothing_or_half_a_request_loses_its_connection(releases: Releases, serve: Serve) -> None:
    server = serve(seconds=1)
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    for sent in ("", head, f"{head}Content-Length: 9\r\n\r\n", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(sent.encode())
            while connection.recv(4096):
                pass  # an answer; then the end of the connection, which a timeout would not be


def test_the_description_is_that_of_the_release(releases: Releases, serve: Serve) -> None:
    found = serve().get("/openapi.json")
    features = loading.RELEASES / releases.first / "model/features.json"
    row = found["components"]["schemas"]["Row"]
    assert found["info"]["version"] == releases.first
    names = [each["name"] for each in json.loads(features.read_text(encoding="utf-8"))]
    assert list(row["properties"]) == [*names, load_params().monitoring.columns.key]
    assert {"/predict", "/health/live", "/health/ready", "/info", "/metrics"} <= found["paths"].keys()


def test_with_a_token_only_health_is_open(releases: Releases, serve: Serve) -> None:
    server = serve(token="a secret")
    (row, *_), _ = probe(releases.first)
    for method, path in (("POST", "/predict"), ("GET", "/info"), ("GET", "/metrics"), ("GET", "/openapi.json")):
        for headers in (
            {},
            *({"Authorization": each} for each in ("Bearer another", "a secret", "Bearer", "Basic a secret")),
        ):
            assert server.ask(method, path, {"row": row}, **headers)[0] == 401, path
    right = {"Authorization": "Bearer a secret"}
    assert server.predict({"row": row}, **right)[0] == 200
    assert server.predict({"row": row}, Authorization="bearer a secret")[0] == 200  # a scheme's case does not count
    assert server.ask("GET", "/info", **right)[0] == 200
    assert server.ask("GET", "/health/ready")[0] == 200


def test_nothing_to_serve_is_not_ready_and_says_why_until_there_is(releases: Releases, serve: Serve) -> None:
    content = POINTER.read_text(encoding="utf-8")
    POINTER.unlink()
    server = serve()
    assert server.ask("GET", "/health/live")[0] == 200
    status, answer = server.ask("GET", "/health/ready")
    assert (status, answer["status"]) == (503, "not ready")
    assert "no .lifecycle/channels/production.json" in answer["reason"]
    status, answer = server.predict({"row": {}})
    assert (status, answer["release"], answer["channel"]) == (503, None, None)
    assert "no .lifecycle/channels/production.json" in answer["errors"][0]["reason"]
    write_text(POINTER, content)
    server.wait_for("production", releases.first)
    assert server.ask("GET", "/health/ready")[0] == 200


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"release": 5}', "gone", '{"traffic": "all"}', "a folder"])
def test_a_pointer_that_is_damaged_or_gone_changes_nothing(damage: str, releases: Releases, serve: Serve) -> None:
    server = serve()
    content = json.loads(POINTER.read_text(encoding="utf-8"))
    POINTER.unlink()
    if damage == "a folder":
        POINTER.mkdir()
    elif damage != "gone":
        write_text(POINTER, json.dumps(content | json.loads(damage)) if ":" in damage else damage)
    wait_until(lambda: server.get("/info")["channels"]["production"].get("problem"))
    assert_serves(server, releases.first)
    assert "production.json" in server.get("/info")["channels"]["production"]["problem"]
    assert 'serving_behind{channel="production"} 1.0' in server.get("/metrics")
    if damage == "a folder":
        POINTER.rmdir()
    write_text(POINTER, json.dumps(content))
    wait_until(lambda: not server.get("/info")["channels"]["production"].get("problem"))
    assert 'serving_behind{channel="production"} 0.0' in server.get("/metrics")


def assert_serves(server: Served, release: str) -> None:
    rows, expected = probe(release)
    status, answer = server.predict({"rows": rows})
    assert (status, answer["release"]) == (200, release)
    assert scores(answer) == pytest.approx(expected, rel=1e-9)


def point_at(release: str) -> None:
    pointer = json.loads(POINTER.read_text(encoding="utf-8"))
    write_text(POINTER, json.dumps(pointer | {"release": release, "generation": pointer["generation"] + 1}))


def test_a_release_that_does_not_hold_is_refused_and_the_old_one_goes_on(releases: Releases, serve: Serve) -> None:
    server = serve()
    # A byte of its model, here and in the cache and in the remote.
    shutil.rmtree(loading.RELEASES / releases.second)
    wanted = Path("model/model.txt").read_bytes()
    kept = [*Path(".dvc/cache").rglob("*"), *Path(".dvc-remote").rglob("*")]
    damaged = [each for each in kept if each.is_file() and each.read_bytes() == wanted]
    assert damaged
    for path in damaged:
        path.chmod(0o644)
        path.write_bytes(wanted.replace(b"leaf_value=", b"leaf_value=9", 1))
    point_at(releases.second)
    wait_until(lambda: server.get("/info")["channels"]["production"].get("problem"))
    told = server.get("/info")["channels"]["production"]
    assert (told["release"], told["refused"]) == (releases.first, releases.second)
    assert "cannot be used" in told["problem"]
    assert_serves(server, releases.first)
    assert server.ask("GET", "/health/ready")[0] == 200
    for path in damaged:  # and once it is whole again, it is taken without another word
        path.write_bytes(wanted)
    server.wait_for("production", releases.second)
    assert_serves(server, releases.second)


@pytest.mark.parametrize("release", ["r-000000000000", "../../..", ""])
def test_a_release_that_nobody_made_is_refused(release: str, releases: Releases, serve: Serve) -> None:
    server = serve()
    point_at(release)
    wait_until(lambda: server.get("/info")["channels"]["production"].get("problem"))
    assert_serves(server, releases.first)


def test_the_ledger_the_registry_and_the_cache_may_be_gone(releases: Releases, serve: Serve) -> None:
    move(releases.second, "production")
    move_back("production", "a test")
    shutil.rmtree(".dvc/cache")
    shutil.rmtree(".dvc-remote")
    Path("mlflow.db").unlink()
    shutil.rmtree(".git/refs")
    Path(".git/refs").mkdir()
    Path(".git/packed-refs").unlink(missing_ok=True)
    server = serve()
    point_at(releases.second)
    server.wait_for("production", releases.second)
    Path(".git").rename(".git-away")
    point_at(releases.first)
    wait_until(lambda: server.get("/info")["channels"]["production"].get("problem"))
    Path(".git-away").rename(".git")
    status, answer = server.predict({"row": None})
    assert (status, answer["release"]) == (422, releases.second)


def test_a_canary_gets_its_share_and_a_key_stays_with_its_channel(releases: Releases, serve: Serve) -> None:
    server = serve(breaker={"slow_ms": 20_000})
    (row, *_), _ = probe(releases.first)
    move(releases.second, "canary", traffic=0.5)
    server.wait_for("canary", releases.second)
    expected = {each: probe(each)[1][0] for each in (releases.first, releases.second)}
    channels = {}
    for key in [*map(str, range(40)), *map(str, range(40))]:
        status, answer = server.predict({"row": row, "key": key})
        assert status == 200
        assert answer["channel"] == channels.setdefault(key, answer["channel"])
        assert answer["channel"] == ("canary" if position(key, releases.second) < 0.5 else "production")
        assert answer["release"] == (releases.second if answer["channel"] == "canary" else releases.first)
        assert scores(answer) == pytest.approx([expected[answer["release"]]], rel=1e-9)
    assert set(channels.values()) == {"canary", "production"}
    move(releases.second, "canary", traffic=1.0)
    wait_until(lambda: server.get("/info")["channels"]["canary"]["traffic"] == 1)
    assert {server.predict({"row": row})[1]["channel"] for _ in range(10)} == {"canary"}
    move_back("canary", "a test")
    server.wait_for("canary", None)
    assert server.predict({"row": row})[1]["channel"] == "production"


def test_a_shadow_is_asked_and_production_answers(releases: Releases, serve: Serve) -> None:
    server = serve(breaker={"slow_ms": 20_000})
    rows, expected = probe(releases.first)
    move(releases.second, "canary")
    server.wait_for("canary", releases.second)
    status, answer = server.predict({"row": rows[0], "key": "k"})
    assert (status, answer["channel"]) == (200, "production")
    assert scores(answer) == pytest.approx(expected[:1], rel=1e-9)
    answered, shadow = server.logged(answer["prediction_id"], lines=2)
    assert [answered["channel"], shadow["channel"]] == ["production", "canary"]
    assert [answered["shadow"], shadow["shadow"]] == [False, True]
    assert shadow["release"] == releases.second
    assert shadow["score"] == pytest.approx(probe(releases.second)[1][0], rel=1e-9)
    assert (shadow["request"], shadow["features"]) == (answered["request"], answered["features"])


def test_without_shadows_a_canary_without_a_share_is_not_asked(releases: Releases, serve: Serve) -> None:
    server = serve(shadow=False)
    (row, *_), _ = probe(releases.first)
    move(releases.second, "canary")
    server.wait_for("canary", releases.second)
    answers = [server.predict({"row": row})[1]["prediction_id"] for _ in range(3)]
    server.logged(answers[-1])
    assert [len(server.logged(each)) for each in answers] == [1, 1, 1]


@pytest.mark.parametrize("how", ["crash", "slow"])
def test_production_answers_for_a_canary_that_fails_and_the_breaker_opens(
    how: str, releases: Releases, third: str, serve: Serve
) -> None:
    bounds = {"failures": 3, "within_seconds": 60, "slow_ms": 300, "rest_seconds": 1}
    server = serve(breaker=bounds)
    rows, expected = probe(releases.first)
    move(third, "canary", traffic=1.0)
    server.wait_for("canary", third)

    def ask() -> dict[str, Any]:
        status, answer = server.predict({"row": rows[0]})
        assert status == 200
        return answer

    wait_until(lambda: ask()["channel"] == "canary")
    SWITCH.write_text(how)
    failed = []
    for _ in range(3):
        answer = ask()
        assert (answer["channel"], answer["release"]) == ("production", releases.first)
        assert scores(answer) == pytest.approx(expected[:1], rel=1e-9)
        failed.append(answer["prediction_id"])
    assert server.get("/info")["channels"]["canary"]["breaker"] == "open"
    left_alone = ask()
    assert left_alone["channel"] == "production"
    assert len(server.logged(left_alone["prediction_id"])) == 1
    for each in failed:
        answered, tried = server.logged(each, lines=2)
        assert (answered["channel"], answered["error"]) == ("production", None)
        assert (tried["channel"], tried["shadow"], tried["score"]) == ("canary", False, None)
        assert tried["error"].startswith("error: RuntimeError: as asked" if how == "crash" else "slow: ")
    reason = "error" if how == "crash" else "slow"
    assert f'serving_canary_failures_total{{reason="{reason}"}} 3.0' in server.get("/metrics")
    SWITCH.unlink()
    wait_until(lambda: ask()["channel"] == "canary")
    assert server.get("/info")["channels"]["canary"]["breaker"] == "closed"


def test_a_failure_of_production_is_told_without_its_inside(releases: Releases, third: str, serve: Serve) -> None:
    server = serve()
    (row, *_), _ = probe(releases.first)
    point_at(third)
    server.wait_for("production", third)
    SWITCH.write_text("crash")
    status, answer = server.predict({"row": row})
    assert (status, answer["release"]) == (500, third)
    assert "as asked" not in str(answer)
    assert "Traceback" not in str(answer)
    (line,) = server.logged(answer["prediction_id"])
    assert line["error"] == "RuntimeError: as asked"
    SWITCH.unlink()
    assert server.predict({"row": row})[0] == 200
