"""What the source may hold: regular files of a bounded size, under the names that are asked for."""

import gzip
import os
import resource
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lifecycle.errors import UserError
from lifecycle.params import Data, Limits
from lifecycle.stages import ingest
from lifecycle.stages.source import MB, Source, SourceFile
from lifecycle.testing import ROOT

import synthetic

GOOD, NEW = synthetic.MONTHS[:2]
WINDOW = Data(source="extracts", since=GOOD, through=NEW)
TABLE = "flights"
FILE = Path("extracts", TABLE, f"{NEW}.csv")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    synthetic.write_source(Path("extracts"), [GOOD, NEW], suffix=".csv")
    return tmp_path


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "is a device and not a file"),
    "pipe": (os.mkfifo, "is a pipe and not a file"),
    "link to a pipe": (lambda path: (os.mkfifo("pipe"), path.symlink_to(Path("pipe").absolute()))[1], "is a pipe"),
    "socket": (_socket, "is a socket and not a file"),
    "link to a folder": (lambda path: path.symlink_to(Path.cwd()), "is a folder and not a file"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "cannot be read: .*No such file"),
    "2 GB of nothing": (lambda path: (path.touch(), os.truncate(path, 2_000 * MB))[1], "is larger than 1,000 MB"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_file_of_a_bounded_size_is_refused_unread(kind: str, source: Path) -> None:
    make, says = KINDS[kind]
    FILE.unlink()
    make(FILE)
    with pytest.raises(UserError, match=says) as refusal:
        ingest.admit(WINDOW)
    assert str(FILE.relative_to("extracts").with_suffix("")) in str(refusal.value)
    assert not Path("data/source.json").exists()


def test_a_link_counts_as_the_file_that_it_leads_to(source: Path) -> None:
    outside = FILE.rename(source / "elsewhere.csv")
    FILE.symlink_to(outside)
    assert NEW in {part.month for part in ingest.admit(WINDOW)}


def _gzip_of_zeros(path: Path) -> None:
    # Members of a gzip file are unpacked one after the other.
    path.write_bytes(gzip.compress(b"a,b\n") + gzip.compress(bytes(10 * MB)) * 40)


def _zip_of_zeros(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.csv", "w") as file,
    ):
        file.write(b"a,b\n")
        for _ in range(20):
            file.write(bytes(10 * MB))


def _gzip_of_lines(path: Path) -> None:
    path.write_bytes(gzip.compress(b"a,b\n" + b",\n" * (5 * MB)) * 3)


def _gzip_of_columns(path: Path) -> None:
    path.write_bytes(gzip.compress(b"," * (30 * MB)))


def _parquet_of_one_value(path: Path) -> None:
    pq.write_table(pa.table({"a": pa.DictionaryArray.from_arrays([0] * 10_000, ["x" * 20_000]).cast("string")}), path)


BOMBS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "gzip of zeros": (
        ".csv.gz",
        _gzip_of_zeros,
        "it unpacks to more than 50 MB (data.limits.unpacked_mb in params.yaml)",
    ),
    "zip of zeros": (
        ".csv.zip",
        _zip_of_zeros,
        "it unpacks to more than 50 MB (data.limits.unpacked_mb in params.yaml)",
    ),
    "empty cells": (".csv.gz", _gzip_of_lines, "more than 200 MB of memory (data.limits.memory_mb in params.yaml)"),
    "columns": (".csv.gz", _gzip_of_columns, "the first line is longer than 100,000 bytes"),
    "Parquet of one value": (".parquet", _parquet_of_one_value, "it unpacks to more than 50 MB"),
}
READ = """
import resource, sys
from pathlib import Path
import pandas, pyarrow.parquet
from lifecycle.params import Limits
from lifecycle.stages.source import Source, SourceFile
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
name, sha256 = sys.argv[1:]
source, before = Source(".", Limits(unpacked_mb=50, memory_mb=200)), peak()
try:
    source.read(SourceFile("x", None, name, sha256), [], Path("aside"))
except ValueError as error:
    print(peak() - before, error)
"""


@pytest.mark.parametrize("kind", BOMBS)
def test_what_unpacks_to_more_than_allowed_never_is_in_memory(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    suffix, make, says = BOMBS[kind]
    make(Path(f"x{suffix}"))
    (file,) = Source(".", Limits()).files(["x"])
    command = [sys.executable, "-c", READ, file.name, file.sha256]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=_bounded)
    kilobytes, message = done.stdout.strip().split(" ", 1)
    assert says in message
    assert int(kilobytes) < 150_000
    assert not list(Path("aside").iterdir())


def _bounded() -> None:
    # Address space, which a library reserves far more of than it uses: for the test to end if the bounds do not hold.
    resource.setrlimit(resource.RLIMIT_AS, (4_000 * MB, 4_000 * MB))


def test_a_file_as_large_as_allowed_is_read(source: Path) -> None:
    size = max(file.stat().st_size for file in Path("extracts").rglob("*.csv"))
    limits = Limits(file_mb=size // MB + 1, unpacked_mb=size // MB + 1)
    assert ingest.admit(WINDOW.model_copy(update={"limits": limits}))


ALMOST = {
    "underscore": f"{TABLE}/{NEW.replace('-', '_')}.csv",
    "no hyphen": f"{TABLE}/{NEW.replace('-', '')}.csv",
    "space": f"{TABLE}/{NEW} .csv",
    "no zero": f"{TABLE}/{NEW.replace('-0', '-')}.csv",
    "capitals": f"{TABLE}/{NEW}.CSV",
    "half written": f"{TABLE}/{NEW}.csv.part",
    "other format": f"{TABLE}/{NEW}.xlsx",
    "other folder": f"{TABLE[1:]}/{NEW}.csv",
    "not in the folder": f"{TABLE}-{NEW}.csv",
    "a folder": f"{TABLE}/{NEW}.csv/part-0.csv",
}


@pytest.mark.parametrize("kind", ALMOST)
def test_an_almost_right_name_is_mentioned(kind: str, source: Path) -> None:
    given = Path("extracts", ALMOST[kind])
    content = FILE.read_bytes()
    FILE.unlink()
    given.parent.mkdir(parents=True, exist_ok=True)
    given.write_bytes(content)
    name = ALMOST[kind].removesuffix("/part-0.csv")
    with pytest.raises(UserError) as refusal:
        ingest.admit(WINDOW)
    what = "folder" if kind == "a folder" else "file"
    assert f"There is a {what} {name!r}: is it meant to be the file {TABLE}/{NEW}.csv or .parquet?" in str(
        refusal.value
    )


def test_an_almost_right_name_of_a_table_is_mentioned(source: Path) -> None:
    Path("extracts", TABLE).rename(Path("extracts", f"{TABLE}_"))
    with pytest.raises(UserError, match=rf"holds no {TABLE}: .* There is a folder '{TABLE}_'"):
        ingest.admit(WINDOW)


def test_other_months_are_not_almost_the_one(source: Path) -> None:
    with pytest.raises(UserError) as refusal:
        ingest.admit(WINDOW.model_copy(update={"through": synthetic.MONTHS[2]}))
    assert "There is" not in str(refusal.value)


def test_a_month_that_has_not_begun(source: Path) -> None:
    with pytest.raises(UserError, match=r"^2050-01 has not begun: .* data\.limits\.future_days"):
        ingest.admit(WINDOW.model_copy(update={"through": "2050-01"}))


def test_equal_bytes_in_another_format_do_not_share_a_landing() -> None:
    part = ingest.Part(TABLE, NEW, SourceFile(TABLE, NEW, f"{TABLE}/{NEW}.csv", "0" * 64))
    other = replace(part, file=replace(part.file, name=f"{TABLE}/{NEW}.csv.gz"))
    assert part.key != other.key
