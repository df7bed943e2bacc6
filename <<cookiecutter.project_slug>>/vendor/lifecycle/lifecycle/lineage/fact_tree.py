"""A tree of facts that a person can read: what `trace` prints."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fact:
    """One line of the tree. `problem` says that it does not match; `data` holds more than the line, for JSON."""

    kind: str
    name: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    below: tuple["Fact", ...] = ()

    def as_dict(self, below: str = "from") -> dict[str, Any]:
        """For --json. `below` is the key of what is below."""
        found: dict[str, Any] = {"kind": self.kind, "name": self.name, **self.data}
        if self.text:
            found["text"] = self.text
        if self.problem:
            found["problem"] = self.problem
        if self.below:
            found[below] = [each.as_dict(below) for each in self.below]
        return found

    def problems(self) -> Iterator[str]:
        """What does not match, here and below."""
        if self.problem:
            yield f"{self.kind} {self.name}: {self.problem}"
        for each in self.below:
            yield from each.problems()

    def lines(self, first: str = "", rest: str = "") -> Iterator[str]:
        """The tree as text."""
        wrong = f"  !! {self.problem}" if self.problem else ""
        yield f"{first}{self.kind} {self.name}  {self.text}".rstrip() + wrong
        for each in self.below:
            last = each is self.below[-1]
            yield from each.lines(rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
