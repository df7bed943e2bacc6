"""Faults in the project's storage and its processes."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

from ..releases import loading, pointers
from ..releases.ledger import Ledger
from ..releases.store import Store
from .sandbox import Sandbox
from .scenario import Scenario, expect

KILLS = 3


def lost_registry(scenario: Scenario) -> str:
    """Delete MLflow's database and its artifacts."""
    sandbox, watch = scenario.sandbox, scenario.watch
    sandbox.settle()
    for path in sandbox.folder.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(sandbox.folder / "mlartifacts", ignore_errors=True)
    watch.begin()
    done = sandbox.must("doctor")["done"]
    watch.found()
    watch.over()
    expect(any(scenario.sound in line and "again" in line for line in done), f"it was not made again: {done}")
    left = sandbox.must("doctor")["done"]
    expect(left == [], f"and then there was still something to do: {left}")
    return f"{len(sandbox.ledger.releases)} releases and the aliases made again by `doctor`, out of git and DVC"


def lost_cache_object(scenario: Scenario) -> str:
    """Delete production's model from DVC's cache and this machine, and then from the remote too."""
    sandbox, watch = scenario.sandbox, scenario.watch
    release = sandbox.ledger.release(scenario.sound)
    files = Store().files(release.outputs(release.model["path"]))
    here, far = Path(".dvc/cache/files/md5"), Path(".dvc-remote/files/md5")
    names = [f"{file.md5[:2]}/{file.md5[2:]}" for file in files]
    kept = {name: (far / name).read_bytes() for name in names}
    for name in names:
        (here / name).unlink()
    shutil.rmtree(loading.RELEASES / scenario.sound)
    watch.begin()
    [found] = sandbox.must("verify", scenario.sound)["verified"]
    expect(any("not in the cache" in note for note in found["notes"]), "`verify` did not notice")
    watch.found()
    sandbox.must("doctor")
    [found] = sandbox.must("verify", scenario.sound)["verified"]
    expect(found["notes"] == [] and all((here / name).exists() for name in names), "`doctor` did not bring it back")
    watch.over()
    for name in names:
        for store in (here, far):
            (store / name).unlink()
    refused = sandbox.cli("verify", scenario.sound)
    for name, content in kept.items():  # as if from another machine
        (far / name).write_bytes(content)
    expect(refused.returncode == 1, "`verify` takes a release that is nowhere for whole")
    sandbox.must("verify", scenario.sound)
    return f"{len(names)} files: `verify` says so, `doctor` fetches them; gone from the remote too, `verify` refuses"


def killed_process(scenario: Scenario) -> str:
    """Kill a promotion at random moments, and then the server."""
    sandbox, watch = scenario.sandbox, scenario.watch
    start = time.monotonic()
    sandbox.must("promote", scenario.sound, "--to", "canary", "--traffic", "1%")
    seconds, moments, committed = time.monotonic() - start, random.Random(9), 0  # noqa: S311  moments, not secrets
    for number in range(KILLS):
        before = sandbox.ledger
        process = sandbox.start_cli("promote", scenario.sound, "--to", "canary", "--traffic", f"{2 + number}%")
        time.sleep(moments.uniform(0.1, 0.7) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        committed += _converges(sandbox, before)
    watch.begin()
    sandbox.kill_server()
    sandbox.until(lambda: scenario.load.answers[-1].status == 0, "nobody noticed that the server is gone")
    watch.found()
    sandbox.serve()
    expect(sandbox.shows("production") == scenario.sound, "the server serves something else")
    sandbox.until(lambda: scenario.load.answers[-1].status == 200, "it does not answer")
    watch.over()
    return f"{KILLS} promotions killed, {committed} after their commit: no mixture; the server, started again, answers"


def _converges(sandbox: Sandbox, before: Ledger) -> bool:
    """Check that a killed move has happened completely or not at all. Return whether it happened."""
    sandbox.must("history", "--limit", "1")  # every command repairs the state first
    now = sandbox.ledger
    channel, pointer = now.channel("canary"), pointers.read("canary")
    expect(channel and pointer, "the canary has no pointer")
    assert channel and pointer
    same = (channel.release, channel.generation, channel.traffic)
    expect(
        (pointer.release, pointer.generation, pointer.traffic) == same, f"the pointer is not the ledger's: {pointer}"
    )
    expect(len(now.entries()) - len(before.entries()) in (0, 1), "it was done twice")
    verified = sandbox.cli("verify", "--all")
    expect(verified.returncode == 0, f"something is not whole: {verified.stdout[-300:]}")
    return now != before
