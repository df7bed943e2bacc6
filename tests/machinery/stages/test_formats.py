"""The formats in which a source may hold the same rows. What the rows are does not matter here."""

import shutil
from pathlib import Path

import pytest

from lifecycle.errors import UserError
from lifecycle.params import load_params, set_through
from lifecycle.stages import ingest
from lifecycle.testing import ROOT, ingest_all, own

import synthetic

TABLES = own("tables").TABLES
MONTHS = synthetic.MONTHS[:3]


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


def test_a_window_beyond_a_whole_table_says_where_it_ends(folder: Path) -> None:
    shutil.rmtree("extracts")
    synthetic.write_source(Path("extracts"), MONTHS, whole=True)
    set_through("2013-07")
    with pytest.raises(UserError, match=r"no row of 2013-04 \(its last month is 2013-03\)"):
        ingest.admit(load_params().data)


def test_the_real_source_has_the_declared_tables() -> None:
    # Only where its files are, not what is in them: the package's name in params.yaml is right.
    _, files = ingest.look(load_params(ROOT / "params.yaml").data)
    assert {file.table for file in files} == set(TABLES)
