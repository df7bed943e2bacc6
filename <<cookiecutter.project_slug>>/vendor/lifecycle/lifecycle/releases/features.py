"""The feature table as the pipeline last built it, out of DVC's cache: whole, whatever lies in the work tree."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .pipeline import outputs
from .record import Release
from .store import File, Output, Store


@dataclass(frozen=True)
class Built:
    """A feature table: its path in the project, its MD5, and the file in the cache that holds it."""

    path: str
    md5: str
    file: Path


def built_for(release: Release, store: Store) -> Built:
    """The newest table of those that a release's model reads, hashed.

    Raises:
        UserError: dvc.lock names none, it is lost, or it lacks a feature of the model or has it in another type.
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
    """The table of this path that dvc.lock names, hashed.

    Raises:
        UserError: it names none, or it is lost.
    """
    found = next((file for file in built_below(path, store) if file.path == path), None)
    if found is None:
        raise UserError(f"dvc.lock names no {path}: `run` builds it")
    return Built(path, found.md5, store.object_path(found.md5))


def built_below(path: str, store: Store) -> list[File]:
    """The files of the output that holds a path, as dvc.lock names them, all hashed.

    Raises:
        UserError: one is lost.
    """
    listed = [Output(out["path"], out["md5"], out["size"]) for out in outputs()]
    needed = [output for output in listed if f"{path}/".startswith(f"{output.path}/")]
    if wrong := store.fetch(needed):
        raise UserError(f"{path} cannot be used: {wrong[0]}. `dvc pull` or `run`")
    return store.files(needed)
