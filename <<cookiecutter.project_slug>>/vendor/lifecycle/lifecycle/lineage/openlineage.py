"""Write this project's OpenLineage events to a file, and send them to OPENLINEAGE_URL if that is set.

They are appended to .lifecycle/openlineage.jsonl while the next stage runs. A separate process sends them and continues
where the last one stopped: a slow or unavailable receiver does not slow down a run, and gets the rest later.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar
from uuid import uuid4

from ..errors import one_line, redacted, redacted_traceback
from ..files import append_lines, file_lock, write_json
from ..releases import git, scoring
from ..releases import ledger as book
from ..releases.ledger import Entry, Ledger
from ..releases.pipeline import StageError, StageResult, locked
from ..releases.scoring import Scored
from ..releases.store import Store
from . import project, structure

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

    from .events import Events

T = TypeVar("T")

FILE = Path(".lifecycle/openlineage.jsonl")
# At this size, the file is moved aside and replaces the previous one, so at most twice this is kept.
LARGE = 20_000_000
ASIDE = FILE.with_suffix(".old.jsonl")
# The last ledger commit with events; and how much of which of the two files was sent.
TOLD = Path(".lifecycle/openlineage-ledger.json")
SENT = Path(".lifecycle/openlineage-sent.json")
NEXT = Path(".lifecycle/openlineage-next")
LOG = Path("logs/openlineage.log")
TEST_RESULTS = Path("transform/target/run_results.json")
SEND_SECONDS = 10
# Statuses with which a receiver rejects an event for good.
REFUSED = (400, 413, 422)


class Recorder:
    """Record a pipeline run, stage by stage, in a separate thread. Errors there become notes."""

    def __init__(self, flow_run: str | None) -> None:
        """Args: flow_run: Prefect's id of the flow run, also used as the run's id here."""
        self._run = flow_run or str(uuid4())
        self._begin = self._end = datetime.now(UTC)
        self._thread = ThreadPoolExecutor(1, "openlineage")
        self._writing: list[Future[None]] = []

    def stage(self, result: StageResult) -> None:
        """Record a successful stage. Skips a stage that had nothing to do."""
        now = datetime.now(UTC)
        begin, self._end = max(self._end, now - timedelta(seconds=result.seconds)), now
        if result.outcome == "ran":
            entry = _or_nothing(lambda: locked()[result.stage])  # read it now: the next stage will write to dvc.lock
            if entry is not None:
                self._later(lambda: _stage(result.stage, self._run, begin, now, entry))

    def finish(self, error: BaseException | None, nominal: datetime | None) -> list[str]:
        """Record the end of the run. Return notes."""
        now = datetime.now(UTC)
        if error or self._writing:
            self._later(lambda: _pipeline(self._run, self._begin, self._end, now, error, nominal or self._begin))
        self._thread.shutdown()
        problems = [problem for each in self._writing if (problem := each.exception())]
        return [f"OpenLineage events could not be written: {one_line(problems[0])}"] if problems else []

    def _later(self, events: Callable[[], "Iterable[RunEvent]"]) -> None:
        self._writing.append(self._thread.submit(lambda: _write(events())))


@contextlib.contextmanager
def run_of_pipeline(
    flow_run: str | None, nominal: datetime | None, warn: Callable[[str], object]
) -> Iterator[Recorder]:
    """Record the block as a pipeline run: its stages as they end, and its own result."""
    recorder, error = Recorder(flow_run), None
    try:
        yield recorder
    except BaseException as raised:
        error = raised
        raise
    finally:
        for note in [*recorder.finish(error, nominal), *_tell(lambda: None)]:
            warn(note)


def _stage(name: str, run: str, begin: datetime, end: datetime, entry: dict[str, Any]) -> "list[RunEvent]":
    from .events import Ran, Span

    return list(_events().stage(Ran(name, Span(begin, end), entry, _test_states()), run))


def _pipeline(
    run: str, begin: datetime, last: datetime, end: datetime, error: BaseException | None, nominal: datetime
) -> "Iterator[RunEvent]":
    from .events import Span

    events = _events()
    state = "COMPLETE" if error is None else "FAIL" if isinstance(error, Exception) else "ABORT"
    if isinstance(error, StageError):
        yield from events.failed(error.stage, run, Span(last, end, state, error.reason))
    problem = "" if error is None else one_line(error) or type(error).__name__
    yield from events.pipeline(run, Span(begin, end, state, problem), nominal)


def _test_states() -> dict[str, str]:
    """Return the results of dbt's data tests in their last run: `pass` or `warn`, by dbt's id."""
    try:
        results = json.loads(TEST_RESULTS.read_text(encoding="utf-8"))["results"]
    except (FileNotFoundError, ValueError, KeyError):
        return {}
    return {each["unique_id"]: each["status"] for each in results if each["unique_id"].startswith("test.")}


def _events() -> "Events":
    from .events import Events

    return Events(project.here(), _or_nothing(structure.of_work_tree), Store())


def tell_of_scores(scored: Iterable[Scored], flow_run: str | None = None) -> list[str]:
    """Write the events of the scored months. Return notes."""
    new = [each for each in scored if each.outcome == "scored"]
    return _tell(lambda: _write(_batches(new, flow_run))) if new else []


def _batches(scored: Iterable[Scored], flow_run: str | None) -> "Iterator[RunEvent]":
    from .events import Batch

    events, ledger = _events(), book.load()
    for each in scored:
        made = scoring.versions_of(Path(each.file))[-1]
        table = ledger.release(made.release).model["feature_table"]
        batch = Batch(each.file, made.sha256, made.rows, made.at, made.release, {table: made.table})
        yield from events.batch(batch, flow_run)


def tell_of_ledger() -> list[str]:
    """Write the events of ledger entries that have none yet. Return notes."""
    return _tell(lambda: _follow(book.load()))


def tell_later() -> None:
    """Do the same in a separate process, for callers that cannot wait. It also sends unsent events."""
    with contextlib.suppress(OSError):  # for example a full disk: the next call will record it
        LOG.parent.mkdir(exist_ok=True)
        with LOG.open("w", encoding="utf-8") as log:
            subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _tell(write: Callable[[], None]) -> list[str]:
    try:
        write()
    except Exception as error:  # whatever the error, finished work must not fail because of an event
        return [f"OpenLineage events could not be written: {one_line(error)}"]
    if os.environ.get("OPENLINEAGE_URL"):
        tell_later()
    return []


def _or_nothing(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Exception:  # whatever the error, events then have less detail
        return None


def _write(events: "Iterable[RunEvent]") -> None:
    """Append events to the file, one per line."""
    from openlineage.client.serde import Serde

    lines = "".join(f"{Serde.to_json(event)}\n" for event in events)
    with file_lock(FILE.with_suffix(".lock")):
        if append_lines(FILE, lines) > LARGE:
            FILE.replace(ASIDE)


def _follow(ledger: Ledger) -> None:
    with file_lock(TOLD.with_suffix(".lock")):
        new = list(_untold(ledger, str(_read(TOLD).get("tip", ""))))
        if new:
            events, ids = _events(), {each.release for each in new if each.release}
            known = {release.id: release for release in ledger.read_releases(ids)}
            _write(event for entry in new for event in events.entry(entry, known.get(entry.release or "")))
        if ledger.tip:
            write_json(TOLD, {"tip": ledger.tip})


def _untold(ledger: Ledger, tip: str) -> Iterator[Entry]:
    """Yield the entries after `tip`. If the ledger does not descend from it, start where the two diverged."""
    entries = ledger.entries()
    commits = [commit for commit, _ in entries]
    if tip and tip not in commits:
        with contextlib.suppress(git.GitError):
            tip = git.git("merge-base", tip, ledger.tip or "").strip()
    after = commits.index(tip) + 1 if tip in commits else 0
    yield from (entry for _, entry in entries[after:])


def _read(state: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(state.read_text(encoding="utf-8"))
        return found
    except (FileNotFoundError, ValueError):
        return {}


def send() -> int:
    """Send all events that the receiver at OPENLINEAGE_URL does not have. Return how many it accepted.

    Raises:
        Exception: the client's error if an event cannot be sent; the next call starts with that one.
    """
    with contextlib.ExitStack() as sending:
        with file_lock(NEXT.with_suffix(".lock"), wait=False) as mine:
            if not mine:
                return 0  # another process is waiting to send, and will send these too
            sending.enter_context(file_lock(SENT.with_suffix(".lock")))
        return _send_files()


def _send_files() -> int:
    sent, count = _read(SENT), 0
    names = {path: name for path in (ASIDE, FILE) if (name := _name(path))}
    if sent.get("file") == names.get(FILE):
        names.pop(ASIDE, None)  # all of it was sent
    for path, name in names.items():
        with path.open(encoding="utf-8") as file:
            file.seek(int(sent["to"]) if sent.get("file") == name else 0)
            count += _send(file, name)
    return count


def _name(path: Path) -> str:
    """Identify a file by its first line: its path changes, and another file may later have that path."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.readline()).hexdigest()
    except FileNotFoundError:
        return ""


def _send(file: TextIO, name: str) -> int:
    from openlineage.client.transport.http import HttpConfig, HttpTransport
    from requests import HTTPError

    config: dict[str, Any] = {"url": os.environ["OPENLINEAGE_URL"], "timeout": SEND_SECONDS, "retry": {"total": 0}}
    if endpoint := os.environ.get("OPENLINEAGE_ENDPOINT"):
        config["endpoint"] = endpoint
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        config["auth"] = {"type": "api_key", "apiKey": key}
    transport = HttpTransport(HttpConfig.from_dict(config))
    count, to = 0, file.tell()
    try:
        while (line := file.readline()).endswith("\n"):
            try:
                transport.emit(json.loads(line))
                count += 1
            except json.JSONDecodeError:
                print("not an event, left out:", line[:80])
            except HTTPError as error:
                if error.response is None or error.response.status_code not in REFUSED:
                    raise
                print("refused, left out:", one_line(error), line[:200])
            to = file.tell()
    finally:
        write_json(SENT, {"file": name, "to": to})
        transport.close()
    return count


if __name__ == "__main__":
    try:
        _follow(book.load())
    except Exception:  # the events in the file can still be sent
        print(redacted(traceback.format_exc()))
    with redacted_traceback():
        if os.environ.get("OPENLINEAGE_URL"):
            print(f"{send()} events sent")
