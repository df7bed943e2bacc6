"""`promote`, `rollback`, `hold` and `history`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..releases.channel_names import ChannelName
from .command import Generation, Limit, Reason, Release, Result, command, on_one_line, table, with_repairs

if TYPE_CHECKING:
    from ..releases.channels import Move


def share(text: str) -> float | None:
    """Parse a share: `10%` or `0.1` gives 0.1.

    Raises:
        UserError: it is not a share.
    """
    if not text:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise UserError(f"--traffic is a share of requests, like 10%, not {text!r}")
    return value


@command("promote r-3f2a --to canary --traffic 10%")
def promote(
    release: Release,
    to: Annotated[ChannelName, typer.Option(help="The channel.")],
    traffic: Annotated[str, typer.Option(metavar="SHARE", help="Share of requests for a canary, like 10%.")] = "",
    reason: Reason = "",
    generation: Generation = None,
    without_comparison: Annotated[
        bool,
        typer.Option(
            "--without-comparison", help="Promote although the comparison with production fails; needs --reason."
        ),
    ] = False,
) -> Result:
    """Promote a release to a channel, if the policy allows it.

    The policy is in params.yaml (promotion).
    """
    from ..releases import operations

    if without_comparison and not reason.strip():
        raise UserError("--without-comparison needs a reason for the ledger: --reason '...'")
    part = share(traffic)
    if part is not None and to != "canary":
        raise UserError(f"--traffic is for the canary; {to} gets all of its requests")
    done = operations.promote(release, to, part, reason, generation, without_comparison=without_comparison)
    return _shown(done.result, done.notes)


@command("rollback production --reason 'misses positives'")
def rollback(
    channel: ChannelName,
    reason: Reason,
    to: Annotated[
        str, typer.Option(metavar="RELEASE", help="Default: the last release it served that is not in quarantine.")
    ] = "",
    generation: Generation = None,
) -> Result:
    """Return a channel to its previous release.

    Verifies the release, and needs no network. The release that the channel leaves goes to quarantine.
    """
    from ..releases import operations

    done = operations.rollback(channel, reason, to, generation)
    return _shown(done.result, done.notes)


@command("hold production --reason 'holidays'")
def hold(
    channel: ChannelName,
    reason: Reason = "",
    end: Annotated[bool, typer.Option("--end", help="End the hold.")] = False,
) -> Result:
    """Stop automation from promoting to a channel.

    Ends when a person moves the channel, or with --end.
    """
    from ..releases import channels
    from ..releases.reconcile import open_ledger

    opened = open_ledger(network=True)
    entry = channels.hold(opened.ledger, channel, reason=reason, end=end)
    text = (
        f"{channel} is {'no longer ' if end else ''}on hold: automation {'may promote' if end else 'promotes nothing'}"
    )
    data = {"channel": channel, "held": not end, "entry": entry.number, "notes": opened.done}
    return Result(data, with_repairs(opened.done, text))


def _shown(move: "Move", notes: list[str]) -> Result:
    notes = [*notes, *move.notes]
    text = f"{move.channel} serves {move.release or 'nothing'}"
    if not move.changed:
        lines = [f"{text} already (generation {move.generation})"]
    else:
        lines = [text + (f" on {move.traffic:.0%} of requests" if move.traffic is not None else "")]
        if move.previous and move.previous != move.release:
            lines[0] += f", in place of {move.previous}"
        lines.append(f"  generation {move.generation}, verified before and after, {move.seconds:.1f} s")
    if move.quarantined:
        lines.append(f"  {move.quarantined} is in quarantine: only a person can promote it again")
    return Result(asdict(move) | {"notes": notes}, with_repairs(notes, "\n".join(lines)))


@command("history production")
def history(
    channel: Annotated[ChannelName | None, typer.Argument(help="Default: all entries.")] = None, limit: Limit = 20
) -> Result:
    """Show releases, approvals, promotions, rollbacks and holds.

    Says when, by whom and why, newest first.
    """
    from ..releases.history import history as entries_of
    from ..releases.reconcile import open_ledger

    opened = open_ledger()
    entries = entries_of(opened.ledger, channel)
    rows = [
        (
            str(entry.number),
            entry.at.replace("+00:00", "Z"),
            "end hold" if entry.evidence.get("ended") else entry.kind,
            entry.channel or "",
            entry.release or "nothing",
            entry.by.split(" <")[0],
        )
        for entry in entries[:limit]
    ]
    lines = []
    for entry, line in zip(entries, table(rows).splitlines(), strict=False):
        why = [*(["by automation"] if entry.automation else []), *([on_one_line(entry.reason)] if entry.reason else [])]
        lines += [line, *([f"    {': '.join(why)}"] if why else [])]
    text = "\n".join(lines) or "nothing yet: `release` makes the first entry"
    if len(entries) > limit:
        text += f"\n... and {len(entries) - limit} earlier (--limit)"
    data = {"entries": [entry.model_dump(mode="json") for entry in entries[:limit]], "notes": opened.done}
    return Result(data, with_repairs(opened.done, text))
