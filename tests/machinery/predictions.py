"""Prediction logs as the server writes them, of requests that nobody made."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lifecycle.predictions.log import FOLDER
from lifecycle.releases import ledger


def predictions(
    release: str,
    channel: str,
    generation: int,
    scores: Sequence[float],
    *,
    start: datetime | None = None,
    errors: int = 0,
    latency_ms: float = 5.0,
    name: str = "",
    shadow: bool = False,
) -> list[dict[str, Any]]:
    """One prediction a score, a millisecond apart up to now, every so often one of `errors`."""
    start = start or datetime.now(UTC)
    failed = set(np.linspace(0, len(scores) - 1, errors).astype(int)) if errors else set()
    return [
        {
            "prediction_id": f"{name or channel}-{generation}-{number}",
            "at": (start + timedelta(microseconds=number)).isoformat(),
            "release": release,
            "channel": channel,
            "generation": generation,
            "key": f"{name or channel}-{generation}-{number}",
            "shadow": shadow,
            "score": None if number in failed else float(score),
            "latency_ms": latency_ms,
            "error": "RuntimeError" if number in failed else None,
            "features": {},
        }
        for number, score in enumerate(scores)
    ]


def write(rows: list[dict[str, Any]]) -> None:
    """Append each to the file of its day."""
    for row in rows:
        file = FOLDER / row["at"][:10] / "1-a.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")


def failing(release_id: str, share: float, days: int = 2, rows: int = 400) -> None:
    """Write the log of a server in which this share of the requests failed, on the last days."""
    release = ledger.load().release(release_id)
    table = pq.read_table(release.model["feature_table"], columns=list(release.model["features"])).slice(0, rows)
    for day in range(days):
        start = datetime.now(UTC) - timedelta(days=day)
        made = predictions(
            release_id, "production", 2, [0.2] * rows, start=start, errors=int(share * rows), name=f"d{day}"
        )
        write([row | {"features": features} for row, features in zip(made, table.to_pylist(), strict=True)])
