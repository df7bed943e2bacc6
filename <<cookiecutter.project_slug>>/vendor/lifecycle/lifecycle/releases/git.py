"""git plumbing: query the code, and write commits without touching the work tree, index or branch."""

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

# Fail within seconds if a server does not answer, and never ask for a password.
IMPATIENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10"}
# git's messages distinguish a lost race from a server that is down.
ENGLISH = {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}
NETWORK_SECONDS = 60
# Read-only commands take no lock, so killing one leaves none behind.
JUST_LOOKING = {"GIT_OPTIONAL_LOCKS": "0"}
LOCKED = re.compile(r"Unable to create '(.+?\.lock)': File exists")
BLANK_OBJECT = re.compile(r"object file (\S+) is empty")
# The size of the index's header and checksum.
SMALLEST_INDEX = 32
# git holds a lock for a few milliseconds. An older one was left by a killed git process.
LOCK_SECONDS = 5
# Ledger commits must be on disk before anything acts on them. Names and messages are UTF-8, unquoted.
OURS = ("-c", "core.fsync=all", "-c", "core.quotePath=off", "-c", "i18n.commitEncoding=UTF-8")
NO_COMMIT = "0" * 40
# Errors that retrying cannot fix. The last one: a branch has the same name as a folder of refs.
NO_RACE = ("Permission denied", "No space left", "Read-only file system", "cannot create")


class GitError(UserError):
    """git failed. The text is git's own message."""

    for_good = False  # the remote may be back in a moment


@dataclass(frozen=True)
class Commit:
    """The commit that is checked out. `changed`: tracked or new files that differ from it."""

    sha: str
    changed: tuple[str, ...]


def head() -> Commit | None:
    """Return the current commit, or None if there is no git, no repository or no commit yet."""
    sha = resolve("HEAD")
    return Commit(sha, changed()) if sha else None


def changed() -> tuple[str, ...]:
    """Return tracked and new files that differ from the current commit, relative to the project."""
    # -z: git does not quote names with spaces or non-ASCII letters.
    entries = git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", ".").split("\0")
    prefix = git("rev-parse", "--show-prefix").strip()
    return tuple(entry[3:].removeprefix(prefix) for entry in entries if entry)


def resolve(name: str) -> str | None:
    """Return the commit that a ref, tag or abbreviation names, or None."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").strip()
    except GitError:
        return None


def is_ancestor(older: str, newer: str) -> bool:
    """Return whether `older` is `newer` or one of its ancestors."""
    try:
        git("merge-base", "--is-ancestor", older, newer)
    except GitError:
        return False
    return True


def project_tree(commit: str) -> str:
    """Return the git tree of the project's folder in a commit. The folder may be part of a larger repository."""
    return git("rev-parse", "--verify", f"{commit}:./").strip()


def read(*objects: str) -> list[bytes | None]:
    """Return the content of blobs, each named like `commit:path` or by its hash. None for a missing one."""
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
    """Return every file of a tree or commit, as path from its top -> hash of the blob."""
    lines = git("ls-tree", "-r", "-z", "--full-tree", tree).split("\0")
    return {path: meta.split()[2] for meta, path in (line.split("\t", 1) for line in lines if line)}


def tree_with(base: str | None, changes: Mapping[str, bytes | str | None]) -> str:
    """Write a tree like `base` with these files changed. Each is content or a blob's hash; None removes the file.

    Paths are relative to the top of the tree.
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
    """Write a tree like `base` with the folder `prefix` (which ends in a slash) replaced by another tree."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("read-tree", base, env=index)
        git("rm", "-r", "--cached", "--quiet", ".", env=index)
        git("read-tree", f"--prefix={prefix}", tree, env=index)
        return git("write-tree", env=index).strip()


def archive(tree: str, *names: str) -> bytes:
    """Return a tar file of a tree, or of only these names at its top."""
    # Run at the top of the repository: in a subfolder, git would look for that folder in the tree.
    top = git("rev-parse", "--show-toplevel").strip()
    return _run(["archive", "--format=tar", tree, *names], folder=top)


def commit_tree(tree: str, parents: Iterable[str], message: str, env: Mapping[str, str] | None = None) -> str:
    """Write a commit without moving any ref."""
    parent_options = [option for parent in parents for option in ("-p", parent)]
    return git("commit-tree", tree, *parent_options, stdin=message, env=env).strip()


def swap_ref(ref: str, new: str, old: str | None, why: str = "lifecycle") -> bool:
    """Point `ref` at `new` if it still points at `old` (None: if it does not exist), atomically."""
    try:
        git("update-ref", "-m", why, ref, new, old or NO_COMMIT)
    except GitError as error:
        # Another process holds the lock or moved the ref. Any other error is not a lost race.
        said = str(error)
        if "cannot lock ref" in said and not any(sign in said for sign in NO_RACE):
            return False
        raise
    return True


def remote() -> str | None:
    """Return the git remote that shares the ledger: `origin`, if there is one."""
    return "origin" if "origin" in git("remote").split() else None


def identity() -> str:
    """Return `Name <mail>` of the current user as git knows it, or the system account."""
    try:
        return git("var", "GIT_COMMITTER_IDENT").rsplit(" ", 2)[0]
    except GitError:
        try:
            account = getpass.getuser()
        except (KeyError, OSError):  # in a container whose user has no name
            account = f"user-{os.getuid()}"
        return f"{account} <{account}@{socket.gethostname()}>"


def _author() -> dict[str, str]:
    """Return environment variables with the identity: git refuses to commit without an author."""
    name, _, mail = identity().rpartition(" <")
    values = {"NAME": name, "EMAIL": mail.rstrip(">")}
    return {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in values.items()}


def git(*arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run git in the project's folder and return its output.

    Raises:
        GitError: git failed, is not installed, or exceeded the network timeout.
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
    """Return whether a lock is gone: its owner released it, or its owner was killed and it is now deleted."""
    until = time.monotonic() + LOCK_SECONDS
    seen = None
    while True:
        try:
            stat = lock.stat()
        except OSError:
            return True
        seen = seen or stat
        if (stat.st_ino, stat.st_mtime_ns) != (seen.st_ino, seen.st_mtime_ns):
            return True  # a different lock: the first was released
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
    """Return the process that may hold a git lock: one with the file open, or any git in this repository."""
    import psutil

    repository = next((each.parent for each in (lock, *lock.parents) if each.name == ".git"), lock.parent)
    for process in psutil.process_iter(["name", "cwd", "status", "cmdline", "open_files"]):
        told = process.info
        if told["status"] == psutil.STATUS_ZOMBIE:
            continue
        words = " ".join(told["cmdline"] or ())
        # Another user's git process shows no details: assume that it is in this repository.
        here = told["cwd"] is None or Path(told["cwd"]).is_relative_to(repository) or str(repository) in words
        opened = (file.path for file in told["open_files"] or ())
        if (told["name"] == "git" and here) or str(lock) in opened:
            return f"process {process.pid} ({words or told['name']})"
    return None


def _is_deleted(name: str) -> bool:
    """Delete an object that a power cut left empty, so that git writes or fetches it again. Return whether it did."""
    folder = _folder()
    path = folder.parent / name if folder else Path(name)
    if not path.is_file() or path.stat().st_size:
        return False
    path.unlink()
    return True


def _folder() -> Path | None:
    """Return the repository's `.git`, or a linked work tree's own."""
    top = next((each for each in (Path.cwd(), *Path.cwd().parents) if (each / ".git").exists()), None)
    if top is None or (top / ".git").is_dir():
        return top and top / ".git"
    return top / (top / ".git").read_text(encoding="utf-8").removeprefix("gitdir:").strip()


def heal() -> list[str]:
    """Repair damage from a killed git process or a power cut: locks, empty refs and an empty index.

    Starts no process if nothing is wrong. Returns what was repaired and what a person must do.
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
    """Restore a ref's last value from its reflog. Delete a ref without one: git may have it in packed-refs."""
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
