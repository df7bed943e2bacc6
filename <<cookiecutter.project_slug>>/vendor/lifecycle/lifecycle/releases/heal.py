"""Repair half-written or locked files left by a kill, a full disk or a power cut, at the start of every command.

If nothing is wrong, this only checks a few small files. It never takes anything from a running process, and saves
what it removes in .lifecycle/saved.
"""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import file_lock, replacing, write_text
from . import git, window
from .pipeline import LOCK_FILE, PIPELINE_FILE, whole_lock

SAVED = Path(".lifecycle/saved")
DVC = Path(".dvc/tmp")
RWLOCK = DVC / "rwlock"
PREFECT_PROFILES = Path(".prefect/profiles.toml")


def heal() -> list[str]:
    """Clean up after processes that no longer run. Return what was repaired and what a person must do."""
    done = []
    for part in (git.heal, _dvc_lock, _rwlock, window.heal, _profiles):
        try:
            done += part()
        except (OSError, UserError, yaml.YAMLError) as error:  # much else still works, for example on a read-only disk
            done.append(f"what an interrupted command has left cannot be put right: {error}")
    return done


def _dvc_lock() -> list[str]:
    """Replace a truncated dvc.lock by the committed one. `run` takes newer results from DVC's run-cache."""
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
    """Return whether the file is damaged. A merge conflict is not damage: a person resolves it."""
    try:
        whole_lock(content)
    except ValueError:
        return b"\n=======" not in content
    return False


def _rwlock() -> list[str]:
    """Remove entries of dead processes from DVC's list of files in use, which DVC does not write atomically."""
    if not RWLOCK.exists() or ((entries := _entries(RWLOCK)) is not None and _living(RWLOCK) == entries):
        return []
    with file_lock(DVC / "rwlock.lock", wait=False) as free:
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
    """Return DVC's readers and writers by path, or None if the file is truncated."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for users in (*entries.get("write", {}).values(), *(u for us in entries.get("read", {}).values() for u in us)):
            int(users["pid"]), str(users["cmd"])
    except (ValueError, AttributeError, TypeError, KeyError):
        return None
    return dict(entries)


def _living(path: Path) -> dict[str, Any] | None:
    """Return the same entries without those of dead processes."""
    entries = _entries(path)
    if not entries:
        return entries
    written = path.stat().st_mtime
    read = {file: [user for user in users if _lives(user, written)] for file, users in entries.get("read", {}).items()}
    write = {file: user for file, user in entries.get("write", {}).items() if _lives(user, written)}
    kept = {"write": write, "read": {file: users for file, users in read.items() if users}}
    return {kind: files for kind, files in kept.items() if kind in entries}


def _lives(user: dict[str, Any], written: float) -> bool:
    """Return whether this is the recorded process and not a later one with the same PID."""
    import psutil

    try:
        process = psutil.Process(user["pid"])
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > written + 1:
            return False
        # DVC records sys.argv: its path may differ from the one that started the process.
        started = process.cmdline()
        return all(word in started for word in user["cmd"].rpartition("/")[2].split()[1:])
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


@contextmanager
def _dvc_at_rest() -> Iterator[bool]:
    """Hold DVC's lock of the project. Yield whether DVC is idle here and no stage is running."""
    with file_lock(DVC / "lock", wait=False) as free:
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
    """Remove a list of profiles that Prefect was writing when killed: Prefect cannot start with it."""
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
