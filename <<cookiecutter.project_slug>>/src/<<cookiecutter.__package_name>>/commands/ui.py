"""`ui`: the pages of MLflow and Prefect, on loopback."""

import os
import subprocess
import sys
from pathlib import Path

from .. import flows  # noqa: F401  (sets where Prefect keeps its database)
from ..errors import UserError
from ..lifecycle import databases
from ..lifecycle.tracking import follow_project, tracking_uri


def serve(mlflow_port: int, prefect_port: int) -> None:
    """Run both servers until one of them ends or Ctrl-C is pressed."""
    if wrong := databases.damage(databases.PREFECT):
        raise UserError(databases.damaged_prefect(wrong))
    for note in follow_project():
        print(f"note: {note}")
    here = Path(sys.executable).parent
    host = ["--host", "127.0.0.1", "--port"]
    commands = [
        [
            str(here / "mlflow"),
            "server",
            "--backend-store-uri",
            tracking_uri(),
            *host,
            str(mlflow_port),
            "--workers",
            "1",
        ],
        [str(here / "prefect"), "server", "start", *host, str(prefect_port)],
    ]
    print(f"MLflow   http://127.0.0.1:{mlflow_port}\nPrefect  http://127.0.0.1:{prefect_port}\nCtrl-C ends both.")
    environment = os.environ | {"PREFECT_API_URL": f"http://127.0.0.1:{prefect_port}/api"}
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    try:
        os.wait()
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
