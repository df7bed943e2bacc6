"""git by its plumbing: names of every kind, folders of larger repositories, and refs that others move too."""

import getpass
import os
import subprocess
from pathlib import Path

import pytest

from lifecycle.releases import git
from lifecycle.testing import commit_all, new_repository, with_own_settings

# A space, letters beyond ASCII, and a quotation mark, which git writes in a way of its own.
NAMES = ("plain.txt", "two words.txt", "größe ø 数据.txt", '"quoted".txt')


@pytest.fixture(params=["at the top", "in a folder"])
def project(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that is a repository, or a folder of one that holds other things too; the test stands in it."""
    top = new_repository(tmp_path / "my workspace ü")
    folder = top if request.param == "at the top" else top / "teams ä" / "our project"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kept.txt").write_text("kept", encoding="utf-8")
    (top / "of others.txt").write_text("theirs", encoding="utf-8")
    commit_all(top, "Second")
    with_own_settings(folder, monkeypatch)
    return folder


@pytest.fixture
def top(project: Path) -> Path:
    return Path(git.git("rev-parse", "--show-toplevel").removesuffix("\n"))


def index_of(folder: Path) -> bytes:
    return Path(git.git("rev-parse", "--git-path", "index").removesuffix("\n")).resolve().read_bytes()


def test_what_has_changed_is_named_as_it_is_called(project: Path) -> None:
    assert git.changed() == ()
    for name in NAMES:
        (project / name).write_text("new", encoding="utf-8")
    (project / "data ä").mkdir()
    (project / "data ä" / "b c.csv").write_text("new", encoding="utf-8")
    (project / "kept.txt").write_text("changed", encoding="utf-8")
    commit = git.head()
    assert commit is not None
    assert set(commit.changed) == {*NAMES, "data ä/b c.csv", "kept.txt"}
    commit_all(project, "All of it")
    (project / NAMES[1]).unlink()
    git.git("mv", NAMES[2], "moved.txt")
    assert set(git.changed()) == {NAMES[1], NAMES[2], "moved.txt"}


def test_what_others_change_in_the_same_repository_is_not_ours(project: Path, top: Path) -> None:
    (top / "of others.txt").write_text("changed", encoding="utf-8")
    assert git.changed() == (("of others.txt",) if project == top else ())


def test_no_commit_and_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_own_settings(tmp_path, monkeypatch)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git.head() is None
    git.git("init", "--quiet")
    assert git.head() is None
    assert git.read("HEAD:./kept.txt") == [None]


def test_blobs_are_read_by_any_name_and_those_not_there_are_none(project: Path) -> None:
    contents = {name: f"{name}\n\0missing".encode() for name in NAMES} | {"empty": b""}
    for name, content in contents.items():
        (project / name).write_bytes(content)
    commit_all(project, "All of it")
    blob = git.tree_files(git.project_tree("HEAD"))[NAMES[2]]
    asked = [*(f"HEAD:./{name}" for name in contents), "HEAD:./not there", blob, "0" * 40]
    assert git.read(*asked) == [*contents.values(), None, contents[NAMES[2]], None]
    assert git.read() == []


def test_a_tree_with_changes_has_those_and_the_rest(project: Path) -> None:
    index, status = index_of(project), git.git("status", "--porcelain")
    base = git.tree_with(None, {"a": b"a", "folder/b": b"b"})
    changes: dict[str, bytes | None] = {name: name.encode() for name in NAMES}
    tree = git.tree_with(base, changes | {"a": b"other", "folder/b": None, "was never there": None})
    files = git.tree_files(tree)
    assert files.keys() == {*NAMES, "a"}
    assert git.read(*(files[name] for name in (*NAMES, "a"))) == [*(name.encode() for name in NAMES), b"other"]
    assert (index_of(project), git.git("status", "--porcelain")) == (index, status)
    assert git.tree_with(None, {"folder/b": b"b", "a": b"a"}) == base


@pytest.mark.parametrize("project", ["in a folder"], indirect=True)
def test_a_folder_of_a_tree_is_replaced_and_what_lies_beside_it_stays(project: Path, top: Path) -> None:
    index = index_of(project)
    (project / "kept.txt").write_text("uncommitted", encoding="utf-8")
    prefix = f"{project.relative_to(top)}/"
    before = git.tree_files("HEAD")
    tree = git.tree_with_folder("HEAD", prefix, git.tree_with(None, {"new ö": b"new", "src/x": b"x"}))
    after = git.tree_files(tree)
    assert after.keys() == {"README.md", "of others.txt", f"{prefix}new ö", f"{prefix}src/x"}
    assert after["of others.txt"] == before["of others.txt"]
    assert git.tree_files(git.git("rev-parse", f"{tree}:{prefix}").strip()).keys() == {"new ö", "src/x"}
    assert (project / "kept.txt").read_text(encoding="utf-8") == "uncommitted"
    assert index_of(project) == index


def test_a_ref_is_moved_only_from_where_it_was(project: Path) -> None:
    one, two = (git.commit_tree(git.tree_with(None, {}), [], f"{number}\n") for number in (1, 2))
    ref = "refs/heads/lifecycle/ledger"
    assert not git.swap_ref(ref, two, one), "it is not there yet"
    assert git.swap_ref(ref, one, None)
    assert not git.swap_ref(ref, two, None), "it is there"
    assert not git.swap_ref(ref, one, two), "it is elsewhere"
    assert git.resolve(ref) == one
    assert git.swap_ref(ref, two, one)
    assert git.resolve(ref) == two


def test_a_ref_that_another_process_holds_is_a_lost_race(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git says so with the path of the lock, and that may hold any word: here "space", as a full disk has it."""
    monkeypatch.setattr(git, "LOCK_SECONDS", 0.1)
    ref = "refs/heads/lifecycle/ledger"
    commit = git.resolve("HEAD")
    assert commit
    lock = Path(git.git("rev-parse", "--git-path", f"{ref}.lock").removesuffix("\n"))
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    with subprocess.Popen(["git", "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as holder:
        assert not git.swap_ref(ref, commit, None)
        assert holder.stdin is not None
        holder.stdin.close()
    lock.unlink()
    assert git.swap_ref(ref, commit, None)


def test_a_branch_in_the_way_of_a_ref_is_no_race(project: Path) -> None:
    git.git("branch", "lifecycle")
    commit = git.resolve("HEAD")
    assert commit
    with pytest.raises(git.GitError, match="'refs/heads/lifecycle' exists"):
        git.swap_ref("refs/heads/lifecycle/ledger", commit, None)


def test_somebody_git_does_not_know_still_writes_commits(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git.git("config", "user.useConfigOnly", "true")
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    assert git.identity().startswith(f"{getpass.getuser()} <{getpass.getuser()}@")
    commit = git.commit_tree(git.tree_with(None, {}), [], "Message\n")
    name, mail = git.git("log", "-1", "--format=%cn%n%ce", commit).splitlines()
    assert f"{name} <{mail}>" == git.identity()


def test_a_container_whose_user_has_no_name(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git.git("config", "user.useConfigOnly", "true")
    for name in ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    assert git.identity().startswith("user-3999999999 <user-3999999999@")


def test_the_archive_of_a_project_in_a_folder_is_that_of_its_own_tree(project: Path) -> None:
    archive = git.archive(git.project_tree("HEAD"), "kept.txt")
    listed = subprocess.run(["tar", "--list"], input=archive, capture_output=True, check=True).stdout.decode()
    assert listed.split() == ["kept.txt"]


def test_messages_beyond_ascii_are_stored_as_utf8_whatever_the_settings_say(project: Path) -> None:
    tree = git.tree_with(None, {})
    dates = {f"GIT_{role}_DATE": "2020-01-01T00:00:00Z" for role in ("AUTHOR", "COMMITTER")}
    plain = git.commit_tree(tree, [], "größer\n", dates)
    git.git("config", "i18n.commitEncoding", "ISO-8859-1")
    assert git.commit_tree(tree, [], "größer\n", dates) == plain
