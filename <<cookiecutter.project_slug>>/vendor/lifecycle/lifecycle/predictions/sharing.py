"""Bring the prediction logs of all hosts together, in one place that all reach (`serving.log.store`).

A server starts a new file every `ship_seconds`. A finished file never changes: it is copied to the store once, by name,
whole or not at all. Commands that judge predictions first fetch what other hosts have put there.
"""

import fcntl
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from ..files import append_lines, replacing
from .log import FOLDER

# The files of each day that the store has, by the name without its suffix: a file turns from JSON lines into Parquet.
KNOWN = Path(".lifecycle/shipped")
RECENT = timedelta(days=31)
DAY = re.compile(r"\d{4}-\d\d-\d\d")
KINDS = (".jsonl", ".parquet")


def ship(store: str, folder: Path = FOLDER) -> int:
    """Copy finished files that the store lacks. Return how many.

    Raises:
        UserError: the store cannot be written. The next call copies the rest.
    """
    fs, root = _open(store)
    shipped = 0
    for day in sorted(folder.glob("????-??-??")):
        known = _known(day.name)
        for path in sorted(each for each in day.iterdir() if each.suffix in KINDS):
            if path.stem in known or _is_written_to(path):
                continue
            try:
                _put(fs, path, f"{root}/{day.name}/{path.name}")
            except FileNotFoundError:  # it became Parquet: the next time
                continue
            except Exception as error:  # every store raises its own errors
                raise UserError(f"the log of predictions cannot be copied to {store}: {one_line(error)}") from None
            _remember(day.name, path.stem)
            shipped += 1
    return shipped


def collect(store: str | None, since: str = "", until: str = "9999", folder: Path = FOLDER) -> int:
    """Fetch the other hosts' files of these days (YYYY-MM-DD, both included). Return how many. Without a store, none.

    Raises:
        UserError: the store cannot be read, so not every prediction is known here.
    """
    if store is None:
        return 0
    fs, root = _open(store)
    fetched = 0
    try:
        for day in sorted(name.rstrip("/").rpartition("/")[2] for name in fs.ls(root, detail=False, refresh=True)):
            if not (DAY.fullmatch(day) and since <= day <= until):
                continue
            known = _known(day)
            for name in sorted(fs.ls(f"{root}/{day}", detail=False, refresh=True)):
                target = folder / day / name.rpartition("/")[2]
                here = target.exists() or target.with_suffix(".parquet").exists()
                if here or target.stem in known or target.suffix not in KINDS:
                    continue
                with replacing(target) as aside:
                    fs.get_file(name, str(aside))
                # A kill before this line lets it be copied back, which changes nothing.
                _remember(day, target.stem)
                fetched += 1
    except Exception as error:  # every store raises its own errors
        why = (
            "it does not exist yet. A server creates it when it first copies its log there"
            if isinstance(error, FileNotFoundError)
            else one_line(error)
        )
        raise UserError(
            f"the prediction logs of the other hosts cannot be read from {store}: {why}. Nothing is judged without them"
        ) from None
    return fetched


def collect_recent(store: str | None) -> int:
    """Fetch the other hosts' files of the last month; see `collect`."""
    return collect(store, (datetime.now(UTC) - RECENT).date().isoformat())


def _open(store: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, root = fsspec.url_to_fs(store)
    except (ImportError, ValueError) as error:
        raise UserError(f"serving.log.store in params.yaml, {store}, cannot be opened: {one_line(error)}") from None
    return fs, root.rstrip("/")


def _put(fs: Any, path: Path, target: str) -> None:
    """Copy a file. On S3 and its like it appears when it is whole; elsewhere it is renamed into place."""
    fs.makedirs(target.rpartition("/")[0], exist_ok=True)
    if fs.protocol in ("file", "local", ("file", "local"), "sftp", ("sftp", "ssh")):
        fs.put_file(str(path), f"{target}.part")
        fs.mv(f"{target}.part", target)
    else:
        fs.put_file(str(path), target)


def _is_written_to(path: Path) -> bool:
    """Return whether a server, or the conversion to Parquet, has the file open."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
    return True


def _known(day: str) -> set[str]:
    path = KNOWN / day
    return set(path.read_text(encoding="utf-8").split()) if path.exists() else set()


def _remember(day: str, name: str) -> None:
    append_lines(KNOWN / day, f"{name}\n")


if __name__ == "__main__":
    os.nice(10)
    try:
        ship(sys.argv[1], Path(sys.argv[2]))
    except UserError as error:
        sys.exit(f"error: {error}")
