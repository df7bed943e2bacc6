"""A readable tree of facts: the output of `trace`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fact:
    """One line of the tree. `problem`: what does not match; `data`: further values, for JSON."""

    kind: str
    name: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    below: tuple["Fact", ...] = ()

    def as_dict(self, below: str = "from") -> dict[str, Any]:
        """Return the tree for --json. `below` is the key for the children."""
        found: dict[str, Any] = {"kind": self.kind, "name": self.name, **self.data}
        if self.text:
            found["text"] = self.text
        if self.problem:
            found["problem"] = self.problem
        if self.below:
            found[below] = [each.as_dict(below) for each in self.below]
        return found

    def problems(self) -> Iterator[str]:
        """Yield everything that does not match, in this fact and below it."""
        if self.problem:
            yield f"{self.kind} {self.name}: {self.problem}"
        for each in self.below:
            yield from each.problems()

    def lines(self, first: str = "", rest: str = "") -> Iterator[str]:
        """Yield the lines of the tree as text."""
        wrong = f"  !! {self.problem}" if self.problem else ""
        yield f"{first}{self.kind} {self.name}  {self.text}".rstrip() + wrong
        for each in self.below:
            last = each is self.below[-1]
            yield from each.lines(rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
