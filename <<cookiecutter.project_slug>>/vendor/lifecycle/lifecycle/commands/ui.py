"""`ui`: serve the pages of MLflow and Prefect on loopback."""

import os
import subprocess
from contextlib import ExitStack, suppress

from ..errors import UserError, redacted
from ..flows.server import log_of, start
from ..releases import databases
from ..releases.tracking import follow_project, tracking_uri
from .serve import listen

# How long a server may take to finish open requests.
GRACE_SECONDS = 5


def serve(mlflow_port: int, prefect_port: int) -> None:
    """Run both servers until Ctrl-C.

    Raises:
        UserError: a port is in use, or a server has stopped on its own.
    """
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
    try:
        with ExitStack() as stack:
            listeners = {page: stack.enter_context(listen("127.0.0.1", port)) for page, port in ports.items()}
            for page, listener in listeners.items():
                processes[page] = start(page.lower(), listener)
                print(f"{page:<8} http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        print("Ctrl-C ends the pages.", flush=True)
        ended, _ = os.wait()
        page = next(page for page, process in processes.items() if process.pid == ended)
        raise UserError(f"{page} has ended by itself, and so has the rest: {log_of(page.lower())} says why")
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
