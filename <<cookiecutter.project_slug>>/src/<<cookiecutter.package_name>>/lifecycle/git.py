"""Facts about the code, from git."""

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Commit:
    """The commit that is checked out. `changed` names tracked or new files that differ from it."""

    sha: str
    changed: tuple[str, ...]


def head() -> Commit | None:
    """The current commit, or None where there is no git, no repository or no commit yet."""
    sha = _git("rev-parse", "HEAD")
    if sha is None:
        return None
    # -z: names with spaces or non-ASCII letters stand as they are.
    entries = (_git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", ".") or "").split("\0")
    return Commit(sha.strip(), tuple(entry[3:] for entry in entries if entry))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout
