"""The monitor as a flow: artifacts, and alerts that a real receiver gets through a real block, once."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import yaml

from lifecycle.params import PARAMS_FILE
from lifecycle.testing import Releases


@pytest.fixture
def received() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook receiver on loopback: its URL, and what it was sent."""
    messages: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", messages
    server.shutdown()
    server.server_close()


def set_monitoring(changes: dict[str, Any]) -> None:
    params = yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8"))
    params["monitoring"] |= changes
    PARAMS_FILE.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def test_a_breach_is_told_through_a_block_once_and_shows_as_an_artifact(
    api: str, releases: Releases, received: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api)
    from prefect.artifacts import Artifact
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    from lifecycle.flows.monitor import monitor

    url, messages = received
    body = {"title": "{{subject}}", "text": "{{body}}"}
    CustomWebhookNotificationBlock(name="ops", url=url, json_data=body).save("ops", overwrite=True)
    alerts = {"blocks": ["custom-webhook/ops", "custom-webhook/nobody"], "cooldown_hours": 24, "runbook": "RUNBOOK"}
    # Whatever there is: no bound at all.
    bounds = {"score_psi": {"fire": 0.0, "clear": 0.0}}
    set_monitoring({"alerts": alerts, "thresholds": bounds, "freshness": {}, "min_rows": 1})

    [breach] = monitor()
    assert breach.startswith(f"{releases.first}/features/score_psi/score/")
    assert monitor() == [breach]
    [message] = messages
    assert message["title"] == "score_psi of score (features)"
    assert all(part in message["text"] for part in ("RUNBOOK", releases.first, "type"))
    table = Artifact.get("monitor")
    assert table is not None
    assert [row["check"] for row in json.loads(table.data)] == ["score_psi"]
    page = Artifact.get("monitor-page")
    assert page is not None
    assert "monitor.html" in page.data
