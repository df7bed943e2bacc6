"""The source of raw files, and the digests of their bytes when they were listed."""

import gzip
import hashlib
import importlib.util
import json
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import UserError, one_line
from ..files import write_json
from ..params import Limits

if TYPE_CHECKING:
    import pandas as pd

# The listing of the source that ingest reads. Committed with the code: it pins the bytes.
PINS_FILE = Path("data/source.json")

FORMATS = (".csv", ".csv.gz", ".csv.zip", ".parquet")
MB = 1_000_000
CHUNK = 1_048_576
# Longer than any table's header line.
LONGEST_HEADER = 100_000
# Memory needed to read each cell, in addition to twice the file's size.
BYTES_A_CELL = 32


@dataclass(frozen=True)
class SourceFile:
    """One file of the source. `month` is None for a file that holds a whole table."""

    table: str
    month: str | None
    name: str
    sha256: str

    @property
    def format(self) -> str:
        """The file's format, one of FORMATS."""
        return next(suffix for suffix in FORMATS if self.name.endswith(suffix))


class Source:
    """A folder of raw files: inside an installed package, local, or on any file system that fsspec supports."""

    def __init__(self, location: str, limits: Limits) -> None:
        """Args: location: `package:NAME` (its `data` folder), a path, or an fsspec URL."""
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.location, self._limits = location, limits
        root = _package_data(location.removeprefix("package:")) if location.startswith("package:") else location
        try:
            self._fs, self._root = fsspec.url_to_fs(root)
        except (ImportError, ValueError) as error:
            raise UserError(f"data.source {location!r} in params.yaml cannot be opened: {error}") from None
        self._local = isinstance(self._fs, LocalFileSystem)

    def files(self, tables: list[str]) -> list[SourceFile]:
        """Return the files of these tables with the digests of their bytes, by name.

        Raises:
            UserError: the folder does not exist, or has no file for a table.
        """
        try:
            names = sorted(path.removeprefix(self._root).lstrip("/") for path in self._fs.find(self._root))
        except OSError as error:
            raise UserError(f"data.source {self.location!r} cannot be listed: {error}") from None
        found = [file for table in tables for file in self._files_of(table, names)]
        missing = sorted(set(tables) - {file.table for file in found})
        if missing:
            raise UserError(
                f"the source {self.location!r} holds no {', '.join(missing)}: add {missing[0]}.csv or .parquet, "
                f"or a folder {missing[0]}/ with one file a month (2013-01.csv){self.almost(missing[0])}"
            )
        return found

    def almost(self, wanted: str) -> str:
        """Suggest similar names in the source for a missing file (its name without format)."""
        entries = self._fs.find(self._root, maxdepth=2, withdirs=True, detail=True)
        for path, entry in sorted(entries.items()):
            name = path.removeprefix(self._root).lstrip("/")
            if name and _is_almost(name, wanted):
                kind = "a folder" if entry["type"] == "directory" else "a file"
                return f". There is {kind} {name!r}: is it meant to be the file {wanted}.csv or .parquet?"
        return ""

    def _files_of(self, table: str, names: list[str]) -> Iterator[SourceFile]:
        for name in names:
            stem, known = _without_format(name)
            if known and stem == table:
                yield SourceFile(table, None, name, self._digest(name))
            elif known and stem.startswith(f"{table}/") and stem.count("/") == 1:
                yield SourceFile(table, stem.split("/")[1], name, self._digest(name))

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks(name):
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a regular file. Follows a link, wherever it leads.

        Raises:
            UserError: it is not a regular file, is larger than `limits.file_mb`, or cannot be read.
        """
        most, seen = self._limits.file_mb * MB, 0
        try:
            with self._opened(name) as (file, size):
                while size <= most and seen <= most and (chunk := file.read(CHUNK)):
                    seen += len(chunk)
                    yield chunk
        except OSError as error:
            raise UserError(f"{name} in the source {self.location!r} cannot be read: {error}") from None
        if max(size, seen) > most:
            raise UserError(
                f"{name} in the source {self.location!r} is larger than {self._limits.file_mb:,} MB: remove it, or "
                "raise data.limits.file_mb in params.yaml"
            )

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[Any, int]]:
        path = f"{self._root}/{name}"
        if not self._local:
            with self._fs.open(path, "rb") as file:
                yield file, self._fs.size(path) or 0
            return
        # Check before opening: opening a device has side effects, and a pipe would block until it has a writer.
        self._only_regular(name, Path(path).stat())
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            self._only_regular(name, found)
            yield file, found.st_size

    def _only_regular(self, name: str, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
            raise UserError(
                f"{name} in the source {self.location!r} is {kind} and not a file: put the file in its place"
            )

    def copy(self, name: str, target: Path) -> None:
        """Copy one file of the source to a local path."""
        with target.open("wb") as file:
            file.writelines(self._chunks(name))

    def read(self, file: SourceFile, text_columns: list[str], aside: Path) -> "pd.DataFrame":
        """Read one file. `text_columns` are kept as text even if every value looks like a number.

        Copies it to `aside` and unpacks it there while reading, so a file that is rejected for its size is never
        loaded into memory.

        Raises:
            ValueError: the file's content does not match its format, or it is too large; the message is one line.
            UserError: its bytes have changed since it was listed.
        """
        import pandas as pd

        aside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=aside) as content:
            digest = hashlib.sha256()
            for chunk in self._chunks(file.name):
                digest.update(chunk)
                content.write(chunk)
            # The landed file is named by the digest in the listing, so it must be made of those bytes.
            if digest.hexdigest() != file.sha256:
                raise UserError(f"{file.name} in the source changed while it was read: run again when it is complete")
            content.seek(0)
            try:
                if file.format == ".parquet":
                    self._measure_parquet(content)
                    return pd.read_parquet(content).reset_index(drop=True)
                with tempfile.TemporaryFile(dir=aside) as unpacked:
                    self._unpack(content, file.format, unpacked)
                    types = dict.fromkeys(text_columns, "str")
                    rows: pd.DataFrame = pd.read_csv(unpacked, low_memory=False, dtype=types)
                    return rows
            except Exception as error:  # pandas, pyarrow, zipfile and gzip each raise their own
                raise ValueError(one_line(error).rstrip(".") or type(error).__name__) from None

    def _unpack(self, content: IO[bytes], form: str, unpacked: IO[bytes]) -> None:
        """Unpack a text file, and stop as soon as it is too large."""
        size = cells = 0
        with _unpacking(content, form) as file:
            if len(first := file.readline(LONGEST_HEADER)) == LONGEST_HEADER:
                raise ValueError(f"the first line is longer than {LONGEST_HEADER:,} bytes")
            chunk = first
            while chunk:
                size += len(chunk)
                cells += sum(map(chunk.count, (b",", b"\n", b"\r")))
                self._hold_to_limits(size, cells)
                unpacked.write(chunk)
                chunk = file.read(CHUNK)
        unpacked.seek(0)

    def _measure_parquet(self, content: IO[bytes]) -> None:
        """Reject a file that is too large by its metadata, or after unpacking its text (equal values count once)."""
        import pyarrow.parquet as pq

        file = pq.ParquetFile(content)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        self._hold_to_limits(size, file.metadata.num_rows * file.metadata.num_columns)
        texts = [
            field.name for field in file.schema_arrow if "string" in str(field.type) or "binary" in str(field.type)
        ]
        seen = 0
        for batch in file.iter_batches(2_000, columns=texts) if texts else ():
            seen += batch.nbytes
            self._hold_to_limits(seen, 0)
        content.seek(0)

    def _hold_to_limits(self, size: int, cells: int) -> None:
        most = self._limits
        if size > most.unpacked_mb * MB:
            raise ValueError(
                f"it unpacks to more than {most.unpacked_mb:,} MB (data.limits.unpacked_mb in params.yaml)"
            )
        if 2 * size + BYTES_A_CELL * cells > most.memory_mb * MB:
            raise ValueError(
                f"reading it takes more than {most.memory_mb:,} MB of memory (data.limits.memory_mb in params.yaml)"
            )


KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def _unpacking(content: IO[bytes], form: str) -> Iterator[IO[bytes]]:
    if form == ".csv.gz":
        with gzip.GzipFile(fileobj=content) as file:
            yield file  # type: ignore[misc]
    elif form == ".csv.zip":
        with zipfile.ZipFile(content) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if len(names) != 1:
                raise ValueError(f"{len(names)} files in the zip, expected one")
            with archive.open(names[0]) as file:
                yield file
    else:
        yield content


def _is_almost(name: str, wanted: str) -> bool:
    """Return whether a name is a likely typo of another: the same numbers, and nearly the same letters."""
    folder, _, last = name.lower().rpartition("/")
    name = f"{folder}/{last.partition('.')[0]}"
    numbers, letters = ([re.findall(pattern, each) for each in (name, wanted)] for pattern in (r"\d+", r"[^\W\d_]+"))
    same = "".join(numbers[0]) == "".join(numbers[1]) or list(map(int, numbers[0])) == list(map(int, numbers[1]))
    return same and SequenceMatcher(None, "".join(letters[0]), "".join(letters[1])).ratio() >= 0.75


def _package_data(package: str) -> str:
    # Find the package without importing it: that would read every table into memory.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"data.source names the package {package!r}, which is not installed: run `make setup`")
    return str(Path(spec.submodule_search_locations[0]) / "data")


def _without_format(name: str) -> tuple[str, bool]:
    for suffix in FORMATS:
        if name.endswith(suffix):
            return name.removesuffix(suffix), True
    return name, False


def read_pins(path: Path = PINS_FILE) -> dict[str, str]:
    """Return the pinned files of the source: name -> SHA-256."""
    try:
        pins: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: restore it with `git checkout {path}`") from None
    return pins


def pins_of(files: list[SourceFile]) -> dict[str, str]:
    """Return the pins of these files: name -> SHA-256."""
    return {file.name: file.sha256 for file in files}


def unpinned(files: list[SourceFile]) -> list[SourceFile]:
    """Return the files that are not pinned, or whose bytes differ from the pinned ones."""
    pins = read_pins()
    return [file for file in files if pins.get(file.name) != file.sha256]


def write_pins(source: Source, files: list[SourceFile], path: Path = PINS_FILE) -> None:
    """Pin the source to these bytes."""
    write_json(path, {"source": source.location, "files": pins_of(files)})
