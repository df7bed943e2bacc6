"""`score`: batch scoring."""

from dataclasses import asdict

from ..lifecycle import scoring
from ..lifecycle.ledger import ChannelName
from ..lifecycle.scoring import Scored
from ..lineage import openlineage
from ..params import load_params
from .shown import Shown, table, with_repairs


def score(channel: ChannelName, months: list[str]) -> Shown:
    """Score months with what a channel serves: threads here, anything else as a flow."""
    params = load_params()
    jobs, notes = scoring.plan(channel, months, params.monitoring.columns)
    done = (
        scoring.score(jobs, params.scoring.workers) if params.scoring.runner == "threads" else _as_flow(channel, months)
    )
    if params.scoring.runner == "threads":
        notes += openlineage.tell_of_scores(done)
    rows = [(each.month, each.outcome, f"{each.rows:,} rows", each.file) for each in done]
    text = f"{jobs[0].release}, which {channel} serves\n{table(rows)}" if jobs else "the feature table has no rows"
    data = {"release": jobs[0].release if jobs else None, "months": [asdict(each) for each in done], "notes": notes}
    return Shown(data, with_repairs(notes, text))


def _as_flow(channel: ChannelName, months: list[str]) -> list[Scored]:
    from ..flows import server

    server.ensure_api()
    from ..flows.score import score as flow

    done: list[Scored] = flow(channel, months)
    return done
