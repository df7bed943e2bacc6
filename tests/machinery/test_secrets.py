"""No command lets a password out: not to the terminal, not to a log, a record, MLflow, Prefect or git."""

import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer

from lifecycle.cli import app
from lifecycle.errors import UserError, redacted
from lifecycle.params import load_params
from lifecycle.processes import free_port, running, server, wait_until
from lifecycle.testing import CLI, ROOT, Releases, edit_params, environment, is_quiet

# What each command is given; a new command needs a line here. None: it ends only when it is told to.
ARGUMENTS: dict[str, list[str] | None] = {
    "status": ["--json"],
    "verify": ["--all", "--remote"],
    "history": [],
    "diff": ["{first}", "{second}"],
    "trace": ["production"],
    "impact": ["seed"],
    "lineage": [],
    "card": ["production"],
    "report": ["--base", "HEAD"],
    "monitor": ["--act"],
    "incidents": [],
    "check": [],
    "admit": [],
    "track": [],
    "run-stage": ["train", "--commit", "0" * 40],
    "score": [],
    "refresh": [],
    "docs": [],
    "gc": ["--dry-run"],
    "approve": ["{second}"],
    "promote": ["{second}", "--to", "production"],
    "rollback": ["production", "--reason", "a test"],
    "hold": ["staging", "--reason", "a test"],
    "rollout": ["{second}"],
    "release": ["--reason", "a test"],
    "doctor": [],
    "run": ["--json"],
    "sweep": [],
    "restore": ["{first}"],
    "reproduce": ["{first}", "--at-least", "L2"],
    # Its copy of the project has none of these settings, so what it is asked does not matter.
    "drill": ["--only", "nothing"],
    "serve": None,
    "ui": None,
}
# Those that write to MLflow, and to the receiver of OpenLineage.
WRITE = ("doctor", "promote", "rollback", "run", "release", "status")


class Refuse(BaseHTTPRequestHandler):
    """Answers every request with 403, and says which URL it was asked for."""

    def _refuse(self) -> None:
        self.send_error(403, f"{self.path} is not for you")

    do_GET = do_HEAD = do_POST = do_PUT = _refuse  # noqa: N815  the names that http.server asks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[int]:
    """The port of a server that refuses."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        yield receiver.server_address[1]
        receiver.shutdown()
        thread.join()


def found_in(secret: str, folder: Path) -> list[str]:
    """The files that hold a secret, and the objects of git; but for the two in which a person has written it."""
    theirs = (folder / ".git/config", folder / ".dvc/config.local")
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink() and file not in theirs)
    found = [str(file.relative_to(folder)) for file in files if secret.encode() in file.read_bytes()]
    every = ["git", "cat-file", "--batch-all-objects", "--batch"]
    objects = subprocess.run(every, cwd=folder, env=environment(folder), capture_output=True, check=True).stdout
    return [*found, *(["an object of git"] if secret.encode() in objects else [])]


def outputs(folder: Path, names: dict[str, list[str] | None], log: Path, **settings: str) -> Iterator[tuple[str, str]]:
    """What each command prints."""
    for name, arguments in names.items():
        if arguments is not None:
            # A process as a user starts it, and not a fork: each command imports for itself all that it needs.
            command, env = [*CLI, name, *arguments], environment(folder, **settings)
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
            assert "Traceback" not in done.stderr, done.stderr
            yield name, done.stdout + done.stderr
            continue
        ports = ["--port", "0"] if name == "serve" else ["--mlflow-port", "0", "--prefect-port", "0"]
        with running([*CLI, name, *ports], folder, log, environment(folder, **settings)):
            wait_until(lambda: "Ctrl-C ends" in log.read_text(encoding="utf-8"), name)
        yield name, log.read_text(encoding="utf-8")


def test_no_command_lets_a_password_out(releases: Releases, refusing: int, tmp_path: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(ARGUMENTS) == set(commands), "a command is not tried here"
    folder, secret = releases.folder, secrets.token_hex(12)

    def url(port: int) -> str:
        return f"http://team:{secret}@127.0.0.1:{port}"

    named = {
        name: [each.format(**vars(releases)) for each in told] if told is not None else None
        for name, told in ARGUMENTS.items()
    }
    subprocess.run(["git", "remote", "add", "origin", f"{url(refusing)}/project.git"], cwd=folder, check=True)
    remote = f"[core]\n    remote = far\n['remote \"far\"']\n    url = {url(refusing)}/dvc\n"
    (folder / ".dvc/config.local").write_text(remote, encoding="utf-8")
    settings = {
        "MLFLOW_TRACKING_URI": url(free_port()),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "PREFECT_API_URL": f"{url(free_port())}/api",
        "OPENLINEAGE_URL": url(refusing),
        "SERVING_TOKEN": secret,
    }
    leaks = [name for name, said in outputs(folder, named, tmp_path / "served.log", **settings) if secret in said]
    assert not leaks
    wait_until(lambda: is_quiet(folder))
    assert not found_in(secret, folder)

    # And where they answer, and take what is written.
    subprocess.run(["git", "remote", "remove", "origin"], cwd=folder, check=True)
    (folder / ".dvc/config.local").write_text("[core]\n    remote = near\n['remote \"near\"']\n    url = ../near\n")
    port = free_port()
    store = tmp_path / "mlflow"
    store.mkdir()
    start = [str(Path(sys.executable).with_name("mlflow")), "server", "--port", str(port), "--workers", "1"]
    own = environment(store, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    settings |= {"MLFLOW_TRACKING_URI": url(port), "PREFECT_API_URL": ""}
    with server(start, f"http://127.0.0.1:{port}/health", store, store / "server.log", own):
        chosen = {name: named[name] for name in WRITE}
        said = dict(outputs(folder, chosen, tmp_path / "served.log", **settings))
        wait_until(lambda: is_quiet(folder))
    assert "team" not in said["status"] or "***@" in said["status"]
    assert not [name for name, text in said.items() if secret in text]
    assert not found_in(secret, folder)
    assert not [file for file in store.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:{0}@host/x and http://{0}@h", "https://***@host/x and http://***@h"),
        ("postgresql://ada:a@b:{0}@host:5432/db", "postgresql://***@host:5432/db"),
        ("ssh://git@host/x, abfss://box@account.example/x", "ssh://git@host/x, abfss://box@account.example/x"),
        ("ssh://git:{0}@host/x", "ssh://***@host/x"),
        ("GET /x?a=1&X-Amz-Signature={0}&b=2", "GET /x?a=1&X-Amz-Signature=***&b=2"),
        ("https://hooks.slack.com/services/T0/B0/{0}", "https://hooks.slack.com/***"),
        ("the token is {0}.", "the token is ***."),
        ("sqlite:////home/ada@work/mlflow.db", "sqlite:////home/ada@work/mlflow.db"),
    ],
)
def test_a_text_is_shown_without_its_passwords(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(8)
    monkeypatch.setenv("SERVING_TOKEN", secret)
    monkeypatch.setenv("HOME_OF_THE_KEY", "/home/ada/key")
    assert redacted(text.format(secret)) == shown
    assert str(UserError(text.format(secret))) == shown


def test_a_password_in_params_is_refused(tmp_path: Path) -> None:
    secret = secrets.token_hex(8)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    edit_params(tmp_path, {"data": {"source": f"ftp://ada:{secret}@host/x"}})
    with pytest.raises(UserError, match=r"data\.source: .*holds a password") as refused:
        load_params(tmp_path / "params.yaml")
    assert secret not in str(refused.value)
