"""The release record: what a release is made of, and the digest that gives it its id.

An in-toto Statement (https://in-toto.io/Statement/v1). `predicate.observed` holds what differs between builds of the
same content (time, person, MLflow's ids). Everything else is hashed, and the release's id is the start of that hash.
"""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from .. import project
from ..errors import UserError
from ..params import PARAMS_FILE
from .pipeline import LOCK_FILE, PIPELINE_FILE
from .store import File, Output, Store, both_digests

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:ml-lifecycle:release:v1"

METRICS_FILE = "reports/metrics.json"
GATES_FILE = "reports/gates.json"
SQL_FILE = "reports/sql/nodes.json"
LOCK = "requirements.lock"

# Enough rows that a different model predicts something else for at least one; few enough to store in the record.
PROBE_ROWS = 32
# The last bits of exp() may differ between C libraries.
PROBE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Release:
    """A release record. `statement` is the whole record; the properties are views of it."""

    statement: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of everything except `predicate.observed`."""
        predicate = {key: value for key, value in self.statement["predicate"].items() if key != "observed"}
        return hashlib.sha256(canonical(self.statement | {"predicate": predicate})).hexdigest()

    @property
    def id(self) -> str:
        """`r-` and the first twelve characters of the digest."""
        return f"r-{self.digest[:12]}"

    @property
    def materials(self) -> dict[str, Any]:
        """The inputs: git tree, lock file, raw data, pipeline, SQL, parameters, features."""
        found: dict[str, Any] = self.statement["predicate"]["materials"]
        return found

    @property
    def model(self) -> dict[str, Any]:
        """The model: name, path, file digests, features, probe."""
        found: dict[str, Any] = self.statement["predicate"]["model"]
        return found

    @property
    def evidence(self) -> dict[str, Any]:
        """Metrics and gates."""
        found: dict[str, Any] = self.statement["predicate"]["evidence"]
        return found

    @property
    def observed(self) -> dict[str, Any]:
        """The part that is not hashed: the commit, who released it and when, where MLflow has it."""
        found: dict[str, Any] = self.statement["predicate"]["observed"]
        return found

    @property
    def commit(self) -> str:
        """The commit it was released from."""
        return str(self.observed["commit"])

    @property
    def result_digest(self) -> str:
        """The digest that MLflow's runs and versions of this result are tagged with."""
        return str(self.materials["dvc"]["result_digest"])

    @cached_property
    def sql_digest(self) -> str:
        """The digest of the compiled SQL that made its features."""
        return sql_digest(self.materials["sql"])

    def outputs(self, *below: str) -> list[Output]:
        """Return the pipeline's outputs. With `below`, only those at or below one of these paths."""
        outs = [Output(**out) for out in self.materials["dvc"]["outs"]]
        return [out for out in outs if not below or any(f"{out.path}/".startswith(f"{name}/") for name in below)]

    def to_bytes(self) -> bytes:
        """Return the record as the ledger stores it."""
        return (
            json.dumps(self.statement, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        ).encode()


def canonical(value: Any) -> bytes:
    """Serialize to JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def read_release(content: bytes, release_id: str) -> Release:
    """Parse a record and check it against its id.

    Raises:
        UserError: the content does not match the id.
    """
    try:
        release = Release(json.loads(content))
        actual = release.id
    except (ValueError, KeyError, TypeError):
        raise UserError(f"the record of {release_id} in the ledger is not readable") from None
    if actual != release_id:
        raise UserError(f"the record of {release_id} in the ledger is altered: its content is that of {actual}")
    return release


def build(
    tree: str, files: dict[str, bytes], outputs: list[Output], result_digest: str, store: Store
) -> dict[str, Any]:
    """Build the hashed part of the record from a commit's files and DVC's cache.

    Args:
        tree: git tree of the project.
        files: params.yaml, dvc.yaml, dvc.lock and requirements.lock, by name.
        outputs: the outputs in dvc.lock.
        result_digest: the digest of these outputs.
        store: must have all of them.

    Raises:
        UserError: a cached file is missing or altered, or the model cannot be loaded.
    """
    by_path = {file.path: file for file in store.files(outputs)}
    digests = {path: _digests(store, file) for path, file in by_path.items()}
    pipeline = yaml.safe_load(files[str(PIPELINE_FILE)])
    artifacts = pipeline["artifacts"]
    name, declared = next((name, each) for name, each in artifacts.items() if each["type"] == "model")
    model_files = {path: sha256 for path, (sha256, _) in digests.items() if _is_below(path, declared["path"])}
    tables = [
        _table(store.object_path(by_path[each["path"]].md5), each["path"], digests[each["path"]][0])
        for each in artifacts.values()
        if each["type"] == "dataset"
    ]
    raw = [
        {"path": path, "sha256": sha256, "md5": by_path[path].md5, "size": size}
        | _rows(store.object_path(by_path[path].md5), path)
        for path, (sha256, size) in digests.items()
        if _is_below(path, "data") and path not in {table["path"] for table in tables}
    ]

    def load(path: str) -> Any:
        return json.loads(store.object_path(by_path[path].md5).read_bytes()) if path in by_path else None

    return {
        "_type": STATEMENT,
        "subject": [{"name": path, "digest": {"sha256": sha256}} for path, sha256 in model_files.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "model": {"name": name, "path": declared["path"], "files": model_files}
            | _describe_model(declared["path"], model_files, by_path, tables, store),
            "materials": {
                "git": {"tree": tree},
                "environment": {"lock": hashlib.sha256(files[LOCK]).hexdigest()},
                "raw": raw,
                "dvc": {
                    "lock": hashlib.sha256(files[str(LOCK_FILE)]).hexdigest(),
                    "result_digest": result_digest,
                    "outs": [vars(output) for output in outputs],
                },
                "sql": sql_of(load(SQL_FILE), {path: sha256 for path, (sha256, _) in digests.items()}),
                "params": yaml.safe_load(files[str(PARAMS_FILE)]),
                "features": tables,
            },
            "evidence": {"metrics": load(METRICS_FILE), "gates": load(GATES_FILE)},
        },
    }


def _describe_model(
    path: str, model_files: dict[str, str], by_path: Mapping[str, File], tables: list[dict[str, Any]], store: Store
) -> dict[str, Any]:
    """Describe a model for the record: its code's package, its features, and probe rows with their predictions.

    Raises:
        UserError: the model does not load, or needs a feature that no feature table has.
    """
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        for name in model_files:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(store.object_path(by_path[name].md5), target)
        loaded = project.model().load(Path(folder, path))
    names = [feature.name for feature in loaded.features]
    table = next((table for table in tables if table["columns"].keys() >= set(names)), None)
    if table is None:
        raise UserError("no feature table has all the features of the model: `run` builds both again")
    rows = pq.read_table(store.object_path(by_path[table["path"]].md5), columns=names)
    step = max(rows.num_rows // PROBE_ROWS, 1)
    probe = rows.take(list(range(0, rows.num_rows, step))[:PROBE_ROWS])
    return {
        "package": project.here().package,
        "module": project.here().model,
        "features": {name: table["columns"][name] for name in names},
        "feature_table": table["path"],
        "probe": {"rows": probe.to_pylist(), "predictions": loaded.predict(probe).tolist()},
    }


def _is_below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def _digests(store: Store, file: File) -> tuple[str, int]:
    path = store.object_path(file.md5)
    try:
        md5, sha256 = both_digests(path)
    except FileNotFoundError:
        raise UserError(f"{file.path} is not in DVC's cache: `dvc pull` brings it, `run` makes it again") from None
    if md5 != file.md5:
        raise UserError(f"{file.path} is altered in DVC's cache ({path}): delete that file, then `dvc pull` or `run`")
    return sha256, path.stat().st_size


def _rows(path: Path, name: str) -> dict[str, int]:
    if not name.endswith(".parquet"):
        return {}
    import pyarrow.parquet as pq

    return {"rows": pq.read_metadata(path).num_rows}


def _table(path: Path, name: str, sha256: str) -> dict[str, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = {field.name: str(field.type) for field in table.schema}
    return {
        "path": name,
        "rows": table.num_rows,
        "columns": columns,
        "schema": hashlib.sha256(canonical(columns)).hexdigest(),
        "content": content_digest(table),
        "sha256": sha256,
    }


def content_digest(table: Any) -> str:
    """Return SHA-256 over the values of a table, row by row, independent of the file format."""
    import pyarrow as pa
    from pandas.util import hash_pandas_object

    hashed = hashlib.sha256(canonical([[field.name, str(field.type)] for field in table.schema]))
    for name in table.column_names:
        column = table[name]
        if column.null_count:
            # pandas represents a null as NaN and turns integers into floats, which are not exact.
            hashed.update(column.is_null().to_numpy().tobytes())
            column = column.fill_null(0) if pa.types.is_integer(column.type) else column
        hashed.update(hash_pandas_object(column.to_pandas(), index=False).to_numpy().tobytes())
    return hashed.hexdigest()


def sql_of(nodes: dict[str, Any] | None, digests: dict[str, str]) -> dict[str, Any] | None:
    """Describe the SQL for the record: dbt's version, and each model with the digest of its compiled SQL."""
    if nodes is None:
        return None
    folder = str(Path(SQL_FILE).parent)
    return {
        "dbt": nodes["dbt"],
        "tests": len(nodes["tests"]),
        "nodes": [
            {"id": name, "file": node["file"], "sha256": digests[f"{folder}/{node['compiled']}"]}
            for name, node in sorted(nodes["nodes"].items())
            if "compiled" in node
        ],
    }


def sql_digest(sql: dict[str, Any] | None) -> str:
    """Return SHA-256 over all compiled models. Equal digests mean that the same SQL made the features."""
    nodes = sorted((node["id"], node["sha256"]) for node in sql["nodes"]) if sql else []
    return hashlib.sha256(canonical(nodes)).hexdigest()


def same_predictions(expected: Iterable[Any], actual: Iterable[Any]) -> bool:
    """Return whether two lists of predictions, nested alike, are equal up to the last bits of a float."""
    expected, actual = list(expected), list(actual)
    return len(expected) == len(actual) and all(map(_same, expected, actual))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return same_predictions(one, other)
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=PROBE_TOLERANCE, abs_tol=1e-12) or (one != one and other != other)
    return bool(one == other)
