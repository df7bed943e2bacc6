"""The ledger's vocabulary: an entry, what a channel serves, why a release is in quarantine, and the time."""

import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from .channel_names import CHANNELS as CHANNELS
from .channel_names import ChannelName as ChannelName

ENTRY = "entry.json"

Kind = Literal["release", "approve", "promote", "rollback", "hold", "retrain"]


class Stored(BaseModel):
    """A file in the ledger. Keys added by a later version of this project are accepted."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_bytes(self) -> bytes:
        """Return sorted, indented JSON."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


class Entry(Stored):
    """One operation. `after` is the ledger commit before it; `evidence` is what the decision was based on."""

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
    """What a channel serves, and since when. `generation` counts moves; `traffic` is a canary's share of requests."""

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
    """Why automation must not promote a release."""

    release: str
    channel: ChannelName
    entry: int
    by: str
    at: str
    reason: str


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def moment(at: str) -> datetime:
    """Parse the time of an entry. Raises ValueError if it has no time zone or is not a time."""
    found = datetime.fromisoformat(at)
    if found.tzinfo is None:
        raise ValueError(f"{at} names no time zone")
    return found


def later(one: str, other: str) -> str:
    """Return the later of two times. An empty one is earlier than all others."""
    return one if not other or (one and moment(one) >= moment(other)) else other
