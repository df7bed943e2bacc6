"""`run --through`: keep the new params.yaml once something is built for the new window; otherwise restore the old one.

A note with the old content is written first. After a killed run, the next command cleans up.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..files import file_lock, sha256, write_json, write_text
from ..params import PARAMS_FILE, load_params, only_window_moved, set_through
from .pipeline import LOCK_FILE

NOTE = Path(".lifecycle/moving.json")
LOCK = NOTE.with_suffix(".lock")


@contextmanager
def moved(month: str) -> Iterator[None]:
    """Move the watermark for a run. At the end it stays only if there are results for it.

    Raises:
        UserError: `month` cannot be the watermark, or another run is moving it.
    """
    with file_lock(LOCK, wait=False) as free:
        if not free:
            raise UserError("another `run --through` is at work here: wait until it has ended")
        before = PARAMS_FILE.read_text(encoding="utf-8")
        write_json(NOTE, {"params": before, "through": month, "dvc.lock": _lock()})
        try:
            set_through(month)
            yield
        except BaseException:
            _settle()
            raise
        NOTE.unlink()


def heal() -> list[str]:
    """Restore params.yaml if a run was killed before it built anything for its new window."""
    if not NOTE.exists():
        return []
    with file_lock(LOCK, wait=False) as free:
        return _settle() if free and NOTE.exists() else []


def _settle() -> list[str]:
    note = json.loads(NOTE.read_text(encoding="utf-8"))
    done = []
    if _lock() == note["dvc.lock"] and _is_ours(note):
        write_text(PARAMS_FILE, note["params"])
        done = [f"data.through in {PARAMS_FILE} is back: the run to {note['through']} ended before it built anything"]
    NOTE.unlink()
    return done


def _is_ours(note: dict[str, str]) -> bool:
    """Return whether params.yaml is as the run wrote it, without later edits."""
    try:
        return only_window_moved(note["params"]) and load_params().data.through == note["through"]
    except UserError:
        return False


def _lock() -> str | None:
    return sha256(LOCK_FILE) if LOCK_FILE.exists() else None
