"""Bad files, one kind each: one line that says what is wrong, the file in quarantine, and all else as it was."""

import gzip
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifecycle.contract import UserError
from lifecycle.params import Data
from lifecycle.stages import gate, ingest
from lifecycle.testing import cli, digests

from << cookiecutter.__package_name >>.tables import TABLES

import synthetic

GOOD, NEW = "2013-01", "2013-02"
WINDOW = Data(source="extracts", since=GOOD, through=NEW)
EVENTS = f"events/{NEW}"
STATE = (Path("data/raw"), Path("data/landing"), Path("data/source.json"), Path("params.yaml"))

Frames = Callable[[pd.DataFrame], pd.DataFrame]
Bytes = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def one_month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the first month has landed; the second waits at the source, as Parquet."""
    folder = tmp_path_factory.mktemp("one_month")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        synthetic.write_source(Path("extracts"), [GOOD, NEW])
        ingest.admit(Data(source="extracts", since=GOOD, through=GOOD))
        Path("params.yaml").write_text("data: {through: 2013-01}\n", encoding="utf-8")
        Path("data/raw").mkdir()
        Path("data/raw/marker").touch()
    return folder


@pytest.fixture
def source(one_month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(one_month, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("extracts")


def refused(file: Path) -> tuple[str, str]:
    """Admit the new month and see it refused; returns the message and the report on `file`."""
    before = digests(*STATE)
    with pytest.raises(UserError) as refusal:
        ingest.admit(WINDOW)
    assert digests(*STATE) == before
    message = str(refusal.value)
    assert message.isprintable(), "one line"
    assert message.startswith(f"{file.relative_to('extracts')} did not pass the gate: ")
    (folder,) = Path("data/quarantine").iterdir()
    assert str(folder) in message
    assert (folder / file.name).read_bytes() == file.read_bytes()
    assert {path.name for path in folder.iterdir()} == {file.name, "report.md"}
    return message, (folder / "report.md").read_text(encoding="utf-8")


def as_csv(path: Path) -> Path:
    """The same rows in a CSV file instead."""
    frame = pd.read_parquet(path)
    path.unlink()
    synthetic.write_table(frame, path.with_suffix(".csv"))
    return path.with_suffix(".csv")


def put(column: str, value: object, *rows: int) -> Frames:
    """Set some cells, rows counted from 1; all of them when none is given."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame[column] = frame[column].astype("object")
        frame.loc[[row - 1 for row in rows] if rows else frame.index, column] = value  # type: ignore[call-overload]
        return frame

    return change


def relabelled() -> pd.DataFrame:
    """January's rows as February's."""
    frame = of_month(GOOD)
    return frame.assign(id=frame.id.str.replace(GOOD, NEW), happened_at=frame.happened_at + pd.Timedelta(days=31))


def of_month(month: str) -> pd.DataFrame:
    return synthetic.events(month, many=400, seed=1)


# what is done to the file, what the message says after the file's name
BAD_ROWS: dict[str, tuple[Frames, str]] = {
    "missing column": (lambda f: f.drop(columns="value"), "missing column value"),
    "missing key": (lambda f: f.drop(columns="id"), "missing column id"),
    "renamed column": (lambda f: f.rename(columns={"kind": "Kind"}), "missing column kind"),
    "extra column": (lambda f: f.assign(seats=1), "unknown column seats"),
    "text for a number": (
        lambda f: put("value", "far", 8)(f).astype({"value": "str"}),
        "type in value: found far (row 8)",
    ),
    "fraction for a whole number": (
        lambda f: f.assign(outcome=f.outcome.astype("float64").where(f.index != 7, 0.5)),
        "type in outcome: found 0.5 (row 8)",
    ),
    "text for a time": (
        lambda f: f.assign(happened_at="noon"),
        "type in happened_at: found noon; write it like 2013-01-31T18:00:00Z (row 1, 2,",
    ),
    "out of range": (put("value", 99_999.0, 4, 10), "in value: found 99999.0 (row 4, 10)"),
    "infinite": (lambda f: f.assign(value=f.value.where(f.index != 2, np.inf)), "in value: found inf (row 3)"),
    "unknown kind": (put("kind", "z", 12), "in kind: found z (row 12)"),
    "code with a line break": (put("kind", "A\nB\x1b[31m", 5), r"in kind: found 'A\nB\x1b[31m' (row 5)"),
    "too few rows": (lambda f: f.head(10), "row count: 10 rows, expected 100 to 100,000"),
    "no rows": (lambda f: f.head(0), "row count: 0 rows"),
    "duplicate keys": (lambda f: pd.concat([f, f.iloc[[4, 5]]]), "2 rows repeat an earlier one (row 401, 402)"),
    "too many nulls": (put("outcome", None, *range(1, 102)), "null share in outcome: "),
    "null where none may be": (put("kind", None, 18), "null in kind: found "),
    "null time": (
        lambda f: f.assign(happened_at=f.happened_at.mask(f.index == 17)),
        "null in happened_at: found NaT (row 18)",
    ),
    "some rows of another month": (
        lambda f: f.assign(happened_at=f.happened_at.mask(f.index < 2, pd.Timestamp("2013-03-01", tz="UTC"))),
        "month in happened_at: 2 rows are not of 2013-02 on the clock of UTC (row 1, 2)",
    ),
    "another month": (lambda _: of_month("2013-03"), "month in happened_at: 400 rows are not of 2013-02"),
    "another year": (lambda _: of_month("2012-02"), "month in happened_at: 400 rows are not of 2013-02"),
    "time without a zone": (
        lambda f: f.assign(happened_at=f.happened_at.dt.tz_localize(None)),
        "a time needs its zone, write it like 2013-01-31T18:00:00Z (row 1, 2,",
    ),
    "date with slashes": (lambda f: f.assign(happened_at="2013/02/01"), "type in happened_at: found 2013/02/01"),
    "bytes for text": (lambda f: f.assign(kind=f.kind.map(str.encode)), "type in kind: found b'a', b'b', b'c', b'd'; "),
    "no values in a column": (put("value", None), "null share in value: 100.0% of 400 rows, at most 5.0% of a file or"),
    "half a month": (lambda f: f[f.happened_at.dt.day < 15], "days in happened_at: 14 of 28 days have next to no"),
    "a kind is missing": (lambda f: f[f.kind != "a"], "category in kind: 0.0% of the rows are 'a', "),
    "many rows for this table": (
        lambda f: pd.concat([f.assign(id=f.id.str[:8] + str(n) + f.id.str[9:]) for n in range(3)]),
        "volume: ",
    ),
    "the month before under another date": (lambda _: relabelled(), "copy: 100% of the rows are those of 2013-01"),
    "rows with names": (
        lambda f: put("value", -99.0, 2)(f).set_index("row-" + f.index.astype("str")),
        "in value: found -99.0 (row 2)",
    ),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_rows_that_are_not_what_the_contract_says(kind: str, source: Path) -> None:
    change, says = BAD_ROWS[kind]
    file = source / f"{EVENTS}.parquet"
    frame = change(pd.read_parquet(file))
    frame.to_parquet(file, index=None if kind == "rows with names" else False)
    message, report = refused(file)
    assert says in message
    rows = re.search(r"\(row ([\d, ]+)", message)
    assert not rows or rows[1].split(",")[0] in report


BAD_BYTES: dict[str, tuple[str, Bytes, str]] = {
    "not Parquet": (".parquet", lambda _: b"hello", "readable: "),
    "empty": (".parquet", lambda _: b"", "readable: "),
    "Parquet cut short": (".parquet", lambda b: b[:-100], "readable: "),
    "Parquet with a hole": (".parquet", lambda b: b[:1000] + b[2000:], "readable: "),
    "empty CSV": (".csv", lambda _: b"", "readable: No columns"),
    "header only": (".csv", lambda b: b.splitlines(keepends=True)[0], "row count: 0 rows"),
    "binary garbage": (".csv", lambda b: b[:5_000] + bytes(range(256)) * 4 + b[5_000:], "readable: "),
    "zero bytes": (".csv", lambda b: b[:5_000] + b"\0" * 50 + b[5_000:], ": found"),
    "cut short": (".csv", lambda b: b[:-15], "(row 400)"),
    "one cell too many": (".csv", lambda b: b.replace(b",a,", b",a,9,", 1), "readable: "),
    "semicolons": (".csv", lambda b: b.replace(b",", b";"), "missing column "),
    "Latin-1": (".csv", lambda b: b.replace(b",a,", ",\xe9\xe8\xea,".encode("latin-1")), "readable: 'utf-8'"),
    "UTF-16": (".csv", lambda b: b.decode().encode("utf-16"), "readable: 'utf-8'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_BYTES)
def test_bytes_that_are_not_what_the_name_says(kind: str, source: Path) -> None:
    suffix, change, says = BAD_BYTES[kind]
    file = source / f"{EVENTS}.parquet"
    if suffix == ".csv":
        file = as_csv(file)
    file.write_bytes(change(file.read_bytes()))
    message, report = refused(file)
    assert says in message
    assert "SHA-256" in report


def _two_in_one(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", content)
        archive.writestr("b.csv", content)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".csv.gz", lambda path, content: path.write_bytes(gzip.compress(content)[:-2000])),
        (".csv.gz", lambda path, content: path.write_bytes(content)),
        (".csv.zip", lambda path, content: path.write_bytes(b"PK" + content)),
        (".csv.zip", _two_in_one),
    ],
    ids=["gzip cut short", "not gzip", "not zip", "two files in a zip"],
)
def test_archives(suffix: str, write: Callable[[Path, bytes], None], source: Path) -> None:
    csv = as_csv(source / f"{EVENTS}.parquet")
    file = csv.with_suffix(suffix)
    write(file, csv.read_bytes())
    csv.unlink()
    message, _ = refused(file)
    assert "readable: " in message


def test_a_whole_table_with_rows_of_no_month(source: Path) -> None:
    # Such rows would be in no part, and vanish.
    frame = pd.concat([of_month(GOOD), of_month(NEW)], ignore_index=True)
    shutil.rmtree(source / "events")
    frame.assign(happened_at=frame.happened_at.mask(frame.index == 6)).to_parquet(source / "events.parquet")
    with pytest.raises(UserError, match=r"events\.parquet did not pass the gate: readable: 1 rows have no happened_at"):
        ingest.admit(WINDOW)


def test_every_bad_file_is_kept_and_counted(source: Path) -> None:
    for month in (GOOD, NEW):
        (source / f"events/{month}.parquet").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"1 more file\(s\) failed too"):
        ingest.admit(WINDOW)
    assert len(list(Path("data/quarantine").iterdir())) == 2


def test_a_good_file_beside_a_bad_one_waits(source: Path) -> None:
    (source / f"{EVENTS}.parquet").write_bytes(b"hello")
    before = set(Path("data/landing").rglob("*"))
    synthetic.write_source(source, ["2013-03"])
    with pytest.raises(UserError):
        ingest.admit(Data(source="extracts", since=GOOD, through="2013-03"))
    assert set(Path("data/landing").rglob("*")) == before


def test_mended_at_the_source_it_lands(source: Path) -> None:
    file = source / f"{EVENTS}.parquet"
    good = file.read_bytes()
    file.write_bytes(good[:-100])
    with pytest.raises(UserError):
        ingest.admit(WINDOW)
    file.write_bytes(good)
    assert {part.month for part in ingest.admit(WINDOW)} == {NEW}


def test_a_file_that_changes_while_it_is_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = source / f"{EVENTS}.parquet"
    before = digests(*STATE)
    look = ingest.look

    def look_then_replace(data: Data) -> object:
        found = look(data)
        pd.read_parquet(file).iloc[::-1].to_parquet(file, index=False)
        return found

    monkeypatch.setattr(ingest, "look", look_then_replace)
    with pytest.raises(UserError, match=r"02\.parquet in the source changed while it was read"):
        ingest.admit(WINDOW)
    assert digests(*STATE) == before


def test_a_missing_file(source: Path) -> None:
    (source / f"{EVENTS}.parquet").unlink()
    before = digests(*STATE)
    with pytest.raises(UserError, match=rf"^the source 'extracts' .*{EVENTS}.*\.csv"):
        ingest.admit(WINDOW)
    assert digests(*STATE) == before


def test_a_link_to_nowhere(source: Path) -> None:
    file = source / f"{EVENTS}.parquet"
    file.unlink()
    file.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"events/2013-02"):
        ingest.admit(WINDOW)


def test_two_files_for_one_month(source: Path) -> None:
    shutil.copy(source / f"{EVENTS}.parquet", source / f"{EVENTS}.csv")
    with pytest.raises(UserError, match=r"holds events/2013-02\.csv and events/2013-02\.parquet"):
        ingest.admit(WINDOW)


def test_instants_are_what_counts_not_how_they_are_written(source: Path) -> None:
    expected = {part.target: ingest.landed(part) for part in ingest.admit(WINDOW)}
    for path in Path("data/landing/events").glob(f"{NEW}*"):
        path.rename(path.with_name("expected"))
    file = source / f"{EVENTS}.parquet"
    frame = pd.read_parquet(file)
    for times in (frame.happened_at.dt.tz_convert("Asia/Tokyo"), frame.happened_at.map(pd.Timestamp.isoformat)):
        frame.assign(happened_at=times).to_parquet(file, index=False)
        ingest.admit(WINDOW)
    landed = {path.name.split("-")[-1] for path in Path("data/landing/events").glob(f"{NEW}*")}
    kept = expected[Path("events", f"{NEW}.parquet")]
    assert kept is not None
    assert landed == {kept.name.split("-")[-1]}


def test_good_rows_come_out_typed_and_in_order_of_their_key() -> None:
    rows = of_month(GOOD)
    checked, problems = gate.check(rows.iloc[::-1].reset_index(drop=True), TABLES["events"], GOOD)
    assert problems == []
    assert str(checked.dtypes["value"]) == "Float64"
    assert checked.set_index(list(TABLES["events"].key)).index.is_monotonic_increasing


REFUSED: dict[str, tuple[Frames, str]] = {
    "by the contract": (put("value", 99_999.0, 4, 10), "in_range(-10, 10) in value: found 99999.0 (row 4, 10)"),
    # A key of an earlier month: each file is right by itself.
    "by a test in SQL": (put("id", "2013-04-0000", 1), "unique_stg_events_event_id: "),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_run_refuses_a_bad_file_in_one_line_and_changes_nothing(how: str, built: Path) -> None:
    change, says = REFUSED[how]
    synthetic.write_source(built / "extracts", ["2013-05"])
    file = built / "extracts/events/2013-05.parquet"
    change(pd.read_parquet(file)).to_parquet(file, index=False)
    state = [built / name for name in ("data/raw", "data/landing", "data/source.json", "data/features")]
    state += [built / name for name in ("dvc.lock", "params.yaml", "model", "reports")]
    # Of .lifecycle all but the events: a refused run is an event too.
    state += [path for path in (built / ".lifecycle").rglob("*") if not path.name.startswith("openlineage")]
    before = digests(*state)
    done = cli("run", "--through", "2013-05")
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert line.startswith(f"error: events/2013-05.parquet did not pass the gate: {says}")
    assert digests(*state) == before
    assert [path.name[:14] for path in (built / "data/quarantine").iterdir()] == ["events-2013-05"[:14]]
