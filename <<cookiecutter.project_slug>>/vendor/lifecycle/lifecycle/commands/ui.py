"""`ui`: serve the pages of MLflow and Prefect on loopback."""

import os
import signal
import subprocess
import time
from contextlib import ExitStack, closing, suppress
from typing import Annotated

import typer

from ..errors import UserError, redacted
from .command import command
from .serve import listen

# How long a server may take to finish open requests.
GRACE_SECONDS = 5
POLL_SECONDS = 0.2
HEALTH = {"MLflow": "/health", "Prefect": "/api/health"}


@command("ui --mlflow-port 5001", json=False)
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's page.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's page.")] = 4200,
) -> None:
    """Serve the MLflow and Prefect pages, until Ctrl-C."""
    from ..flows.server import start
    from ..releases import databases
    from ..releases.tracking import follow_project, tracking_uri

    if wrong := databases.damage(databases.PREFECT):
        raise UserError(databases.damaged_prefect(wrong))
    for note in follow_project():
        print(f"note: {note}")
    ports = {"MLflow": mlflow_port, "Prefect": prefect_port}
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        print(f"MLflow   {redacted(uri)}")
        del ports["MLflow"]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    taken: dict[str, int] = {}
    try:
        with ExitStack() as stack:
            listeners = {page: stack.enter_context(listen("127.0.0.1", port)) for page, port in ports.items()}
            for page, listener in listeners.items():
                processes[page] = start(page.lower(), listener)
                taken[page] = listener.getsockname()[1]
        print("Starting, which takes some seconds ...", flush=True)
        for page, port in taken.items():
            while not _answers(port, HEALTH[page]):
                _all_run(processes)
            print(f"{page:<8} http://127.0.0.1:{port}", flush=True)
        print("Ctrl-C ends the pages.", flush=True)
        while True:
            _all_run(processes)
    except KeyboardInterrupt:
        print()
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            # A server stops as soon as its standard input is closed.
            if process.stdin:
                process.stdin.close()
            process.wait()
            # A server that was killed leaves its own processes.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _answers(port: int, path: str) -> bool:
    from http.client import HTTPConnection, HTTPException

    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection, suppress(OSError, HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


def _all_run(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Wait a moment.

    Raises:
        UserError: a server has ended.
    """
    from ..flows.server import log_of

    time.sleep(POLL_SECONDS)
    for page, process in processes.items():
        if process.poll() is not None:
            raise UserError(f"{page} has ended by itself, and so has the rest: {log_of(page.lower())} says why")
