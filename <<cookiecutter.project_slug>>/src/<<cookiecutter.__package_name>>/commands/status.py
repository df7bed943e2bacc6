"""`status`: what there is, without starting anything."""

from dataclasses import dataclass
from typing import Any

from ..lifecycle import ledger, tracking, worktree
from ..lifecycle.ledger import Channel, ChannelName
from ..lifecycle.pipeline import LOCK_FILE, Pipeline, StageStatus, result_digest
from ..lifecycle.store import Store
from ..params import Data, load_params
from ..stages import ingest
from ..stages.source import read_pins, unpinned


@dataclass(frozen=True)
class ProjectStatus:
    """The state of the working tree."""

    data: Data
    source_changes: list[str]
    stages: list[StageStatus]
    differences: list[str]
    tracked: tracking.Tracked | None
    is_tracked: bool
    is_of_result: bool
    channels: dict[ChannelName, Channel]
    holds: dict[ChannelName, str]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "data": self.data.model_dump(),
            "source_changes": self.source_changes,
            "stages": [{"name": s.stage, "fresh": s.fresh, "reasons": list(s.reasons)} for s in self.stages],
            "differences": self.differences,
            "last_run": vars(self.tracked) if self.tracked else None,
            "result_is_tracked": self.is_tracked,
            "channels": {name: channel.model_dump() for name, channel in self.channels.items()},
            "holds": self.holds,
            "warnings": self.warnings,
        }

    def as_text(self) -> str:
        """For people."""
        source = ", ".join(self.source_changes) or "as pinned"
        lines = [f"data       {self.data.since} to {self.data.through} from {self.data.source} ({source})", ""]
        for stage in self.stages:
            lines.append(f"{stage.stage:<10} {'fresh' if stage.fresh else 'stale: ' + ', '.join(stage.reasons)}")
        lines += [f"           {each}" for each in self.differences]
        if self.tracked:
            t = self.tracked
            version = f"version {t.version}" if t.version else "not registered (a gate failed)"
            lines += [
                "",
                f"last run   {t.logged_at}, MLflow run {t.run_id[:8]}",
                f"model      {t.model_name} {version}",
            ]
            if not self.is_tracked and not self.is_of_result:
                lines.append("           of another result than the one here: `run` logs this one")
            elif not self.is_tracked:
                lines.append("           in another MLflow than the one used now: `run` logs it there too")
        else:
            lines += ["", "last run   none on this machine"]
        for name, channel in self.channels.items():
            since = f"since {channel.at} (generation {channel.generation})"
            hold = f", on hold: {self.holds[name]}" if name in self.holds else ""
            lines.append(f"{name:<10} {channel.release or 'nothing'} {since}{hold}")
        lines += [f"warning: {each}" for each in self.warnings]
        return "\n".join(lines)


def project_status() -> ProjectStatus:
    """Look at everything and change nothing."""
    data = load_params().data
    _, files = ingest.look(data)
    pins = read_pins()
    changes = [f"{file.name} {'changed' if file.name in pins else 'new'}" for file in unpinned(files)]
    stages = Pipeline().status()
    # Only where DVC sees a change does it cost to say which files.
    changed = LOCK_FILE.exists() and not all(stage.fresh for stage in stages)
    differences = [str(each) for each in worktree.differences(Store())] if changed else []
    book = ledger.load()
    channels = book.channels()
    holds = {name: held.reason for name in channels if (held := book.held(name))}
    tracked, is_tracked = tracking.last_tracked(), tracking.is_tracked()
    is_of_result = bool(tracked and LOCK_FILE.exists() and tracked.result_digest == result_digest())
    warnings = book.warnings()
    return ProjectStatus(
        data, changes, stages, differences, tracked, is_tracked, is_of_result, channels, holds, warnings
    )
