"""`refresh`: update the online table."""

from dataclasses import asdict

from .command import Result, command


@command("refresh", part="serving", scheduled=True)
def refresh() -> Result:
    """Update the online table, which `serve` fills in features from.

    A request can then name a row by its key. Running servers follow without a restart. Does nothing if the feature
    table has not changed.
    """
    from ..params import load_params
    from ..releases import online

    done = online.refresh(load_params().monitoring.columns)
    table = done.table
    head = f"made in {done.seconds:.1f} s" if done.new else "it is current: nothing to do"
    text = (
        f"online table {table.name}: {head}\n"
        f"  rows     {table.rows:,} of {table.table}, {len(table.columns)} columns by {table.key}\n"
        f"  newest   {table.newest} UTC\n"
        f"  release  {table.release or 'none has these features yet'}"
    )
    return Result({"new": done.new, "seconds": round(done.seconds, 3), "online": asdict(table)}, text)
