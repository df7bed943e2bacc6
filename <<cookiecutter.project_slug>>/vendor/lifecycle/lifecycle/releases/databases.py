"""The SQLite files of MLflow and Prefect: detect damage, move them aside, and update paths when the project moves."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

PREFECT = Path(".prefect/prefect.db")
# Columns of MLflow's tables that hold artifact locations.
PLACES = {"artifact_location", "artifact_uri", "source", "storage_location"}


def damage(database: Path) -> str | None:
    """Return SQLite's description of a file's damage. None if SQLite finds none or there is no file."""
    if not database.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            (found,) = connection.execute("pragma quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        # A file that is locked or cannot be opened may still be intact.
        return str(error) if error.sqlite_errorcode == sqlite3.SQLITE_ERROR else None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else " ".join(str(found).split())


def damaged_prefect(wrong: str) -> str:
    """Return the message for a damaged Prefect database."""
    return f"Prefect's database {PREFECT} is damaged ({wrong}): `doctor` moves it aside, and Prefect makes a new one"


def set_aside(database: Path) -> Path:
    """Rename a damaged database so that a new one can be created. Return its new path."""
    aside = database.with_name(f"{database.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    for suffix in ("-wal", "-shm", "-journal", ""):  # the database itself last: a new one must not pick up these files
        if (part := database.with_name(database.name + suffix)).exists():
            part.replace(aside.with_name(aside.name + suffix))
    return aside


def follow_project(database: Path) -> list[str]:
    """Point MLflow's artifact paths at the database's current folder if the project was moved or copied.

    Changes only paths below the folder that the database was created in, in one transaction. Returns what was done.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    done = []
    here = database.parent
    with closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as connection:
        if not (old := _old_folders(connection, here)):
            return []
        connection.execute("begin immediate")
        for folder in old:
            for table, column in _places(connection):
                for before, after in ((f"{folder.as_uri()}/", f"{here.as_uri()}/"), (f"{folder}/", f"{here}/")):
                    connection.execute(
                        f'update "{table}" set "{column}" = ? || substr("{column}", ?) '  # noqa: S608  MLflow's own names
                        f'where instr("{column}", ?) = 1 and instr("{column}", ?) != 1',
                        (after, len(before) + 1, before, after),
                    )
            done.append(f"this project was in {folder}: the artifact paths in {database.name} are now those of {here}")
        connection.execute("commit")
    return done


def _old_folders(connection: sqlite3.Connection, here: Path) -> list[Path]:
    """Return the folders that the project was in when experiments were created."""
    if not connection.execute("select 1 from sqlite_master where name = 'experiments'").fetchone():
        return []
    found = connection.execute("select name, artifact_location from experiments where artifact_location like 'file:%'")
    folders = set()
    for name, location in found:
        place = Path(unquote(location.removeprefix("file://")))
        if place.parts[-2:] == ("mlartifacts", name) and place.parents[1] != here:
            folders.add(place.parents[1])
    return sorted(folders)


def _places(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
        for _, column, *_ in connection.execute(f'pragma table_info("{table}")').fetchall():
            if column in PLACES:
                yield table, column
