"""`trace`: find the bytes, SQL, code and people behind anything.

Traces a release through its record, the ledger and the SQL in DVC, without asking a server. Traces the work tree
through dvc.lock and the files it names, and points out changes since they were built.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..releases import approving, git, loading, scoring, worktree
from ..releases.ledger import CHANNELS, ChannelName, Entry, Ledger
from ..releases.pipeline import locked, outputs
from ..releases.record import Release
from ..releases.scoring import Found
from ..releases.store import Output, Store
from . import structure
from .fact_tree import Fact
from .structure import Column, Node, Structure


@dataclass(frozen=True)
class Served:
    """A period during which a channel served a release; `until` is None for the current one."""

    channel: ChannelName
    generation: int
    release: str
    since: str
    until: str | None
    entry: Entry


def served(ledger: Ledger) -> list[Served]:
    """Return what every channel served, oldest first."""
    found: list[Served] = []
    open_at: dict[ChannelName, int] = {}
    for _, entry in ledger.entries():
        if entry.channel is None or entry.generation is None:
            continue
        if (position := open_at.pop(entry.channel, None)) is not None:
            before = found[position]
            found[position] = Served(
                before.channel, before.generation, before.release, before.since, entry.at, before.entry
            )
        if entry.release:
            open_at[entry.channel] = len(found)
            found.append(Served(entry.channel, entry.generation, entry.release, entry.at, None, entry))
    return found


def serving_at(ledger: Ledger, channel: ChannelName, time: str) -> Served:
    """Return what a channel served at a time, given as ISO 8601 (UTC if it has no time zone).

    Raises:
        UserError: it is not a time, or the channel served nothing then.
    """
    try:
        asked = datetime.fromisoformat(time)
    except ValueError:
        raise UserError(f"{time!r} is not a valid time; use 2013-08-01T12:00") from None
    asked = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    for each in reversed(served(ledger)):
        if each.channel == channel and datetime.fromisoformat(each.since) <= asked:
            if each.until is None or asked < datetime.fromisoformat(each.until):
                return each
            break
    first = next((each.since for each in served(ledger) if each.channel == channel), None)
    began = f"its first release came at {first}" if first else "nothing was ever promoted to it"
    raise UserError(f"{channel} served nothing at {time}: {began}")


class Tracer:
    """Find out what something was made from, using one ledger and one store."""

    def __init__(self, ledger: Ledger, store: Store, verify: bool = False) -> None:
        """Args: verify: hash the files of a release again, and report those that no longer match."""
        self._ledger = ledger
        self._store = store
        self._verify = verify

    def trace(self, what: str) -> Fact:
        """Return the tree above a channel (`production@2013-08-01T12:00`), release, file, model or column.

        Raises:
            UserError: the name is unknown; the message suggests the closest known one.
        """
        channel, _, time = what.partition("@")
        if channel in CHANNELS:
            return self._channel(channel, time)  # type: ignore[arg-type]
        if re.fullmatch(r"r-[0-9a-f]*", what):
            return self.release(self._ledger.release(what))
        if found := scoring.find_scored(what):
            return self._scored(what, found)
        return self._in_work_tree(what)

    def _scored(self, what: str, found: Found) -> Fact:
        """Return the tree above a batch prediction, with every version of its month."""
        row, mine = found.row, found.version
        now = "holds" if mine == found.versions[-1] else "was replaced"
        versions = (
            Fact("version", each.version, f"{each.release}, {each.rows:,} rows, {each.at}", asdict(each))
            for each in found.versions
        )
        return Fact(
            "prediction",
            what,
            f"score {row['score']:.4f} for {row['key']}, {found.file}, version {mine.version}, which {now}",
            row | {"file": str(found.file), "at": str(row["at"])} | asdict(mine),
            below=(*versions, self.release(self._ledger.release(mine.release))),
        )

    def _channel(self, name: ChannelName, time: str) -> Fact:
        now = time or datetime.now(UTC).isoformat()
        at = serving_at(self._ledger, name, now)
        until = f"until {at.until}" if at.until else "until now"
        decided = _decision(at.entry)
        release = self.release(self._ledger.release(at.release))
        return Fact(
            "channel",
            name,
            f"generation {at.generation}, since {at.since}, {until}",
            {"generation": at.generation, "since": at.since, "until": at.until},
            below=(decided, release),
        )

    def prediction(self, prediction_id: str, lines: list[dict[str, Any]]) -> Fact:
        """Return the tree above a prediction from its lines in the log: request, answer and releases."""
        rows = tuple(_logged(line) for line in lines)
        releases = dict.fromkeys(line["release"] for line in lines)
        filled = tuple(map(self._online, dict.fromkeys(line["online"] for line in lines if line["online"])))
        above = tuple(self.release(self._ledger.release(each)) for each in releases)
        return Fact("prediction", prediction_id, f"at {lines[0]['at']} UTC", below=(*rows, *filled, *above))

    def _online(self, name: str) -> Fact:
        """Return the online table that features were filled in from. Its name tells what it was made of."""
        features, sql = name.split("-")
        releases = self._ledger.read_releases(self._ledger.releases)
        made = [
            release.id
            for release in releases
            if any(table["sha256"].startswith(features) for table in release.materials["features"])
        ]
        of = f"the feature table of {', '.join(made)}" if made else "a feature table that no release was made of"
        return Fact("online", name, f"what the request left out: {of}, by SQL {sql}", {"releases": made})

    def release(self, release: Release) -> Fact:
        """Return the tree above a release."""
        observed, lock = release.observed, release.materials["environment"]["lock"]
        wrong = self._wrong(release)
        parts = (
            *self._served(release),
            *self._approvals(release),
            self._model(release, wrong),
            self._code(release, wrong),
            Fact(
                "environment",
                "requirements.lock",
                f"sha256 {lock[:12]}, Python {observed['python']}, {observed['platform']}",
                {"sha256": lock},
            ),
        )
        return Fact(
            "release",
            release.id,
            f"by {observed['by']} at {observed['at']}",
            {"digest": release.digest, "by": observed["by"], "at": observed["at"], "mlflow": observed.get("mlflow")},
            below=parts,
        )

    def _wrong(self, release: Release) -> dict[str, str]:
        """Return files of a release that differ from its record: path -> problem. Empty unless asked to verify."""
        if not self._verify:
            return {}
        found = {
            problem.path: f"it is {problem.what}"
            for problem in self._store.check(release.outputs())
            if problem.what == "altered" or self._store.check_one(problem.md5)
        }
        if git.resolve(release.commit) is None:
            found["commit"] = "it is not in this repository"
        elif git.project_tree(release.commit) != release.materials["git"]["tree"]:
            found["commit"] = "its tree is another than the record says"
        folder = loading.RELEASES / release.id
        if folder.exists() and (names := loading.wrong_files(release, folder)):
            found["folder"] = f"{folder}/{names[0]} is altered"
        return found

    def _served(self, release: Release) -> Iterable[Fact]:
        for each in served(self._ledger):
            if each.release == release.id:
                until = f"until {each.until}" if each.until else "until now"
                yield Fact(
                    "served",
                    each.channel,
                    f"generation {each.generation}, {each.since} {until}, {each.entry.kind} by {each.entry.by}",
                    {"generation": each.generation, "since": each.since, "until": each.until, "by": each.entry.by},
                )
        if quarantine := self._ledger.quarantine(release.id):
            yield Fact("quarantine", release.id, f"since {quarantine.at}: {quarantine.reason}")

    def _approvals(self, release: Release) -> Iterable[Fact]:
        for each in approving.count(self._ledger, release):
            words = [word for word, true in (("own release", each.approval.own), ("signed", each.signed)) if true]
            yield Fact(
                "approval",
                each.approval.by,
                ", ".join([f"at {each.approval.at}", *words]),
                {"at": each.approval.at, "own": each.approval.own, "signed": each.signed},
                each.problem,
            )

    def _model(self, release: Release, wrong: dict[str, str]) -> Fact:
        gates = [f"{gate['name']} {gate['value']:.3f}" for gate in release.evidence["gates"]]
        params = release.materials["params"]
        tracked = release.observed.get("mlflow") or {}
        parts = [
            Fact("gates", "passed", ", ".join(gates), {"gates": release.evidence["gates"]}),
            Fact("parameters", "params.yaml", _flat(params.get("train", {})), {"params": params}),
        ]
        if tracked:
            where = f"version {tracked['version']}, run {tracked['run_id']}"
            parts.append(Fact("mlflow", tracked["model_name"], where, {"run_id": tracked["run_id"]}))
        files = release.model["files"]
        bad = next((f"{path}: {wrong[path]}" for path in files if path in wrong), wrong.get("folder", ""))
        return Fact(
            "model",
            release.model["name"],
            ", ".join(f"{path} {digest[:12]}" for path, digest in files.items()),
            {"files": files},
            bad,
            (*parts, *self._features(release, wrong)),
        )

    def _features(self, release: Release, wrong: dict[str, str]) -> Iterable[Fact]:
        try:
            sql: Structure | None = structure.of_release(release, self._store)
            problem = ""
        except UserError as error:
            sql, problem = None, str(error)
        raw = [
            _RawFile(file["path"], file["sha256"], file.get("rows"), file["md5"]) for file in release.materials["raw"]
        ]
        for table in release.materials["features"]:
            columns, rows = table["columns"], table["rows"]
            above = self._above_table(sql, table["path"], raw, wrong)
            yield Fact(
                "features",
                table["path"],
                f"{rows:,} rows, {len(columns)} columns, sha256 {table['sha256'][:12]}",
                {"sha256": table["sha256"], "rows": rows, "columns": columns},
                wrong.get(table["path"], problem),
                above,
            )

    def _above_table(
        self, sql: Structure | None, path: str, raw: list["_RawFile"], wrong: dict[str, str]
    ) -> tuple[Fact, ...]:
        node = sql.find(Path(path).stem) if sql else None
        return (_node_fact(sql, node, raw, lambda path: wrong.get(path, ""), set()),) if sql and node else ()

    def _code(self, release: Release, wrong: dict[str, str]) -> Fact:
        materials = release.materials
        return Fact(
            "commit",
            release.commit[:12],
            f"tree {materials['git']['tree'][:12]}, dvc.lock {materials['dvc']['lock'][:12]}",
            {"commit": release.commit, **materials["git"], "dvc_lock": materials["dvc"]["lock"]},
            wrong.get("commit", ""),
        )

    # The work tree

    @cached_property
    def _sql(self) -> Structure:
        return structure.of_work_tree()

    @cached_property
    def _here(self) -> worktree.WorkTree:
        return worktree.look(self._store)

    def _in_work_tree(self, what: str) -> Fact:
        column = self._sql.find_column(what)
        if column:
            return self._column(column)
        if node := self._sql.find(what):
            return _node_fact(self._sql, node, self._raw(), self._here.wrong, set())
        if path := self._output_path(what):
            return self._file(path)
        known = [*self._ledger.releases, *CHANNELS, *self._sql.names(), *self._paths()]
        nearest = get_close_matches(what, known, 1, 0.3)
        hint = f", and the nearest is {nearest[0]}" if nearest else ""
        kinds = f"{len(self._ledger.releases)} releases, the channels, predictions, files, SQL models and columns are"
        raise UserError(f"{what} is not known here: {kinds}{hint}")

    def _raw(self) -> list["_RawFile"]:
        return [_RawFile(file.path, "", None, file.md5) for file in self._store.files(outputs_here("data"))]

    def _paths(self) -> list[str]:
        return [file.path for file in self._store.files(outputs_here())]

    def _output_path(self, what: str) -> str | None:
        paths = self._paths()
        exact = [path for path in paths if path == what.removeprefix("./")]
        ends = [path for path in paths if path.endswith(f"/{what}")]
        return next(iter(exact or (ends if len(ends) == 1 else [])), None)

    def _file(self, path: str) -> Fact:
        """Return the tree above a file that the pipeline made: its stage, the stage's inputs, and so on."""
        stages = locked()
        maker = next(
            name for name, stage in stages.items() for out in stage["outs"] if f"{path}/".startswith(f"{out['path']}/")
        )
        md5 = next(file.md5 for file in self._store.files(outputs_here()) if file.path == path)
        return Fact(
            "file", path, f"md5 {md5[:12]}", {"md5": md5}, self._here.wrong(path), (self._stage(maker, {path}),)
        )

    def _stage(self, name: str, seen: set[str]) -> Fact:
        if name in seen:
            return Fact("stage", name, "as above")
        seen.add(name)
        stage = locked()[name]
        makers = {out["path"]: other for other, made in locked().items() for out in made["outs"]}
        below = [
            Fact("file", each.path, problem=self._here.wrong(each.path))
            for each in self._here.differences
            if each.path not in seen and any(f"{each.path}/".startswith(f"{out['path']}/") for out in stage["outs"])
        ]
        for dep in stage.get("deps", []):
            if dep["path"] in makers:
                below.append(self._stage(makers[dep["path"]], seen))
            else:
                below.append(
                    Fact(
                        "file",
                        dep["path"],
                        f"md5 {dep['md5'][:12]}",
                        {"md5": dep["md5"]},
                        self._here.wrong(dep["path"]),
                    )
                )
        params = [f"{key}={value}" for values in stage.get("params", {}).values() for key, value in values.items()]
        return Fact("stage", name, stage["cmd"], {"params": params}, below=tuple(below))

    def _column(self, column: Column, seen: set[Column] | None = None) -> Fact:
        """Return the tree of columns that a column is computed from."""
        seen = set() if seen is None else seen
        node = self._sql.nodes[column.node]
        name = f"{node.name}.{column.name}"
        if column in seen:
            return Fact("column", name, "as above")
        seen.add(column)
        origins, cannot_tell = self._sql.origins(column)
        wrong: list[str] = []
        below = [self._column(origin, seen) for origin in sorted(origins)]
        if node.kind == "model":
            query = self._sql.query(node.id)
            text = query.columns[column.name].expression if column.name in query.columns else ""
            text = f"= {text[:80]}{'...' if len(text) > 80 else ''}  ({node.file})"
            if not origins and not cannot_tell:
                text += "  counts rows" if query.relations else ""
        else:
            files = [file for file in self._raw() if fnmatch.fnmatch(file.path, node.files)]
            text = f"{_many(files)} {node.files}" if node.kind == "source" else node.file
            wrong = [f"{file.path}: {what}" for file in files if (what := self._here.wrong(file.path))]
        problem = f"unknown: {cannot_tell}" if cannot_tell else "; ".join(wrong) or self._here.wrong(node.file)
        return Fact("column", name, text, {"file": node.file}, problem, tuple(below))


@dataclass(frozen=True)
class _RawFile:
    path: str
    sha256: str
    rows: int | None
    md5: str


def outputs_here(*below: str) -> list[Output]:
    """Return the outputs that dvc.lock names. With `below`, only those at or below these paths."""
    outs = [Output(out["path"], out["md5"], out["size"]) for out in outputs()]
    return [out for out in outs if not below or any(f"{out.path}/".startswith(f"{name}/") for name in below)]


def _node_fact(sql: Structure, node: Node, raw: list[_RawFile], wrong: Callable[[str], str], seen: set[str]) -> Fact:
    """Return the tree above a source, seed or model."""
    if node.id in seen:
        return Fact(node.kind, node.name, "as above")
    seen.add(node.id)
    if node.kind == "source":
        files = [file for file in raw if fnmatch.fnmatch(file.path, node.files)]
        rows = sum(file.rows or 0 for file in files)
        total = _many(files) + (f", {rows:,} rows" if rows else "")
        return Fact("source", node.name, total, below=tuple(_file_fact(file, wrong) for file in files))
    above = tuple(_node_fact(sql, sql.nodes[name], raw, wrong, seen) for name in node.reads)
    text = f"{node.file}" + (f"  sql {node.digest[:12]}" if node.digest else "")
    return Fact(node.kind, node.name, text, {"file": node.file, "sql": node.digest}, wrong(node.file), above)


def _file_fact(file: _RawFile, wrong: Callable[[str], str]) -> Fact:
    rows = f"{file.rows:,} rows, " if file.rows is not None else ""
    digest = f"sha256 {file.sha256[:12]}" if file.sha256 else f"md5 {file.md5[:12]}"
    data = {"sha256": file.sha256, "md5": file.md5, "rows": file.rows}
    return Fact("file", file.path, rows + digest, data, wrong(file.path))


def _many(files: list[_RawFile]) -> str:
    return f"{len(files)} file{'' if len(files) == 1 else 's'}"


def _decision(entry: Entry) -> Fact:
    who = f"{entry.by}{' (automation)' if entry.automation else ''}"
    reason = f": {entry.reason}" if entry.reason else ""
    return Fact(
        "decision", entry.kind, f"entry {entry.number}, {entry.at}, by {who}{reason}", {"evidence": entry.evidence}
    )


def _logged(line: dict[str, Any]) -> Fact:
    """Return the fact for one line of the prediction log."""
    said = f"failed ({line['error']})" if line["error"] else f"said {line['score']:.6g}"
    key = f", key {line['key']}" if line["key"] else ""
    role = ", as a shadow" if line["shadow"] else ""
    text = (
        f"generation {line['generation']}{role}, {said} in {line['latency_ms']} ms{key}, request {line['request'][:12]}"
    )
    data = line | {"at": f"{line['at'].isoformat()}Z"}
    return Fact("answer" if not (line["error"] or line["shadow"]) else "tried", line["channel"], text, data)


def _flat(params: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in params.items())
