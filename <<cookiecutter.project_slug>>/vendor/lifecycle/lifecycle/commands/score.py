"""`score`: batch scoring."""

from dataclasses import asdict
from typing import Annotated

import typer

from ..releases.channel_names import ChannelName
from .command import Result, command, table, with_repairs


@command("score --months 2013-09,2013-10", part="scoring", scheduled=True)
def score(
    channel: Annotated[ChannelName, typer.Option(help="The channel whose release scores.")] = "production",
    months: Annotated[str, typer.Option(metavar="YYYY-MM,...", help="Default: all months.")] = "",
) -> Result:
    """Score months of the feature table with a channel's release.

    Writes one file a month to data/scores. Skips a month with the same rows and release as last time. A corrected month
    becomes a new version.
    """
    from .. import fan_out
    from ..lineage import openlineage
    from ..params import load_params
    from ..releases import scoring

    params = load_params()
    chosen = [month for month in months.split(",") if month]
    jobs, notes = scoring.plan(channel, chosen, params.monitoring.columns)
    with fan_out.workers(params.fan_out) as call:
        done = scoring.score(jobs, params.fan_out.workers, call)
    notes += openlineage.tell_of_scores(done)
    rows = [(each.month, each.outcome, f"{each.rows:,} rows", each.file) for each in done]
    text = f"{jobs[0].release}, which {channel} serves\n{table(rows)}" if jobs else "the feature table has no rows"
    data = {"release": jobs[0].release if jobs else None, "months": [asdict(each) for each in done], "notes": notes}
    return Result(data, with_repairs(notes, text))
