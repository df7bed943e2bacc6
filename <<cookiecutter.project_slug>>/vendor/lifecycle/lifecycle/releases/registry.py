"""Keep MLflow's model registry in step with the ledger: a version for each release, an alias for each channel.

MLflow decides nothing: all of this can be rebuilt from the ledger and DVC.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, one_line
from ..files import file_lock, write_json
from . import ledger as book
from . import loading, tracking
from .ledger import CHANNELS, ChannelName, Ledger
from .record import Release
from .store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

RELEASE_TAG = "release"
DIGEST_TAG = "release_digest"
PAGE_TAG = "lineage"
# The ledger commit that versions, tags and aliases match, and the one for cards and pages (lineage/mlflow_pages.py).
PROJECTED = Path(".lifecycle/registry.json")
DESCRIBED = Path(".lifecycle/described.json")
LOG = Path("logs/attach.log")
# MLflow returns fewer by default.
MANY = 50_000


def noted(state: Path) -> str | None:
    """Return the ledger commit that MLflow was last synchronized with."""
    try:
        found = json.loads(state.read_text(encoding="utf-8"))
        return str(found["ledger"]) if tracking.is_there(found["tracking_uri"]) else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def note(state: Path, ledger: Ledger) -> None:
    """Record that MLflow is in step with this ledger."""
    write_json(state, {"ledger": ledger.tip, "tracking_uri": tracking.noted_uri()})


def in_step(ledger: Ledger, state: Path = PROJECTED) -> bool:
    """Return whether MLflow follows this ledger, without importing MLflow. Does not detect later manual changes."""
    return ledger.tip == noted(state)


def project(ledger: Ledger, store: Store) -> list[str]:
    """Bring versions, tags and aliases in step with the ledger. Return what was done, in words.

    Raises:
        UserError: MLflow cannot be reached.
    """
    with in_words():
        done = _project(ledger, store)
    note(PROJECTED, ledger)
    return done


def in_words() -> AbstractContextManager[None]:
    """Turn MLflow's error into one line on why it does not follow the ledger."""
    what = f"MLflow at {tracking.tracking_uri()} could not be updated"
    return tracking.in_words(what, "The ledger stands; `doctor` updates MLflow once it answers")


def _project(ledger: Ledger, store: Store) -> list[str]:
    order = {entry.release: entry.number for _, entry in ledger.entries() if entry.kind == "release"}
    releases = sorted(ledger.read_releases(ledger.releases), key=lambda each: order.get(each.id, 0))
    if not releases:
        return []
    client = tracking.open_client()
    done = []
    for name in sorted({release.model["name"] for release in releases}):
        own = [release for release in releases if release.model["name"] == name]
        done += (registered := _Registered(client, name)).register(own, store)
        done += registered.tag(own)
        serving = {channel: at.release for channel, at in ledger.channels().items() if at.release}
        numbers = {release_id: str(version.version) for release_id, version in registered.versions_of(own).items()}
        done += _aliases(client, name, {channel: numbers.get(serving.get(channel, "")) for channel in CHANNELS})
    return done + tracking.challenge_again(client)


class _Registered:
    """The versions of a model in MLflow and their runs."""

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self.client, self.name = client, name
        self.versions: list[ModelVersion] = []
        self.runs: dict[str, Run] = {}
        self.read()

    def read(self) -> None:
        """Read the versions. Skip a version whose run is deleted for good: it cannot be shown."""
        from mlflow.entities import ViewType

        versions = sorted(
            self.client.search_model_versions(f"name = '{self.name}'"), key=lambda each: int(each.version)
        )
        experiment = self.client.get_experiment_by_name(self.name)
        ids = ", ".join(f"'{run_id}'" for run_id in sorted({each.run_id for each in versions if each.run_id}))
        for wanted in (f"attributes.run_id IN ({ids})" if ids else "", f"tags.{RELEASE_TAG} LIKE '%'"):
            if experiment and wanted:
                found = self.client.search_runs([experiment.experiment_id], wanted, ViewType.ALL, MANY)
                self.runs |= {run.info.run_id: run for run in found}
        self.versions = versions

    def result(self, version: "ModelVersion") -> str | None:
        """Return the pipeline result whose model this version is, as its run records."""
        run = self.runs.get(version.run_id)
        return run.data.tags.get(tracking.RESULT_TAG) if run else None

    def versions_of(self, releases: list[Release]) -> dict[str, "ModelVersion"]:
        """Return release -> version. Releases that differ only in code each have their own."""
        free, found = list(self.versions), {}
        for tagged in (True, False):
            for release in releases:
                for version in free if release.id not in found else []:
                    is_own = not tagged or version.tags.get(RELEASE_TAG) == release.id
                    if is_own and self.result(version) == release.result_digest:
                        found[release.id] = version
                        free.remove(version)
                        break
        return found

    def register(self, releases: list[Release], store: Store) -> list[str]:
        """Make sure that each release has a version."""
        done = []
        for release in releases:
            if release.id in self.versions_of(releases):
                continue
            again = "" if any(self.result(each) == release.result_digest for each in self.versions) else " again"
            DESCRIBED.unlink(missing_ok=True)  # the new version does not have the old one's description
            if tracking.register_again(self.client, self.name, release.result_digest):
                what = "registered"
            else:
                what = "logged to MLflow"
                _log_again(release, store)
            if again:
                tracking.TRACKED_FILE.unlink(missing_ok=True)  # other MLflow content may be gone too
            self.read()
            if (version := self.versions_of(releases).get(release.id)) is None:
                raise UserError(f"{release.id} was {what} again, and still has no version of {self.name} there")
            done.append(f"{release.id} is {what}{again}, as {self.name} version {version.version}")
        return done

    def tag(self, releases: list[Release]) -> list[str]:
        """Make sure that versions and runs have their releases' tags, and that no others do."""
        mine, done = self.versions_of(releases), []
        owners = {str(mine[release.id].version): release for release in releases}
        of_run: dict[str, list[str]] = {}
        for version in self.versions:
            release = owners.get(str(version.version))
            wanted = {tracking.RESULT_TAG: self.result(version) or version.tags.get(tracking.RESULT_TAG)}
            if release:
                wanted |= {RELEASE_TAG: release.id, DIGEST_TAG: release.digest}
                of_run.setdefault(version.run_id, []).append(release.id)
            else:
                wanted |= dict.fromkeys((RELEASE_TAG, DIGEST_TAG, PAGE_TAG))
            for tag, (now, value) in _different(version.tags, wanted).items():
                number = str(version.version)
                if value is None:
                    self.client.delete_model_version_tag(self.name, number, tag)
                    done.append(f"{self.name} version {number} loses the tag {tag}={now[:14]}: it is not that release")
                else:
                    self.client.set_model_version_tag(self.name, number, tag, value)
                    done.append(f"{self.name} version {number} is tagged {tag}={value[:14]}")
                    version.tags[tag] = value
        for run_id, run in self.runs.items():
            names = ", ".join(of_run.get(run_id, ())) or None
            if names and run.info.lifecycle_stage == "deleted":
                self.client.restore_run(run_id)
                done.append(f"run {run_id[:8]} of {names} is restored")
            for tag, (_, value) in _different(run.data.tags, {RELEASE_TAG: names}).items():
                if value is None:
                    self.client.delete_tag(run_id, tag)
                else:
                    self.client.set_tag(run_id, tag, value)
                done.append(
                    f"run {run_id[:8]} is tagged {tag}={value}" if value else f"run {run_id[:8]} loses its {tag}"
                )
        return done


def _different(now: dict[str, str], wanted: Mapping[str, str | None]) -> dict[str, tuple[str, str | None]]:
    """Return tag -> (current value, wanted value) for the tags where these differ."""
    return {tag: (now.get(tag, ""), value) for tag, value in wanted.items() if now.get(tag) != value}


def _aliases(client: "MlflowClient", name: str, wanted: dict[ChannelName, str | None]) -> list[str]:
    done = []
    aliases = client.get_registered_model(name).aliases
    for channel, version in wanted.items():
        now = str(aliases[channel]) if channel in aliases else None
        if now == version:
            continue
        if version is None:
            client.delete_registered_model_alias(name, channel)
            done.append(f"alias {channel} is taken off {name} version {now}")
        else:
            client.set_registered_model_alias(name, channel, version)
            was = f", was {now}" if now else ""
            done.append(f"alias {channel} is {name} version {version}{was}")
    return done


def _log_again(release: Release, store: Store) -> None:
    """Log the result of a release to MLflow again, exactly as at first, from git and DVC."""
    with tempfile.TemporaryDirectory(prefix="log-again-") as name:
        folder = Path(name)
        loading.extract(release.commit, folder)
        needed = release.outputs("reports", release.model["path"])
        if wrong := store.fetch(needed):
            raise UserError(f"{release.id} cannot be logged to MLflow again: {wrong[0]}")
        store.copy(needed, folder)
        # The current machinery instead of that commit's, with that commit's model.
        code = os.pathsep.join([str(Path(__file__).parents[2]), str(folder / "src")])
        environment = {"MLFLOW_TRACKING_URI": tracking.tracking_uri(), "PYTHONPATH": code}
        command = [sys.executable, "-m", f"{__package__}.tracking", release.commit]
        done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{release.id} could not be logged to MLflow again: {said[:300]}")


def try_project(store: Store) -> list[str]:
    """Bring MLflow in step with the ledger if it is not. Return why that has to wait, if it does."""
    try:
        with alone():
            ledger = book.load()
            if not in_step(ledger):
                project(ledger, store)
    except UserError as error:
        return [str(error)]
    except Exception as error:  # whatever the error, the ledger is unaffected
        return [f"MLflow could not be updated: {one_line(error)}. The ledger stands; `doctor` tries again"]
    return []


@contextlib.contextmanager
def alone(state: Path = PROJECTED) -> Iterator[None]:
    """Allow one process at a time: two might log a lost run twice, or leave MLflow with the older ledger."""
    with file_lock(state.with_suffix(".lock")):
        yield


def project_later() -> None:
    """Bring MLflow and OpenLineage in step with the ledger in a separate process, so that a rollback need not wait."""
    with contextlib.suppress(OSError):  # for example a full disk: the decision stands
        LOG.parent.mkdir(exist_ok=True)
        with LOG.open("a", encoding="utf-8") as log:
            subprocess.Popen(
                [sys.executable, "-m", f"{__package__.rpartition('.')[0]}.lineage.mlflow_pages"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
