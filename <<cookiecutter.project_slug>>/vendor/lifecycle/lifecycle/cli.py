"""The project's command line: the commands of the registry, run in the project's folder, with errors for people."""

import inspect
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import parts, project
from .commands import everything
from .commands.command import COMMANDS, AsJson, Command
from .errors import USER_ERROR, UserError, of_disk, plain, redacted_traceback

IF_ON = Annotated[
    bool, typer.Option("--if-on", help="For scheduled jobs: exit code 0 and a note if the part is switched off.")
]


class Commands(TyperGroup):
    """List the commands, without those of parts that are switched off."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the available commands; outside of a project, all of them."""
        names = super().list_commands(ctx)
        try:
            enter_project()
            return [name for name in names if not why_not(COMMANDS[name])]
        except UserError:
            return names


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _app() -> None:
    """Data, features, model and their history: one command line for the whole lifecycle."""


def why_not(command: Command) -> str | None:
    """Return one sentence on why the project lacks the command's part, or None."""
    return parts.why_off(command.part) if command.part else None


def enter_project() -> None:
    """Change to the folder that contains dvc.yaml: the current one or a parent.

    Raises:
        UserError: there is no such folder.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "dvc.yaml").exists():
            os.chdir(folder)
            return
    raise UserError("no dvc.yaml here or in a folder above: change to the project's folder")


def add(command: Command) -> None:
    """Add a command to the command line, with the options that many commands have."""
    own = inspect.signature(command.function).parameters
    options = {"if_on": IF_ON} if command.scheduled else {}
    options |= {"as_json": AsJson} if command.json and "as_json" not in own else {}

    def run(**given: Any) -> None:
        if_on = given.pop("if_on", False)
        as_json = given.get("as_json", False) if "as_json" in own else given.pop("as_json", False)
        _run(command, given, as_json, if_on)

    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, keyword, default=False, annotation=kind) for name, kind in options.items()]
    run.__signature__ = inspect.Signature([*own.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.function.__annotations__, **options, "return": None}
    run.__doc__ = command.function.__doc__
    app.command(command.name, epilog=f"Example:  {project.command()} {command.example}")(run)


def _run(command: Command, given: dict[str, Any], as_json: bool, if_on: bool) -> None:
    """Run a command in the project's folder, print its result, and turn a user error into one line and an exit code."""
    from .releases.heal import heal
    from .releases.pipeline import StageError

    try:
        enter_project()
        if off := why_not(command):
            if not if_on:
                raise UserError(off)
            print(f"note: {off}", file=sys.stderr)
            return
        for note in heal():
            print(f"note: {note}", file=sys.stderr)
        result = command.function(**given)
    except (UserError, StageError) as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        raise typer.Exit(USER_ERROR if command.step and error.for_good else 1) from None
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:
        if (said := of_disk(error)) is None:
            with redacted_traceback():
                raise
        print(f"error: {plain(said)}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("interrupted: nothing is lost, the next run continues from here", file=sys.stderr)
        raise typer.Exit(130) from None
    if result:
        print(json.dumps(result.data, indent=2) if as_json else plain(result.text))
        if result.code:
            raise typer.Exit(int(result.code))


for each in everything():
    add(each)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name=project.command())


if __name__ == "__main__":
    main()
