"""ingest: land the months up to the watermark in data/raw, each file through the gate.

A landed file is kept in data/landing under a name made from the source's bytes, the contract and its own bytes. So
only new months need work, and a month seen before is just copied. The folder may be deleted at any time.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import TYPE_CHECKING

from .. import project
from ..contract import run_stage
from ..errors import UserError
from ..files import sha256, write_text
from ..params import Data, load_params
from ..tables import Table
from . import transform
from .source import PINS_FILE, Source, SourceFile, pins_of, read_pins, unpinned, write_pins

if TYPE_CHECKING:
    import pandas as pd

    from .gate import Problem
    from .history import Profile

RAW = Path("data/raw")
LANDING = Path("data/landing")
QUARANTINE = Path("data/quarantine")
# A copy of the project with the new files, for its SQL tests.
CANDIDATE = LANDING / ".candidate"


@dataclass(frozen=True)
class Part:
    """One future file of data/raw: a table, or one month of it, from one file of the source."""

    table: str
    month: str | None
    file: SourceFile

    @property
    def target(self) -> Path:
        """The part's path in data/raw."""
        return Path(self.table, f"{self.month}.parquet") if self.month else Path(f"{self.table}.parquet")

    @property
    def key(self) -> str:
        """A key that changes with the source's bytes, their format, and all code that decides what lands."""
        return sha256_of((self.file.sha256 + self.file.format + _rules()).encode()).hexdigest()[:16]


@cache
def _rules() -> str:
    here, machinery = project.here(), Path(__file__).parents[1]
    own = [project.file_of(where) for where in (here.contracts, here.tables)]
    generic = [machinery / name for name in ("stages/gate.py", "stages/ingest.py", "stages/source.py", "tables.py")]
    return "".join(sha256(path) for path in (*own, *generic))


def look(data: Data) -> tuple[Source, list[SourceFile]]:
    """Return the source and its current files."""
    source = Source(data.source, data.limits)
    return source, source.files(list(project.tables()))


def plan(data: Data, files: Iterable[SourceFile]) -> list[Part]:
    """Return the parts of data/raw for this window.

    Raises:
        UserError: a month of the window has no file, or two.
    """
    by_table: dict[str, dict[str | None, SourceFile]] = defaultdict(dict)
    for each in files:
        other = by_table[each.table].setdefault(each.month, each)
        if other is not each:
            raise UserError(f"the source {data.source!r} holds {other.name} and {each.name}: remove one of them")
    parts = []
    for table in project.tables().values():
        whole = by_table[table.name].get(None)
        if whole and len(by_table[table.name]) > 1:
            raise UserError(
                f"the source {data.source!r} holds {whole.name} and files of single months of {table.name}: "
                "remove one of them"
            )
        months: list[str | None] = [*data.months()] if table.time else [None]
        for month in months:
            file: SourceFile | None = by_table[table.name].get(month) or whole
            if file is None:
                missing = f"{table.name}/{month}" if month else table.name
                almost = Source(data.source, data.limits).almost(missing)
                raise UserError(
                    f"the source {data.source!r} has no {missing}.csv or .parquet: add it there, or change the "
                    f"data window (data.since, data.through) in params.yaml{almost}"
                )
            parts.append(Part(table.name, month, file))
    return parts


def admit(data: Data) -> list[Part]:
    """Check new files of the source at the gate, and pin their bytes in data/source.json.

    Returns: the new parts. Raises UserError if a file fails; then nothing has changed except
    data/quarantine, which holds the file and a report.
    """
    latest = datetime.now(UTC) + timedelta(days=data.limits.future_days)
    if data.through > f"{latest:%Y-%m}":
        raise UserError(
            f"{data.through} has not begun: set data.through in params.yaml to an earlier month, or raise "
            "data.limits.future_days there"
        )
    source, files = look(data)
    new = land(source, plan(data, files), judge=True)
    if pins_of(files) != read_pins():
        write_pins(source, files)
    return new


def land(source: Source, parts: list[Part], *, judge: bool = False) -> list[Part]:
    """Put every part into data/landing. Return those that were not there already.

    With `judge`, new months are compared with earlier ones and tested in SQL. The stage does not need this: pinned
    files were judged when they were new.

    Raises:
        UserError: files failed the gate. They are in quarantine; no part of this call has landed.
    """
    new = [part for part in parts if landed(part) is None]
    if not new:
        return []
    by_file: dict[SourceFile, list[Part]] = defaultdict(list)
    for part in new:
        by_file[part.file].append(part)
    written: dict[Part, Path] = {}
    failed: list[tuple[Part, list[Problem]]] = []
    profiles: dict[Part, Profile] = {}
    try:
        for file, of_file in by_file.items():
            for part, rows, problems in _gated(source, file, of_file):
                if judge and not problems:
                    problems = _against_the_months_before(part, rows, parts, profiles)
                if problems:
                    failed.append((part, problems))
                else:
                    written[part] = _write(part, rows)
        # Without data/raw there is no earlier state to protect: the stage itself will run the tests soon.
        if judge and not failed and RAW.is_dir() and transform.PROJECT.is_dir():
            failed = _tested({part: written.get(part) or landed(part) for part in parts}, new)
        if failed:
            raise UserError(_quarantine(source, failed))
        for part, path in written.items():
            path.replace(path.with_name(f"{part.month or 'all'}-{part.key}-{sha256(path)[:16]}.parquet"))
    finally:
        for path in written.values():
            path.unlink(missing_ok=True)
    return new


def _against_the_months_before(
    part: Part, rows: "pd.DataFrame", parts: list[Part], profiles: dict[Part, "Profile"]
) -> list["Problem"]:
    """Return the ways in which a month stands out. `profiles` caches the profiles of months."""
    import pandas as pd

    from .history import compare, profile

    table = project.tables()[part.table]
    if not part.month or not table.before.months:
        return []
    before = [each for each in parts if each.table == part.table and (each.month or "") < part.month]
    for each in before[-table.before.months :]:
        if each not in profiles and (path := landed(each)):
            profiles[each] = profile(pd.read_parquet(path), table, str(each.month))
    profiles[part] = profile(rows, table, part.month)
    known = [profiles[each] for each in before[-table.before.months :] if each in profiles]
    problems = list(compare(profiles[part], known, table))
    if problems:
        del profiles[part]
    return problems


def _tested(files: dict[Part, Path | None], new: list[Part]) -> list[tuple[Part, list["Problem"]]]:
    """Run the SQL tests of the raw tables and the staging models over all of the window's files, in a copy.

    Raises:
        UserError: the tests could not be run.
    """
    from .gate import Problem

    shutil.rmtree(CANDIDATE, ignore_errors=True)
    try:
        _lay_out(files)
        command = [sys.executable, "-m", transform.__name__, "check"]
        done = subprocess.run(command, cwd=CANDIDATE, capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise UserError(f"the SQL cannot be run over the new files: {said[-1].removeprefix('error: ')}")
        failures = json.loads((CANDIDATE / transform.FAILURES).read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(CANDIDATE, ignore_errors=True)
    problems: dict[Part, list[Problem]] = defaultdict(list)
    for failure in failures:
        for part in new:
            if part.table in failure["tables"]:
                problem = Problem(failure["name"], "", (), failure["detail"], f"the bound in {failure['declared']}")
                problems[part].append(problem)
    if failures and not problems:
        first = failures[0]
        raise UserError(f"dbt: {first['name']} did not pass: {first['detail']}; no new file is the cause")
    return list(problems.items())


def _lay_out(files: dict[Part, Path | None]) -> None:
    """Make CANDIDATE a project whose data/raw holds these files. Everything else is a link, except what dbt writes."""
    here = Path.cwd()
    (CANDIDATE / "data").mkdir(parents=True)
    for path in [*here.iterdir(), *(here / "data").iterdir()]:
        if path.name not in ("data", RAW.name, LANDING.name, "features", transform.PROJECT.name):
            (CANDIDATE / path.relative_to(here)).symlink_to(path)
    shutil.copytree(transform.PROJECT, CANDIDATE / transform.PROJECT, ignore=shutil.ignore_patterns("target", "logs"))
    (CANDIDATE / transform.PROJECT / "target").mkdir()
    with suppress(FileNotFoundError):
        shutil.copy(transform.PROJECT / transform.PARSED, CANDIDATE / transform.PROJECT / transform.PARSED)
    for part, file in files.items():
        assert file is not None
        target = CANDIDATE / RAW / part.target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file.absolute())


def landed(part: Part) -> Path | None:
    """Return the part's file in data/landing, if it exists and its bytes match its name."""
    for path in (LANDING / part.table).glob(f"{part.month or 'all'}-{part.key}-*.parquet"):
        if sha256(path)[:16] == path.stem.rsplit("-", 1)[1]:
            return path
        path.unlink()
    return None


def _gated(
    source: Source, file: SourceFile, parts: list[Part]
) -> Iterator[tuple[Part, "pd.DataFrame", list["Problem"]]]:
    import pandas as pd

    from .gate import Problem, check, text_columns

    table = project.tables()[file.table]
    try:
        rows = source.read(file, text_columns(table.name), LANDING)
        months = _months(rows, table, table.time) if file.month is None and table.time else None
    except (ValueError, KeyError) as error:
        if isinstance(error, KeyError):
            problem = Problem("missing column", str(error.args[0]), (), "the file does not have it")
        else:
            problem = Problem("readable", "", (), str(error), "")
        yield from ((part, pd.DataFrame(), [problem]) for part in parts)
        return
    for part in parts:
        if months is None:
            of_part = rows
        else:
            of_part = rows[months == int((part.month or "").replace("-", ""))]
            if of_part.empty:
                raise UserError(
                    f"{file.name} in the source holds no row of {part.month} "
                    f"(its last month is {months.max() // 100}-{months.max() % 100:02}): "
                    "change the data window (data.since, data.through) in params.yaml"
                )
        yield (part, *check(of_part, table, part.month))


def _months(rows: "pd.DataFrame", table: Table, time: str) -> "pd.Series[int]":
    """Return the month of each row of a whole table, as a number like 201301.

    Raises:
        KeyError: there is no such column. ValueError: a row has no time, so it would not be in any part.
    """
    from .gate import ISO, instants

    at, _ = instants(rows[time], table)
    nowhere = rows.index[at.isna()]
    if len(nowhere):
        raise ValueError(f"{len(nowhere):,} rows have no {time} (the first is row {nowhere[0] + 1}); {ISO}")
    local = at.dt.tz_convert(table.clock).dt
    return local.year * 100 + local.month


def _write(part: Part, rows: "pd.DataFrame") -> Path:
    # No fsync: the file's name contains the digest, and landed() rejects a file that does not match.
    aside = LANDING / part.table / f".{part.month or 'all'}.{os.getpid()}.tmp"
    aside.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(aside, index=False, compression="zstd")
    return aside


def _quarantine(source: Source, failed: list[tuple[Part, list["Problem"]]]) -> str:
    reports = []
    for part, problems in failed:
        folder = QUARANTINE / f"{part.table}-{part.month or 'all'}-{part.file.sha256[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        source.copy(part.file.name, folder / Path(part.file.name).name)
        report = folder / "report.md"
        lines = [
            f"- {problem.summary}; rows {', '.join(map(str, problem.rows)) or 'all'}"
            + (f"; declared by {problem.bound}" if problem.bound else "")
            for problem in problems
        ]
        write_text(
            report,
            f"# {part.file.name} did not pass the gate\n\n"
            f"Source: {source.location}, SHA-256 {part.file.sha256}\n\n" + "\n".join(lines) + "\n",
        )
        reports.append((part, problems, report))
    part, problems, report = reports[0]
    others = "" if len(reports) == 1 else f"; {len(reports) - 1} more file(s) failed too"
    instead = f"; if it is right, change {problems[0].bound}" if problems[0].bound else ""
    more = "" if len(problems) == 1 else f" (and {len(problems) - 1} more)"
    return (
        f"{part.file.name} did not pass the gate: {problems[0]}{more}{others}. Nothing was changed. "
        f"The file and a report are in {report.parent}. Fix it at the source and run again{instead}"
    )


def main() -> None:
    """Make data/raw hold the window's months, from the pinned files of the source."""
    data = load_params().data
    source, files = look(data)
    parts = plan(data, files)
    wanted = {part.file for part in parts}
    if changed := sorted(file.name for file in unpinned(files) if file in wanted):
        raise UserError(
            f"{changed[0]} in the source is not what {PINS_FILE} pins: take the new bytes with "
            "`run`, or put the old file back"
        )
    land(source, parts)
    # DVC empties an output before its stage runs, but a manual run may find old months here.
    shutil.rmtree(RAW, ignore_errors=True)
    for part in parts:
        kept = landed(part)
        assert kept is not None
        (RAW / part.target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, RAW / part.target)
        print(f"{part.target}: {kept.stat().st_size:,} bytes")


if __name__ == "__main__":
    run_stage(main)
