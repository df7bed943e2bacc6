"""Check a project against the contract, in seconds, without running anything."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from . import parts, project
from .errors import UserError, one_line
from .params import OLD_FAN_OUT, PARAMS_FILE, Params, load_params
from .releases.pipeline import PIPELINE_FILE
from .releases.record import METRICS_FILE

# Files that stages leave for releases, monitoring and lineage: path -> reader.
FILES = {
    METRICS_FILE: "releases and promotion",
    "reports/gates.json": "`run`, `release` and MLflow",
    "reports/slices.json": "monitoring",
    "reports/sql": "lineage",
    "data/raw": "lineage",
}
MODEL_NAMES = ("load", "losses", "REQUIREMENTS")
# New locations of code that was in the project's own package until 0.1: first folder or module of a name -> sentence.
MOVED = {
    **dict.fromkeys(("errors", "files", "params"), "import what you need of it from lifecycle.contract"),
    "lifecycle": "it is lifecycle.releases now, which your code should not need",
    "stages": "your stages moved up, next to model.py; the others are in lifecycle.stages",
}


@dataclass
class Findings:
    """Violations of the contract, as sentences, and the number of checks made."""

    problems: list[str] = field(default_factory=list)
    looked_at: int = 0

    def see(self, holds: object, otherwise: str) -> None:
        """Count a check, and record a problem if it fails."""
        self.looked_at += 1
        if not holds:
            self.problems.append(otherwise)


def look() -> Findings:
    """Check pyproject.toml, params.yaml, dvc.yaml, the tables and the model against the contract."""
    found = Findings()
    _parts(found)
    params = _params(found)
    pipeline = _pipeline(found)
    _stages(pipeline, found)
    _parameters(pipeline, found)
    _tables(found)
    _model(found)
    _code(found)
    if params is not None:
        _built(params, pipeline, found)
    return found


def _parts(found: Findings) -> None:
    try:
        without = project.here().without
    except UserError:
        return  # the checks of tables and model report it
    for name in without:
        known = f"the parts are {', '.join(parts.PARTS)}"
        found.see(name in parts.PARTS, f"without under [tool.lifecycle] in {project.FILE} names {name}: {known}")
    for name, part in parts.PARTS.items():
        if not {name, *part.needs} & {*without}:
            found.see(part.is_here, parts.why_off(name) or "")


def _params(found: Findings) -> Params | None:
    try:
        params = load_params()
    except UserError as error:
        found.see(False, str(error))
        return None
    found.see(True, "")
    return params


def _pipeline(found: Findings) -> dict[str, Any]:
    try:
        pipeline = yaml.safe_load(PIPELINE_FILE.read_text(encoding="utf-8"))
        assert isinstance(pipeline["stages"], dict)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AssertionError) as error:
        found.see(False, f"{PIPELINE_FILE} has no readable `stages`: {one_line(error)}")
        return {"stages": {}}
    return dict(pipeline)


def _outputs(stage: dict[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind) or []:
            yield next(iter(out)) if isinstance(out, dict) else out


def _stages(pipeline: dict[str, Any], found: Findings) -> None:
    makers = {path: name for name, stage in pipeline["stages"].items() for path in _outputs(stage)}
    for path, readers in FILES.items():
        found.see(path in makers, f"no stage of {PIPELINE_FILE} writes {path}, which {readers} read")
    for name, stage in pipeline["stages"].items():
        for dep in stage.get("deps") or []:
            made = any(dep == path or dep.startswith(f"{path}/") or path.startswith(f"{dep}/") for path in makers)
            found.see(made or Path(dep).exists(), f"stage {name} reads {dep}, which is not here and no stage makes")
        for module in re.findall(r"-m\s+([\w.]+)", str(stage.get("cmd"))):
            file = Path(*module.split(".")).with_suffix(".py")
            there = any((Path(root) / file).exists() for root in project.CODE)
            found.see(there, f"stage {name} runs {module}, and there is no {file} in {' or '.join(project.CODE)}")
    artifacts = pipeline.get("artifacts") or {}
    for kind, what in (("model", "MLflow registers"), ("dataset", "lineage and monitoring read")):
        paths = [str(each.get("path")) for each in artifacts.values() if each.get("type") == kind]
        found.see(paths, f"{PIPELINE_FILE} declares no artifact of type {kind}, which {what}")
        for path in paths:
            made = any(path == out or path.startswith(f"{out}/") for out in makers)
            found.see(made, f"the artifact {path} is not an output of any stage")


def _parameters(pipeline: dict[str, Any], found: Findings) -> None:
    try:
        params = yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError):
        return  # already reported
    declared = [
        each for stage in pipeline["stages"].values() for each in stage.get("params") or [] if isinstance(each, str)
    ]
    for name in declared:
        value: Any = params
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found.see(
            value is not None, f"{PIPELINE_FILE} asks for the parameter {name}, which {PARAMS_FILE} does not have"
        )
    own = {*Params.model_fields, OLD_FAN_OUT} - {"train"}
    for section in params:
        read = section in own or any(name.split(".")[0] == section for name in declared)
        found.see(
            read, f"no stage reads the parameters {section} in {PARAMS_FILE}: declare them in a stage, or delete them"
        )


def _tables(found: Findings) -> None:
    try:
        tables, contracts = project.tables(), project.contracts()
    except UserError as error:
        found.see(False, str(error))
        return
    found.see(tables, "there is not a single raw table")
    for name, table in tables.items():
        found.see(table.name == name, f"the table {table.name} is filed under the name {name}")
        if name not in contracts:
            found.see(False, f"the table {name} has no contract")
            continue
        columns = contracts[name].to_schema().columns
        asked = {"key": table.key, "time": (table.time,) if table.time else (), "null_shares": tuple(table.null_shares)}
        for what, names in asked.items():
            for column in names:
                found.see(column in columns, f"{what} of the table {name} names {column}, which its contract lacks")
    for name in contracts.keys() - tables.keys():
        found.see(False, f"the contract {name} belongs to no table")


def _model(found: Findings) -> None:
    try:
        module = project.model()
    except UserError as error:
        found.see(False, str(error))
        return
    except Exception as error:  # the project's code can fail in any way
        found.see(False, f"{project.here().model} cannot be imported: {type(error).__name__}: {one_line(error)}")
        return
    name = project.here().model
    for each in MODEL_NAMES:
        found.see(hasattr(module, each), f"{name} has no `{each}`")
    for importer, imported in _imports(name, set()):
        machinery = imported.split(".")[0] == __package__.split(".")[0]
        found.see(
            not machinery,
            f"{importer} imports {imported}: a release's model would run with another machinery than it was made with",
        )


def _code(found: Findings) -> None:
    """Check that the project's files import only each other and, from the machinery, only the contract."""
    source = Path("src")
    for file in sorted(source.rglob("*.py")):
        parts_of = file.relative_to(source).with_suffix("").parts
        own = ".".join(parts_of[:-1] if parts_of[-1] == "__init__" else parts_of)
        try:
            nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
        except SyntaxError as error:
            found.see(False, f"{file} is not Python: {one_line(error)}")
            continue
        for name in dict.fromkeys(each for node in nodes for each in _imported(node, own)):
            package, _, rest = name.partition(".")
            if package == "lifecycle":
                found.see(
                    rest.partition(".")[0] == "contract",
                    f"{file} imports {name}: only lifecycle.contract stays as it is when the machinery is updated",
                )
            elif package == parts_of[0]:
                where = source.joinpath(*name.split("."))
                moved = MOVED.get(rest.partition(".")[0])
                found.see(
                    where.is_dir() or where.with_suffix(".py").exists() or not rest,
                    f"{file} imports {name}, which is not there{f': {moved}' if moved else ''}",
                )


def _imports(module: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (importer, imported) pairs, starting at a module and following the project's own modules."""
    seen.add(module)
    file = Path("src", *module.split(".")).with_suffix(".py")
    if not file.exists():
        return
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for name in _imported(node, module):
            yield module, name
            if name.split(".")[0] == module.split(".")[0] and name not in seen:
                yield from _imports(name, seen)


def _imported(node: ast.AST, module: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = ".".join(module.split(".")[: -node.level]) if node.level else ""
        parent = ".".join(filter(None, (base, node.module)))
        yield parent
        if not node.module:  # from . import x
            yield from (f"{parent}.{alias.name}" for alias in node.names)


def _built(params: Params, pipeline: dict[str, Any], found: Findings) -> None:
    """Check what only exists after a run: the feature table's columns and the model itself."""
    artifacts = (pipeline.get("artifacts") or {}).values()
    models = [Path(each["path"]) for each in artifacts if each.get("type") == "model"]
    tables = [Path(each["path"]) for each in artifacts if each.get("type") == "dataset"]
    if not all(path.exists() for path in (*models, *tables)) or found.problems:
        return
    import pyarrow.parquet as pq

    columns = {name: str(path) for path in tables for name in pq.read_schema(path).names}
    for role, name in params.monitoring.columns.model_dump().items():
        found.see(name in columns, f"monitoring.columns.{role} is {name}, which no feature table has")
    for name in params.monitoring.slices:
        found.see(name in columns, f"monitoring.slices names {name}, which no feature table has")
    try:
        loaded = project.model().load(models[0])
        names = [feature.name for feature in loaded.features]
        missing = [name for name in names if name not in columns]
        found.see(not missing, f"the model has the feature {', '.join(missing)}, which no feature table has: `run`")
        if not missing:
            rows = pq.read_table(tables[0]).slice(0, 20)
            scores = loaded.predict(rows)
            found.see(scores.shape[:1] == (rows.num_rows,), f"predict gives {scores.shape} for {rows.num_rows} rows")
    except Exception as error:  # the project's code can fail in any way
        found.see(False, f"the model in {models[0]} does not load: {type(error).__name__}: {one_line(error)}")
