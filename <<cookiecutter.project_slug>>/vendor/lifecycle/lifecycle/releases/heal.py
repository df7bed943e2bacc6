"""What a kill, a full disk or a power cut leaves half written or locked, put right at the start of every command.

Where nothing is wrong, it costs a look at a few small files. Nothing that a living process holds is taken from it, and
what is taken away is kept in .lifecycle/saved.
"""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import held, replacing, write_text
from . import git, window
from .pipeline import LOCK_FILE, PIPELINE_FILE, whole_lock

SAVED = Path(".lifecycle/saved")
DVC = Path(".dvc/tmp")
RWLOCK = DVC / "rwlock"
PREFECT_PROFILES = Path(".prefect/profiles.toml")


def heal() -> list[str]:
    """Put right what is left of processes that are gone; returns what was done, and what a person must do."""
    done = []
    for part in (git.heal, _dvc_lock, _rwlock, window.heal, _profiles):
        try:
            done += part()
        except (OSError, UserError, yaml.YAMLError) as error:  # on a read-only disk, say, much else still works
            done.append(f"what an interrupted command has left cannot be put right: {error}")
    return done


def _dvc_lock() -> list[str]:
    """Put the committed dvc.lock in the place of a torn one; what that does not know comes from DVC's run-cache."""
    if not LOCK_FILE.exists() or not _is_torn(LOCK_FILE.read_bytes()):
        return []
    with _dvc_at_rest() as free:
        if not free or not _is_torn(LOCK_FILE.read_bytes()):
            return []
        _save(LOCK_FILE)
        committed = git.read(f"HEAD:./{LOCK_FILE}")[0]
        if committed is None or _is_torn(committed):
            LOCK_FILE.unlink()
            return [f"{LOCK_FILE} was half written and is deleted: `run` takes what was built from DVC's cache"]
        with replacing(LOCK_FILE) as aside:
            aside.write_bytes(committed)
    return [f"{LOCK_FILE} was half written and is the committed one again: `run` takes newer results from DVC's cache"]


def _is_torn(content: bytes) -> bool:
    """Whether the file is damaged. A merge conflict is not damage: a person resolves it."""
    try:
        whole_lock(content)
    except ValueError:
        return b"\n=======" not in content
    return False


def _rwlock() -> list[str]:
    """Take out of DVC's list of files in use what no living process uses; DVC writes that list in place."""
    if not RWLOCK.exists() or ((entries := _entries(RWLOCK)) is not None and _living(RWLOCK) == entries):
        return []
    with held(DVC / "rwlock.lock", wait=False) as free:
        if not free:
            return []
        if (entries := _entries(RWLOCK)) is not None:
            if (living := _living(RWLOCK)) == entries:
                return []
            write_text(RWLOCK, json.dumps(living))
            return [f"{RWLOCK} no longer names processes that are gone"]
        with _dvc_at_rest() as rests:
            if not rests:
                return [f"{RWLOCK} is half written, and a stage still runs here: wait for it, or end it"]
            _save(RWLOCK)
            RWLOCK.unlink()
    return [f"{RWLOCK} was half written and is deleted"]


def _entries(path: Path) -> dict[str, Any] | None:
    """Who reads and writes what, as DVC notes it; None where the file is torn."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for users in (*entries.get("write", {}).values(), *(u for us in entries.get("read", {}).values() for u in us)):
            int(users["pid"]), str(users["cmd"])
    except (ValueError, AttributeError, TypeError, KeyError):
        return None
    return dict(entries)


def _living(path: Path) -> dict[str, Any] | None:
    """The same without processes that are gone."""
    entries = _entries(path)
    if not entries:
        return entries
    written = path.stat().st_mtime
    read = {file: [user for user in users if _lives(user, written)] for file, users in entries.get("read", {}).items()}
    write = {file: user for file, user in entries.get("write", {}).items() if _lives(user, written)}
    kept = {"write": write, "read": {file: users for file, users in read.items() if users}}
    return {kind: files for kind, files in kept.items() if kind in entries}


def _lives(user: dict[str, Any], written: float) -> bool:
    """Whether the process is the one that was noted, and not a later one that got its number."""
    import psutil

    try:
        process = psutil.Process(user["pid"])
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > written + 1:
            return False
        # DVC notes sys.argv: a path, which need not be the one the process was started by, and arguments.
        started = process.cmdline()
        return all(word in started for word in user["cmd"].rpartition("/")[2].split()[1:])
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


@contextmanager
def _dvc_at_rest() -> Iterator[bool]:
    """Hold DVC's lock of the project; yields whether nothing of DVC's, and no stage, is at work here."""
    with held(DVC / "lock", wait=False) as free:
        yield free and not _stage_runs()


def _stage_runs() -> bool:
    import psutil

    stages = (yaml.safe_load(PIPELINE_FILE.read_text(encoding="utf-8")) or {}).get("stages", {}).values()
    commands = tuple(str(stage["cmd"]) for stage in stages if "cmd" in stage)
    found = psutil.process_iter(["cmdline", "cwd"])
    return any(
        each.info["cwd"] == str(Path.cwd()) and " ".join(each.info["cmdline"] or ()).endswith(commands)
        for each in found
    )


def _profiles() -> list[str]:
    """Take away a list of profiles that Prefect was killed over: it cannot start with it."""
    if not PREFECT_PROFILES.exists():
        return []
    try:
        tomllib.loads(PREFECT_PROFILES.read_text(encoding="utf-8"))
    except ValueError:
        _save(PREFECT_PROFILES)
        PREFECT_PROFILES.unlink()
        return [f"{PREFECT_PROFILES} was half written and is now in {SAVED}: set its profiles anew"]
    return []


def _save(path: Path) -> None:
    SAVED.mkdir(parents=True, exist_ok=True)
    with replacing(SAVED / path.name) as aside:
        aside.write_bytes(path.read_bytes())
