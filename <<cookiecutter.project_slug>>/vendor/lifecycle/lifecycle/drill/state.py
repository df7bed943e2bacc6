"""Faults of what the project keeps, and of its processes."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

from ..releases import loading, pointers
from ..releases.ledger import Ledger
from ..releases.store import Store
from .scene import Scene, expect
from .stand import Stand

KILLS = 3


def lost_registry(scene: Scene) -> str:
    """MLflow's database and its artifacts are gone."""
    stand, watch = scene.stand, scene.watch
    stand.settle()
    for path in stand.folder.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(stand.folder / "mlartifacts", ignore_errors=True)
    watch.begin()
    done = stand.must("doctor")["done"]
    watch.found()
    watch.over()
    expect(any(scene.sound in line and "again" in line for line in done), f"it was not made again: {done}")
    left = stand.must("doctor")["done"]
    expect(left == [], f"and then there was still something to do: {left}")
    return f"{len(stand.ledger.releases)} releases and the aliases made again by `doctor`, out of git and DVC"


def lost_cache_object(scene: Scene) -> str:
    """The model that production serves is gone from DVC's cache, and from this machine; then from the remote too."""
    stand, watch = scene.stand, scene.watch
    release = stand.ledger.release(scene.sound)
    files = Store().files(release.outputs(release.model["path"]))
    here, far = Path(".dvc/cache/files/md5"), Path(".dvc-remote/files/md5")
    names = [f"{file.md5[:2]}/{file.md5[2:]}" for file in files]
    kept = {name: (far / name).read_bytes() for name in names}
    for name in names:
        (here / name).unlink()
    shutil.rmtree(loading.RELEASES / scene.sound)
    watch.begin()
    [found] = stand.must("verify", scene.sound)["verified"]
    expect(any("not in the cache" in note for note in found["notes"]), "`verify` did not notice")
    watch.found()
    stand.must("doctor")
    [found] = stand.must("verify", scene.sound)["verified"]
    expect(found["notes"] == [] and all((here / name).exists() for name in names), "`doctor` did not bring it back")
    watch.over()
    for name in names:
        for store in (here, far):
            (store / name).unlink()
    refused = stand.cli("verify", scene.sound)
    for name, content in kept.items():  # as from another machine
        (far / name).write_bytes(content)
    expect(refused.returncode == 1, "`verify` takes a release that is nowhere for whole")
    stand.must("verify", scene.sound)
    return f"{len(names)} files: `verify` says so, `doctor` fetches them; gone from the remote too, `verify` refuses"


def killed_process(scene: Scene) -> str:
    """A promotion is killed at random moments, and then the server."""
    stand, watch = scene.stand, scene.watch
    start = time.monotonic()
    stand.must("promote", scene.sound, "--to", "canary", "--traffic", "1%")
    seconds, moments, committed = time.monotonic() - start, random.Random(9), 0  # noqa: S311  moments, and no secrets
    for number in range(KILLS):
        before = stand.ledger
        process = stand.start_cli("promote", scene.sound, "--to", "canary", "--traffic", f"{2 + number}%")
        time.sleep(moments.uniform(0.1, 0.7) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        committed += _converges(stand, before)
    watch.begin()
    stand.kill_server()
    stand.until(lambda: scene.load.answers[-1].status == 0, "nobody noticed that the server is gone")
    watch.found()
    stand.serve()
    expect(stand.shows("production") == scene.sound, "the server serves something else")
    stand.until(lambda: scene.load.answers[-1].status == 200, "it does not answer")
    watch.over()
    return f"{KILLS} promotions killed, {committed} after their commit: no mixture; the server, started again, answers"


def _converges(stand: Stand, before: Ledger) -> bool:
    """See that nothing of a killed move has happened, or all of it; returns which."""
    stand.must("history", "--limit", "1")  # what every command begins with puts it in order
    now = stand.ledger
    channel, pointer = now.channel("canary"), pointers.read("canary")
    expect(channel and pointer, "the canary has no pointer")
    assert channel and pointer
    same = (channel.release, channel.generation, channel.traffic)
    expect(
        (pointer.release, pointer.generation, pointer.traffic) == same, f"the pointer is not the ledger's: {pointer}"
    )
    expect(len(now.entries()) - len(before.entries()) in (0, 1), "it was done twice")
    verified = stand.cli("verify", "--all")
    expect(verified.returncode == 0, f"something is not whole: {verified.stdout[-300:]}")
    return now != before
