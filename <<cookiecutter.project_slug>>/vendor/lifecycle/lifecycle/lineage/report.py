"""The effect of a change, for its reviewers: metrics, gates, data, parameters, SQL and what they affect."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..releases import git
from ..releases.history import Change, changes
from ..releases.pipeline import LOCK_FILE, flat
from ..releases.pipeline import outputs as built
from ..releases.record import GATES_FILE, METRICS_FILE, SQL_FILE
from ..releases.store import Output, Store
from . import structure
from .structure import FOLDER, Column, Structure

SOURCE = "data/source.json"
SHOWN = 20


@dataclass(frozen=True)
class Report:
    """A change, from its base commit to the work tree."""

    base: str
    metrics: list[Change]
    gates: dict[str, bool]
    source: list[Change]
    outputs: list[Change]
    params: list[Change]
    sql: dict[str, list[str]]
    notes: list[str]

    def as_markdown(self) -> str:
        """Return the report as Markdown, for a pull request."""
        failed = [name for name, passes in self.gates.items() if not passes]
        gates = f"{len(failed)} of {len(self.gates)} gates fail: {', '.join(failed)}" if failed else "All gates pass."
        lines = [f"## What changes since {self.base[:12]}", "", gates, ""]
        lines += _table("Metrics", "metric", self.metrics)
        lines += _table("Parameters", "parameter", self.params)
        lines += _table("Source files", "file", self.source)
        lines += _table("Outputs", "output", self.outputs)
        if self.sql:
            lines += ["### SQL", "", "| changed | features that it reaches |", "|---|---|"]
            lines += [f"| `{file}` | {', '.join(reached) or 'none'} |" for file, reached in self.sql.items()]
            lines.append("")
        return "\n".join([*lines, *self.notes]).rstrip() + "\n"


def report(base: str, store: Store) -> Report:
    """Compare the work tree, as built, with the commit where it branched off from `base`.

    Raises:
        UserError: nothing is built here, or `base` is not a commit.
    """
    sha = git.resolve(base)
    if sha is None:
        raise UserError(f"{base} is not a commit here: `git fetch`, or use another --base")
    start = git.git("merge-base", sha, "HEAD").strip()
    tree = git.project_tree(start)
    lock, source, params = (
        content or b"" for content in git.read(f"{tree}:{LOCK_FILE}", f"{tree}:{SOURCE}", f"{tree}:params.yaml")
    )
    old = [
        out for stage in (yaml.safe_load(lock) or {"stages": {}})["stages"].values() for out in stage.get("outs", [])
    ]
    before = _Before({out["path"]: Output.of(out) for out in old}, store)
    metrics = json.loads(before.text(METRICS_FILE) or "{}")
    gates = json.loads(Path(GATES_FILE).read_bytes())
    now = json.loads(Path(METRICS_FILE).read_bytes())
    sizes = [{out["path"]: f"{out['size']:,} bytes, {out['md5'][:8]}" for out in outs} for outs in (old, built())]
    return Report(
        base=start,
        metrics=list(changes(dict(flat(metrics)), dict(flat(now)))) if metrics else [],
        gates={gate["name"]: gate["pass"] for gate in gates},
        source=list(changes(_pins(source), _pins(Path(SOURCE).read_bytes()))),
        outputs=list(changes(*sizes)),
        params=list(changes(_flat(params), _flat(Path("params.yaml").read_bytes()))),
        sql=_sql(before.structure(), structure.of_work_tree()),
        notes=before.notes,
    )


class _Before:
    """The results of the base, as far as the cache or the remote still has them."""

    def __init__(self, outputs: dict[str, Output], store: Store) -> None:
        self._outputs = outputs
        self._store = store
        self.notes: list[str] = [] if outputs else ["The base had built nothing."]

    def _has(self, path: str) -> bool:
        if path not in self._outputs:
            return False
        try:
            missing = self._store.fetch([self._outputs[path]])
        except UserError:
            missing = self._store.check([self._outputs[path]])
        if missing:
            self.notes.append(f"`{path}` of the base is neither in the cache nor in the remote: not compared.")
        return not missing

    def text(self, path: str) -> str | None:
        if not self._has(path):
            return None
        return self._store.object_path(self._outputs[path].md5).read_text(encoding="utf-8")

    def structure(self) -> Structure | None:
        if not self._has(str(FOLDER)):
            return None
        files = self._store.files([self._outputs[str(FOLDER)]])
        texts = {Path(each.path).name: self._store.object_path(each.md5).read_text(encoding="utf-8") for each in files}
        return Structure(json.loads(texts.pop(Path(SQL_FILE).name)), texts)


def _pins(content: bytes) -> dict[str, Any]:
    return {name: digest[:12] for name, digest in json.loads(content or b"{}").get("files", {}).items()}


def _flat(content: bytes) -> dict[str, Any]:
    return dict(flat(yaml.safe_load(content) or {}))


def _sql(old: Structure | None, new: Structure) -> dict[str, list[str]]:
    """Return each SQL file whose compiled text changed, with the columns of the last table that come from it."""
    if old is None:
        return {}
    before = {node.file: node.digest for node in old.nodes.values()}
    found: dict[str, list[str]] = {}
    for node in sorted(new.nodes.values(), key=lambda each: each.file):
        if node.digest and before.get(node.file) != node.digest:
            columns = [Column(node.id, name) for name in new.columns(node.id)]
            below = new.downstream(*columns) | set(columns)
            last = [model for model in new.models_below(node.id) if not new.models_below(model)] or [node.id]
            found[node.file] = sorted({column.name for column in below if column.node in last})
    return found


def _table(title: str, what: str, rows: list[Change]) -> list[str]:
    if not rows:
        return []
    lines = [f"### {title}", "", f"| {what} | before | now |", "|---|---|---|"]
    lines += [f"| {row.name} | {_cell(row.old)} | {_cell(row.new)} |" for row in rows[:SHOWN]]
    more = [f"| and {len(rows) - SHOWN} more | | |"] if len(rows) > SHOWN else []
    return [*lines, *more, ""]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")
