"""A release's life, on real components: promoted, served, traced to its bytes, rolled back under the server's eyes."""

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pyarrow.parquet as pq
import pytest
import yaml
from lifecycle.contract import load_params
from lifecycle.parts import why_off
from lifecycle.processes import answers, free_port, server, wait_until
from lifecycle.testing import CLI, Releases, cli, cli_json, environment


def keys(folder: Path) -> list[Any]:
    """Keys of a few rows of the feature table."""
    artifacts = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["artifacts"].values()
    table = next(folder / each["path"] for each in artifacts if each["type"] == "dataset")
    column = load_params().monitoring.columns.key
    found: list[Any] = pq.read_table(table, columns=[column])[column].to_pylist()
    return found[:3]


def test_from_promotion_to_rollback(releases: Releases) -> None:
    if off := why_off("serving"):
        pytest.skip(off)
    folder, port = releases.folder, free_port()
    url, column = f"http://127.0.0.1:{port}", load_params().monitoring.columns.key
    cli_json("refresh")  # features by key

    def ask(key: Any) -> Any:
        body = json.dumps({"row": {column: key}}).encode()
        request = Request(f"{url}/predict", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    command = [*CLI, "serve", "--port", str(port)]
    with server(command, f"{url}/health/ready", folder, folder / "serve.log", environment(folder)):
        first, *more = keys(folder)
        assert ask(first)["release"] == releases.first
        cli_json("promote", releases.second, "--to", "production")
        wait_until(lambda: ask(first)["release"] == releases.second, "the server does not follow the promotion")
        predictions = [ask(key) for key in more]
        cli_json("rollback", "production", "--reason", "worse than the one before")
        wait_until(lambda: ask(first)["release"] == releases.first, "the server does not follow the rollback")
        assert answers(f"{url}/health/ready")

    traced = cli("trace", predictions[0]["prediction_id"])
    assert traced.returncode == 0, traced.stderr
    assert releases.second in traced.stdout
    assert "data/raw/" in traced.stdout
    assert "approval" in traced.stdout
    assert cli("verify", "--all").returncode == 0
    assert cli("promote", releases.second, "--to", "production").returncode != 0  # it is in quarantine
