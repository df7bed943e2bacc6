"""The result of a command, as text for people and as data for scripts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """A command's result. `ok` is False if the command worked but reports a problem: exit code 1."""

    data: dict[str, Any]
    text: str
    ok: bool = True


def with_repairs(done: list[str], text: str) -> str:
    """Return the text, preceded by the repairs that reconcile made."""
    return "\n".join([*(f"note: {line}" for line in done), text])


def on_one_line(text: str) -> str:
    """Return text from outside without line breaks, so that it cannot look like another line of the output."""
    return " ".join(text.splitlines())


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Format rows as aligned columns, two spaces apart. Each cell stays on one line."""
    rows = [tuple(map(on_one_line, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
