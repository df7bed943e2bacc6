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

from lifecycle.errors import UserError
from lifecycle.params import Data
from lifecycle.stages import gate, ingest
from lifecycle.testing import ROOT, cli, digests, own

import synthetic

TABLES = own("tables").TABLES
GOOD, NEW = "2013-01", "2013-02"
WINDOW = Data(source="extracts", since=GOOD, through=NEW)
FLIGHTS, WEATHER = f"flights/{NEW}", f"weather/{NEW}"
STATE = (Path("data/raw"), Path("data/landing"), Path("data/source.json"), Path("params.yaml"))

Frames = Callable[[pd.DataFrame], pd.DataFrame]
Bytes = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def one_month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the first month has landed; the second waits at the source, as Parquet."""
    folder = tmp_path_factory.mktemp("one_month")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(ROOT / "pyproject.toml", folder)
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
    frame = frame[frame.day <= 28].reset_index(drop=True)
    return frame.assign(month=2, time_hour=frame.time_hour + pd.Timedelta(days=31))


def of_month(month: str) -> pd.DataFrame:
    return synthetic.monthly_tables([month])["flights"][month]


# file, what is done to it, what the message says after the file's name
BAD_ROWS: dict[str, tuple[str, Frames, str]] = {
    "missing column": (FLIGHTS, lambda f: f.drop(columns="tailnum"), "missing column tailnum"),
    "missing key": (FLIGHTS, lambda f: f.drop(columns="carrier"), "missing column carrier"),
    "renamed column": (FLIGHTS, lambda f: f.rename(columns={"dest": "Dest"}), "missing column dest"),
    "extra column": (FLIGHTS, lambda f: f.assign(seats=1), "unknown column seats"),
    "text for a number": (
        FLIGHTS,
        lambda f: put("distance", "far", 8)(f).astype({"distance": "str"}),
        "type in distance: found far (row 8)",
    ),
    "fraction for a whole number": (
        FLIGHTS,
        lambda f: f.assign(distance=f.distance.where(f.index != 7, 100.5)),
        "type in distance: found 100.5 (row 8)",
    ),
    "text for a time": (
        FLIGHTS,
        lambda f: f.assign(time_hour="noon"),
        "type in time_hour: found noon; write it like 2013-01-31T18:00:00Z (row 1, 2,",
    ),
    "out of range": (FLIGHTS, put("arr_delay", 99_999, 4, 10), "in arr_delay: found 99999 (row 4, 10)"),
    "infinite": (WEATHER, lambda f: f.assign(temp=f.temp.where(f.index != 2, np.inf)), "in temp: found inf (row 3)"),
    "unknown airport of departure": (FLIGHTS, put("origin", "BOS", 12), "in origin: found BOS (row 12)"),
    "code with a line break": (FLIGHTS, put("dest", "A\nB\x1b[31m", 5), r"in dest: found 'A\nB\x1b[31m' (row 5)"),
    "too few rows": (FLIGHTS, lambda f: f.head(10), "row count: 10 rows, expected 1,000 to 100,000"),
    "too many rows": (WEATHER, lambda f: pd.concat([f, f]), "rows, expected 200 to 2,300"),
    "no rows": (FLIGHTS, lambda f: f.head(0), "row count: 0 rows"),
    "duplicate keys": (
        FLIGHTS,
        lambda f: pd.concat([f, f.iloc[[4, 5]]]),
        "2 rows repeat an earlier one (row 1201, 1202)",
    ),
    "too many nulls": (FLIGHTS, put("dep_time", None, *range(1, 502)), "null share in dep_time: "),
    "null where none may be": (FLIGHTS, put("carrier", None, 18), "null in carrier: found "),
    "null time": (
        FLIGHTS,
        lambda f: f.assign(time_hour=f.time_hour.mask(f.index == 17)),
        "null in time_hour: found NaT (row 18)",
    ),
    "some rows of another month": (
        FLIGHTS,
        put("month", 3, 1, 2),
        "clock in time_hour: it is not the year, month, day, hour of America/New_York in 2 rows (row 1, 2)",
    ),
    "another month": (FLIGHTS, lambda _: of_month("2013-03"), "month in time_hour: 1,200 rows are not of 2013-02"),
    "another year": (FLIGHTS, lambda _: of_month("2012-02"), "month in time_hour: 1,200 rows are not of 2013-02"),
    "local time without a zone": (
        FLIGHTS,
        lambda f: f.assign(time_hour=f.time_hour.dt.tz_convert("America/New_York").dt.tz_localize(None)),
        "a time needs its zone, write it like 2013-01-31T18:00:00Z (row 1, 2,",
    ),
    "date with slashes": (FLIGHTS, lambda f: f.assign(time_hour="2013/02/01"), "type in time_hour: found 2013/02/01"),
    "number for a time": (FLIGHTS, lambda f: f.assign(time_hour=1359676800), "type in time_hour: found 1359676800"),
    "absurd year": (
        FLIGHTS,
        lambda f: f.assign(time_hour=f.time_hour.mask(f.index == 3, pd.Timestamp("1850-01-01", tz="UTC"))),
        "year in time_hour: found 1850-01-01 00:00:00+00:00; expected 1900 to 2100 (row 4)",
    ),
    "bytes for text": (
        FLIGHTS,
        lambda f: f.assign(carrier=f.carrier.map(str.encode)),
        "type in carrier: found b'AA', b'B6', b'DL', b'EV', b'UA'; bytes where text has to be",
    ),
    "bytes that are not text": (
        FLIGHTS,
        lambda f: f.assign(dest=b"\xff\x00"),
        "type in dest: found b'\\xff\\x00'; bytes",
    ),
    "a word for no value": (
        FLIGHTS,
        put("tailnum", "NULL", 2, 9),
        "no value in tailnum: found NULL; leave out what is not known (row 2, 9)",
    ),
    "no flight from one airport": (
        FLIGHTS,
        lambda f: pd.concat([f[f.origin != "JFK"].assign(flight=f.flight + 100 * n) for n in range(2)]),
        "category in origin: 0.0% of the rows are 'JFK', ",
    ),
    "one carrier in all rows": (FLIGHTS, put("carrier", "AA"), "category in carrier: 100.0% of the rows are 'AA'"),
    "no values in a column": (WEATHER, put("humid", None), "null share in humid: 100.0%, at most 0.0% before"),
    "no values where few were": (WEATHER, put("wind_gust", None), "null share in wind_gust: 100.0%, at most "),
    "no delays": (FLIGHTS, put("dep_delay", None), "null share in dep_delay: 100.0%, at most "),
    "half a month": (
        FLIGHTS,
        lambda f: pd.concat([f[f.day < 16].assign(flight=f.flight + 100 * n) for n in range(2)]),
        "days in time_hour: 13 of 28 days have next to no",
    ),
    "a day of many rows": (
        FLIGHTS,
        lambda f: pd.concat([f[f.day == 5].assign(flight=f.flight + 100 * n) for n in range(8)] + [f[f.day != 5]]),
        "day volume in time_hour: ",
    ),
    "too many rows for this table": (
        FLIGHTS,
        lambda f: pd.concat([f.assign(flight=f.flight + 100 * n) for n in range(3)]),
        "volume: 128.6 rows a day, 38.7 before",
    ),
    "the month before under another date": (
        FLIGHTS,
        lambda _: relabelled(),
        "copy: 100% of the rows are those of 2013-01 under another date",
    ),
    "one hour off": (
        WEATHER,
        lambda f: f.assign(time_hour=f.time_hour + pd.Timedelta(hours=1)),
        "clock in time_hour: ",
    ),
    "rows with names": (
        FLIGHTS,
        lambda f: put("distance", -1, 2)(f).set_index("row-" + f.index.astype("str")),
        "in distance: found -1 (row 2)",
    ),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_rows_that_are_not_what_the_contract_says(kind: str, source: Path) -> None:
    name, change, says = BAD_ROWS[kind]
    file = source / f"{name}.parquet"
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
    "Parquet with a hole": (".parquet", lambda b: b[:2000] + b[4000:], "readable: "),
    "empty CSV": (".csv", lambda _: b"", "readable: No columns"),
    "header only": (".csv", lambda b: b.splitlines(keepends=True)[0], "row count: 0 rows"),
    "binary garbage": (".csv", lambda b: b[:20_000] + bytes(range(256)) * 4 + b[20_000:], "readable: "),
    "zero bytes": (".csv", lambda b: b[:20_000] + b"\0" * 50 + b[20_000:], ": found '"),
    "cut short": (".csv", lambda b: b[:-40], "(row 1200)"),
    "one cell too many": (".csv", lambda b: b.replace(b"\n2013,2,2,", b"\n2013,2,2,9,", 1), "readable: "),
    "semicolons": (".csv", lambda b: b.replace(b",", b";"), "missing column "),
    "Latin-1": (".csv", lambda b: b.replace(b",BOS,", ",\xe9\xe8\xea,".encode("latin-1")), "readable: 'utf-8'"),
    "UTF-16": (".csv", lambda b: b.decode().encode("utf-16"), "readable: 'utf-8'"),
    "UTC called New York time": (".csv", lambda b: b.replace(b":00:00Z", b":00:00-05:00"), "clock in time_hour: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_BYTES)
def test_bytes_that_are_not_what_the_name_says(kind: str, source: Path) -> None:
    suffix, change, says = BAD_BYTES[kind]
    file = source / f"{FLIGHTS}.parquet"
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
    csv = as_csv(source / f"{FLIGHTS}.parquet")
    file = csv.with_suffix(suffix)
    write(file, csv.read_bytes())
    csv.unlink()
    message, _ = refused(file)
    assert "readable: " in message


def test_a_whole_table_with_rows_of_no_month(source: Path) -> None:
    # Such rows would be in no part, and vanish.
    frame = pd.concat(synthetic.monthly_tables([GOOD, NEW])["flights"].values(), ignore_index=True)
    shutil.rmtree(source / "flights")
    frame.assign(time_hour=frame.time_hour.mask(frame.index == 6)).to_parquet(source / "flights.parquet")
    with pytest.raises(UserError, match=r"flights\.parquet did not pass the gate: readable: 1 rows have no time_hour"):
        ingest.admit(WINDOW)


def test_every_bad_file_is_kept_and_counted(source: Path) -> None:
    for name in (FLIGHTS, WEATHER):
        (source / f"{name}.parquet").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"1 more file\(s\) failed too"):
        ingest.admit(WINDOW)
    assert len(list(Path("data/quarantine").iterdir())) == 2


def test_a_good_file_beside_a_bad_one_waits(source: Path) -> None:
    (source / f"{WEATHER}.parquet").write_bytes(b"hello")
    with pytest.raises(UserError):
        ingest.admit(WINDOW)
    assert not list(Path("data/landing/flights").glob(f"{NEW}*"))


def test_mended_at_the_source_it_lands(source: Path) -> None:
    file = source / f"{FLIGHTS}.parquet"
    good = file.read_bytes()
    file.write_bytes(good[:-100])
    with pytest.raises(UserError):
        ingest.admit(WINDOW)
    file.write_bytes(good)
    assert {part.month for part in ingest.admit(WINDOW)} == {NEW}


def test_a_file_that_changes_while_it_is_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = source / f"{FLIGHTS}.parquet"
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


@pytest.mark.parametrize("missing", [f"{FLIGHTS}.parquet", "planes.parquet"])
def test_a_missing_file(missing: str, source: Path) -> None:
    (source / missing).unlink()
    before = digests(*STATE)
    with pytest.raises(UserError, match=rf"^the source 'extracts' .*{missing.removesuffix('.parquet')}.*\.csv"):
        ingest.admit(WINDOW)
    assert digests(*STATE) == before


def test_a_link_to_nowhere(source: Path) -> None:
    file = source / f"{FLIGHTS}.parquet"
    file.unlink()
    file.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"flights/2013-02"):
        ingest.admit(WINDOW)


def test_two_files_for_one_month(source: Path) -> None:
    shutil.copy(source / f"{FLIGHTS}.parquet", source / f"{FLIGHTS}.csv")
    with pytest.raises(UserError, match=r"holds flights/2013-02\.csv and flights/2013-02\.parquet"):
        ingest.admit(WINDOW)


def test_instants_are_what_counts_not_how_they_are_written(source: Path) -> None:
    expected = {part.target: ingest.landed(part) for part in ingest.admit(WINDOW)}
    for path in Path("data/landing/flights").glob(f"{NEW}*"):
        path.rename(path.with_name("expected"))
    file = source / f"{FLIGHTS}.parquet"
    frame = pd.read_parquet(file)
    for times in (frame.time_hour.dt.tz_convert("America/New_York"), frame.time_hour.map(pd.Timestamp.isoformat)):
        frame.assign(time_hour=times).to_parquet(file, index=False)
        ingest.admit(WINDOW)
    landed = {path.name.split("-")[-1] for path in Path("data/landing/flights").glob(f"{NEW}*")}
    kept = expected[Path("flights", f"{NEW}.parquet")]
    assert kept is not None
    assert landed == {kept.name.split("-")[-1]}


def test_text_that_looks_like_numbers_stays_text(source: Path) -> None:
    file = as_csv(source / f"{FLIGHTS}.parquet")
    text = pd.read_csv(file, dtype="str", keep_default_na=False).assign(tailnum="00123")
    text.to_csv(file, index=False)
    (part,) = ingest.admit(WINDOW)[:1]
    landed = ingest.landed(part)
    assert landed is not None
    assert set(pd.read_parquet(landed).tailnum) == {"00123"}


def test_good_rows_come_out_typed_and_in_order_of_their_key() -> None:
    rows = of_month(GOOD)
    checked, problems = gate.check(rows.iloc[::-1].reset_index(drop=True), TABLES["flights"], GOOD)
    assert problems == []
    assert str(checked.dtypes["distance"]) == "Int64"
    assert checked.set_index(list(TABLES["flights"].key)).index.is_monotonic_increasing


REFUSED: dict[str, tuple[Frames, str]] = {
    "by the contract": (put("arr_delay", 99_999, 4, 10), "in_range(-180, 2880) in arr_delay: found 99999 (row 4, 10)"),
    # Only the airlines know it.
    "by a test in SQL": (put("carrier", "ZZ", 3, 8), "relationships_stg_flights_carrier__carrier__ref_stg_airlines_: "),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_run_refuses_a_bad_file_in_one_line_and_changes_nothing(how: str, built: Path) -> None:
    change, says = REFUSED[how]
    synthetic.write_source(built / "extracts", ["2013-05"])
    file = built / "extracts/flights/2013-05.parquet"
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
    assert line.startswith(f"error: flights/2013-05.parquet did not pass the gate: {says}")
    assert digests(*state) == before
    assert [path.name[:14] for path in (built / "data/quarantine").iterdir()] == ["flights-2013-05"[:14]]
