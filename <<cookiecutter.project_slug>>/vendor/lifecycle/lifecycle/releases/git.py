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
BLANK_OBJECT = re.compile(r"object file (\S+) is empty")
# Its header and its checksum.
SMALLEST_INDEX = 32
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
        said = " ".join(done.stderr.decode("utf-8", "replace").split()) or f"exit code {done.returncode}"
        if (blank := BLANK_OBJECT.search(said)) and _is_deleted(blank[1]):
            continue
        if not done.returncode:
            return done.stdout
        if not (lock := LOCKED.search(said)) or not _is_released(Path(lock[1])):
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
    if holder(lock) is not None:
        return False
    try:
        lock.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def holder(lock: Path) -> str | None:
    """The process that may hold a lock of git's: one that has the file open, or any git in this repository."""
    import psutil

    repository = next((each.parent for each in (lock, *lock.parents) if each.name == ".git"), lock.parent)
    for process in psutil.process_iter(["name", "cwd", "status", "cmdline", "open_files"]):
        told = process.info
        if told["status"] == psutil.STATUS_ZOMBIE:
            continue
        words = " ".join(told["cmdline"] or ())
        # Of another person's git nothing can be seen: it may be here.
        here = told["cwd"] is None or Path(told["cwd"]).is_relative_to(repository) or str(repository) in words
        opened = (file.path for file in told["open_files"] or ())
        if (told["name"] == "git" and here) or str(lock) in opened:
            return f"process {process.pid} ({words or told['name']})"
    return None


def _is_deleted(name: str) -> bool:
    """Whether an object that a power cut has left empty was here and is deleted: git writes it again, or fetches it."""
    folder = _folder()
    path = folder.parent / name if folder else Path(name)
    if not path.is_file() or path.stat().st_size:
        return False
    path.unlink()
    return True


def _folder() -> Path | None:
    """The repository's `.git`; in a linked work tree, its own."""
    top = next((each for each in (Path.cwd(), *Path.cwd().parents) if (each / ".git").exists()), None)
    if top is None or (top / ".git").is_dir():
        return top and top / ".git"
    return top / (top / ".git").read_text(encoding="utf-8").removeprefix("gitdir:").strip()


def heal() -> list[str]:
    """Put right what a killed git or a power cut has left: locks, and refs and an index without content.

    Costs no process where nothing is wrong. Returns what was done, and what a person must do.
    """
    folder = _folder()
    if folder is None:
        return []
    done = []
    if _is_blank(folder / "HEAD"):
        done.append(f"{folder / 'HEAD'} is empty: write `ref: refs/heads/main` into it, or the branch you were on")
    if (index := folder / "index").exists() and index.stat().st_size < SMALLEST_INDEX and not _locked(index):
        index.unlink()
        git("read-tree", "HEAD")
        done.append("git's index was empty, and is that of HEAD again: `git add` anew what was added")
    for path in (*folder.glob("*.lock"), *sorted((folder / "refs").rglob("*"))):
        if path.suffix == ".lock":
            done += _heal_lock(path)
        elif path.is_file() and _is_blank(path) and not _locked(path):
            done.append(_heal_ref(folder, path))
    return done


def _is_blank(path: Path) -> bool:
    try:
        return not path.read_bytes().strip(b"\0\n ")
    except OSError:
        return False


def _locked(path: Path) -> bool:
    return path.with_name(f"{path.name}.lock").exists()


def _heal_lock(lock: Path) -> list[str]:
    try:
        if time.time() - lock.stat().st_mtime < LOCK_SECONDS:
            return []
    except OSError:
        return []
    if who := holder(lock):
        return [f"{lock} is old, and {who} may hold it: end that if it hangs; then any command deletes the lock"]
    return [f"{lock}, left by a git that was killed, is deleted"] if _is_released(lock) else []


def _heal_ref(folder: Path, path: Path) -> str:
    """Write the last value of a ref again, out of its reflog; one that has none is deleted: git may have it packed."""
    ref = path.relative_to(folder).as_posix()
    path.unlink()
    log = folder / "logs" / ref
    for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []):
        if (value := line.split()[1:2]) and resolve(value[0]):
            git("update-ref", ref, value[0])
            return f"{ref} was empty, and is at {value[0][:12]} again, as its reflog says"
    return f"{ref} was empty and is deleted: `git fetch` brings it where a remote has it"


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
