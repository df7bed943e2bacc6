"""The flow: what Prefect is told of each stage, and what happens when one fails, hangs or has nothing to do."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lifecycle.processes import answers, gone, wait_until
from lifecycle.releases.pipeline import StageError
from lifecycle.releases.tracking import Tracked
from lifecycle.testing import cli, digests, edit_params, environment, own_settings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import TaskRun

STAGES = ["admit", "ingest", "transform", "train", "evaluate", "track"]


@dataclass
class Flow:
    """The flow over a dvc.yaml of the test's own, with nothing before or after its stages."""

    api: str
    capture: pytest.CaptureFixture[str]

    def write(self, **stages: dict[str, Any]) -> None:
        Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")

    def run(self) -> None:
        from prefect.settings import (
            PREFECT_API_URL,
            PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
            temporary_settings,
        )

        from lifecycle.flows import pipeline

        tracked = Tracked("0" * 64, "sqlite://", "run", "name", 1, "now")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "admit", lambda: 0)
            patch.setattr(pipeline, "track", lambda flow_run_id: tracked)
            patch.setattr(pipeline, "_warm_up", lambda: None)
            updates = {PREFECT_API_URL: self.api, PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.1}
            # DVC prints to the log by way of the process's own standard output.
            with self.capture.disabled(), temporary_settings(updates=updates):
                pipeline.run_now()

    def tasks(self) -> dict[str, "TaskRun"]:
        """The task runs of the newest flow run, by stage."""
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        with self._client() as client:
            newest = max(client.read_flow_runs(), key=lambda run: run.expected_start_time)
            wait_until(lambda: client.read_flow_run(newest.id).state.is_final())
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[newest.id]))
            wait_until(lambda: all(run.state.is_final() for run in client.read_task_runs(flow_run_filter=chosen)))
            return {run.name.rsplit("-", 1)[0]: run for run in client.read_task_runs(flow_run_filter=chosen)}

    def states(self) -> dict[str, str]:
        """How each task of the newest flow run ended."""
        return {name: str(run.state and run.state.name) for name, run in self.tasks().items()}

    def summary(self) -> str:
        """The newest flow run's artifact."""
        with self._client() as client:
            return str(client._client.get("/artifacts/run-summary/latest").json()["data"])

    def _client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(api=self.api)


@pytest.fixture
def flow(api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flow:
    for name, value in own_settings(tmp_path).items():
        monkeypatch.setenv(name, value)
    shutil.copy("pyproject.toml", tmp_path)  # the flow has the project's name
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    return Flow(api, capsys)


def script(name: str, text: str) -> str:
    """Write a script for a stage; returns the command that runs it."""
    Path(name).write_text(text, encoding="utf-8")
    return f"python {name}"


WRITE_OUTPUT = """
from pathlib import Path
Path("out.txt").write_text(Path("in.txt").read_text())
"""


def test_a_run_without_a_server_is_on_record(finished: Path) -> None:
    with closing(sqlite3.connect(f"file:{finished / '.prefect/prefect.db'}?mode=ro", uri=True)) as database:
        tasks = database.execute("select name, state_name from task_run order by start_time").fetchall()
        (summary,) = database.execute("select data from artifact where key = 'run-summary'").fetchone()
    assert [name.rsplit("-", 1)[0] for name, _ in tasks] == STAGES
    assert {state for _, state in tasks} == {"Completed"}
    assert all(f"| {stage} | ran |" in summary for stage in STAGES[1:-1])


def test_the_api_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = """
import os, time
from lifecycle.flows import server
server.ensure_api()
print(os.environ["PREFECT_API_URL"], server._started[0].pid, flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code]
    settings = environment(tmp_path)
    with subprocess.Popen(command, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url, pid = process.stdout.readline().split()
        wait_until(lambda: answers(f"{url}/health"))
        assert not gone(int(pid))
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: gone(int(pid)))


def test_a_stage_with_nothing_to_do_is_shown_as_cached(flow: Flow) -> None:
    Path("in.txt").write_text("1", encoding="utf-8")
    flow.write(
        first={"cmd": script("first.py", WRITE_OUTPUT), "deps": ["in.txt"], "outs": ["out.txt"], "desc": "Copy"},
        second={"cmd": "cp out.txt more.txt", "deps": ["out.txt"], "outs": ["more.txt"]},
    )
    flow.run()
    assert flow.states() == {"first": "Completed", "second": "Completed"}
    assert "| first | ran |" in flow.summary()
    flow.run()
    assert flow.states() == {"first": "Cached", "second": "Cached"}
    assert "| second | cached |" in flow.summary()
    # And so is one whose outputs come out of DVC's cache.
    for value in "21":
        Path("in.txt").write_text(value, encoding="utf-8")
        flow.run()
    assert Path("more.txt").read_text(encoding="utf-8") == "1"
    assert flow.states() == {"first": "Cached", "second": "Cached"}


FAIL_TWICE = """
from pathlib import Path
tries = Path("tries")
with tries.open("a") as file:
    file.write("x")
assert tries.read_text() == "xxx", "not yet"
Path("out.txt").touch()
"""


def test_a_stage_that_fails_is_tried_again(flow: Flow) -> None:
    flaky = script("flaky.py", FAIL_TWICE)
    flow.write(flaky={"cmd": flaky, "outs": ["out.txt"], "meta": {"retries": 3, "backoff_seconds": 0.1}})
    flow.run()
    run = flow.tasks()["flaky"]
    assert run.run_count == 3
    assert flow.states() == {"flaky": "Completed"}
    assert (run.empirical_policy.retries, run.empirical_policy.retry_delay) == (3, [0.1, 0.2, 0.4])


def test_a_stage_that_goes_on_failing_names_its_log_and_the_command_to_try_again(flow: Flow) -> None:
    broken = script("broken.py", "print('so far so good'); raise SystemExit(1)")
    flow.write(
        broken={"cmd": broken, "outs": ["out.txt"], "meta": {"retries": 1, "backoff_seconds": 0.1}},
        later={"cmd": "cp out.txt more.txt", "deps": ["out.txt"], "outs": ["more.txt"]},
    )
    with pytest.raises(StageError) as failed:
        flow.run()
    assert str(failed.value).startswith("stage broken failed: ")
    assert str(failed.value).endswith("(log: logs/broken.log; try again with `dvc repro -s broken`)")
    assert "so far so good" in Path("logs/broken.log").read_text(encoding="utf-8")
    assert flow.states() == {"broken": "Failed"}
    assert flow.tasks()["broken"].run_count == 2


def test_a_users_mistake_is_not_tried_again(flow: Flow) -> None:
    mistake = script("mistake.py", "import sys; print('error: mend it', file=sys.stderr); sys.exit(2)")
    flow.write(mistake={"cmd": mistake, "outs": ["out.txt"], "meta": {"retries": 3, "backoff_seconds": 0.1}})
    with pytest.raises(StageError, match="stage mistake failed: mend it "):
        flow.run()
    assert flow.tasks()["mistake"].run_count == 1


HANG = """
import os, subprocess, sys, time
from pathlib import Path
text = Path("in.txt").read_text()
Path("out.txt").write_text(text)
if text == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path("pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
"""


def test_a_stage_that_hangs_is_stopped_with_all_it_started(flow: Flow) -> None:
    hang = script("hang.py", HANG)
    Path("in.txt").write_text("good", encoding="utf-8")
    flow.write(
        hang={"cmd": hang, "deps": ["in.txt"], "outs": ["out.txt"], "meta": {"retries": 0, "timeout_seconds": 3}}
    )
    flow.run()
    Path("in.txt").write_text("hang", encoding="utf-8")
    start = time.monotonic()
    with pytest.raises(StageError, match=r"stage hang failed: .*3 s.* \(log: logs/hang.log; try again with"):
        flow.run()
    assert 3 <= time.monotonic() - start < 20
    pids = [int(pid) for pid in Path("pids").read_text(encoding="utf-8").split()]
    wait_until(lambda: all(gone(pid) for pid in pids))
    assert Path("out.txt").read_text(encoding="utf-8") == "good"
    assert flow.states() == {"hang": "TimedOut"}
    # DVC's lock is free again.
    Path("in.txt").write_text("good", encoding="utf-8")
    flow.run()
    assert flow.states() == {"hang": "Cached"}


def test_the_command_line_says_what_failed_and_keeps_what_was_there(built: Path) -> None:
    kept = digests(Path("model"), Path("reports"), Path("dvc.lock"))
    edit_params(built, {"split": {"validation_months": 12}})
    done = cli("run")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: stage train failed: the data window has 4 months")
    assert last.endswith("(log: logs/train.log; try again with `dvc repro -s train`)")
    assert "Traceback" not in done.stderr
    assert digests(Path("model"), Path("reports"), Path("dvc.lock")) == kept
