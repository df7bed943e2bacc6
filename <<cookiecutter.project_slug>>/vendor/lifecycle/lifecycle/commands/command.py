"""The registry of commands. Each is declared once, as a function marked with `@command`.

Its annotations are its arguments, its docstring is its help, and its result is what it prints. The module of a command
imports nothing slow at its top: `--help` imports all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer

from ..errors import plain

# The default width of a terminal.
COLUMNS = 80
F = TypeVar("F", bound=Callable[..., "Result | None"])

Release = Annotated[str, typer.Argument(metavar="RELEASE", help="Release id, unique prefix, or channel.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Recorded in the ledger.")]
Generation = Annotated[
    int | None, typer.Option(metavar="N", help="Only if the channel is at this generation (see `history --json`).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Limit = Annotated[int, typer.Option(help="How many to show, newest first.")]


@dataclass(frozen=True)
class Result:
    """The result of a command, as data for scripts and as text for people. A `code` of True means 1."""

    data: dict[str, Any]
    text: str
    code: int = 0


@dataclass(frozen=True)
class Command:
    """`part`: the optional part it belongs to. `scheduled`: it has the option --if-on. `json`: it has --json.

    `step`: a step of the pipeline, for other engines than Prefect. Exit code 2 tells them that a retry will not help.
    """

    name: str
    function: Callable[..., Result | None]
    example: str
    part: str
    scheduled: bool
    json: bool
    step: bool


COMMANDS: dict[str, Command] = {}


def command(
    example: str, *, part: str = "", scheduled: bool = False, json: bool = True, step: bool = False
) -> Callable[[F], F]:
    """Declare a function as a command: `run_stage` is run-stage. `example`: words to type after the project's name."""

    def declare(function: F) -> F:
        name = function.__name__.replace("_", "-")
        COMMANDS[name] = Command(name, function, example, part, scheduled, json, step)
        return function

    return declare


def with_repairs(done: list[str], text: str) -> str:
    """Return the text, preceded by the repairs that reconcile made."""
    return "\n".join([*(f"note: {line}" for line in done), text])


def on_one_line(text: str) -> str:
    """Return text from outside without line breaks, so that it cannot look like another line of the output."""
    return " ".join(text.splitlines())


def wrapped(text: str, first: str = "", later: str = " " * 11) -> str:
    """Return text in lines of a terminal's default width. `first`, `later`: what the lines begin with."""
    from textwrap import fill

    return fill(plain(text), COLUMNS, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Format rows as aligned columns, two spaces apart. Each cell stays on one line."""
    rows = [tuple(map(on_one_line, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
