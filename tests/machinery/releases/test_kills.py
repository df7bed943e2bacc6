"""SIGKILL at every step of release, promote, rollback and restore: nothing has happened, or it is completed."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle.testing import Releases

from killing import Range, Tally, operations
from workers import Worker

LEDGER = "refs/heads/lifecycle/ledger"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as ready:
        yield ready


def must_be_clean(tally: Tally, at_least: int) -> None:
    assert not tally.mixtures, "\n".join(tally.mixtures)
    assert tally.before, "it was killed before the commit"
    assert tally.after, "and after it"
    assert tally.kills >= at_least


def at_random(killed: Range) -> None:
    moments = random.Random(f"2013 {killed.operation.name}")
    for _ in range(2):
        killed.after_seconds(moments.uniform(0, killed.seconds))
    killed.command_after_seconds(moments.uniform(0.2, 2))


def test_a_promotion_killed_anywhere_has_not_happened_or_is_completed(
    releases: Releases, tmp_path: Path, worker: Worker
) -> None:
    shutil.rmtree(f".lifecycle/releases/{releases.second}")  # so that it has to be made
    promote = operations(releases.first, releases.second)["promote"]
    killed = Range(promote, releases.folder, tmp_path / "start", worker)
    killed.at_every_step()
    killed.inside_git(LEDGER)
    at_random(killed)
    must_be_clean(killed.tally, at_least=13)


def test_a_rollback_killed_anywhere_has_not_happened_or_is_completed(
    releases: Releases, tmp_path: Path, worker: Worker
) -> None:
    both = operations(releases.first, releases.second)
    assert worker.do(releases.folder, "promote", **both["promote"].arguments).result["changed"]
    killed = Range(both["rollback"], releases.folder, tmp_path / "start", worker)
    killed.at_every_step()
    killed.inside_git(LEDGER)
    at_random(killed)
    must_be_clean(killed.tally, at_least=10)


def test_a_restore_killed_anywhere_has_not_happened_or_is_completed(
    releases: Releases, tmp_path: Path, worker: Worker
) -> None:
    restore = operations(releases.first, releases.second)["restore"]
    killed = Range(restore, releases.folder, tmp_path / "start", worker)
    killed.at_every_step(far=8)
    killed.inside_git("HEAD")
    at_random(killed)
    must_be_clean(killed.tally, at_least=16)


def test_a_release_killed_anywhere_has_not_happened_or_is_completed(
    built: Path, tmp_path: Path, worker: Worker
) -> None:
    killed = Range(operations("", "")["release"], built, tmp_path / "start", worker)
    killed.at_every_step(far=5)
    killed.inside_git(LEDGER)
    at_random(killed)
    must_be_clean(killed.tally, at_least=14)
