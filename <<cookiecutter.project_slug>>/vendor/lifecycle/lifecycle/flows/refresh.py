"""The online table's refresh as a Prefect flow, for a schedule."""

from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from ..params import load_params
from ..releases import online
from . import flow_name, of_part


@flow(name=flow_name("refresh"))
@of_part("serving")
def refresh() -> dict[str, Any]:
    """Update the online table from the feature table that dvc.lock names. Running servers follow."""
    done = online.refresh(load_params().monitoring.columns)
    table = done.table
    row = {
        "online": table.name,
        "new": done.new,
        "seconds": round(done.seconds, 3),
        "rows": table.rows,
        "newest": table.newest,
        "release": table.release or "none",
    }
    create_table_artifact([row], key="online", description=f"Rows of {table.table}, by {table.key}")
    return {"new": done.new} | asdict(table)
