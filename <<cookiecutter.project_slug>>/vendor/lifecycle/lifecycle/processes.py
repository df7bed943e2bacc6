"""Servers and other processes beside this one, for as long as they are needed."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import psutil

# Longer than anything here takes on a slow machine.
PATIENCE_SECONDS = 120


def wait_until(true: Callable[[], object], what: str = "") -> None:
    """Poll, up to a deadline."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    with suppress(OSError), urlopen(url, timeout=5) as answer:  # noqa: S310  a server of our own
        return bool(answer.status == 200)
    return False


@contextmanager
def running(
    command: Sequence[str], folder: Path, log: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process beside this one; afterwards it and all that it has started are gone."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait()


@contextmanager
def server(command: Sequence[str], health: str, folder: Path, log: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a server beside this process, from when it answers."""
    with running(command, folder, log, environment) as process:
        wait_until(lambda: process.poll() is not None or answers(health), f"{health} does not answer")
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield
