"""Two operations at once, in two processes of one clone and in two clones: one wins, the other is told by whom."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle.releases import ledger as book
from lifecycle.releases.verify import verify_ledger
from lifecycle.testing import CLI, Releases, cli_json, copy_project, environment

from workers import Ended, Worker

PROMOTIONS, ROLLBACKS = 20, 5
# Both have read the ledger and decided, and now write their operation down.
WRITES_IT = "git hash-object"

Work = tuple[str, dict[str, object]]


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[Worker, Worker]]:
    with Worker() as one, Worker() as other:
        yield one, other


class Race:
    """Two people in front of one ledger, each in a folder, which may be the same."""

    def __init__(self, workers: tuple[Worker, Worker], folders: tuple[Path, Path], barriers: Path) -> None:
        self.workers, self.folders, self.barriers = workers, folders, barriers
        self.names = ("Ann", "Ben")
        barriers.mkdir()

    def run(self, wait: str, *works: Work) -> list[Ended]:
        """Let each do its work; both wait for each other before the step that `wait` begins the name of."""
        number = len(list(self.barriers.iterdir()))
        for worker, folder, name, (work, arguments) in zip(self.workers, self.folders, self.names, works, strict=True):
            person = {"GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": f"{name}@example.org".lower()}
            barrier = (wait, self.barriers / f"{number}-race")
            worker.start(folder, work, wait=barrier, env=person, **arguments)
        return [worker.end() for worker in self.workers]

    def once(self, wait: str, *works: Work) -> str:
        """A race of two moves of one channel; returns who won. No other outcome is allowed."""
        (channel,) = {str(arguments.get("to") or arguments["channel"]) for _, arguments in works}
        before = self.ledger().channels()[channel]  # type: ignore[index]
        ended = self.run(wait, *works)
        winners = [name for name, each in zip(self.names, ended, strict=True) if not each.error]
        assert len(winners) == 1, ended
        (loser,) = (each for each in ended if each.error)
        ledger = self.ledger()
        now = ledger.channels()[channel]  # type: ignore[index]
        assert now.by == f"{winners[0]} <{winners[0].lower()}@example.org>"
        assert loser.error == "MovedError"
        told = (
            f"{channel} was moved by {now.by} at {now.at}: it serves {now.release} now (generation {now.generation}, "
        )
        assert loser.text.startswith(told), loser.text
        assert (now.generation, now.previous) == (before.generation + 1, before.release)
        return winners[0]

    def ledger(self) -> book.Ledger:
        """As the one who stands here reads it."""
        book.fetch()
        return book.load()

    def alone(self, work: Work) -> None:
        """No race: this is done."""
        ended = self.workers[0].do(self.folders[0], work[0], **work[1])
        assert not ended.error, ended


@pytest.fixture
def one_clone(releases: Releases, workers: tuple[Worker, Worker], tmp_path: Path) -> Race:
    return Race(workers, (releases.folder, releases.folder), tmp_path / "barriers")


@pytest.fixture
def two_clones(releases: Releases, workers: tuple[Worker, Worker], tmp_path: Path) -> Race:
    origin, other = tmp_path / "origin.git", tmp_path / "other"
    git(tmp_path, "clone", "--quiet", "--bare", str(releases.folder), str(origin))
    git(releases.folder, "remote", "add", "origin", str(origin))
    book.fetch()
    copy_project(releases.folder, other)
    return Race(workers, (releases.folder, other), tmp_path / "barriers")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, env=environment(folder), check=True, capture_output=True)


def canary(release: str, number: int) -> Work:
    """A promotion to the canary; with another share of the requests it is a move, whatever serves there."""
    return "move", {"what": release, "to": "canary", "traffic": number / 1000}


def race_again_and_again(race: Race, releases: Releases, at_the_end: str) -> None:
    """Two promotions, or a rollback and a promotion; half of the time they meet at the very end."""
    race.alone(canary(releases.first, 999))
    won = [
        race.once(wait, canary(releases.first, 2 * number + 1), canary(releases.second, 2 * number + 2))
        for number, wait in enumerate([WRITES_IT, at_the_end] * (PROMOTIONS // 2))
    ]
    back = ("move_back", {"channel": "production", "reason": "it misses"})
    forward = ("move", {"what": releases.first, "to": "production"})
    for wait in [WRITES_IT, at_the_end, at_the_end, WRITES_IT, at_the_end][:ROLLBACKS]:
        race.alone(("move", {"what": releases.second, "to": "production", "reason": "it is better"}))
        won.append(race.once(wait, back, forward))
    assert len(won) == 25
    assert verify_ledger(race.ledger()).problems == []
    assert set(won) == {"Ann", "Ben"}, "a race that one side always wins is none"


def test_in_one_clone_one_wins_and_the_other_is_told_by_whom(one_clone: Race, releases: Releases) -> None:
    race_again_and_again(one_clone, releases, at_the_end=f"git update-ref -m lifecycle {book.REF}")


def test_in_two_clones_one_wins_and_the_other_is_told_by_whom(two_clones: Race, releases: Releases) -> None:
    race_again_and_again(two_clones, releases, at_the_end="git push")
    assert two_clones.workers[1].do(two_clones.folders[1], "doctor").error == ""
    one, other = ((folder / ".git/refs/heads" / book.BRANCH).read_text() for folder in two_clones.folders)
    assert one == other


@pytest.mark.parametrize("clones", ["one_clone", "two_clones"])
def test_what_does_not_concern_each_other_is_done_both(
    clones: str, releases: Releases, request: pytest.FixtureRequest
) -> None:
    race: Race = request.getfixturevalue(clones)
    at_the_end = "git push" if clones == "two_clones" else f"git update-ref -m lifecycle {book.REF}"
    move, other_move = canary(releases.first, 1), ("move", {"what": releases.first, "to": "staging"})
    for wait, other in ((WRITES_IT, other_move), (at_the_end, ("approve", {"what": releases.first}))):
        before = len(race.ledger().entries())
        ended = race.run(wait, move, other)
        assert not any(each.error for each in ended), ended
        ledger = race.ledger()
        kinds = {entry.kind if entry.kind == "approve" else entry.channel for _, entry in ledger.entries()[before:]}
        assert kinds == {"canary", "approve" if other[0] == "approve" else "staging"}
        assert verify_ledger(ledger).problems == []
        move = canary(releases.second, 2)


def test_by_the_command_line_only_one_finds_the_generation_it_was_shown(releases: Releases) -> None:
    cli_json("promote", releases.first, "--to", "canary", "--traffic", "5%")
    (shown, *_) = cli_json("history", "canary")["entries"]
    both = [
        subprocess.Popen(
            [*CLI, "promote", release, "--to", "canary", "--traffic", share, "--generation", str(shown["generation"])],
            env=environment(releases.folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for release, share in ((releases.first, "10%"), (releases.second, "20%"))
    ]
    said = [process.communicate() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    ((_, refusal),) = (each for process, each in zip(both, said, strict=True) if process.returncode)
    by = r"moved by Tests <tests@example\.org> at \d{4}-\d\d-\d\dT"
    assert re.match(rf"error: canary (was {by}|is at generation 2, not 1: {by})", refusal), refusal
    assert len(refusal.splitlines()) == 1
    (last, before) = cli_json("history", "canary")["entries"]
    assert (last["generation"], before["generation"]) == (2, 1)
