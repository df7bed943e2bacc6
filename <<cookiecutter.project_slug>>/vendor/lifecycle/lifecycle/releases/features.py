"""The feature table as the pipeline last built it. Read from DVC's cache, so the work tree does not affect it."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .pipeline import outputs
from .record import Release
from .store import File, Output, Store


@dataclass(frozen=True)
class Built:
    """A feature table: its path in the project, its MD5, and the cache file that holds it."""

    path: str
    md5: str
    file: Path


def built_for(release: Release, store: Store) -> Built:
    """Return the newest of the tables that a release's model reads, after hashing it.

    Raises:
        UserError: dvc.lock names no such table, it is lost, or a feature of the model is missing or has another type.
    """
    import pyarrow.parquet as pq

    path = release.model["feature_table"]
    built = newest(path, store)
    columns = {field.name: str(field.type) for field in pq.read_schema(built.file)}
    for name, kind in release.model["features"].items():
        if columns.get(name) != kind:
            has = f"has it as {columns[name]}, not {kind}" if name in columns else "no longer has it"
            raise UserError(f"the model of {release.id} needs the feature {name}, and {path} {has}")
    return built


def newest(path: str, store: Store) -> Built:
    """Return the table at this path as dvc.lock names it, after hashing it.

    Raises:
        UserError: dvc.lock does not name it, or it is lost.
    """
    found = next((file for file in built_below(path, store) if file.path == path), None)
    if found is None:
        raise UserError(f"dvc.lock names no {path}: `run` builds it")
    return Built(path, found.md5, store.object_path(found.md5))


def built_below(path: str, store: Store) -> list[File]:
    """Return the files of the output that contains a path, as dvc.lock names them, after hashing all of them.

    Raises:
        UserError: one is lost.
    """
    listed = [Output.of(out) for out in outputs()]
    needed = [output for output in listed if f"{path}/".startswith(f"{output.path}/")]
    if wrong := store.fetch(needed):
        raise UserError(f"{path} cannot be used: {wrong[0]}. `dvc pull` or `run`")
    return store.files(needed)
