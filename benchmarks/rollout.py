"""How often a rollout takes back a release that is as good, and how soon it takes back one that is
worse.

The tests of the generated project's monitoring/sequential.py on made-up requests, beside what a
person at a dashboard does: an ordinary test, looked at again and again. Each figure is over
thousands of rollouts; equal seeds give equal figures.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[1]
NAME = "flight-delays"
ALPHA = 0.05
ROWS, REQUESTS, LOOK = 10_000, 60_000, 100
# The canary's shares, each for a third of the requests.
SHARES = (0.05, 0.25, 0.5)


def main():
    """Bake a project, set it up, and go on in its environment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--python", help="of an environment that fits; default: a new one")
    parser.add_argument("--rollouts", type=int, default=2000, help="for each figure")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        inside(asked.rollouts)
        return
    scratch = Path(tempfile.mkdtemp(prefix="rollout-"))
    try:
        bake = [sys.executable, "-m", "cookiecutter", TEMPLATE, "--no-input", "--default-config"]
        subprocess.run([*bake, "-o", scratch], check=True, stdout=subprocess.DEVNULL)
        project = scratch / NAME
        python = asked.python or project / ".venv/bin/python"
        if not asked.python:
            print("setting up the project ...", file=sys.stderr)
            subprocess.run(["make", "setup", f"PYTHON={sys.executable}"], cwd=project, check=True)
        command = [python, __file__, "--inside", "--rollouts", str(asked.rollouts)]
        environment = os.environ | {"PYTHONPATH": str(project / "src")}
        sys.exit(subprocess.run(command, env=environment).returncode)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def inside(rollouts):
    """Both tables."""
    print(
        "| shadow, loss in Brier points | rolled back | if never promoted | by looking again "
        "| promoted | rows |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for said, worse, noise in (
        ("equal", 0.0, 0.5),
        ("the same model", 0.0, 0.0),
        ("worse by 0.5 points", 0.005, 0.5),
        ("worse by 1 point", 0.01, 0.5),
        ("worse by 2 points", 0.02, 0.5),
        ("better by 1 point", -0.01, 0.5),
    ):
        row(said, *shadow(rollouts, worse, noise))
    print()
    print("| canary, share of requests that err | rolled back | by looking again | requests |")
    print("|---|---:|---:|---:|")
    for ours in (0.005, 0.0075, 0.01, 0.02):
        said = "both 0.5%" if ours == 0.005 else f"{ours:.2%}, production 0.5%"
        row(said, *canary(rollouts, ours, 0.005))
    row("both 0.5%, ten times that in some hours", *canary(rollouts, 0.005, 0.005, bursts=True))


def row(said, *cells):
    """One line of a table."""
    shown = [f"{cell:.1%}" if isinstance(cell, float) else f"{cell:,}" for cell in cells]
    print(f"| {said} | {' | '.join(shown)} |", flush=True)


def shadow(rollouts, worse, noise):
    """Paired squared errors of two models whose scores miss the true chances by as much noise.

    `worse` is added to the candidate's expected loss by making its scores miss by more.
    """
    import numpy as np
    from lifecycle.monitoring.sequential import compare_losses, log_capital

    random = np.random.default_rng([2013, round(1e4 * worse) % 2**32, round(10 * noise)])
    verdicts, rows, naive, ever = [], [], 0, 0
    for _ in range(rollouts):
        chance = random.beta(1.2, 4, ROWS)
        happened = random.random(ROWS) < chance
        miss = random.normal(0, 0.05 * noise / 0.5, (2, ROWS)) if noise else np.zeros((2, ROWS))
        scores = np.clip(chance + miss, 0, 1)
        aside = random.choice([-1, 1], ROWS) * abs(worse) ** 0.5
        if worse > 0:
            scores[1] = np.clip(chance + miss[1] + aside, 0, 1)
        elif worse < 0:
            scores[0] = np.clip(chance + miss[0] + aside, 0, 1)
        losses = (scores - happened) ** 2
        difference = losses[1] - losses[0]
        compared = compare_losses(difference, 0.005, ALPHA, ALPHA, 300)
        verdicts.append(compared.verdict)
        if compared.verdict != "hold":
            rows.append(compared.rows)
        naive += looks_worse(difference)
        ever += bool(log_capital(difference, 0, -1, 1).max() >= np.log(1 / ALPHA))
    share = {name: verdicts.count(name) / rollouts for name in ("roll back", "promote")}
    back, forward = share["roll back"], share["promote"]
    return back, ever / rollouts, naive / rollouts, forward, median(rows)


def looks_worse(difference):
    """Whether a one-sided z-test says "worse" at any of the looks, after at least 300 rows."""
    import numpy as np

    seen = np.arange(1, len(difference) + 1)
    mean = np.cumsum(difference) / seen
    spread = np.sqrt(np.maximum(np.cumsum(difference**2) / seen - mean**2, 1e-12) / seen)
    return bool((mean / spread)[299::LOOK].max() > 1.645)


def canary(rollouts, ours, theirs, bursts=False):
    """Requests that err in the canary and in production, at growing shares."""
    import numpy as np
    from lifecycle.monitoring.sequential import log_excess

    random = np.random.default_rng([2014, round(1e5 * ours), round(1e5 * theirs), bursts])
    share = np.repeat(SHARES, REQUESTS // len(SHARES))
    looks = np.arange(LOOK, REQUESTS + 1, LOOK)
    rolled_back, naive, requests = 0, 0, []
    for _ in range(rollouts):
        in_canary = random.random(REQUESTS) < share
        chance = np.where(in_canary, ours, theirs)
        if bursts:
            chance = chance * np.where(random.random(REQUESTS // 500) < 0.1, 10, 1).repeat(500)
        err = np.flatnonzero(random.random(REQUESTS) < chance)
        at = first(
            looks,
            lambda look, err=err, hit=in_canary: (
                log_excess(share[err[err < look]], hit[err[err < look]]) >= np.log(1 / ALPHA)
            ),
        )
        rolled_back += at is not None
        if at is not None:
            requests.append(at)
        naive += proportions_differ(in_canary, err, looks)
    return rolled_back / rollouts, naive / rollouts, median(requests)


def first(looks, decided):
    """The first look at which something is decided."""
    return next((int(look) for look in looks[9::10] if decided(look)), None)


def proportions_differ(in_canary, err, looks):
    """Whether a one-sided z-test of two proportions says "more" at any of the looks."""
    import numpy as np

    n1 = np.cumsum(in_canary)[looks - 1]
    n0 = looks - n1
    k1 = np.searchsorted(err[in_canary[err]], looks)
    k0 = np.searchsorted(err[~in_canary[err]], looks)
    pooled = (k1 + k0) / looks
    spread = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / np.maximum(n1, 1) + 1 / n0), 1e-12))
    z = np.where(k1 + k0 >= 10, (k1 / np.maximum(n1, 1) - k0 / n0) / spread, 0)
    return bool(z.max() > 1.645)


def median(values):
    """The middle one; 0 for none."""
    return int(sorted(values)[len(values) // 2]) if values else 0


if __name__ == "__main__":
    main()
