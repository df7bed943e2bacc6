"""What lands in data/raw, out of which files, and what it costs to move the watermark."""

import shutil
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from << cookiecutter.__package_name >>.errors import UserError
from << cookiecutter.__package_name >>.params import Data, Limits, load_params, set_through
from << cookiecutter.__package_name >>.stages import ingest
from << cookiecutter.__package_name >>.stages.source import FORMATS, Source, SourceFile, read_pins
from << cookiecutter.__package_name >>.stages.tables import TABLES

import synthetic
from support import ROOT, digests, edit_params

MONTHS = synthetic.MONTHS[:3]
RAW, LANDING = Path("data/raw"), Path("data/landing")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and a source of three months, nothing landed; the watermark is the last month."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    edit_params(tmp_path, synthetic.PARAMS)
    synthetic.write_source(tmp_path / "extracts", MONTHS)
    monkeypatch.chdir(tmp_path)
    set_through(MONTHS[-1])
    return tmp_path


def ingest_all() -> dict[str, str]:
    """What `run` does up to the stage's end; returns the digests of data/raw."""
    ingest.admit(load_params().data)
    ingest.main()
    return digests(RAW)


def files_as_written() -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in LANDING.rglob("*.parquet")}


def test_lands_every_month_of_the_window_and_nothing_else(folder: Path) -> None:
    set_through(MONTHS[1])
    ingest_all()
    landed = {str(path.relative_to(RAW)) for path in RAW.rglob("*") if path.is_file()}
<% if cookiecutter.example == 'blank' %>    assert landed == {f"events/{month}.parquet" for month in MONTHS[:2]}<% else %>    monthly = {f"{table}/{month}.parquet" for table in ("flights", "weather") for month in MONTHS[:2]}
    assert landed == monthly | {"planes.parquet", "airports.parquet", "airlines.parquet"}<% endif %>
    assert len(pd.read_parquet(RAW / "<< cookiecutter.__table >>/2013-01.parquet")) == <% if cookiecutter.example == 'blank' %>400<% else %>1200<% endif %>


def test_a_higher_watermark_lands_only_the_new_month(folder: Path) -> None:
    set_through(MONTHS[1])
    ingest_all()
    before = files_as_written()
    set_through(MONTHS[2])
    new = ingest.admit(load_params().data)
    assert sorted(str(part.target) for part in new) == [<% if cookiecutter.example == 'blank' %>f"events/{MONTHS[2]}.parquet"<% else %>f"flights/{MONTHS[2]}.parquet", f"weather/{MONTHS[2]}.parquet"<% endif %>]
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
    altered = next((LANDING / "<< cookiecutter.__table >>").glob(f"{MONTHS[0]}*.parquet"))
    pd.read_parquet(altered).assign(<% if cookiecutter.example == 'blank' %>value=0.0<% else %>arr_delay=0<% endif %>).to_parquet(altered, index=False)
    ingest.main()
    assert digests(RAW) == before


def test_nothing_is_left_of_a_landing_that_was_cut_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (LANDING / "<< cookiecutter.__table >>").mkdir(parents=True)
    torn = LANDING / "<< cookiecutter.__table >>" / f".{MONTHS[0]}.1.tmp"
    torn.write_bytes(b"half a file")
    assert str(RAW / "<< cookiecutter.__table >>" / f"{MONTHS[0]}.parquet") in ingest_all()
    assert not any(path.name.startswith(".") for path in RAW.rglob("*"))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zip"])
def test_the_format_of_the_source_does_not_show(suffix: str, folder: Path) -> None:
    from_parquet = ingest_all()
    shutil.rmtree("extracts")
    synthetic.write_source(Path("extracts"), MONTHS, suffix=suffix)
    assert ingest_all() == from_parquet


@pytest.mark.parametrize("suffix", [".csv", ".csv.zip", ".parquet"])
def test_a_whole_table_lands_as_its_months_do(suffix: str, folder: Path) -> None:
    from_months = ingest_all()
    shutil.rmtree("extracts")
    synthetic.write_source(Path("extracts"), MONTHS, suffix=suffix, whole=True)
    assert ingest_all() == from_months


def test_the_order_of_rows_at_the_source_does_not_show(folder: Path) -> None:
    before = ingest_all()
    file = Path("extracts/<< cookiecutter.__table >>/2013-02.parquet")
    pd.read_parquet(file).sample(frac=1, random_state=1).to_parquet(file, index=False)
    assert ingest_all() == before


def test_a_window_beyond_a_whole_table_says_where_it_ends(folder: Path) -> None:
    shutil.rmtree("extracts")
    synthetic.write_source(Path("extracts"), MONTHS, whole=True)
    set_through("2013-07")
    with pytest.raises(UserError, match=r"no row of 2013-04 \(its last month is 2013-03\)"):
        ingest.admit(load_params().data)


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
    file = Path("extracts/<< cookiecutter.__table >>/2013-02.parquet")
    frame = pd.read_parquet(file)
    frame.assign(<% if cookiecutter.example == 'blank' %>value=frame.value + 1<% else %>arr_delay=frame.arr_delay + 1<% endif %>).to_parquet(file, index=False)
    with pytest.raises(UserError, match=r"^<< cookiecutter.__table >>/2013-02\.parquet in the source is not what data/source\.json pins"):
        ingest.main()
    assert digests(RAW) == before
    after = ingest_all()
    assert {path for path in before if before[path] != after[path]} == {"data/raw/<< cookiecutter.__table >>/2013-02.parquet"}


def test_the_stage_does_not_mind_what_lies_outside_the_window(folder: Path) -> None:
    set_through(MONTHS[1])
    before = ingest_all()
    Path(f"extracts/<< cookiecutter.__table >>/{MONTHS[2]}.parquet").write_bytes(b"still being written")
    ingest.main()
    assert digests(RAW) == before


def test_damaged_pins_say_how_to_mend_them(folder: Path) -> None:
    ingest_all()
    Path("data/source.json").write_text('{"files', encoding="utf-8")
    with pytest.raises(UserError, match=r"git checkout data/source\.json"):
        ingest.main()


def test_files_that_are_no_table_are_left_alone(folder: Path) -> None:
    before = ingest_all()
    for name in ("README.md", "<< cookiecutter.__table >>/notes.txt", "<< cookiecutter.__table >>/2013-01.parquet.part", "<< cookiecutter.__table >>/old/2013-01.parquet"):
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
        memory.pipe(f"/names/<< cookiecutter.__table >>/{month}{suffix}", b"")
    found = Source("memory://names", Limits()).files(["<< cookiecutter.__table >>"])
    assert {file.month for file in found} == months | {"x"}
    assert all(file.name == f"<< cookiecutter.__table >>/{file.month}{suffix}" for file in found)


@given(year=st.integers(1000, 2990), month=st.integers(1, 12), many=st.integers(1, 40))
def test_a_plan_has_each_month_of_the_window_once(year: int, month: int, many: int) -> None:
    first = pd.Period(year=year, month=month, freq="M")
    data = Data(source="x", since=str(first), through=str(first + many - 1))
    files = [SourceFile(table, None, f"{table}.csv", "0") for table in TABLES]
    monthly = [part.month for part in ingest.plan(data, files) if part.table == "<< cookiecutter.__table >>"]
    assert monthly == [str(first + n) for n in range(many)]


def test_the_real_source_has_the_declared_tables() -> None:
    # Only where its files are, not what is in them: the package's name in params.yaml is right.
    _, files = ingest.look(load_params(ROOT / "params.yaml").data)
    assert {file.table for file in files} == set(TABLES)
