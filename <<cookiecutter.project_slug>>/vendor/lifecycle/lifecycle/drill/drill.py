"""A drill from start to finish: the copy, the server, the load, one fault after another, and a table."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from ..files import write_json, write_text
from ..releases.record import same_predictions
from . import sandbox as sandboxes
from .faults import FAULTS
from .load import Answer
from .sandbox import Sandbox, UnexpectedError
from .scenario import Fault, Scenario, Watch

REPORT = Path(".lifecycle/drill.json")
TABLE = Path(".lifecycle/drill.md")


@dataclass(frozen=True)
class Row:
    """The result of a fault, in seconds since its injection, and requests. `to_alert`: since its first row.

    `wrong`: answers with a release that the channel never served, or with a score that is not that release's.
    `exposed`: answers from the defective release.
    """

    fault: str
    expected: str
    happened: str
    passed: bool
    to_detect: float | None
    to_alert: float | None
    to_restore: float | None
    requests: int
    failed: int
    wrong: int
    exposed: int
    slowest_ms: float


@dataclass(frozen=True)
class Drill:
    """All rows, the rollback statistics (as `incidents` counts them), and the duration."""

    commit: str
    rows: list[Row]
    tried: int
    rolled_back: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every fault ended as expected."""
        return all(row.passed for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return the result for --json and the report."""
        return asdict(self) | {"passed": self.passed}

    def markdown(self) -> str:
        """Return a table for a page, or CI's summary."""
        head = "| fault | passed | detected | alerted | resolved | requests | failed | wrong | what happened |"
        lines = [head, "|---|---|---:|---:|---:|---:|---:|---:|---|"]
        for row in self.rows:
            passed = "yes" if row.passed else "**FAILED**"
            times = " | ".join(map(span, (row.to_detect, row.to_alert, row.to_restore)))
            counts = f"{row.requests} | {row.failed} | {row.wrong}"
            happened = row.happened.replace("|", "\\|")
            lines.append(f"| {row.fault} | {passed} | {times} | {counts} | {happened} |")
        return "\n".join([*lines, "", f"{self.rollbacks}; {self.seconds:.0f} s, at commit `{self.commit[:12]}`", ""])

    @property
    def rollbacks(self) -> str:
        """The success rate of rollbacks, in words."""
        return f"{self.rolled_back} of {self.tried} rollbacks lasted"


def span(seconds: float | None) -> str:
    """Format seconds for a table."""
    return "" if seconds is None else f"{seconds:.1f} s"


def chosen(names: Sequence[str]) -> list[Fault]:
    """Return the faults with these names, or all if no name is given.

    Raises:
        UserError: there is no fault of that name.
    """
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"there is no fault {unknown[0]}: there are {', '.join(known)}")
    return [fault for fault in FAULTS if not names or fault.name in names]


def drill(names: Sequence[str], say: Callable[[str], None]) -> Drill:
    """Run a drill on the commit that is checked out here. Writes only the report.

    Raises:
        UserError: the drill cannot run at all.
    """
    faults, project, start = chosen(names), Path.cwd(), time.monotonic()
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drill-", ignore_cleanup_errors=True)))
        say("copying the commit that is checked out, and its data")
        sandbox, folder = sandboxes.build(project, top.resolve())
        commit = sandboxes.run(["git", "rev-parse", "HEAD"], folder, sandbox.environment).strip()
        stack.enter_context(chdir(folder))
        stack.enter_context(_environment(sandbox.environment))
        rows, tried, rolled_back = _in_copy(sandbox, faults, stack, say)
    done = Drill(commit, rows, tried, rolled_back, time.monotonic() - start)
    write_json(REPORT, done.as_dict())
    write_text(TABLE, done.markdown())
    return done


@contextmanager
def _environment(there: dict[str, str]) -> Iterator[None]:
    """Set this process's environment while it works in the copy. A GIT_DIR, for example, would point outside it."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(there)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _in_copy(
    sandbox: Sandbox, faults: list[Fault], stack: ExitStack, say: Callable[[str], None]
) -> tuple[list[Row], int, int]:
    try:
        sandboxes.relax(sandbox)
        say("run, release, promote: the first release of the copy")
        sandbox.must("run")
        sound: str = sandbox.must("release", "--reason", "drill")["release"]
        sandbox.must("promote", sound, "--to", "staging")
        sandbox.must("promote", sound, "--to", "production")
        stack.callback(sandbox.kill_server)
        sandbox.serve()
    except UnexpectedError as error:
        raise UserError(f"the drill cannot run: {error}") from None
    load, scores = sandbox.load(sandbox.ledger.release(sound))
    rows = []
    with load:
        for fault in faults:
            row = _one(fault, Scenario(sandbox, load, sound, Watch()), scores)
            rows.append(row)
            say(f"{fault.name:<18} {'passed' if row.passed else 'FAILED'}  {row.happened}")
    tried = rolled_back = 0
    with suppress(UnexpectedError):  # a failed fault may leave things in any state
        total = sandbox.must("incidents")
        tried, rolled_back = total["tried"], total["lasted"]
        sandbox.settle(10)  # otherwise the MLflow update writes to a folder that is being deleted
    return rows, tried, rolled_back


def _one(fault: Fault, scenario: Scenario, scores: list[float]) -> Row:
    watch, load = scenario.watch, scenario.load
    since, problem = len(load.answers), ""
    try:
        scenario.sandbox.put_right(scenario.sound)
        since = len(load.answers)
        watch.begin()
        happened = fault.inject(scenario)
    except UnexpectedError as error:
        problem = happened = one_line(error)
    except Exception as error:  # whatever the error, run the other faults
        problem = happened = f"{type(error).__name__}: {one_line(error)}"
    answers = load.answers[since:]
    failed = sum(each.status != 200 for each in answers)
    moves = _moves(scenario)
    wrong = sum(_is_wrong(each, scenario, moves, scores) for each in answers)
    if not problem and wrong:
        problem = happened = f"{wrong} answers were wrong"
    if not problem and failed and not fault.down:
        statuses = ", ".join(sorted({str(each.status or "no answer") for each in answers if each.status != 200}))
        problem = happened = f"{failed} requests failed ({statuses}); {happened}"
    return Row(
        fault.name,
        fault.expected,
        happened,
        passed=not problem,
        to_detect=watch.detected and watch.detected - watch.began,
        to_alert=watch.to_alert,
        to_restore=watch.restored and watch.restored - watch.began,
        requests=len(answers),
        failed=failed,
        wrong=wrong,
        exposed=sum(each.release not in (None, scenario.sound) for each in answers),
        slowest_ms=round(max((each.seconds for each in answers), default=0.0) * 1000, 1),
    )


def _moves(scenario: Scenario) -> set[tuple[Any, ...]]:
    """Return everything that a channel has ever served: what a valid answer may name."""
    return {(entry.channel, entry.generation, entry.release) for _, entry in scenario.sandbox.ledger.entries()}


def _is_wrong(answer: Answer, scenario: Scenario, moves: set[tuple[Any, ...]], scores: list[float]) -> bool:
    if answer.status != 200:
        return False
    if (answer.channel, answer.generation, answer.release) not in moves:
        return True
    if answer.release != scenario.sound or answer.drifted or answer.score is None:
        return False
    return not same_predictions([scores[answer.row]], [answer.score])
