"""Defective models: code that the drill appends to `model.py` in its copy, commits and releases there.

Each works in the pipeline, in the probe and in the shadow, and fails after some predictions in one process, as with a
leak or a cache. Gates cannot detect this.
"""

from typing import Literal

Defect = Literal["worse", "crashing", "slow"]
# More predictions than a server makes before its first request.
AFTER = 80
SPOILT: dict[Defect, str] = {
    # Returns the previous answer: the distribution of scores looks normal, but does not depend on the rows.
    "worse": "last, self._last = self._last, found\n        return last if len(last) == len(found) else found",
    "crashing": 'raise RuntimeError("a buffer is full")',
    "slow": "__import__('time').sleep(1)\n        return found",
}


def code(defect: Defect) -> str:
    """Return the lines to append. They use the model's serving interface: `load`, `predict`, perhaps `predict_rows`."""
    return f'''

_sound_load = load


def load(folder):
    """A model with a defect, for a drill."""
    return _Defective(_sound_load(folder))


class _Defective:
    def __init__(self, sound):
        self._sound, self._asked, self._last = sound, 0, ()

    def __getattr__(self, name):
        found = getattr(self._sound, name)
        return (lambda *rest, **named: self._spoilt(found(*rest, **named))) if name.startswith("predict") else found

    def _spoilt(self, found):
        self._asked += 1
        if self._asked <= {AFTER}:
            self._last = found
            return found
        {SPOILT[defect]}
'''
