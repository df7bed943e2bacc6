"""Report the progress of a run, one line per step."""

import os
import sys
from typing import Literal

from .errors import plain

# Saved before a stage's output is redirected to its log.
_terminal = os.fdopen(os.dup(sys.__stderr__.fileno()), "w", encoding="utf-8") if sys.__stderr__ else None


def say(step: str, outcome: Literal["ran", "cached"], seconds: float, detail: str = "") -> None:
    """Print a finished step: `train  ran  6.2 s`."""
    if _terminal:
        print(f"  {step:<10} {outcome:<7} {seconds:6.1f} s  {plain(detail)}".rstrip(), file=_terminal, flush=True)


def note(text: str) -> None:
    """Print a note, also while a stage's output goes to its log."""
    if _terminal:
        print(f"note: {plain(text)}", file=_terminal, flush=True)
