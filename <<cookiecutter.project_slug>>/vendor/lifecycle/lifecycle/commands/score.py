"""`score`: batch scoring."""

from dataclasses import asdict

from ..lineage import openlineage
from ..params import load_params
from ..releases import scoring
from ..releases.ledger import ChannelName
from ..releases.scoring import Scored
from .result import Result, table, with_repairs


def score(channel: ChannelName, months: list[str]) -> Result:
    """Score months with a channel's release: in threads here, or as a flow on the cluster set in params.yaml."""
    params = load_params()
    jobs, notes = scoring.plan(channel, months, params.monitoring.columns)
    if params.scoring.runner == "threads":
        done = scoring.score(jobs, params.scoring.workers)
        notes += openlineage.tell_of_scores(done)
    else:
        done = _as_flow(channel, months)
    rows = [(each.month, each.outcome, f"{each.rows:,} rows", each.file) for each in done]
    text = f"{jobs[0].release}, which {channel} serves\n{table(rows)}" if jobs else "the feature table has no rows"
    data = {"release": jobs[0].release if jobs else None, "months": [asdict(each) for each in done], "notes": notes}
    return Result(data, with_repairs(notes, text))


def _as_flow(channel: ChannelName, months: list[str]) -> list[Scored]:
    from ..flows import server

    server.ensure_api()
    from ..flows.score import score as flow

    done: list[Scored] = flow(channel, months)
    return done
