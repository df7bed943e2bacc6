"""A Prefect API for as long as one run takes.

Prefect's own temporary server costs about twice as much to start, and a script with no server at all cannot run a
flow. This one shares its database with `ui`, so that runs show up there afterwards; it starts no schedulers, and
it ends with the process that started it, however that ends.
"""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from ..lifecycle import databases

LOG = Path("logs/prefect.log")

_started: list[subprocess.Popen[bytes]] = []


def ensure_api() -> None:
    """See that flows of this process have an API: the one PREFECT_API_URL names, else one of our own.

    Ours ends when this process does, and not before: Prefect sends its last logs on the way out.
    """
    # One line a step, and the logs, tell a person more than Prefect's lines in the terminal.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    if os.environ.get("PREFECT_API_URL"):
        return
    with socket.socket() as listener:
        # The port is ours from here on, and who connects before the server is up waits in its queue.
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        LOG.parent.mkdir(exist_ok=True)
        with LOG.open("w", encoding="utf-8") as log:
            _started.append(
                subprocess.Popen(
                    [sys.executable, "-m", __name__, str(listener.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[listener.fileno()],
                )
            )
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def what_is_wrong(error: Exception) -> str | None:
    """What to say of an error of a flow, if it is its API's."""
    unreachable = "Failed to reach API" in str(error)
    if not _started:
        url = os.environ.get("PREFECT_API_URL")
        return f"Prefect at {url} cannot be reached: start it, or unset PREFECT_API_URL" if unreachable else None
    if wrong := databases.damage(databases.PREFECT):
        return databases.damaged_prefect(wrong)
    return f"Prefect's server, which `run` starts, has ended: {LOG} says why" if unreachable else None


def _serve(listener: int) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run(create_app(ephemeral=True), fd=listener, log_level="warning", timeout_graceful_shutdown=1)


def _end_with_parent() -> None:
    # Standard input is a pipe that nobody writes to: it ends when the parent does, even if that was killed.
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
