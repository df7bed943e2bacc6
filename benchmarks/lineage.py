"""What lineage costs in a project of 1,000 releases and 2,000 dbt nodes, made up here.

The ledger, the records, DVC's cache and the SQL in it are real ones; only no pipeline has run.
Every tenth release changes one model, and is approved and promoted. The graph is built of more and
more releases, and of more and more nodes.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1]
NAME, PACKAGE = "flight-delays", "flight_delays"
# (releases, nodes) of the table; the last one is the project that the commands are timed in.
SIZES = ((100, 500), (100, 1000), (100, 2000), (500, 2000), (1000, 2000))
MONTHS, SOURCES, COLUMNS, FEATURES, CHANGES_EVERY = 120, 50, 10, 40, 10
AT = "2020-01-01T00:00:00+00:00"
BY = "Alice <alice@example.org>"


def main():
    """Bake a project, set it up, and go on in its environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="of an environment that fits; default: a new one")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        return inside()
    scratch = Path(tempfile.mkdtemp(prefix="lineage-"))
    try:
        bake = [sys.executable, "-m", "cookiecutter", TEMPLATE, "--no-input", "--default-config"]
        command = [*bake, "-o", scratch]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        project = scratch / NAME
        python = asked.python or project / ".venv/bin/python"
        if not asked.python:
            print("setting up the project ...", file=sys.stderr)
            subprocess.run(["make", "setup", f"PYTHON={sys.executable}"], cwd=project, check=True)
        environment = os.environ | {"PYTHONPATH": str(project / "src"), "DO_NOT_TRACK": "1"}
        command = [python, __file__, "--inside"]
        sys.exit(subprocess.run(command, cwd=project, env=environment).returncode)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def inside():
    """Measure, in a project's folder and environment."""
    identity = {"NAME": BY.split(" <")[0], "EMAIL": BY.split("<")[1].rstrip(">")}
    roles = ("AUTHOR", "COMMITTER")
    os.environ |= {f"GIT_{role}_{what}": identity[what] for role in roles for what in identity}
    print("| releases | dbt nodes | SQL versions | nodes in the graph | edges | CPU s |")
    print("|---:|---:|---:|---:|---:|---:|", flush=True)
    for nodes in sorted({nodes for _, nodes in SIZES}):
        counts = [releases for releases, count in SIZES if count == nodes]
        print(f"making {max(counts)} releases of {nodes} nodes ...", file=sys.stderr)
        start_again()
        ids = make_releases(max(counts), nodes)
        for count in counts:
            # A process of its own: nothing is known from the time before.
            code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import lineage"
            code = f"{code}; lineage.build({nodes})"
            text = "\n".join(ids[:count])
            subprocess.run([sys.executable, "-c", code], input=text, text=True, check=True)
    print("\n| command | CPU s |\n|---|---:|")
    for what, command in (
        ("`trace` of a release", ["trace", ids[-1]]),
        ("`trace production`", ["trace", "production"]),
        ("`impact` of a raw file", ["impact", "data/raw/source_0/2013-01.parquet"]),
    ):
        print(f"| {what} | {median(command):.2f} |", flush=True)


def start_again():
    """A project without a ledger."""
    refs = ["refs/heads/lifecycle/ledger", "refs/lifecycle/seen"]
    tags = subprocess.run(["git", "tag"], capture_output=True, text=True).stdout.split()
    lines = "".join(f"delete {ref}\n" for ref in refs + [f"refs/tags/{tag}" for tag in tags])
    subprocess.run(["git", "update-ref", "--stdin"], input=lines, text=True, check=True)
    for folder in (".lifecycle", ".dvc/cache"):
        shutil.rmtree(folder, ignore_errors=True)


def make_releases(count, nodes):
    """Write the records and what they name; returns their ids."""
    from lifecycle.releases import git
    from lifecycle.releases.ledger import Entry
    from lifecycle.releases.record import Release

    chance = random.Random(f"{count} releases of {nodes} nodes")
    texts, manifest = make_sql(chance, nodes)
    source = git.git("rev-parse", "HEAD").strip()
    ids = []
    with Writer() as ledger:
        for number in range(count):
            if number % CHANGES_EVERY == 0:
                name = chance.choice([name for name in texts if name.startswith("model_")])
                texts[name] = texts[name].replace(" as c0", f" + {number} as c0", 1)
                sql = keep({**texts, "nodes.json": json.dumps(manifest)})
            release = Release(statement(number, sql, source, git.project_tree(source)))
            entry = Entry(kind="release", release=release.id, by=BY, at=AT)
            ledger.write(entry, {f"releases/{release.id}.json": release.to_bytes()}, source)
            ids.append(release.id)
            if number % CHANGES_EVERY == 0:
                promote(ledger, release, ids[::-CHANGES_EVERY])
    lines = "".join(f"create refs/tags/release/{release_id} {source}\n" for release_id in ids)
    subprocess.run(["git", "update-ref", "--stdin"], input=lines, text=True, check=True)
    return ids


class Writer:
    """Writes the ledger's branch by `git fast-import`: a commit an entry, as the project does."""

    def __enter__(self):
        from lifecycle.releases import ledger as book

        command = ["git", "fast-import", "--quiet", "--done"]
        self._git = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._tip, self._ref, self._number = book.first_commit(), book.REF, 0
        return self

    def __exit__(self, *error):
        self._git.communicate(b"done\n")

    def write(self, entry, files, parent=None):
        """One entry; returns its number."""
        self._number += 1
        entry = entry.model_copy(update={"number": self._number, "after": self._tip})
        head = f"commit {self._ref}\nmark :{self._number}\ncommitter {BY} 1577836800 +0000\n"
        before = f":{self._number - 1}" if self._number > 1 else self._tip
        head += f"data 0\nfrom {before}\n" + (f"merge {parent}\n" if parent else "")
        send = self._git.stdin.write
        send(head.encode())
        for path, content in {**files, "entry.json": entry.to_bytes()}.items():
            send(f"M 100644 inline {path}\ndata {len(content)}\n".encode() + content + b"\n")
        send(f"\nget-mark :{self._number}\n".encode())
        self._git.stdin.flush()
        self._tip = self._git.stdout.readline().decode().strip()
        return self._number


def promote(ledger, release, promoted):
    """Approve a release, and let production serve it. `promoted`: this one, the one before, ..."""
    from lifecycle.releases.approvals import Approval
    from lifecycle.releases.ledger import Channel, Entry

    approval = Approval(release=release.id, digest=release.digest, by=BY, at=AT, own=True)
    entry = Entry(kind="approve", release=release.id, by=BY, at=AT)
    number = ledger.write(entry, {f"approvals/{release.id}/alice.json": approval.to_bytes()})
    previous = promoted[1] if len(promoted) > 1 else None
    told = {"release": release.id, "generation": len(promoted), "previous": previous}
    told |= {"by": BY, "at": AT, "reason": ""}
    entry = Entry(kind="promote", channel="production", evidence={"approvals": [BY]}, **told)
    channel = Channel(entry=number + 1, operation="promote", **told)
    ledger.write(entry, {"channels/production.json": channel.to_bytes()})


def make_sql(chance, count):
    """SQL of `count` nodes: CTEs, joins, windows, stars; and the manifest `transform` keeps."""
    nodes, texts, relations = {}, {}, []
    for number in range(SOURCES):
        name = f"source.p.raw.source_{number}"
        columns = {f"c{column}": "DOUBLE" for column in range(COLUMNS)}
        relation = f"'../data/raw/source_{number}/*.parquet'"
        nodes[name] = {
            "file": "sources.yml",
            "sha256": "0" * 64,
            "relation": relation,
            "columns": columns,
        }
        relations.append((name, relation))
    for number in range(count - SOURCES):
        last = number == count - SOURCES - 1
        file = "flights" if last else f"model_{number}"
        near = relations[-8 * SOURCES :] if number > SOURCES else relations
        (one, left), (other, right) = chance.sample(near, 2)
        texts[f"{file}.sql"] = model(chance, left, right, FEATURES if last else COLUMNS)
        relation = f'"scratch"."{"features" if last else "staging"}"."{file}"'
        nodes[f"model.p.{file}"] = {
            "file": f"transform/models/{file}.sql",
            "sha256": "0" * 64,
            "relation": relation,
            "compiled": f"{file}.sql",
            "reads": [one, other],
        }
        relations.append((f"model.p.{file}", relation))
    return texts, {"dbt": "1.11.0", "nodes": nodes, "tests": {}}


def model(chance, left, right, width):
    """One SELECT of `width` columns over two relations."""
    sides = [f"{chance.choice('ab')}.c{chance.randrange(COLUMNS)}" for _ in range(width)]
    made = [f"{side} as c{number}" for number, side in enumerate(sides)]
    made[0] = "coalesce(a.c0, b.c0) * 2 as c0"
    made[1] = "avg(a.c1) over (partition by b.c2 order by a.c3) as c1"
    return (
        f"with a as (select * from {left}),\nb as (select c0, max(c1) as c1, max(c2) as c2, "
        f"{', '.join(f'min(c{n}) as c{n}' for n in range(3, COLUMNS))} from {right} group by c0)\n"
        f"select {', '.join(made)}\nfrom a left join b on a.c0 = b.c0 where a.c4 > 0\n"
    )


def keep(texts):
    """Put a folder's files into DVC's cache; returns its MD5."""
    entries = [{"md5": put(text.encode()), "relpath": name} for name, text in sorted(texts.items())]
    return put(json.dumps(entries, sort_keys=True).encode(), ".dir") + ".dir"


def put(content, suffix=""):
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    path = Path(".dvc/cache/files/md5") / md5[:2] / (md5[2:] + suffix)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return md5


def statement(number, sql, commit, tree):
    """A record as `release` writes it: raw files of which some are new, a model of its own."""
    raw = [
        raw_file(
            source,
            f"{2010 + month // 12}-{month % 12 + 1:02}",
            number if month == MONTHS - 1 else 0,
        )
        for source in range(3)
        for month in range(MONTHS)
    ]
    columns = {f"c{column}": "double" for column in range(FEATURES)}
    path = "data/features/flights.parquet"
    table = {
        "path": path,
        "rows": number,
        "columns": columns,
        "sha256": digest(f"features {number}"),
    }
    gate = {"name": "roc_auc", "value": 0.7, "threshold": {"min": 0.6}, "pass": True}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicate": {
            "model": {
                "name": NAME,
                "path": "model",
                "files": {"model/model.txt": digest(f"model {number}")},
                "features": list(columns),
                "feature_table": path,
            },
            "materials": {
                "git": {"tree": tree},
                "environment": {"lock": digest("lock")},
                "raw": raw,
                "dvc": {
                    "lock": digest(f"lock {number}"),
                    "result_digest": digest(f"result {number}"),
                    "outs": [{"path": "reports/sql", "md5": sql, "size": 1}],
                },
                "params": {"train": {"num_leaves": number}},
                "features": [table],
            },
            "evidence": {"metrics": {"roc_auc": 0.7}, "gates": [gate]},
            "observed": {
                "commit": commit,
                "by": BY,
                "at": AT,
                "python": "3.12.0",
                "platform": "linux-x86_64",
                "mlflow": {
                    "model_name": NAME,
                    "version": number + 1,
                    "run_id": digest(f"run {number}")[:32],
                },
            },
        },
    }


def raw_file(source, month, version):
    path = f"data/raw/source_{source}/{month}.parquet"
    sha256 = digest(f"{path} {version}")
    return {"path": path, "sha256": sha256, "md5": sha256[:32], "size": 1, "rows": 1000}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def build(nodes):
    """Build the graph of the releases on standard input, and print its line of the table."""
    from lifecycle.lineage.graph import of_releases
    from lifecycle.releases import ledger as book
    from lifecycle.releases.store import Store

    ids = sys.stdin.read().split()
    ledger = book.load()
    releases = ledger.read_releases(ids)
    versions = len({release.outputs("reports/sql")[0].md5 for release in releases})
    start = time.process_time()
    graph = of_releases(releases, ledger, Store())
    seconds = time.process_time() - start
    size = f"{len(graph.nodes):,} | {len(graph.edges):,}"
    print(f"| {len(ids):,} | {nodes:,} | {versions} | {size} | {seconds:.1f} |", flush=True)


def median(arguments):
    """CPU seconds of a command, the middle one of three."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "lifecycle.cli", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return sorted(taken)[1]


if __name__ == "__main__":
    main()
