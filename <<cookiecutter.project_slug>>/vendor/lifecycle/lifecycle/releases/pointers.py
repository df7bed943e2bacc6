"""The files that serving reads, one for each channel, kept in step with the ledger."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import write_json
from . import git
from .ledger import REF, Channel, ChannelName, Ledger, load

FOLDER = Path(".lifecycle/channels")


@dataclass(frozen=True)
class Pointer:
    """What a channel serves. `ledger`: the commit that says so; `warning`: why a later commit does not apply."""

    release: str | None
    generation: int
    traffic: float | None
    ledger: str
    warning: str = ""


def read(channel: ChannelName) -> Pointer | None:
    """Return the pointer on this machine, or None if it is missing or damaged."""
    try:
        return Pointer(**json.loads((FOLDER / f"{channel}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _points_there(pointer: Pointer | None, channel: Channel, warning: str) -> bool:
    wanted = (channel.release, channel.generation, channel.traffic, warning)
    return pointer is not None and (pointer.release, pointer.generation, pointer.traffic, pointer.warning) == wanted


def behind(ledger: Ledger) -> dict[ChannelName, Channel]:
    """Return the channels whose pointer differs from the ledger."""
    channels = ledger.channels().items()
    return {name: each for name, each in channels if not _points_there(read(name), each, ledger.warning(name))}


def write(ledger: Ledger) -> list[ChannelName]:
    """Update every pointer to match the ledger, each atomically. Return those that were out of date."""
    changed = behind(ledger)
    for name, channel in changed.items():
        assert ledger.tip is not None
        warning = ledger.warning(name)
        pointer = Pointer(channel.release, channel.generation, channel.traffic, ledger.tip, warning)
        write_json(FOLDER / f"{name}.json", asdict(pointer))
    return list(changed)


def follow() -> Ledger:
    """Update the pointers to the ledger of this clone. If a command moves it meanwhile, update them again."""
    ledger = load()
    while write(ledger) and git.resolve(REF) != ledger.tip:
        ledger = load()
    return ledger
