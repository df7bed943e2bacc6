"""`score`: batch scoring."""

from dataclasses import asdict

from ..lifecycle import scoring
from ..lifecycle.ledger import ChannelName
<%- if cookiecutter.fan_out != 'threads' %>
from ..lifecycle.scoring import Scored
<%- endif %>
from ..lineage import openlineage
from ..params import load_params
from .shown import Shown, table, with_repairs


def score(channel: ChannelName, months: list[str]) -> Shown:
<%- if cookiecutter.fan_out == 'threads' %>
    """Score months with what a channel serves."""
    params = load_params()
    jobs, notes = scoring.plan(channel, months, params.monitoring.columns)
    done = scoring.score(jobs, params.scoring.workers)
    notes += openlineage.tell_of_scores(done)
<%- else %>
    """Score months with what a channel serves: in threads here, on << cookiecutter.fan_out | title >> as a flow."""
    params = load_params()
    jobs, notes = scoring.plan(channel, months, params.monitoring.columns)
    if params.scoring.runner == "threads":
        done = scoring.score(jobs, params.scoring.workers)
        notes += openlineage.tell_of_scores(done)
    else:
        done = _as_flow(channel, months)
<%- endif %>
    rows = [(each.month, each.outcome, f"{each.rows:,} rows", each.file) for each in done]
    text = f"{jobs[0].release}, which {channel} serves\n{table(rows)}" if jobs else "the feature table has no rows"
    data = {"release": jobs[0].release if jobs else None, "months": [asdict(each) for each in done], "notes": notes}
    return Shown(data, with_repairs(notes, text))
<%- if cookiecutter.fan_out != 'threads' %>


def _as_flow(channel: ChannelName, months: list[str]) -> list[Scored]:
    from ..flows import server

    server.ensure_api()
    from ..flows.score import score as flow

    done: list[Scored] = flow(channel, months)
    return done
<%- endif %>
