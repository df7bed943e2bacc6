"""ingest: land the months up to the watermark in data/raw, each file through the gate.

A landed file is kept in data/landing under a name made of the source's bytes, the contract and its own bytes.
So a new month costs one month, and a month seen before costs a copy. The folder may be deleted at any time.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import TYPE_CHECKING

from .. import project
from ..contract import run_stage
from ..errors import UserError
from ..files import sha256, write_text
from ..params import Data, load_params
from .source import PINS_FILE, Source, SourceFile, pins_of, read_pins, unpinned, write_pins

if TYPE_CHECKING:
    import pandas as pd

    from .gate import Problem

RAW = Path("data/raw")
LANDING = Path("data/landing")
QUARANTINE = Path("data/quarantine")


@dataclass(frozen=True)
class Part:
    """What becomes one file of data/raw: a table, or one month of it, out of one file of the source."""

    table: str
    month: str | None
    file: SourceFile

    @property
    def target(self) -> Path:
        """The part's path in data/raw."""
        return Path(self.table, f"{self.month}.parquet") if self.month else Path(f"{self.table}.parquet")

    @property
    def key(self) -> str:
        """Changes with the source's bytes and with whatever decides what lands: contract, gate, this file."""
        return sha256_of((self.file.sha256 + _rules()).encode()).hexdigest()[:16]


@cache
def _rules() -> str:
    here = project.here()
    own = [project.file_of(where) for where in (here.contracts, here.tables)]
    return "".join(sha256(path) for path in (*own, Path(__file__).with_name("gate.py"), Path(__file__)))


def look(data: Data) -> tuple[Source, list[SourceFile]]:
    """Look at the source: its files as they are now."""
    source = Source(data.source)
    return source, source.files(list(project.tables()))


def plan(data: Data, files: Iterable[SourceFile]) -> list[Part]:
    """The parts of data/raw for this window.

    Raises:
        UserError: a month of the window has no file, or two.
    """
    by_table: dict[str, dict[str | None, SourceFile]] = defaultdict(dict)
    for each in files:
        other = by_table[each.table].setdefault(each.month, each)
        if other is not each:
            raise UserError(f"the source {data.source!r} holds {other.name} and {each.name}: take one of them away")
    parts = []
    for table in project.tables().values():
        whole = by_table[table.name].get(None)
        if whole and len(by_table[table.name]) > 1:
            raise UserError(
                f"the source {data.source!r} holds {whole.name} and files of single months of {table.name}: "
                "take one of them away"
            )
        months: list[str | None] = [*data.months()] if table.time else [None]
        for month in months:
            file: SourceFile | None = by_table[table.name].get(month) or whole
            if file is None:
                missing = f"{table.name}/{month}" if month else table.name
                raise UserError(
                    f"the source {data.source!r} has no {missing}.csv or .parquet: add it there, or change the "
                    "data window (data.since, data.through) in params.yaml"
                )
            parts.append(Part(table.name, month, file))
    return parts


def admit(data: Data) -> list[Part]:
    """Look at the source, let its new files through the gate, and pin their bytes in data/source.json.

    Returns: the parts that were new. Raises UserError when a file fails; then nothing has changed but
    data/quarantine, which holds the file and a report.
    """
    source, files = look(data)
    new = land(source, plan(data, files))
    if pins_of(files) != read_pins():
        write_pins(source, files)
    return new


def land(source: Source, parts: list[Part]) -> list[Part]:
    """Bring every part into data/landing; returns those that were not there already.

    Raises:
        UserError: files failed the gate. They are in quarantine; no part of this call has landed.
    """
    new = [part for part in parts if landed(part) is None]
    if not new:
        return []
    by_file: dict[SourceFile, list[Part]] = defaultdict(list)
    for part in new:
        by_file[part.file].append(part)
    passed: list[tuple[Part, pd.DataFrame]] = []
    failed: list[tuple[Part, list[Problem]]] = []
    for file, of_file in by_file.items():
        for part, rows, problems in _gated(source, file, of_file):
            if problems:
                failed.append((part, problems))
            else:
                passed.append((part, rows))
    if failed:
        raise UserError(_quarantine(source, failed))
    for part, rows in passed:
        _store(part, rows)
    return new


def landed(part: Part) -> Path | None:
    """The part's file in data/landing, if it is there and its bytes are what its name says."""
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
        rows = source.read(file, text_columns(table.name))
        months = _months(rows, table.time, table.clock) if file.month is None and table.time else None
    except (ValueError, KeyError) as error:
        if isinstance(error, KeyError):
            problem = Problem("missing column", str(error.args[0]), (), "the file does not have it")
        else:
            problem = Problem("readable", "", (), str(error))
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


def _months(rows: "pd.DataFrame", time: str, clock: str) -> "pd.Series[int]":
    """The month of each row of a whole table, as a number like 201301.

    Raises:
        KeyError: there is no such column. ValueError: a row has no time, and would be in no part.
    """
    import pandas as pd

    at = pd.to_datetime(rows[time], utc=True, errors="coerce")
    nowhere = rows.index[at.isna()]
    if len(nowhere):
        raise ValueError(f"{len(nowhere):,} rows have no {time} (the first is row {nowhere[0] + 1})")
    local = at.dt.tz_convert(clock).dt
    return local.year * 100 + local.month


def _store(part: Part, rows: "pd.DataFrame") -> None:
    # No fsync: the name holds the digest, and landed() does not take a file that does not match it.
    aside = LANDING / part.table / f".{part.month or 'all'}.{os.getpid()}.tmp"
    aside.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(aside, index=False, compression="zstd")
    aside.replace(aside.with_name(f"{part.month or 'all'}-{part.key}-{sha256(aside)[:16]}.parquet"))


def _quarantine(source: Source, failed: list[tuple[Part, list["Problem"]]]) -> str:
    reports = []
    for part, problems in failed:
        folder = QUARANTINE / f"{part.table}-{part.month or 'all'}-{part.file.sha256[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        source.copy(part.file.name, folder / Path(part.file.name).name)
        report = folder / "report.md"
        lines = [f"- {problem.summary}; rows {', '.join(map(str, problem.rows)) or 'all'}" for problem in problems]
        write_text(
            report,
            f"# {part.file.name} did not pass the gate\n\n"
            f"Source: {source.location}, SHA-256 {part.file.sha256}\n\n" + "\n".join(lines) + "\n",
        )
        reports.append((part, problems, report))
    part, problems, report = reports[0]
    others = "" if len(reports) == 1 else f"; {len(reports) - 1} more file(s) failed too"
    more = "" if len(problems) == 1 else f" (and {len(problems) - 1} more)"
    return (
        f"{part.file.name} did not pass the gate: {problems[0]}{more}{others}. Nothing was changed. "
        f"The file and a report are in {report.parent}; mend it at the source and run again"
    )


def main() -> None:
    """Make data/raw hold the window's months, out of the pinned files of the source."""
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
    # DVC empties an output before its stage runs; a run by hand may find old months here.
    shutil.rmtree(RAW, ignore_errors=True)
    for part in parts:
        kept = landed(part)
        assert kept is not None
        (RAW / part.target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, RAW / part.target)
        print(f"{part.target}: {kept.stat().st_size:,} bytes")


if __name__ == "__main__":
    run_stage(main)
