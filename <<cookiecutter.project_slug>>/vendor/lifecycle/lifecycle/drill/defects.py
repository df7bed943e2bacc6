"""Models that are really bad: what the drill appends to `model.py` in its copy, commits and releases there.

Each is sound in the pipeline, in the probe and in the shadow, and goes wrong after some predictions in one process, as
a leak or a cache would. That is what gates cannot see.
"""

from typing import Literal

Defect = Literal["worse", "crashing", "slow"]
# A server asks this often before its first request, with room to spare.
AFTER = 80
SPOILT: dict[Defect, str] = {
    # It answers with what it said last time: the scores are spread as ever, and say nothing of their rows.
    "worse": "last, self._last = self._last, found\n        return last if len(last) == len(found) else found",
    "crashing": 'raise RuntimeError("a buffer is full")',
    "slow": "__import__('time').sleep(1)\n        return found",
}


def code(defect: Defect) -> str:
    """The lines to append. They ask of a model what serving does: `load`, `predict`, perhaps `predict_rows`."""
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
