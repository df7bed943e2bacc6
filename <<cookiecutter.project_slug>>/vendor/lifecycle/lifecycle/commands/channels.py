"""`promote`, `rollback` and `history`."""

from dataclasses import asdict

from ..errors import UserError
from ..releases import channels, operations
from ..releases.channels import Move
from ..releases.history import history
from ..releases.ledger import ChannelName
from ..releases.reconcile import open_ledger
from .result import Result, on_one_line, table, with_repairs


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


def promote(
    what: str, to: ChannelName, traffic: str, reason: str, generation: int | None, without_comparison: bool
) -> Result:
    """Promote a release to a channel."""
    if without_comparison and not reason.strip():
        raise UserError("--without-comparison needs a reason for the ledger: --reason '...'")
    part = share(traffic)
    if part is not None and to != "canary":
        raise UserError(f"--traffic is for the canary; {to} gets all of its requests")
    done = operations.promote(what, to, part, reason, generation, without_comparison=without_comparison)
    return _shown(done.result, done.notes)


def rollback(channel: ChannelName, to: str, reason: str, generation: int | None) -> Result:
    """Return a channel to what it served before."""
    done = operations.rollback(channel, reason, to, generation)
    return _shown(done.result, done.notes)


def hold(channel: ChannelName, reason: str, end: bool) -> Result:
    """Put a channel on hold, or lift the hold."""
    opened = open_ledger(network=True)
    entry = channels.hold(opened.ledger, channel, reason=reason, end=end)
    text = (
        f"{channel} is {'no longer ' if end else ''}on hold: automation {'may promote' if end else 'promotes nothing'}"
    )
    data = {"channel": channel, "held": not end, "entry": entry.number, "notes": opened.done}
    return Result(data, with_repairs(opened.done, text))


def _shown(move: Move, notes: list[str]) -> Result:
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


def show_history(channel: ChannelName | None, limit: int) -> Result:
    """Show the ledger's entries, newest first."""
    opened = open_ledger()
    entries = history(opened.ledger, channel)
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
