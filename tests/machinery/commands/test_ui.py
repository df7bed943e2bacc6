"""`ui` on a terminal of its own, as a person starts it."""

import os
import pty
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from lifecycle.processes import answers, gone, wait_until
from lifecycle.testing import CLI, cli, environment

CTRL_C = b"\x03"


@dataclass
class Terminal:
    """A process with a pseudo-terminal, and what it has printed there."""

    process: psutil.Process
    keyboard: int
    screen: str = ""
    started: list[psutil.Process] = field(default_factory=list)

    def read(self) -> None:
        """Until the process closes the terminal."""
        with suppress(OSError):
            while text := os.read(self.keyboard, 4096):
                self.screen += text.decode()

    def url(self, page: str) -> str:
        """Of a page, once it is printed; by then its process is there."""
        wait_until(lambda: "Ctrl-C ends" in self.screen, f"not started: {self.screen}")
        self.started = self.process.children(recursive=True)
        found = re.search(rf"{page} +(http://127\.0\.0\.1:\d+)", self.screen)
        assert found, self.screen
        return found[1]

    def exit_code(self) -> int:
        """Wait for the end, of all that was started too."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.process.pid, 0)[1])
        wait_until(lambda: all(gone(each.pid) for each in self.started), f"left running: {self.started}")
        return code


@contextmanager
def terminal(folder: Path, **more: str) -> Iterator[Terminal]:
    """`ui` on free ports."""
    (folder / "dvc.yaml").touch()
    settings = environment(folder, **more)
    pid, keyboard = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(CLI[0], [*CLI, "ui", "--mlflow-port", "0", "--prefect-port", "0"], settings)
    shown = Terminal(psutil.Process(pid), keyboard)
    reader = threading.Thread(target=shown.read)
    reader.start()
    try:
        yield shown
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        reader.join()
        os.close(keyboard)


def ask(url: str, path: str, **headers: str) -> tuple[int, str | None]:
    """A POST with headers of one's own: the status, and which pages may read the answer."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("POST", path, '{"max_results": 1}', {"Content-Type": "application/json"} | headers)
    answer = connection.getresponse()
    connection.close()
    return answer.status, answer.headers["access-control-allow-origin"]


def test_the_pages_are_for_this_machine_and_end_with_ctrl_c(finished: Path, tmp_path: Path) -> None:
    # Their databases; to create them takes longer than all the rest.
    shutil.copy(finished / "mlflow.db", tmp_path)
    shutil.copytree(finished / ".prefect", tmp_path / ".prefect")
    # A worker's terminal has this, and Prefect would ask what to do about it.
    with terminal(tmp_path, PREFECT_API_URL="http://127.0.0.1:1/api") as shown:
        asked = {"MLflow": "/api/2.0/mlflow/experiments/search", "Prefect": "/api/flows/filter"}
        for page, path in asked.items():
            url = shown.url(page)
            wait_until(lambda url=url: answers(f"{url}/health") or answers(f"{url}/api/health"), shown.screen)
            assert answers(url)
            own = ask(url, path, Origin=url)
            assert own in ((200, url), (422, url)), page  # Prefect knows no max_results
            assert ask(url, path, Origin="http://pages.example") == (403, None), page
            assert ask(url, path, Host="pages.example") == (403, None), page
        shown.url("MLflow")
        assert len(shown.started) <= 3, shown.started
        os.write(shown.keyboard, CTRL_C)
        assert shown.exit_code() == 0
    assert "Traceback" not in shown.screen
    assert len(shown.screen.splitlines()) <= 6, shown.screen


@pytest.mark.parametrize("victim", ["mlflow", "prefect", "ui"])
def test_one_that_ends_ends_the_others(tmp_path: Path, victim: str) -> None:
    with terminal(tmp_path) as shown:
        shown.url("MLflow")
        (chosen,) = [each for each in (shown.process, *shown.started) if victim in each.cmdline()]
        chosen.kill()
        assert shown.exit_code() == (-signal.SIGKILL if victim == "ui" else 1)
    if victim != "ui":
        assert f"has ended by itself, and so has the rest: logs/{victim}.log says why" in shown.screen


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with terminal(tmp_path) as shown:
        port = shown.url("Prefect").rpartition(":")[2]
        refused = cli("ui", "--mlflow-port", "0", "--prefect-port", port, folder=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: 127.0.0.1:{port} cannot be listened on: ")
    assert "Address already in use" in refused.stderr
