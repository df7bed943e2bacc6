"""The project's command line. Thin: every command is a few calls into the other packages."""

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from . import parts, project
from .errors import UserError, of_disk, plain, redacted_traceback

if TYPE_CHECKING:
    from .commands.result import Result


class Commands(TyperGroup):
    """List the commands, without those of parts that are switched off."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the available commands; outside of a project, all of them."""
        names = super().list_commands(ctx)
        try:
            enter_project()
            return [name for name in names if parts.why_no_command(name) is None]
        except UserError:
            return names


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Release = Annotated[str, typer.Argument(metavar="RELEASE", help="Release id, unique prefix, or channel.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Recorded in the ledger.")]
Generation = Annotated[
    int | None, typer.Option(metavar="N", help="Only if the channel is at this generation (see `history --json`).")
]

IfOn = Annotated[
    bool, typer.Option("--if-on", help="For scheduled jobs: exit code 0 and a note if the part is switched off.")
]


def _example(words: str) -> str:
    return f"Example:  {project.command()} {words}"


class Channel(StrEnum):
    """The channels, in the order in which a release goes through them."""

    staging = "staging"
    canary = "canary"
    production = "production"


def in_project(command: Callable[..., None]) -> Callable[..., None]:
    """Run a command in the project's folder, and turn a user error into one line and exit code 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from .releases.heal import heal
        from .releases.pipeline import StageError

        try:
            enter_project()
            if off := parts.why_no_command(command.__name__):
                if not kwargs.get("if_on"):
                    raise UserError(off)
                print(f"note: {off}", file=sys.stderr)
                return
            for note in heal():
                print(f"note: {note}", file=sys.stderr)
            command(*args, **kwargs)
        except (UserError, StageError) as error:
            print(f"error: {plain(str(error))}", file=sys.stderr)
            raise typer.Exit(1) from None
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

    return wrapped


def show(shown: "Result", as_json: bool) -> None:
    """Print a result. Exit with code 1 if it reports a problem."""
    print(json.dumps(shown.data, indent=2) if as_json else plain(shown.text))
    if not shown.ok:
        raise typer.Exit(1)


def enter_project() -> None:
    """Change to the folder that contains dvc.yaml: the current one or a parent.

    Raises:
        UserError: there is no such folder.
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


@app.command(epilog=_example("run --through 2013-07"))
@in_project
def run(
    through: Annotated[
        str, typer.Option(metavar="YYYY-MM", help="First set the last month of the data window (data.through).")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run stale stages, log the result and register the model.

    Checks and admits new files of the source first.

    Exit code 0 if the model passes its gates, 1 if something failed, 3 if a gate failed.
    """
    from .commands.run import run_pipeline

    outcome = run_pipeline(through)
    if as_json:
        print(json.dumps(outcome.as_dict(), indent=2))
    else:
        print(plain(outcome.as_text()))
    if outcome.failed_gates:
        raise typer.Exit(3)


@app.command(epilog=_example("status --json | jq .stages"))
@in_project
def status(as_json: AsJson = False) -> None:
    """Show stages, data, model, channels and open problems."""
    from .commands.status import project_status

    found = project_status()
    print(json.dumps(found.as_dict(), indent=2) if as_json else plain(found.as_text()))


@app.command(epilog=_example("release --reason 'October data'"))
@in_project
def release(reason: Reason = "", as_json: AsJson = False) -> None:
    """Release the current pipeline result.

    Pushes its bytes and writes its record to the ledger.
    Commits dvc.lock and the other files that `run` writes. Refuses other changes, stale stages and failed gates.
    """
    from .commands.release import release_result

    show(release_result(reason), as_json)


@app.command(epilog=_example("approve r-3f2a --comment 'slices look right'"))
@in_project
def approve(
    release: Release,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="Recorded with the approval.")] = "",
    key: Annotated[
        str, typer.Option(metavar="FILE", help="SSH key to sign with; default: git's user.signingKey.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Approve a release in your git name. The approval is signed if the project has a file allowed_signers."""
    from .commands.release import approve_release

    show(approve_release(release, comment, key), as_json)


@app.command(epilog=_example("promote r-3f2a --to canary --traffic 10%"))
@in_project
def promote(
    release: Release,
    to: Annotated[Channel, typer.Option(help="The channel.")],
    traffic: Annotated[str, typer.Option(metavar="SHARE", help="Share of requests for a canary, like 10%.")] = "",
    reason: Reason = "",
    generation: Generation = None,
    without_comparison: Annotated[
        bool,
        typer.Option(
            "--without-comparison", help="Promote although the comparison with production fails; needs --reason."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Promote a release to a channel, if the policy allows it.

    The policy is in params.yaml (promotion).
    """
    from .commands.channels import promote as promote_release

    show(promote_release(release, to.value, traffic, reason, generation, without_comparison), as_json)


@app.command(epilog=_example("rollback production --reason 'misses positives'"))
@in_project
def rollback(
    channel: Channel,
    reason: Reason,
    to: Annotated[
        str, typer.Option(metavar="RELEASE", help="Default: the last release it served that is not in quarantine.")
    ] = "",
    generation: Generation = None,
    as_json: AsJson = False,
) -> None:
    """Return a channel to its previous release.

    Verifies the release, and needs no network. The release that the channel leaves goes to quarantine.
    """
    from .commands.channels import rollback as roll_back

    show(roll_back(channel.value, to, reason, generation), as_json)


@app.command(epilog=_example("hold production --reason 'holidays'"))
@in_project
def hold(
    channel: Channel,
    reason: Annotated[str, typer.Option(help="Recorded in the ledger.")] = "",
    end: Annotated[bool, typer.Option("--end", help="End the hold.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop automation from promoting to a channel.

    Ends when a person moves the channel, or with --end.
    """
    from .commands.channels import hold as hold_channel

    show(hold_channel(channel.value, reason, end), as_json)


@app.command(epilog=_example("rollout r-3f2a"))
@in_project
def rollout(release: Release, as_json: AsJson = False) -> None:
    """Roll out a release step by step, as measurements allow.

    Run it repeatedly. Each run takes every step that is due, and says what the next one waits for. The steps: staging,
    shadow, canary at growing shares, production; bounds in params.yaml (rollout). Exit code 0 when production serves
    the release, 1 when it was rolled back, 3 while it waits or needs a person.
    """
    from .commands.rollout import rollout as roll_out

    shown, code = roll_out(release)
    show(shown, as_json)
    raise typer.Exit(code)


@app.command(epilog=_example("score --months 2013-09,2013-10"))
@in_project
def score(
    channel: Annotated[Channel, typer.Option(help="The channel whose release scores.")] = Channel.production,
    months: Annotated[str, typer.Option(metavar="YYYY-MM,...", help="Default: all months.")] = "",
    as_json: AsJson = False,
) -> None:
    """Score months of the feature table with a channel's release.

    Writes one file a month to data/scores. Skips a month with the same rows and release as last time. A corrected month
    becomes a new version.
    """
    from .commands.score import score as score_months

    show(score_months(channel.value, [month for month in months.split(",") if month]), as_json)


@app.command(epilog=_example("history production"))
@in_project
def history(
    channel: Annotated[Channel | None, typer.Argument(help="Default: all entries.")] = None,
    limit: Annotated[int, typer.Option(help="How many to show, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show releases, approvals, promotions, rollbacks and holds.

    Says when, by whom and why, newest first.
    """
    from .commands.channels import show_history

    show(show_history(channel.value if channel else None, limit), as_json)


@app.command(epilog=_example("diff production r-3f2a"))
@in_project
def diff(a: Release, b: Release, as_json: AsJson = False) -> None:
    """Show how two releases differ.

    Compares data, features, SQL, parameters, metrics and code.
    """
    from .commands.maintenance import diff as diff_releases

    show(diff_releases(a, b), as_json)


@app.command(epilog=_example("verify --all"))
@in_project
def verify(
    release: Annotated[
        str, typer.Argument(metavar="[RELEASE]", help="Default: the production release, and the work tree.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Verify every release, and the ledger itself.")] = False,
    remote: Annotated[bool, typer.Option("--remote", help="Hash the files in the DVC remote too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hash the files of a release, and report altered ones.

    Exit code 1 if a file is missing or altered.
    """
    from .commands.maintenance import verify as verify_releases

    show(verify_releases(release, everything, remote), as_json)


@app.command(epilog=_example("doctor"))
@in_project
def doctor(as_json: AsJson = False) -> None:
    """Repair pointers, tags, MLflow and DVC's cache.

    Takes everything from the ledger and the DVC remote. Exit code 1 if something is left for a person to do.
    """
    from .commands.maintenance import doctor as put_right

    show(put_right(), as_json)


@app.command(epilog=_example("restore r-3f2a --data"))
@in_project
def restore(
    release: Release,
    data: Annotated[
        bool, typer.Option("--data", help="Restore the data only; code and other parameters stay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore a release to the work tree, as a new commit.

    Restores its code, parameters, data, features and model.
    """
    from .commands.maintenance import restore as restore_release

    show(restore_release(release, data), as_json)


@app.command(epilog=_example("reproduce production"))
@in_project
def reproduce(
    release: Release,
    at_least: Annotated[
        str, typer.Option(metavar="LEVEL", help="L0, L1 or L2. Default: L0 on the platform of the release, else L2.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Build a release again from its source, and compare.

    L0: same bytes. L1: same content. L2: same metrics. Exit code 0 if every output reaches the level.
    """
    from .commands.maintenance import reproduce as reproduce_release

    show(reproduce_release(release, at_least), as_json)


@app.command(epilog=_example("gc --dry-run"))
@in_project
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files to delete.")] = False,
    as_json: AsJson = False,
) -> None:
    """Free space in the local cache. Keeps everything that a release, a branch or the work tree needs."""
    from .commands.maintenance import collect

    show(collect(dry_run), as_json)


@app.command(epilog=_example("trace production@2013-08-01T12:00 --verify"))
@in_project
def trace(
    what: Annotated[
        str, typer.Argument(help="A channel (CHANNEL@TIME for a moment), release, prediction, file, model or column.")
    ],
    verify: Annotated[bool, typer.Option("--verify", help="Hash the files of the release again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Trace a result to its bytes, SQL, code, parameters and people. Exit code 1 if anything differs."""
    from .commands.lineage import trace as trace_it

    show(trace_it(what, verify), as_json)


@app.command(epilog=_example("impact 2013-06"))
@in_project
def impact(
    what: Annotated[str, typer.Argument(help="A raw file, month, source column, model, commit or parameter.")],
    as_json: AsJson = False,
) -> None:
    """Show the features, releases and channels that an input reached.

    Says when the channels served it.
    """
    from .commands.lineage import impact as find_impact

    show(find_impact(what), as_json)


@app.command(epilog=_example("lineage --html lineage.html --release production"))
@in_project
def lineage(
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", resolve_path=True, help="Where to write the page. Default: .lifecycle/lineage.html."
        ),
    ] = None,
    release: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RELEASE", help="Repeatable. Default: all; of more than ten, those in channels and the newest."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the graph as JSON; write a page only with --html.")
    ] = False,
) -> None:
    """Write the lineage of releases as one page.

    On the page, search, follow links and compare two releases.
    """
    from .commands.lineage import lineage as draw

    show(draw(html, release or [], as_json), as_json)


@app.command(epilog=_example("card production --out card.md"))
@in_project
def card(
    release: Release,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", resolve_path=True, help="Write the card to a file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the model card of a release.

    Intended use, data, features and their sources, metrics, gates, approvals and limits.
    """
    from .commands.lineage import card as show_card

    show(show_card(release, out), as_json)


@app.command(epilog=_example("report --base origin/main > report.md"))
@in_project
def report(
    base: Annotated[str, typer.Option(metavar="REV", help="The branch or commit to compare with.")] = "main",
    as_json: AsJson = False,
) -> None:
    """Report the effect of a change, as Markdown.

    Compares metrics, gates, source files, outputs, parameters and SQL.
    """
    from .commands.lineage import report as tell

    show(tell(base), as_json)


@app.command(epilog=_example("monitor --month 2013-09 --month 2013-10"))
@in_project
def monitor(
    release: Annotated[str, typer.Argument(metavar="[RELEASE]", help="Default: the production release.")] = "",
    month: Annotated[
        list[str] | None,
        typer.Option(metavar="YYYY-MM", help="Repeatable. Default: the months after training, and the prediction log."),
    ] = None,
    at: Annotated[
        str, typer.Option(metavar="TIME", help="Use this as the current time, in UTC, like 2026-05-01T06:00.")
    ] = "",
    act: Annotated[bool, typer.Option("--act", help="Take the actions of the triggers in params.yaml.")] = False,
    if_on: IfOn = False,
    as_json: AsJson = False,
) -> None:
    """Check for drift, bad data, worse predictions and slow service.

    The thresholds are in params.yaml. Writes .lifecycle/monitoring/monitor.html and metrics.prom. Exit code 1 while a
    breach is open.
    """
    from .commands.monitor import monitor as look

    show(look(release, month or [], at, act), as_json)


@app.command(epilog=_example("incidents --limit 5"))
@in_project
def incidents(
    limit: Annotated[int, typer.Option(help="How many to show, newest first.")] = 20, as_json: AsJson = False
) -> None:
    """Show incidents, how long they took, and how they ended.

    Derived from the ledger, the monitor's history and the log of alerts.
    """
    from .commands.monitor import incidents as show_incidents

    show(show_incidents(limit), as_json)


@app.command(epilog=_example("drill --only worse-model --only killed-process"))
@in_project
def drill(
    only: Annotated[list[str] | None, typer.Option(metavar="FAULT", help="Repeatable. Default: all.")] = None,
    if_on: IfOn = False,
    as_json: AsJson = False,
) -> None:
    """Inject faults into a copy of the project, and check recovery.

    The copy is temporary, and under load. Writes .lifecycle/drill.json and drill.md. Exit code 1 if a promise does
    not hold.
    """
    from .commands.drill import hold as hold_drill

    show(hold_drill(only or []), as_json)


@app.command(epilog=_example("refresh"))
@in_project
def refresh(as_json: AsJson = False) -> None:
    """Update the online table, which `serve` fills in features from.

    A request can then name a row by its key. Running servers follow without a restart. Does nothing if the feature
    table has not changed.
    """
    from .commands.refresh import refresh as make_online

    show(make_online(), as_json)


@app.command(epilog=_example("serve --port 8080"))
@in_project
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:PORT]", help="A name by which clients reach the server. Repeatable."),
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let any machine ask without a token.")] = False,
) -> None:
    """Serve predictions from production and canary, until Ctrl-C.

    Follows every promotion and rollback without a restart. With SERVING_TOKEN set, requests need that bearer token.
    """
    from .commands.serve import serve as answer_requests

    answer_requests(host, port, allow_host or [], no_token)


@app.command(epilog=_example("ui --mlflow-port 5001"))
@in_project
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's page.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's page.")] = 4200,
) -> None:
    """Serve the MLflow and Prefect pages, until Ctrl-C."""
    from .commands.ui import serve

    serve(mlflow_port, prefect_port)


@app.command(epilog=_example("check"))
@in_project
def check(as_json: AsJson = False) -> None:
    """Check that the project meets the contract. Runs nothing.

    Looks at the model, tables, stages and parameters.
    """
    from .commands.check import check as do

    show(do(), as_json)


@app.command(epilog=_example("docs"))
@in_project
def docs() -> None:
    """Write dbt's page on every table and column.

    The file is transform/target/static_index.html.
    """
    from .stages.transform import generate_docs

    print(f"open {generate_docs()}")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name=project.command())


if __name__ == "__main__":
    main()
