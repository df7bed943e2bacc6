"""The nine faults. Each injects one for real, and waits until the project's own means have dealt with it.

A fault gets the stand and a watch, on which it notes when it was found and when it was over; it returns what happened,
and raises NotHeldError where what must hold does not.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import sha256
from ..lifecycle import loading, pointers
from ..lifecycle.ledger import Ledger
from ..lifecycle.store import Store
from ..params import load_params
from .defects import Defect
from .load import Load
from .stand import NotHeldError, Stand, last_line

if TYPE_CHECKING:
    import pandas as pd

KILLS = 3


@dataclass
class Watch:
    """When it began, was found and was over, on the monotonic clock."""

    began: float = 0.0
    detected: float | None = None
    restored: float | None = None

    def begin(self) -> None:
        """Now it is in."""
        self.began = time.monotonic()

    def found(self) -> None:
        """Somebody but the drill knows."""
        self.detected = self.detected or time.monotonic()

    def over(self) -> None:
        """All is as it was."""
        self.restored = time.monotonic()


@dataclass(frozen=True)
class Scene:
    """What a fault works with. `sound`: the release that production serves at first."""

    stand: Stand
    load: Load
    sound: str
    watch: Watch


def expect(true: object, otherwise: str) -> None:
    """See that something holds.

    Raises:
        NotHeldError: it does not.
    """
    if not true:
        raise NotHeldError(otherwise)


# Batches.


def corrupt_batch(scene: Scene) -> str:
    """A tenth of the newest raw file is spoilt: numbers out of all bounds."""

    def spoil(rows: "pd.DataFrame") -> "pd.DataFrame":
        for name in rows.select_dtypes("number"):
            rows.loc[rows.index[: max(len(rows) // 10, 1)], name] *= -1000
        return rows

    return _refused(scene, spoil)


def schema_change(scene: Scene) -> str:
    """A column of the newest raw file has another name; and a client leaves a feature out."""
    said = _refused(scene, lambda rows: rows.rename(columns={rows.columns[0]: f"{rows.columns[0]}_v2"}))
    row = dict(scene.load.rows[0][1])
    field = row.popitem()[0]
    status, text = _post(scene.stand.port, {"row": row})
    expect(status == 422 and field in text, f"the server answered a row without {field} with {status}")
    return f"{said}; a request without {field}: 422"


def _refused(scene: Scene, spoil: "Callable[[pd.DataFrame], pd.DataFrame]") -> str:
    import pandas as pd

    stand, watch = scene.stand, scene.watch
    monthly = sorted(stand.source.glob("*/*.parquet"))
    file = (monthly or sorted(stand.source.glob("*.parquet")))[-1]
    sound, before = file.read_bytes(), _built(stand)
    file.chmod(0o644)
    spoil(pd.read_parquet(file)).to_parquet(file, index=False)
    watch.begin()
    done = stand.cli("run")
    expect(done.returncode == 1, f"`run` took it: exit code {done.returncode}")
    watch.found()
    expect(_built(stand) == before, "it changed what is built")
    expect(list((stand.folder / "data/quarantine").rglob("*")), "nothing is in quarantine")
    file.write_bytes(sound)
    stand.must("run")
    expect(_built(stand) == before, "with the sound file, something else is built")
    watch.over()
    return f"refused: {last_line(done).removeprefix('error: ')[:120]}"


def _built(stand: Stand) -> dict[str, str]:
    names = ("dvc.lock", "params.yaml", "data/source.json")
    files = [stand.folder / name for name in names] + sorted((stand.folder / "data/features").rglob("*"))
    return {str(file): sha256(file) for file in files if file.is_file()}


def _post(port: int, body: Any) -> tuple[int, str]:
    import json
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/predict", json.dumps(body))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


# Inputs and models.


def drifted_inputs(scene: Scene) -> str:
    """Every number in the requests is as large as the largest there was."""
    stand, watch = scene.stand, scene.watch
    scene.load.drifted = True
    watch.begin()
    try:
        told = _monitored(scene, lambda said: any(each["title"].startswith("psi") for each in said["alerts"]))
    finally:
        scene.load.drifted = False
    alerts = [each["title"] for each in told["alerts"]]
    watch.found()
    expect(stand.serves("production") == scene.sound, "production was moved, though nobody knows that it is worse")
    return f"{len(alerts)} alerts, the first {alerts[0]}; {'; '.join(told['acted']) or 'nothing done'}"


def worse_model(scene: Scene) -> str:
    """Production gets a model that is sound in every test, and answers the wrong rows once it serves."""
    stand, watch = scene.stand, scene.watch
    bad = stand.release_defective("worse")
    stand.must("promote", bad, "--to", "production", "--reason", "drill")
    watch.begin()
    stand.until(lambda: stand.shows("production") == bad, "the server does not serve it")
    _monitored(scene, lambda _: stand.serves("production") == scene.sound)
    watch.found()
    entry = stand.ledger.last_entry()
    assert entry is not None
    expect(entry.kind == "rollback" and entry.automation, f"it was no automatic rollback: {entry.kind}")
    checks = {figure["check"] for figure in entry.evidence["trigger"]["figures"]}
    expect(checks & {"skill_drop", "ranking_drop"}, f"it was rolled back for {', '.join(sorted(checks))} alone")
    stand.until(lambda: stand.shows("production") == scene.sound, "the server does not follow")
    watch.over()
    return f"rolled back by the monitor: {', '.join(sorted(checks))}; {bad} is in quarantine"


def _monitored(scene: Scene, enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Let the monitor run, as a schedule would, until it has seen enough; returns what it said last."""
    import json

    rows, since = load_params().monitoring.min_rows, len(scene.load.answers)
    scene.stand.until(lambda: len(scene.load.answers) - since > 1.5 * rows, "there are too few answers")
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        done = scene.stand.cli("monitor", "--act", "--json")
        expect(done.stdout, f"the monitor failed: {last_line(done)}")
        said: dict[str, Any] = json.loads(done.stdout)
        if enough(said):
            return said
    raise NotHeldError(f"the monitor did not find it; in breach: {[each['check'] for each in said['breaches']]}")


def crashing_model(scene: Scene) -> str:
    """A release comes to the canary by a rollout, and raises on every request after the first ones."""
    return _bad_canary(scene, "crashing")


def slow_model(scene: Scene) -> str:
    """The same with one that takes a second."""
    return _bad_canary(scene, "slow")


def _bad_canary(scene: Scene, defect: Defect) -> str:
    stand, watch = scene.stand, scene.watch
    bad = stand.release_defective(defect)
    stand.cli("rollout", bad)
    expect(stand.serves("canary") == bad, f"the rollout did not take it to the canary: {stand.cli('rollout', bad)}")
    watch.begin()
    stand.until(lambda: _breaker(stand) == "open", "the breaker does not open")
    watch.found()
    deadline, code = time.monotonic() + 180, 3
    while code == 3 and time.monotonic() < deadline:
        done = stand.cli("rollout", bad)
        code = done.returncode
    expect(code == 1 and stand.serves("canary") is None, f"it was not rolled back: {last_line(done)}")
    stand.until(lambda: stand.shows("canary") is None, "the server does not follow")
    watch.over()
    entry = stand.ledger.last_entry()
    expect(entry and entry.automation and stand.ledger.quarantine(bad), "it is not in quarantine")
    return f"breaker open, then {entry.reason if entry else ''}"


def _breaker(stand: Stand) -> str:
    found: str = ((stand.info() or {}).get("canary") or {}).get("breaker", "")
    return found


# State.


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
        time.sleep(moments.uniform(0.3, 1.0) * seconds)
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
    expect((pointer.release, pointer.generation, pointer.traffic) == same, f"the pointer is not the ledger's: {pointer}")
    expect(len(now.entries()) - len(before.entries()) in (0, 1), "it was done twice")
    verified = stand.cli("verify", "--all")
    expect(verified.returncode == 0, f"something is not whole: {verified.stdout[-300:]}")
    return now != before


@dataclass(frozen=True)
class Fault:
    """One of the nine. `expected`: what must hold; `down`: requests may fail meanwhile."""

    name: str
    expected: str
    inject: Callable[[Scene], str]
    down: bool = False


FAULTS = (
    Fault("corrupt-batch", "refused at the gate, nothing built", corrupt_batch),
    Fault("schema-change", "refused at the gate, and by the server (422)", schema_change),
    Fault("drifted-inputs", "an alert; production stays", drifted_inputs),
    Fault("worse-model", "rolled back by the monitor, on labels", worse_model),
    Fault("crashing-model", "production answers instead; rolled back by the rollout", crashing_model),
    Fault("slow-model", "production answers instead; rolled back by the rollout", slow_model),
    Fault("lost-registry", "made again out of git and DVC", lost_registry),
    Fault("lost-cache-object", "noticed, fetched; refused where it is nowhere", lost_cache_object),
    Fault("killed-process", "before or after, never between; serves again", killed_process, down=True),
)
