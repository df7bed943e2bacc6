"""The ledger is tamper-evident, and a release is whole or it is said what is not."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from lifecycle.releases import git
from lifecycle.releases import ledger as book
from lifecycle.releases.ledger import Ledger
from lifecycle.releases.store import File, Store
from lifecycle.releases.verify import Verified, verify_ledger, verify_release
from lifecycle.testing import Releases, cli, cli_json, new_repository, with_own_settings

import ledgers

# A ledger commit: its tree, and its parents but the first.
Steps = list[tuple[str, list[str]]]
Tamper = Callable[[Steps], Steps]


@pytest.fixture
def honest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """1 release, 2 release, 3 promote, 4 promote, 5 rollback with a quarantine, 6 approve."""
    with_own_settings(new_repository(tmp_path / "repository"), monkeypatch)
    good, bad = ledgers.record("good"), ledgers.record("bad")
    ledgers.release(book.load(), good)
    ledgers.release(book.load(), bad)
    ledgers.promote(book.load(), good.id, "production")
    ledgers.promote(book.load(), bad.id, "production")
    ledgers.rollback(book.load(), "production", good.id)
    return ledgers.approve(book.load(), bad.id)


def steps_of(ledger: Ledger) -> Steps:
    lines = git.git("rev-list", "--first-parent", "--reverse", "--parents", str(ledger.tip)).splitlines()[1:]
    return [(git.project_tree(line.split()[0]), line.split()[2:]) for line in lines]


def forge(steps: Steps, start: str | None = None) -> Ledger:
    """Write the branch anew from the first step that differs, as somebody can whose clone is fresh."""
    commit = start or book.first_commit()
    commits = git.git("rev-list", "--first-parent", "--reverse", book.REF).split()[1:]
    honest = dict(zip(commits, steps_of(book.load()), strict=True))
    for tree, parents in steps:
        same = [each for each, step in honest.items() if step == (tree, parents) and git.resolve(f"{each}^") == commit]
        commit = same[0] if same else git.commit_tree(tree, [commit, *parents], "Forged\n")
    git.git("update-ref", book.REF, commit)
    git.git("update-ref", "-d", book.SEEN)
    return book.load()


def edit(tree: str, path: str, **values: object) -> str:
    """The tree with some keys of a JSON file in it changed."""
    content = json.loads(git.read(f"{tree}:{path}")[0] or b"")
    return git.tree_with(tree, {path: json.dumps(content | values).encode()})


def path_in(tree: str, start: str) -> str:
    """The one file of a tree whose path starts so."""
    (path,) = (path for path in git.tree_files(tree) if path.startswith(start))
    return path


def on_top(steps: Steps, tree: str) -> Steps:
    return [*steps, (tree, [])]


def next_entry(steps: Steps, tree: str, **values: object) -> Steps:
    """One more commit, whose entry is numbered and placed as it should be."""
    tip = str(book.load().tip)
    return on_top(steps, edit(tree, book.ENTRY, number=len(steps) + 1, after=tip, **values))


def entry_changed(steps: Steps) -> Steps:
    tree, parents = steps[1]
    return [steps[0], (edit(tree, book.ENTRY, by="Mallory"), parents), *steps[2:]]


def reason_of_a_promotion_changed(steps: Steps) -> Steps:
    tree, parents = steps[2]
    return [*steps[:2], (edit(tree, book.ENTRY, reason="another"), parents), *steps[3:]]


def last_promotion_given_to_somebody_else(steps: Steps) -> Steps:
    tree = edit(steps[3][0], book.ENTRY, by="Mallory")
    return [*steps[:3], (tree, [])]


def two_swapped(steps: Steps) -> Steps:
    return [*steps[:2], steps[3], steps[2], *steps[4:]]


def one_dropped(steps: Steps) -> Steps:
    return [*steps[:3], *steps[4:]]


def one_dropped_and_the_next_renumbered(steps: Steps) -> Steps:
    tree, parents = steps[4]
    return [*steps[:3], (edit(tree, book.ENTRY, number=4), parents), *steps[5:]]


def one_written_twice(steps: Steps) -> Steps:
    return [*steps[:4], steps[3], *steps[4:]]


def record_changed_where_it_was_written(steps: Steps) -> Steps:
    tree, parents = steps[0]
    return [(edit(tree, path_in(tree, "releases/"), more="than there was"), parents), *steps[1:]]


def record_changed_later(steps: Steps) -> Steps:
    tree, _ = steps[-1]
    name = path_in(steps[0][0], "releases/")
    return next_entry(steps, edit(tree, name, more="than there was"))


def record_written_again_by_a_release(steps: Steps) -> Steps:
    tree, _ = steps[-1]
    name = path_in(steps[0][0], "releases/")
    release_id = name.removeprefix("releases/").removesuffix(".json")
    record = json.loads(git.read(f"{tree}:{name}")[0] or b"")
    record["predicate"]["observed"]["by"] = "Mallory"
    return next_entry(steps, edit(tree, name, **record), kind="release", release=release_id)


def source_commit_not_kept(steps: Steps) -> Steps:
    return [*steps[:1], (steps[1][0], []), *steps[2:]]


def channel_changed_without_an_entry(steps: Steps) -> Steps:
    tree, _ = steps[-1]
    return on_top(steps, edit(tree, "channels/production.json", release="r-000000000000"))


def channel_changed_by_an_approval(steps: Steps) -> Steps:
    tree, _ = steps[-1]
    return next_entry(steps, edit(tree, "channels/production.json", release="r-000000000000"))


def channel_moved_elsewhere_than_its_entry_says(steps: Steps) -> Steps:
    tree, _ = steps[2]
    return [*steps[:2], (edit(tree, "channels/production.json", release="r-000000000000"), [])]


def channel_given_other_traffic_than_its_entry_says(steps: Steps) -> Steps:
    tree, _ = steps[2]
    return [*steps[:2], (edit(tree, "channels/production.json", traffic=0.1), [])]


def quarantine_lifted_by_an_approval(steps: Steps) -> Steps:
    tree, _ = steps[-1]
    return next_entry(steps, git.tree_with(tree, {path_in(tree, "quarantine/"): None}))


def quarantine_lifted_by_automation(steps: Steps) -> Steps:
    tree, _ = steps[-1]
    quarantine = path_in(tree, "quarantine/")
    bad = quarantine.removeprefix("quarantine/").removesuffix(".json")
    move = {"release": bad, "generation": 1, "previous": None, "by": "cron", "at": ledgers.AT, "reason": "forward"}
    channel = move | {"entry": len(steps) + 1, "operation": "promote", "traffic": None}
    changes = {quarantine: None, "channels/staging.json": json.dumps(channel).encode()}
    return next_entry(
        steps, git.tree_with(tree, changes), **move, kind="promote", channel="staging", automation=True, evidence={}
    )


def entry_that_is_no_entry(steps: Steps) -> Steps:
    tree, _ = steps[-1]
    return on_top(steps, git.tree_with(tree, {book.ENTRY: b"{}"}))


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (entry_changed, r"entry 3 \(promote.*was rewritten"),
        (reason_of_a_promotion_changed, r"entry 3 \(promote.*does not say who moved it, how and why"),
        (last_promotion_given_to_somebody_else, r"entry 4 \(promote.*Mallory.*does not say who moved it"),
        (two_swapped, r"entry 4 \(promote.*was rewritten"),
        (one_dropped, r"entry 5 \(rollback.*was rewritten"),
        (one_dropped_and_the_next_renumbered, r"entry 4 \(rollback.*was rewritten"),
        (one_written_twice, r"holds no readable entry"),
        (record_changed_where_it_was_written, r"entry 1 \(release.*is altered"),
        (record_changed_later, r"entry 7 \(approve.*changes releases/r-\w+\.json, which is not what `approve` does"),
        (record_written_again_by_a_release, r"entry 7 \(release.*a release does not change"),
        (source_commit_not_kept, r"entry 2 \(release.*is not one of its parents"),
        (channel_changed_without_an_entry, r"holds no readable entry"),
        (channel_changed_by_an_approval, r"entry 7 \(approve.*changes channels/production\.json"),
        (channel_moved_elsewhere_than_its_entry_says, r"entry 3 \(promote.*production says r-000000000000"),
        (channel_given_other_traffic_than_its_entry_says, r"entry 3 \(promote.*does not say who moved it, how"),
        (quarantine_lifted_by_an_approval, r"entry 7 \(approve.*removes quarantine/"),
        (quarantine_lifted_by_automation, r"entry 7 \(promote.*removes quarantine/"),
        (entry_that_is_no_entry, r"holds no readable entry"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "noticed",
)
def test_whoever_tampers_with_the_ledger_is_noticed(honest: Ledger, tamper: Tamper, says: str) -> None:
    forged = forge(tamper(steps_of(honest)))
    assert forged.tip != honest.tip
    found = "\n".join(verify_ledger(forged).problems)
    assert re.search(says, found), found


def test_a_ledger_on_another_first_commit_is_noticed(honest: Ledger) -> None:
    other = git.commit_tree(git.tree_with(None, {}), [], "Another ledger\n")
    problems = verify_ledger(forge(steps_of(honest), start=other)).problems
    assert any("does not begin as a ledger does" in problem for problem in problems)
    assert any(problem.startswith("entry 1 (release") for problem in problems)
    second = git.commit_tree(git.tree_with(None, {}), [book.first_commit()], "The ledger\n")
    problems = verify_ledger(forge(steps_of(honest), start=second)).problems
    assert any("holds no readable entry" in problem and second[:12] in problem for problem in problems)


def test_an_honest_ledger_is_whole(honest: Ledger) -> None:
    found = verify_ledger(honest)
    assert (found.what, found.problems) == ("ledger", [])
    assert found.bytes > 0
    assert verify_ledger(Ledger(None)).problems == []


# Releases


def verify(release_id: str, remote: bool = False) -> Verified:
    ledger = book.load()
    return verify_release(ledger.release(release_id), ledger, Store(), remote)


def a_file_of(release_id: str) -> File:
    """A file of the model, which the other release does not have."""
    release = book.load().release(release_id)
    return Store().files(release.outputs(release.model["path"]))[-1]


def in_cache(md5: str) -> Path:
    return Store().object_path(md5)


def in_remote(md5: str) -> Path:
    return Path(Repo(".").cloud.get_remote_odb().oid_to_path(md5))


def alter(path: Path) -> None:
    """One bit of the first byte; size and date stay, as they do when a disk goes bad."""
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_release_is_whole(releases: Releases) -> None:
    for release_id in (releases.first, releases.second):
        found = verify(release_id, remote=True)
        assert (found.what, found.problems, found.notes) == (release_id, [], [])
        assert found.bytes == sum(output.size for output in book.load().release(release_id).outputs())


def test_what_only_the_remote_has_is_no_problem(releases: Releases) -> None:
    file = a_file_of(releases.first)
    in_cache(file.md5).unlink()
    found = verify(releases.first)
    assert (found.problems, found.notes) == ([], [f"{file.path} is not in the cache; the remote has it, whole"])
    assert verify(releases.second).notes == []


def test_what_is_altered_in_the_cache(releases: Releases) -> None:
    file = a_file_of(releases.first)
    alter(in_cache(file.md5))
    assert verify(releases.first).problems == [f"{file.path} ({file.md5[:8]}) is altered in the cache"]
    assert verify(releases.second).problems == []


def test_what_is_altered_in_the_remote_is_found_when_asked_for(releases: Releases) -> None:
    file = a_file_of(releases.first)
    alter(in_remote(file.md5))
    assert verify(releases.first).problems == []
    assert verify(releases.first, remote=True).problems == [f"{file.path} ({file.md5[:8]}) is altered in the remote"]
    in_cache(file.md5).unlink()
    (problem,) = verify(releases.first).problems
    assert problem == f"{file.path} ({file.md5[:8]}) is missing in the cache, and altered in the remote"


def test_what_nobody_has(releases: Releases) -> None:
    file = a_file_of(releases.first)
    for place in (in_cache(file.md5), in_remote(file.md5)):
        place.unlink()
    (problem,) = verify(releases.first).problems
    assert problem == f"{file.path} ({file.md5[:8]}) is missing in the cache, and missing in the remote"


def test_files_are_looked_at_though_the_listing_of_their_folder_is_lost(releases: Releases) -> None:
    release = book.load().release(releases.first)
    (folder,) = (output for output in release.outputs() if output.path == release.model["path"])
    file = a_file_of(releases.first)
    alter(in_cache(file.md5))
    in_cache(folder.md5).unlink()
    found = verify(releases.first)
    assert found.problems == [f"{file.path} ({file.md5[:8]}) is altered in the cache"]
    assert any(f"the listing of {folder.path} was not in the cache" in note for note in found.notes)


def test_a_lost_tag_a_moved_one_and_an_altered_folder_are_named(releases: Releases) -> None:
    tag = f"refs/tags/release/{releases.first}"
    git.git("update-ref", "-d", tag)
    assert any(f"the tag release/{releases.first} is not at" in each for each in verify(releases.first).problems)
    git.git("update-ref", tag, "HEAD")
    assert any(f"the tag release/{releases.first} is not at" in each for each in verify(releases.first).problems)
    source = next(Path(".lifecycle/releases", releases.second, "src").rglob("*.py"))
    source.write_text("changed", encoding="utf-8")
    assert any(str(source) in problem and "`doctor`" in problem for problem in verify(releases.second).problems)


def test_the_command_says_by_its_exit_code_whether_all_is_whole(releases: Releases) -> None:
    done = cli("verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert releases.first in done.stdout, "what production serves"
    file = a_file_of(releases.first)
    alter(in_cache(file.md5))
    done = cli("verify", releases.first[:6])
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{file.path} ({file.md5[:8]}) is altered in the cache" in done.stdout
    unknown = cli("verify", "r-nothing")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("error: there is no release r-nothing; the nearest is r-")


def test_all_of_it_as_json(releases: Releases) -> None:
    found = cli_json("verify", "--all")
    assert found.keys() == {"verified", "notes"}
    assert [each["what"] for each in found["verified"]] == ["ledger", *sorted((releases.first, releases.second))]
    for each in found["verified"]:
        assert each.keys() == {"what", "bytes", "problems", "notes"}
        assert each["problems"] == []
        assert each["bytes"] > 0


def test_without_a_remote_what_is_here_is_verified_and_what_is_not_is_said(releases: Releases) -> None:
    file = a_file_of(releases.first)
    shutil.rmtree(in_remote(file.md5).parents[3])
    assert verify(releases.first).problems == []
    in_cache(file.md5).unlink()
    assert verify(releases.first).problems == [
        f"{file.path} ({file.md5[:8]}) is missing in the cache, and missing in the remote"
    ]


# What `doctor` puts right of it


def test_doctor_fetches_what_is_altered_in_the_cache_and_names_what_it_cannot(releases: Releases) -> None:
    file = a_file_of(releases.first)
    folder = next(each for each in book.load().release(releases.second).outputs() if each.md5.endswith(".dir"))
    alter(in_cache(file.md5))
    alter(in_cache(folder.md5))
    done = cli("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    for path, md5 in ((file.path, file.md5), (folder.path, folder.md5)):
        assert f"{path} ({md5[:8]}) was altered in the cache: it is fetched anew" in done.stdout
    assert verify(releases.first).problems == verify(releases.second).problems == []
    assert cli("doctor").stdout.startswith("nothing to do")
    alter(in_cache(file.md5))
    in_remote(file.md5).unlink()
    for what in ("altered in the cache, and not whole in the remote (missing)", "missing in the remote, and not in"):
        done = cli("doctor")
        assert done.returncode == 1
        assert f"not put right: {file.path} ({file.md5[:8]}) is {what}" in done.stdout
        assert "`dvc push`" in done.stdout
        in_cache(file.md5).unlink(missing_ok=True)


def test_doctor_names_a_model_that_was_edited_without_a_trace_in_size_and_date(releases: Releases) -> None:
    file = next(path for path in sorted(Path("model").rglob("*")) if path.is_file())
    whole = file.read_bytes()
    aside = file.with_name("aside")
    aside.write_bytes(whole)
    os.utime(aside, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    file.unlink()  # in DVC's cache it may be the same file
    aside.rename(file)
    cli("status")
    alter(file)
    done = cli("doctor")
    assert done.returncode == 1
    assert f"{file} is not what the pipeline last saw here, and DVC does not see it" in done.stdout
    (command,) = re.findall(r"`(touch [^`]+)`, then `run`", done.stdout)
    assert subprocess.run(shlex.split(command), check=False).returncode == 0
    assert cli("run").returncode == 0
    assert file.read_bytes() == whole
