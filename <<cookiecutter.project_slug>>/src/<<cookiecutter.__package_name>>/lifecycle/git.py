"""git by its plumbing: facts about the code, and commits written without touching work tree, index or branch."""

import getpass
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

# A server that does not answer should cost seconds, and nobody is there to type a password.
IMPATIENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10"}
# What git says tells a lost race from a server that is down.
ENGLISH = {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}
NETWORK_SECONDS = 60
# Looking takes no lock, so that who is killed while looking leaves none.
JUST_LOOKING = {"GIT_OPTIONAL_LOCKS": "0"}
LOCKED = re.compile(r"Unable to create '(.+?\.lock)': File exists")
# git holds a lock for some thousandths of a second. One that is older was left by a git that was killed.
LOCK_SECONDS = 5
# What the ledger says must be on the disk before anything follows from it. Names and messages are UTF-8, as they stand.
OURS = ("-c", "core.fsync=all", "-c", "core.quotePath=off", "-c", "i18n.commitEncoding=UTF-8")
NO_COMMIT = "0" * 40
# Why a ref cannot be moved, however often one tries. The last: a branch has the name of a folder of refs.
NO_RACE = ("Permission denied", "No space left", "Read-only file system", "cannot create")


class GitError(UserError):
    """git refused. The text is what it said."""


@dataclass(frozen=True)
class Commit:
    """The commit that is checked out. `changed` names tracked or new files that differ from it."""

    sha: str
    changed: tuple[str, ...]


def head() -> Commit | None:
    """The current commit, or None where there is no git, no repository or no commit yet."""
    sha = resolve("HEAD")
    return Commit(sha, changed()) if sha else None


def changed() -> tuple[str, ...]:
    """Tracked and new files of the project that differ from the current commit, relative to the project."""
    # -z: names with spaces or non-ASCII letters stand as they are.
    entries = git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", ".").split("\0")
    prefix = git("rev-parse", "--show-prefix").strip()
    return tuple(entry[3:].removeprefix(prefix) for entry in entries if entry)


def resolve(name: str) -> str | None:
    """The commit that a ref, tag or abbreviation names, if there is one."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").strip()
    except GitError:
        return None


def is_ancestor(older: str, newer: str) -> bool:
    """Whether `newer` has `older` in its history, or is it."""
    try:
        git("merge-base", "--is-ancestor", older, newer)
    except GitError:
        return False
    return True


def project_tree(commit: str) -> str:
    """The git tree of the project's folder, which may be part of a larger repository, in a commit."""
    return git("rev-parse", "--verify", f"{commit}:./").strip()


def read(*objects: str) -> list[bytes | None]:
    """The content of blobs, each named like `commit:path` or by its hash; None for one that is not there."""
    if not objects:
        return []
    out = _run(["cat-file", "--batch"], "".join(f"{name}\n" for name in objects).encode())
    found: list[bytes | None] = []
    position = 0
    for _ in objects:
        end = out.index(b"\n", position)
        kind = out[position:end].split()
        if kind[-1] == b"missing":
            found.append(None)
            position = end + 1
        else:
            size = int(kind[-1])
            found.append(out[end + 1 : end + 1 + size])
            position = end + 2 + size
    return found


def tree_files(tree: str) -> dict[str, str]:
    """Every file of a tree or commit: path from its top -> hash of the blob."""
    lines = git("ls-tree", "-r", "-z", "--full-tree", tree).split("\0")
    return {path: meta.split()[2] for meta, path in (line.split("\t", 1) for line in lines if line)}


def tree_with(base: str | None, changes: Mapping[str, bytes | str | None]) -> str:
    """A tree like `base`, with these files in it: content, or the hash of a blob; None takes one out.

    Paths are from the top of the tree.
    """
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        if base:
            git("read-tree", base, env=index)
        lines = []
        for path, content in changes.items():
            if content is None:
                lines.append(f"0 {NO_COMMIT}\t{path}\0")
            else:
                write = ["hash-object", "-w", "--stdin"]
                blob = content if isinstance(content, str) else _run(write, content).decode().strip()
                lines.append(f"100644 {blob}\t{path}\0")
        git("update-index", "--add", "-z", "--index-info", stdin="".join(lines), env=index)
        return git("write-tree", env=index).strip()


def tree_with_folder(base: str, prefix: str, tree: str) -> str:
    """A tree like `base`, with another tree in place of the folder `prefix` (which ends in a slash)."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("read-tree", base, env=index)
        git("rm", "-r", "--cached", "--quiet", ".", env=index)
        git("read-tree", f"--prefix={prefix}", tree, env=index)
        return git("write-tree", env=index).strip()


def archive(tree: str, *names: str) -> bytes:
    """A tar file of a tree, or of what is below some names at its top."""
    # From the top of the repository: in a folder of it, git would look for that folder in the tree.
    top = git("rev-parse", "--show-toplevel").strip()
    return _run(["archive", "--format=tar", tree, *names], folder=top)


def commit_tree(tree: str, parents: Iterable[str], message: str, env: Mapping[str, str] | None = None) -> str:
    """Write a commit that no ref names yet."""
    parent_options = [option for parent in parents for option in ("-p", parent)]
    return git("commit-tree", tree, *parent_options, stdin=message, env=env).strip()


def swap_ref(ref: str, new: str, old: str | None, why: str = "lifecycle") -> bool:
    """Point `ref` at `new` if it still points at `old` (None: if it is not there), in one step."""
    try:
        git("update-ref", "-m", why, ref, new, old or NO_COMMIT)
    except GitError as error:
        # Held by another process, or moved by one; whatever else is wrong is not a lost race.
        said = str(error)
        if "cannot lock ref" in said and not any(sign in said for sign in NO_RACE):
            return False
        raise
    return True


def remote() -> str | None:
    """The git remote that the ledger is shared through: `origin`, where there is one."""
    return "origin" if "origin" in git("remote").split() else None


def identity() -> str:
    """`Name <mail>` of the person at the keyboard, as git knows them; without that, the account."""
    try:
        return git("var", "GIT_COMMITTER_IDENT").rsplit(" ", 2)[0]
    except GitError:
        try:
            account = getpass.getuser()
        except (KeyError, OSError):  # in a container, whose user has no name
            account = f"user-{os.getuid()}"
        return f"{account} <{account}@{socket.gethostname()}>"


def _author() -> dict[str, str]:
    """The identity, said to git: it writes no commit for somebody it does not know."""
    name, _, mail = identity().rpartition(" <")
    values = {"NAME": name, "EMAIL": mail.rstrip(">")}
    return {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in values.items()}


def git(*arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run git in the project's folder and return what it printed.

    Raises:
        GitError: it failed, is not installed, or took longer than a network may take.
    """
    return _run(list(arguments), None if stdin is None else stdin.encode(), env).decode("utf-8", "replace")


def _run(
    arguments: list[str], stdin: bytes | None = None, env: Mapping[str, str] | None = None, folder: str | None = None
) -> bytes:
    said = ""
    for _ in range(3):
        done = _try(arguments, stdin, env, folder)
        if not done.returncode:
            return done.stdout
        said = " ".join(done.stderr.decode("utf-8", "replace").split()) or f"exit code {done.returncode}"
        lock = LOCKED.search(said)
        if not lock or not _is_released(Path(lock[1])):
            break
    raise GitError(f"git {arguments[0]}: {said}")


def _is_released(lock: Path) -> bool:
    """Whether a lock that was in the way is gone: let go of, or deleted because whoever took it was killed."""
    until = time.monotonic() + LOCK_SECONDS
    seen = None
    while True:
        try:
            stat = lock.stat()
        except OSError:
            return True
        seen = seen or stat
        if (stat.st_ino, stat.st_mtime_ns) != (seen.st_ino, seen.st_mtime_ns):
            return True  # another one: the first was let go of
        if time.time() - stat.st_mtime > LOCK_SECONDS or time.monotonic() > until:
            break
        time.sleep(0.05)
    if _git_runs_in(lock.parent):
        return False
    try:
        lock.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _git_runs_in(folder: Path) -> bool:
    """Whether any git works in the repository that a folder of its .git belongs to, as far as can be seen."""
    import psutil

    repository = next((each.parent for each in (folder, *folder.parents) if each.name == ".git"), folder)
    for process in psutil.process_iter(["name", "cwd", "status"]):
        where = process.info["cwd"]
        if process.info["name"] != "git" or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if where is None or Path(where).is_relative_to(repository):
            return True
    return False


def _try(
    arguments: list[str], stdin: bytes | None, env: Mapping[str, str] | None, folder: str | None
) -> subprocess.CompletedProcess[bytes]:
    author = _author() if arguments[0] == "commit-tree" else {}
    try:
        return subprocess.run(
            ["git", *OURS, *arguments],
            cwd=folder,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=IMPATIENT | os.environ | ENGLISH | JUST_LOOKING | author | dict(env or {}),
            timeout=NETWORK_SECONDS,
        )
    except FileNotFoundError:
        raise GitError("git is not installed: install it, then try again") from None
    except subprocess.TimeoutExpired:
        raise GitError(f"git {arguments[0]} got no answer in {NETWORK_SECONDS} s") from None
