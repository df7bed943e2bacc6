"""What serving reads: a file for each channel, in step with the ledger."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import write_json
from .ledger import Channel, ChannelName, Ledger

FOLDER = Path(".lifecycle/channels")


@dataclass(frozen=True)
class Pointer:
    """What a channel serves. `ledger` is the commit that says so; `warning` why it is not what a later one says."""

    release: str | None
    generation: int
    traffic: float | None
    ledger: str
    warning: str = ""


def read(channel: ChannelName) -> Pointer | None:
    """The pointer as it is on this machine; None for one that is missing or damaged."""
    try:
        return Pointer(**json.loads((FOLDER / f"{channel}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _points_there(pointer: Pointer | None, channel: Channel, warning: str) -> bool:
    wanted = (channel.release, channel.generation, channel.traffic, warning)
    return pointer is not None and (pointer.release, pointer.generation, pointer.traffic, pointer.warning) == wanted


def behind(ledger: Ledger) -> dict[ChannelName, Channel]:
    """The channels whose pointer does not say what the ledger says."""
    channels = ledger.channels().items()
    return {name: each for name, each in channels if not _points_there(read(name), each, ledger.warning(name))}


def write(ledger: Ledger) -> list[ChannelName]:
    """Bring every pointer in step with the ledger; returns those that were not. Each is replaced in one step."""
    changed = behind(ledger)
    for name, channel in changed.items():
        assert ledger.tip is not None
        warning = ledger.warning(name)
        pointer = Pointer(channel.release, channel.generation, channel.traffic, ledger.tip, warning)
        write_json(FOLDER / f"{name}.json", asdict(pointer))
    return list(changed)
