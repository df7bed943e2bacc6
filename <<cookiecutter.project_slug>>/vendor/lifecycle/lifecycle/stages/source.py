"""Where raw files come from, and which bytes were there when somebody looked."""

import hashlib
import importlib.util
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_json

if TYPE_CHECKING:
    import pandas as pd

# The listing of the source that ingest takes its files from. Committed with the code: it pins the bytes.
PINS_FILE = Path("data/source.json")

FORMATS = (".csv", ".csv.gz", ".csv.zip", ".parquet")


@dataclass(frozen=True)
class SourceFile:
    """One file of the source. `month` is None for a file that holds a whole table."""

    table: str
    month: str | None
    name: str
    sha256: str


class Source:
    """A folder of raw files: one inside an installed package, a local one, or any that fsspec reaches."""

    def __init__(self, location: str) -> None:
        """Args: location: `package:NAME` (its `data` folder), a path, or an fsspec URL."""
        import fsspec

        self.location = location
        root = _package_data(location.removeprefix("package:")) if location.startswith("package:") else location
        try:
            self._fs, self._root = fsspec.url_to_fs(root)
        except (ImportError, ValueError) as error:
            raise UserError(f"data.source {location!r} in params.yaml cannot be opened: {error}") from None

    def files(self, tables: list[str]) -> list[SourceFile]:
        """The files of these tables with the digests of their bytes, by name.

        Raises:
            UserError: the folder is not there, or a table has no file in it.
        """
        try:
            names = sorted(path.removeprefix(self._root).lstrip("/") for path in self._fs.find(self._root))
        except OSError as error:
            raise UserError(f"data.source {self.location!r} cannot be listed: {error}") from None
        found = [file for table in tables for file in self._files_of(table, names)]
        missing = sorted(set(tables) - {file.table for file in found})
        if missing:
            raise UserError(
                f"the source {self.location!r} holds no file for {', '.join(missing)}: it wants "
                f"{missing[0]}.csv or .parquet, or a folder {missing[0]}/ with one file a month (2013-01.csv)"
            )
        return found

    def _files_of(self, table: str, names: list[str]) -> Iterator[SourceFile]:
        for name in names:
            stem, known = _without_format(name)
            if known and stem == table:
                yield SourceFile(table, None, name, self._digest(name))
            elif known and stem.startswith(f"{table}/") and stem.count("/") == 1:
                yield SourceFile(table, stem.split("/")[1], name, self._digest(name))

    def _digest(self, name: str) -> str:
        with self._opened(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        try:
            with self._fs.open(f"{self._root}/{name}", "rb") as file:
                yield file
        except OSError as error:
            raise UserError(f"{name} in the source {self.location!r} cannot be read: {error}") from None

    def copy(self, name: str, target: Path) -> None:
        """Copy one file of the source to a local path."""
        self._fs.get_file(f"{self._root}/{name}", str(target))

    def read(self, file: SourceFile, text_columns: list[str]) -> "pd.DataFrame":
        """Read one file. `text_columns` are kept as text even where every value looks like a number.

        Raises:
            ValueError: the file is not readable as what its name says; in one line.
            UserError: its bytes are others than when it was listed.
        """
        import pandas as pd

        with self._opened(file.name) as opened:
            content = opened.read()
        # What lands is filed under the digest of the listing: it must be made of those bytes.
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise UserError(f"{file.name} in the source changed while it was read: run again when it is complete")
        try:
            if file.name.endswith(".parquet"):
                return pd.read_parquet(io.BytesIO(content)).reset_index(drop=True)
            options: dict[str, Any] = {
                "compression": {".gz": "gzip", ".zip": "zip"}.get(Path(file.name).suffix),
                "dtype": dict.fromkeys(text_columns, "str"),
            }
            rows: pd.DataFrame = pd.read_csv(io.BytesIO(content), low_memory=False, **options)
            return rows
        except Exception as error:  # pandas, pyarrow, zipfile and gzip each have their own
            raise ValueError(" ".join(str(error).split())[:300].rstrip(".") or type(error).__name__) from None


def _package_data(package: str) -> str:
    # Found, not imported: importing the package would read every table into memory.
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
    """The pinned files of the source: name -> SHA-256."""
    try:
        pins: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: put it back with `git checkout {path}`") from None
    return pins


def pins_of(files: list[SourceFile]) -> dict[str, str]:
    """What pins these files: name -> SHA-256."""
    return {file.name: file.sha256 for file in files}


def unpinned(files: list[SourceFile]) -> list[SourceFile]:
    """Those of the files whose bytes are not the pinned ones, or that are not pinned at all."""
    pins = read_pins()
    return [file for file in files if pins.get(file.name) != file.sha256]


def write_pins(source: Source, files: list[SourceFile], path: Path = PINS_FILE) -> None:
    """Pin the source to these bytes."""
    write_json(path, {"source": source.location, "files": pins_of(files)})
