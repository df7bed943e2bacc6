"""The words of the ledger: an entry, what a channel serves, why a release is in quarantine, and the time."""

import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

ENTRY = "entry.json"

ChannelName = Literal["staging", "canary", "production"]
CHANNELS: tuple[ChannelName, ...] = ("staging", "canary", "production")
Kind = Literal["release", "approve", "promote", "rollback", "hold", "retrain"]


class Stored(BaseModel):
    """A file in the ledger. A key that a later version of this project has added is not an error."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_bytes(self) -> bytes:
        """Sorted, indented JSON."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


class Entry(Stored):
    """One operation. `after` is the ledger commit before it; `evidence` is what it was decided on."""

    number: int = 0
    after: str | None = None
    kind: Kind
    release: str | None
    channel: ChannelName | None = None
    generation: int | None = None
    previous: str | None = None
    by: str
    at: str
    automation: bool = False
    reason: str = ""
    evidence: dict[str, Any] = {}


class Channel(Stored):
    """What a channel serves since when. `generation` counts its moves; `traffic` is a canary's share of requests."""

    release: str | None
    generation: int
    previous: str | None
    entry: int
    operation: Kind
    by: str
    at: str
    reason: str
    traffic: float | None = None


class Quarantine(Stored):
    """Why a release is not to be promoted by automation."""

    release: str
    channel: ChannelName
    entry: int
    by: str
    at: str
    reason: str


def now() -> str:
    """The present moment, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def moment(at: str) -> datetime:
    """The time of an entry; raises ValueError when it names no zone or is not a time."""
    found = datetime.fromisoformat(at)
    if found.tzinfo is None:
        raise ValueError(f"{at} names no time zone")
    return found


def later(one: str, other: str) -> str:
    """The later of two times; an empty one is before all others."""
    return one if not other or (one and moment(one) >= moment(other)) else other
