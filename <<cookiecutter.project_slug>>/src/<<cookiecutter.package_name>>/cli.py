"""The project's command line. Thin: every command is a few calls into the other rooms."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def in_project(command: Callable[..., None]) -> Callable[..., None]:
    """Run a command in the project's folder, and turn a user's mistake into one line and exit code 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from .lifecycle.pipeline import StageError

        try:
            enter_project()
            command(*args, **kwargs)
        except (UserError, StageError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("interrupted: nothing is lost, the next run goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


def enter_project() -> None:
    """Change to the folder that holds dvc.yaml: this one or one above it.

    Raises:
        UserError: there is none.
    """
    import os

    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "dvc.yaml").exists():
            os.chdir(folder)
            return
    raise UserError("no dvc.yaml here or in a folder above: change to the project's folder")


@app.callback()
def _app() -> None:
    """Data, features, model and their history: one command line for the whole lifecycle."""


@app.command(epilog="Example:  << cookiecutter.project_slug >> run --through 2013-07")
@in_project
def run(
    through: Annotated[str, typer.Option(metavar="YYYY-MM", help="Move the watermark first (data.through).")] = "",
    as_json: AsJson = False,
) -> None:
    """Bring everything up to date: admit new files, run stale stages, log the result, register the model.

    Exit code 0 when the model passes its gates, 1 when something failed, 3 when a gate did.
    """
    from .commands.run import run_pipeline

    outcome = run_pipeline(through)
    if as_json:
        print(json.dumps(outcome.as_dict(), indent=2))
    else:
        print(outcome.as_text())
    if outcome.failed_gates:
        raise typer.Exit(3)


@app.command(epilog="Example:  << cookiecutter.project_slug >> status --json | jq .stages")
@in_project
def status(as_json: AsJson = False) -> None:
    """Show which stages are fresh, which are stale and why, the data window and the registered model."""
    from .commands.status import project_status

    found = project_status()
    print(json.dumps(found.as_dict(), indent=2) if as_json else found.as_text())


@app.command(epilog="Example:  << cookiecutter.project_slug >> ui --mlflow-port 5001")
@in_project
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's page.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's page.")] = 4200,
) -> None:
    """Serve the MLflow and Prefect pages on this machine, until Ctrl-C."""
    from .commands.ui import serve

    serve(mlflow_port, prefect_port)


@app.command(epilog="Example:  << cookiecutter.project_slug >> docs")
@in_project
def docs() -> None:
    """Write dbt's pages on every table and column to transform/target/index.html."""
    from .stages.transform import generate_docs

    print(f"open {generate_docs()}")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="<< cookiecutter.project_slug >>")


if __name__ == "__main__":
    main()
