"""The Prefect API and the MLflow pages on this machine.

`ensure_api` starts a Prefect API for the duration of one run: Prefect's own temporary server takes about twice as long
to start, and a script without a server cannot run a flow. It shares its database with `ui`, so that runs show up there
afterwards, and does not start schedulers.

Every server stops with the process that started it, even if that was killed, and only answers this machine: a request
with another Host or Origin is refused, so no web page can read or change anything here.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..releases import databases
from ..releases.tracking import tracking_uri

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOGS = Path("logs")

_started: list[subprocess.Popen[bytes]] = []


def ensure_api() -> None:
    """Make sure that flows in this process have an API: the one in PREFECT_API_URL, or a new one.

    A new one stops when this process ends, and not before: Prefect sends its last logs during shutdown.
    """
    # The progress lines and the logs are more useful than Prefect's output in the terminal.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    if os.environ.get("PREFECT_API_URL"):
        return
    with socket.socket() as listener:
        # Bind the port now: requests that arrive before the server is up wait in its queue.
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        _started.append(start("prefect", listener, "ephemeral"))
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def what_is_wrong(error: Exception) -> str | None:
    """Return the message for a flow's error if its API caused it, else None."""
    unreachable = "Failed to reach API" in str(error)
    if not _started:
        url = os.environ.get("PREFECT_API_URL")
        return f"Prefect at {url} cannot be reached: start it, or unset PREFECT_API_URL" if unreachable else None
    if wrong := databases.damage(databases.PREFECT):
        return databases.damaged_prefect(wrong)
    return f"Prefect's server, which `run` starts, has ended: {log_of('prefect')} says why" if unreachable else None


def start(name: str, listener: socket.socket, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a server on the listener. Its output goes to logs/NAME.log."""
    LOGS.mkdir(exist_ok=True)
    with log_of(name).open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, name, str(listener.fileno()), *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            # Ctrl-C is handled by the parent process, which then stops this one cleanly.
            start_new_session=True,
        )


def log_of(name: str) -> Path:
    """Return the path of a server's log."""
    return LOGS / f"{name}.log"


class OnlyThisMachine:
    """Refuse requests from other sites' pages (Origin) and with other names (Host, as in DNS rebinding)."""

    def __init__(self, app: "ASGIApp", port: int) -> None:
        self._app = app
        self._origins = {origin.encode() for origin in _origins(port)}
        self._hosts = {origin.removeprefix(b"http://") for origin in self._origins}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Handle the request, or respond with 403."""
        headers = scope.get("headers", [])
        hosts = {value for name, value in headers if name == b"host"}
        origins = {value for name, value in headers if name == b"origin"}
        if scope["type"] == "lifespan" or (hosts and hosts <= self._hosts and origins <= self._origins):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"Only pages of this server on this machine may ask."})


def _prefect(listener: socket.socket, ephemeral: bool) -> None:
    port = listener.getsockname()[1]
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["PREFECT_UI_API_URL"] = f"http://127.0.0.1:{port}/api"
    # For the page under this machine's other name; by default Prefect allows every origin.
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(_origins(port))
    import uvicorn
    from prefect.server.api.server import create_app

    app = OnlyThisMachine(create_app(ephemeral=ephemeral), port)
    uvicorn.run(app, fd=listener.fileno(), log_level="warning", timeout_graceful_shutdown=1)


def _mlflow(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    # MLflow opens its own socket.
    listener.close()
    # Its job workers are only for judging and tracing language models.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    # Not an argument, since every user of the machine can see those and it may contain a password.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = tracking_uri()
    os.environ["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(_origins(port))
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = os.environ["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].replace("http://", "")
    from mlflow.cli import cli

    cli(["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"])


def _origins(port: int) -> list[str]:
    return [f"http://{name}:{port}" for name in ("127.0.0.1", "localhost")]


def _end_with_parent() -> None:
    # Standard input is a pipe without writes: it closes when the parent ends, even if that was killed.
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)


def main(name: str, listener: str, *arguments: str) -> None:
    """Run a server in this process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    taken = socket.socket(fileno=int(listener))
    if name == "mlflow":
        _mlflow(taken)
    else:
        _prefect(taken, "ephemeral" in arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
