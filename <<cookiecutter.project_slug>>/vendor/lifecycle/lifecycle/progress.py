"""The progress of a run: one line a step."""

import os
import sys
from typing import Literal

from .errors import plain

# Kept from before a stage's output is sent to its log.
_terminal = os.fdopen(os.dup(sys.__stderr__.fileno()), "w", encoding="utf-8") if sys.__stderr__ else None


def say(step: str, outcome: Literal["ran", "cached"], seconds: float, detail: str = "") -> None:
    """Print a step that has ended: `train  ran  6.2 s`."""
    if _terminal:
        print(f"  {step:<10} {outcome:<7} {seconds:6.1f} s  {plain(detail)}".rstrip(), file=_terminal, flush=True)
