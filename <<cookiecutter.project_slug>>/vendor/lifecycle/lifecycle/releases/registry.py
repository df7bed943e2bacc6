"""MLflow's model registry, in step with the ledger: a version for each release, an alias for each channel.

MLflow decides nothing: all of this can be made again from the ledger and DVC.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, one_line
from ..files import write_json
from . import ledger as book
from . import loading, tracking
from .ledger import ChannelName, Ledger
from .record import Release
from .store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

RELEASE_TAG = "release"
DIGEST_TAG = "release_digest"
CHANNELS: tuple[ChannelName, ...] = ("staging", "canary", "production")
# Where MLflow was told of which ledger last.
PROJECTED = Path(".lifecycle/registry.json")
LOG = Path("logs/registry.log")


def in_step(ledger: Ledger) -> bool:
    """Whether MLflow was told of this ledger. Costs no import of MLflow; it may have been changed by hand since."""
    try:
        told = json.loads(PROJECTED.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return ledger.tip is None
    uri = tracking.tracking_uri()
    there = not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()
    return bool(there and told == {"ledger": ledger.tip, "tracking_uri": uri})


def project(ledger: Ledger, store: Store) -> list[str]:
    """Bring the registry in step with the ledger; returns what had to be done, in words.

    Raises:
        UserError: MLflow cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    try:
        done = _project(ledger, store)
    except MlflowException as error:
        raise UserError(
            f"MLflow at {tracking.tracking_uri()} could not be told: {one_line(error)}. "
            "The ledger stands; `doctor` tells MLflow when it is back"
        ) from None
    write_json(PROJECTED, {"ledger": ledger.tip, "tracking_uri": tracking.tracking_uri()})
    return done


def _project(ledger: Ledger, store: Store) -> list[str]:
    releases = ledger.read_releases(ledger.releases)
    if not releases:
        return []
    client = tracking.open_client()
    done: list[str] = []
    versions: dict[str, str] = {}
    names = {release.model["name"] for release in releases}
    known = {name: list(client.search_model_versions(f"name = '{name}'")) for name in names}
    order = {entry.release: entry.number for _, entry in ledger.entries() if entry.kind == "release"}
    for release in sorted(releases, key=lambda each: order.get(each.id, 0)):
        name = release.model["name"]
        fitting = _of(release, known[name])
        if not fitting:
            what = "registered" if tracking.register_again(client, name, release.result_digest) else "logged to MLflow"
            if what != "registered":
                _log_again(release, store)
            fitting = _of(release, client.search_model_versions(f"name = '{name}'"))
            if not fitting:
                raise UserError(f"{release.id} was logged to MLflow again, and still has no version of {name} there")
            again = ""
            if not any(each.tags.get(tracking.RESULT_TAG) == release.result_digest for each in known[name]):
                again = " again"
                tracking.TRACKED_FILE.unlink(missing_ok=True)  # whatever else MLflow had may be gone too
            done.append(f"{release.id} is {what}{again}, as {name} version {fitting[0].version}")
        version = max(fitting, key=lambda each: (each.tags.get(RELEASE_TAG) == release.id, int(each.version)))
        versions[release.id] = str(version.version)
        for tag, value in ((RELEASE_TAG, release.id), (DIGEST_TAG, release.digest)):
            if version.tags.get(tag) != value:
                client.set_model_version_tag(name, str(version.version), tag, value)
                version.tags[tag] = value
                done.append(f"{name} version {version.version} is tagged {tag}={value[:14]}")
    done += _aliases(client, ledger, {release.id: release.model["name"] for release in releases}, versions)
    return done


def _of(release: Release, versions: Iterable[Any]) -> list[Any]:
    """Versions that are a release's, or may become it. Of releases that differ in code alone, each has its own."""
    same = [each for each in versions if each.tags.get(tracking.RESULT_TAG) == release.result_digest]
    return [each for each in same if each.tags.get(RELEASE_TAG, release.id) == release.id]


def _aliases(client: "MlflowClient", ledger: Ledger, names: dict[str, str], versions: dict[str, str]) -> list[str]:
    done = []
    held = {name: client.get_registered_model(name).aliases for name in set(names.values())}
    for channel in CHANNELS:
        serving = ledger.channel(channel)
        release_id = serving.release if serving else None
        for name, aliases in held.items():
            now = str(aliases[channel]) if channel in aliases else None
            wanted = versions[release_id] if release_id and names[release_id] == name else None
            if now == wanted:
                continue
            if wanted is None:
                client.delete_registered_model_alias(name, channel)
                done.append(f"alias {channel} is taken off {name} version {now}")
            else:
                client.set_registered_model_alias(name, channel, wanted)
                was = f", was {now}" if now else ""
                done.append(f"alias {channel} is {name} version {wanted}{was}")
    return done


def _log_again(release: Release, store: Store) -> None:
    """Log the result of a release to MLflow as it was logged at first, out of git and DVC."""
    with tempfile.TemporaryDirectory(prefix="log-again-") as name:
        folder = Path(name)
        loading.extract(release.commit, folder)
        needed = release.outputs("reports", release.model["path"])
        if wrong := store.fetch(needed):
            raise UserError(f"{release.id} cannot be logged to MLflow again: {wrong[0]}")
        store.copy(needed, folder)
        # This machinery, whatever that commit had, over the model of that commit.
        code = os.pathsep.join([str(Path(__file__).parents[2]), str(folder / "src")])
        environment = {"MLFLOW_TRACKING_URI": tracking.tracking_uri(), "PYTHONPATH": code}
        command = [sys.executable, "-m", f"{__package__}.tracking", release.commit]
        done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{release.id} could not be logged to MLflow again: {said[:300]}")


def try_project(store: Store) -> list[str]:
    """Tell MLflow of the ledger as it is now, if it was not told; one that cannot be reached is told later."""
    with alone():
        ledger = book.load()
        if in_step(ledger):
            return []
        try:
            project(ledger, store)
        except UserError as error:
            return [str(error)]
        return []


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Two that tell MLflow at once might log a lost run twice, or leave the aliases of the older ledger."""
    PROJECTED.parent.mkdir(exist_ok=True)
    with PROJECTED.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def project_later() -> None:
    """Tell MLflow in a process of its own: who waits for a rollback need not wait for that."""
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w", encoding="utf-8") as log:
        subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt), alone():
        for line in project(book.load(), Store()):
            print(line)
