"""The command line as a process of its own, without the seconds of imports.

A server imports the heavy libraries once, and forks a process for each command. Before the fork it imports nothing of
the machinery or the project, and nothing that reads its settings when it is imported.
"""

import atexit
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

HEAVY = (
    "duckdb",
    "dvc.repo",
    "lightgbm",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "pyarrow.parquet",
    "typer",
)
# An interpreter or a library reads these once, at its start: a command that needs other values gets a process as usual.
READ_AT_START = ("LANG", "LC_", "LD_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON")
MODULE = "lifecycle.cli"

Done = subprocess.CompletedProcess[str]


def run(arguments: list[str], folder: Path, environment: dict[str, str], timeout: float) -> Done:
    """Do what `python -m lifecycle.cli ARGUMENTS` does in a folder; return the exit code and the output.

    Raises:
        subprocess.TimeoutExpired: the command was killed, with all of its process group.
    """
    command = [sys.executable, "-m", MODULE, *arguments]
    # Elsewhere, libraries of the system do not survive a fork.
    if sys.platform != "linux" or _read_at_start(environment) != _read_at_start(dict(os.environ)):
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    asked = json.dumps([arguments, str(folder), environment]).encode()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, socket.socket(socket.AF_UNIX) as client:
        client.connect(_address())
        socket.send_fds(client, [len(asked).to_bytes(4)], [out.fileno(), err.fileno()])
        client.sendall(asked)
        pid = int.from_bytes(client.recv(4))
        client.settimeout(timeout)
        try:
            code = client.recv(4)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(command, timeout) from None
        assert code, "the server of forks has ended"
        return Done(command, int.from_bytes(code, signed=True), _text(out), _text(err))


def _read_at_start(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_START)}


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@cache
def _address() -> str:
    """Start the server, which ends with this process, and return the path of its socket."""
    from ..releases.tracking import SETTINGS

    folder = tempfile.mkdtemp(prefix="fork-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, env = f"{folder}/socket", os.environ | SETTINGS
    command = [sys.executable, __file__, address]
    server = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(server.kill)
    assert server.stdout and server.stdout.readline() == b"ready\n", "the server of forks has not started"
    return address


def _serve(address: str) -> None:
    for name in HEAVY:
        with suppress(ImportError):  # a project without this library
            importlib.import_module(name)
    waiting: dict[int, tuple[int, socket.socket]] = {}  # by a descriptor that can be read once the process has ended
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            ready, _, _ = select.select([listener, 0, *waiting], [], [])
            if 0 in ready:  # the tests have ended
                return
            for ended in waiting.keys() & {*ready}:
                pid, client = waiting.pop(ended)
                os.close(ended)
                _, status = os.waitpid(pid, 0)
                with client, suppress(BrokenPipeError):
                    client.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, signed=True))
            if listener in ready:
                client, _ = listener.accept()
                pid = _fork(client, [listener, *(other for _, other in waiting.values())])
                client.sendall(pid.to_bytes(4))
                waiting[os.pidfd_open(pid)] = pid, client


def _fork(client: socket.socket, theirs: list[socket.socket]) -> int:
    size, outputs, _, _ = socket.recv_fds(client, 4, 2)
    asked = client.recv(int.from_bytes(size), socket.MSG_WAITALL)
    pid = os.fork()
    if pid == 0:
        for each in (client, *theirs):
            each.close()
        arguments, folder, environment = json.loads(asked)
        _command(arguments, folder, environment, outputs)
    for output in outputs:
        os.close(output)
    return pid


def _command(arguments: list[str], folder: str, environment: dict[str, str], outputs: list[int]) -> NoReturn:
    """Become the command, to the end."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
        os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ |= environment
    time.tzset()
    sys.path[0], sys.argv = folder, [MODULE, *arguments]
    code: object = 1
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ending:
        code = ending.code
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    # An interpreter does the same at its end.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(sys.argv[1])
