"""The parts that a project can switch off, with `without` under [tool.lifecycle] in its pyproject.toml.

Such a part's commands are hidden and refuse to run, its flows do nothing, and its package may be deleted.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from . import project

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """`room`: the part's folder, if it has its own. `needs`: the parts that it requires."""

    room: str = ""
    needs: tuple[str, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether its folder exists."""
        return (HERE / self.room).exists()


PARTS = {
    "serving": Part("serving"),
    "scoring": Part(),
    "monitoring": Part("monitoring"),
    "drills": Part("drill", needs=("monitoring", "serving")),
}


def why_off(name: str) -> str | None:
    """Return one sentence on why the project lacks the part and how to enable it, or None if it has the part."""
    for each in (name, *PARTS[name].needs):
        what = f"the part {name}" + (f" needs {each}, which" if each != name else "")
        where = f"`without` under [tool.lifecycle] in {project.FILE}"
        if each in project.here().without:
            return f"{what} is switched off: to switch it on, take {each} out of {where}"
        if not PARTS[each].is_here:
            folder = os.path.relpath(HERE / PARTS[each].room)
            return f"{what} has lost its folder {folder}: bring that back, or put {each} into {where}"
    return None
