"""The model card of a release, as Markdown: its intended use, inputs, metrics, and who approved it.

After Mitchell et al. 2019, Model Cards for Model Reporting. Everything comes from the release's record, its own SQL
and reports, and the ledger. Only the intended use is written by people, in docs/intended_use.md, and released too.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import UserError
from ..releases import approving, git
from ..releases.ledger import Ledger
from ..releases.pipeline import flat
from ..releases.record import Release
from ..releases.store import Store
from . import structure
from .structure import Column, Structure
from .trace import served

INTENDED_USE = "docs/intended_use.md"
SLICES = "reports/slices.json"
# Rows in a table of slices: the largest groups. The report has all of them.
LARGEST = 10
LEFT_OUT = "Too long for here: it is on the whole card, `model_card.md` of the run."


def render(release: Release, ledger: Ledger, store: Store, at_most: int | None = None) -> str:
    """Render the card. Equal releases with equal approvals and channels give equal text.

    If it exceeds `at_most` characters, drops the longest sections and says so.
    """
    sections = {title: "\n".join(lines) for title, lines in _sections(release, ledger, store)}
    head = "\n".join(_head(release))
    while at_most and len(_text(head, sections)) > at_most:
        longest = max(sections, key=lambda title: len(sections[title]))
        if len(sections[longest]) <= len(LEFT_OUT):
            break
        sections[longest] = LEFT_OUT
    return _text(head, sections)[:at_most]


def _text(head: str, sections: dict[str, str]) -> str:
    return "\n".join([head, *(f"\n## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _head(release: Release) -> Iterator[str]:
    observed = release.observed
    yield f"# {release.model['name']}, release {release.id}"
    yield f"\nReleased {observed['at']} by {observed['by'].split(' <')[0]}; digest `{release.digest}`."


def _sections(release: Release, ledger: Ledger, store: Store) -> Iterator[tuple[str, Iterable[str]]]:
    yield "Intended use", _intended_use(release)
    yield "Data", _data(release)
    yield "Features", _features(release, store)
    yield "Metrics on the holdout", _metrics(release)
    yield "Slices", _slices(release, store)
    yield "Gates", _gates(release)
    yield "Approvals", _approvals(release, ledger)
    yield "Served", _served(release, ledger)
    yield "Limits", _limits(release)
    yield "Made from", _made_from(release)


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_one_line(cell) for cell in row)} |"


def _one_line(text: Any) -> str:
    """Return text written by a person, made safe for a table or a list."""
    return " ".join(str(text).split()).replace("|", "/")


def _intended_use(release: Release) -> Iterator[str]:
    (text,) = git.read(f"{release.materials['git']['tree']}:{INTENDED_USE}")
    yield (text or b"").decode(errors="replace").strip() or f"Nobody had written {INTENDED_USE} when it was released."


def _data(release: Release) -> Iterator[str]:
    params = release.materials["params"]
    for section in ("data", "split"):
        values = [f"{name} {value}" for name, value in flat(params.get(section, {}))]
        yield f"- {section}: {', '.join(values)}"
    yield ""
    tables: dict[str, list[dict[str, Any]]] = {}
    for file in release.materials["raw"]:
        tables.setdefault(file["path"].removesuffix(".parquet").split("/")[2], []).append(file)
    rows = [(name, len(files), f"{sum(file['rows'] or 0 for file in files):,}") for name, files in tables.items()]
    yield from _table(("raw table", "files", "rows"), rows)


def _features(release: Release, store: Store) -> Iterator[str]:
    features = release.model["features"]
    try:
        sql = structure.of_release(release, store)
    except UserError as error:
        yield f"{error}."
        yield from _table(("feature", "type"), features.items())
        return
    table = sql.find(release.model["feature_table"].rsplit("/", 1)[-1].split(".")[0])
    rows = [(name, kind, _sources(sql, Column(table.id, name)) if table else "") for name, kind in features.items()]
    yield from _table(("feature", "type", "computed from"), rows)


def _sources(sql: Structure, column: Column) -> str:
    """Return the source columns that a feature is computed from."""
    problem = sql.origins(column)[1]
    found = [each for each in sql.upstream(column) if sql.nodes[each.node].kind != "model"]
    names = sorted(f"{sql.nodes[each.node].name}.{each.name}" for each in found)
    known = ", ".join(names) or ("" if problem else "no column: a count of rows, or a constant")
    return known + (f" (cannot tell: {problem})" if problem else "")


def _metrics(release: Release) -> Iterator[str]:
    values = dict(flat(release.evidence["metrics"]))
    compared = release.observed.get("comparison") or {}
    champion = compared.get("champion")
    if not champion:
        yield from _table(("metric", "value"), values.items())
        return
    before = {name: each["champion"] for name, each in compared.get("metrics", {}).items()}
    rows = [(name, value, before.get(name, "")) for name, value in values.items()]
    yield from _table(("metric", "value", f"{champion}, which production served"), rows)


def _slices(release: Release, store: Store) -> Iterator[str]:
    outputs = release.outputs(SLICES)
    if not outputs or (wrong := store.fetch(outputs)):
        yield f"Not there: {wrong[0] if outputs else SLICES}."
        return
    slices = json.loads(store.object_path(outputs[0].md5).read_text(encoding="utf-8"))
    for column, groups in slices.items():
        largest = sorted(groups.items(), key=lambda item: (-item[1].get("rows", 0), item[0]))[:LARGEST]
        names = sorted({name for _, values in largest for name in values})
        yield from _table((column, *names), [(group, *map(values.get, names)) for group, values in largest])
        if left := len(groups) - len(largest):
            yield f"\nand {left} smaller, in the report."
        yield ""


def _gates(release: Release) -> Iterator[str]:
    def bound(gate: dict[str, Any]) -> str:
        return " and ".join(f"{kind} {value}" for kind, value in gate["threshold"].items() if value is not None)

    rows = [
        (each["name"], bound(each), each["value"], "passes" if each["pass"] else "fails") for each in gates(release)
    ]
    yield from _table(("gate", "bound", "value", ""), rows)


def gates(release: Release) -> list[dict[str, Any]]:
    """Return the gates of a release: name, threshold, value, pass."""
    found: list[dict[str, Any]] = release.evidence["gates"]
    return found


def _approvals(release: Release, ledger: Ledger) -> Iterator[str]:
    counted = approving.count(ledger, release)
    for each in counted:
        signed = "signed" if each.signed else "not signed"
        own = ", by who released it" if each.approval.own else ""
        problem = f"; does not count: {each.problem}" if each.problem else ""
        comment = f": {_one_line(each.approval.comment)}" if each.approval.comment else ""
        yield f"- {each.approval.by.split(' <')[0]}, {each.approval.at}, {signed}{own}{problem}{comment}"
    if not counted:
        yield "None."


def _served(release: Release, ledger: Ledger) -> Iterator[str]:
    times = [each for each in served(ledger) if each.release == release.id]
    for each in times:
        yield f"- {each.channel}, generation {each.generation}: {each.since} to {each.until or 'now'}"
    if not times:
        yield "Nowhere yet."
    if kept := ledger.quarantine(release.id):
        yield f"\nIn quarantine: {_one_line(kept.reason)}."


def _limits(release: Release) -> Iterator[str]:
    yield "- Measured on the holdout, the last part of the window, and on nothing later: other seasons may differ."
    tight = [each["name"] for each in gates(release) if each["pass"] and _margin(each) < 0.1]
    if tight:
        yield f"- Within a tenth of its bound: {', '.join(tight)}."
    place = f"Python {release.observed['python']}, {release.observed['platform']}"
    yield f"- Built on {place}: the same bytes are promised there, elsewhere the same metrics within 0.001."


def _margin(gate: dict[str, Any]) -> float:
    """Return the distance of a value from its nearest bound, as a share of that bound."""
    bounds = [bound for bound in gate["threshold"].values() if bound]
    return min((abs(gate["value"] - bound) / abs(bound) for bound in bounds), default=1.0)


def _made_from(release: Release) -> Iterator[str]:
    materials, tracked = release.materials, release.observed.get("mlflow")
    yield f"- code: commit `{release.commit}`, tree `{materials['git']['tree']}`"
    yield f"- packages: `requirements.lock`, SHA-256 `{materials['environment']['lock']}`"
    yield f"- result: `{release.result_digest}`"
    for table in materials["features"]:
        yield f"- features: `{table['path']}`, {table['rows']:,} rows, SHA-256 `{table['sha256']}`"
    if tracked:
        yield f"- MLflow: run `{tracked['run_id']}` when it was released"
