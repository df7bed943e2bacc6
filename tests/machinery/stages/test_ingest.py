"""What lands in data/raw, out of which files, and what it costs to move the watermark."""

import shutil
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.errors import UserError
from lifecycle.params import Data, Limits, load_params, set_through
from lifecycle.stages import ingest
from lifecycle.stages.source import FORMATS, Source, SourceFile, read_pins
from lifecycle.testing import digests, edit_params, ingest_all, own

import synthetic

TABLES = own("tables").TABLES
MONTHS = synthetic.MONTHS[:3]
# Tables with a file a month, and the first of them.
MONTHLY = [table.name for table in TABLES.values() if table.time]
TABLE = MONTHLY[0]
RAW, LANDING = Path("data/raw"), Path("data/landing")


def files_as_written() -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in LANDING.rglob("*.parquet")}


def test_lands_every_month_of_the_window_and_nothing_else(folder: Path) -> None:
    set_through(MONTHS[1])
    ingest_all()
    landed = {str(path.relative_to(RAW)) for path in RAW.rglob("*") if path.is_file()}
    whole = {f"{name}.parquet" for name in TABLES.keys() - MONTHLY}
    assert landed == whole | {f"{name}/{month}.parquet" for name in MONTHLY for month in MONTHS[:2]}
    source = pd.read_parquet(f"extracts/{TABLE}/{MONTHS[0]}.parquet")
    assert len(pd.read_parquet(RAW / TABLE / f"{MONTHS[0]}.parquet")) == len(source)


def test_a_higher_watermark_lands_only_the_new_month(folder: Path) -> None:
    set_through(MONTHS[1])
    ingest_all()
    before = files_as_written()
    set_through(MONTHS[2])
    new = ingest.admit(load_params().data)
    assert sorted(str(part.target) for part in new) == sorted(f"{name}/{MONTHS[2]}.parquet" for name in MONTHLY)
    assert before.items() < files_as_written().items()


def test_down_and_up_again_gives_the_same_bytes_and_lands_nothing(folder: Path) -> None:
    high = ingest_all()
    before = files_as_written()
    set_through(MONTHS[0])
    low = ingest_all()
    assert low.items() < high.items()
    assert not any(MONTHS[2] in path for path in low)
    set_through(MONTHS[2])
    assert ingest_all() == high
    assert files_as_written() == before


def test_the_landing_folder_may_be_deleted(folder: Path) -> None:
    before = ingest_all()
    shutil.rmtree(LANDING)
    shutil.rmtree(RAW)
    ingest.main()
    assert digests(RAW) == before


def test_an_altered_landed_file_is_noticed(folder: Path) -> None:
    before = ingest_all()
    altered = next((LANDING / TABLE).glob(f"{MONTHS[0]}*.parquet"))
    pd.read_parquet(altered).iloc[1:].to_parquet(altered, index=False)
    ingest.main()
    assert digests(RAW) == before


def test_nothing_is_left_of_a_landing_that_was_cut_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (LANDING / TABLE).mkdir(parents=True)
    torn = LANDING / TABLE / f".{MONTHS[0]}.1.tmp"
    torn.write_bytes(b"half a file")
    assert str(RAW / TABLE / f"{MONTHS[0]}.parquet") in ingest_all()
    assert not any(path.name.startswith(".") for path in RAW.rglob("*"))


def test_the_order_of_rows_at_the_source_does_not_show(folder: Path) -> None:
    before = ingest_all()
    file = Path(f"extracts/{TABLE}/{MONTHS[1]}.parquet")
    pd.read_parquet(file).sample(frac=1, random_state=1).to_parquet(file, index=False)
    assert ingest_all() == before


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_source_by_url(scheme: str, folder: Path) -> None:
    from_folder = ingest_all()
    url = Path("extracts").resolve().as_uri() if scheme == "file" else "memory://team/extracts"
    if scheme == "memory":
        fsspec.filesystem("memory").put("extracts", "/team/extracts", recursive=True)
    edit_params(folder, {"data": {"source": url}})
    shutil.rmtree(LANDING)
    assert ingest_all() == from_folder


@pytest.mark.parametrize("source", ["nowhere", "nosuchscheme://bucket/x", "package:no_such_package", "params.yaml"])
def test_a_source_that_is_not_there(source: str, folder: Path) -> None:
    edit_params(folder, {"data": {"source": source}})
    with pytest.raises(UserError, match=source.removeprefix("package:")):
        ingest.admit(load_params().data)


def test_the_source_is_pinned_to_its_bytes(folder: Path) -> None:
    ingest_all()
    expected = {path.removeprefix("extracts/"): digest for path, digest in digests(Path("extracts")).items()}
    assert read_pins() == expected


def test_a_corrected_file_lands_by_run_and_is_refused_by_the_stage(folder: Path) -> None:
    before = ingest_all()
    file = Path(f"extracts/{TABLE}/{MONTHS[1]}.parquet")
    pd.read_parquet(file).iloc[1:].to_parquet(file, index=False)
    said = rf"^{TABLE}/{MONTHS[1]}\.parquet in the source is not what data/source\.json pins"
    with pytest.raises(UserError, match=said):
        ingest.main()
    assert digests(RAW) == before
    after = ingest_all()
    assert {path for path in before if before[path] != after[path]} == {f"data/raw/{TABLE}/{MONTHS[1]}.parquet"}


def test_the_stage_does_not_mind_what_lies_outside_the_window(folder: Path) -> None:
    set_through(MONTHS[1])
    before = ingest_all()
    Path(f"extracts/{TABLE}/{MONTHS[2]}.parquet").write_bytes(b"still being written")
    ingest.main()
    assert digests(RAW) == before


def test_damaged_pins_say_how_to_mend_them(folder: Path) -> None:
    ingest_all()
    Path("data/source.json").write_text('{"files', encoding="utf-8")
    with pytest.raises(UserError, match=r"git checkout data/source\.json"):
        ingest.main()


def test_files_that_are_no_table_are_left_alone(folder: Path) -> None:
    before = ingest_all()
    month = f"{MONTHS[0]}.parquet"
    for name in ("README.md", f"{TABLE}/notes.txt", f"{TABLE}/{month}.part", f"{TABLE}/old/{month}"):
        path = Path("extracts", name)
        path.parent.mkdir(exist_ok=True)
        path.write_text("not a table", encoding="utf-8")
    assert ingest_all() == before
    assert not any("README" in name or "notes" in name or "old" in name for name in read_pins())


names = st.text("abc019-.", min_size=1, max_size=8).filter(lambda name: not name.startswith("."))


@given(months=st.sets(names, min_size=1, max_size=4), suffix=st.sampled_from(FORMATS))
def test_names_of_monthly_files_are_read_back(months: set[str], suffix: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    months = {month for month in months if not any(month.endswith(each) for each in FORMATS)}
    for month in months | {"x"}:
        memory.pipe(f"/names/{TABLE}/{month}{suffix}", b"")
    found = Source("memory://names", Limits()).files([TABLE])
    assert {file.month for file in found} == months | {"x"}
    assert all(file.name == f"{TABLE}/{file.month}{suffix}" for file in found)


@given(year=st.integers(1000, 2990), month=st.integers(1, 12), many=st.integers(1, 40))
def test_a_plan_has_each_month_of_the_window_once(year: int, month: int, many: int) -> None:
    first = pd.Period(year=year, month=month, freq="M")
    data = Data(source="x", since=str(first), through=str(first + many - 1))
    files = [SourceFile(table, None, f"{table}.csv", "0") for table in TABLES]
    monthly = [part.month for part in ingest.plan(data, files) if part.table == TABLE]
    assert monthly == [str(first + n) for n in range(many)]
