"""`status`: show the project's state without starting anything, beginning with what a person must do."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .. import parts, project
from .command import Result, command, wrapped

if TYPE_CHECKING:
    from ..monitoring.alerts import Alert
    from ..params import Data, Monitoring
    from ..releases.ledger import Channel, ChannelName, Ledger
    from ..releases.pipeline import StageStatus
    from ..releases.tracking import Tracked


@command("status --json | jq .stages")
def status() -> Result:
    """Show stages, data, model, channels and open problems."""
    found = project_status()
    return Result(found.as_dict(), found.as_text())


@dataclass(frozen=True)
class Waiting:
    """A decision for a person, and the command to type."""

    what: str
    command: str


@dataclass(frozen=True)
class Watched:
    """The monitor's last results for the production release. `at` is None if it was never measured."""

    at: str | None
    breaches: "list[Alert]"
    incidents: list[str]


@dataclass(frozen=True)
class ProjectStatus:
    """The state of the working tree."""

    data: "Data"
    source_changes: list[str]
    stages: "list[StageStatus]"
    differences: list[str]
    tracked: "Tracked | None"
    is_tracked: bool
    is_of_result: bool
    channels: "dict[ChannelName, Channel]"
    holds: "dict[ChannelName, str]"
    warnings: list[str]
    quarantine: dict[str, str]
    approvers: dict[str, list[str]]
    watched: Watched | None  # None for a project without monitoring

    def as_dict(self) -> dict[str, Any]:
        """Return the status for --json."""
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
            "quarantine": self.quarantine,
            "approvers": self.approvers,
            "monitor": asdict(self.watched) if self.watched else None,
            "waiting": [vars(each) for each in self.waiting()],
        }

    def waiting(self) -> list[Waiting]:
        """Return what a person must decide, the most urgent first."""
        return list(self._waiting())

    def _waiting(self) -> Iterator[Waiting]:
        for warning in self.warnings:
            yield Waiting(warning, f"{project.command()} verify --all")
        for name, channel in reversed(self.channels.items()):
            if channel.release in self.quarantine:
                yield Waiting(
                    f"{name} serves {channel.release}, which is in quarantine: {self.quarantine[channel.release]}",
                    f"{project.command()} rollback {name} --reason 'in quarantine'",
                )
        commands: dict[str, list[Alert]] = {}
        for alert in self.watched.breaches if self.watched else []:
            commands.setdefault(alert.command.partition(" --reason")[0], []).append(alert)
        for first, *more in commands.values():
            yield Waiting(f"in breach: {first.text}{f'; and {len(more)} more' if more else ''}", first.command)
        for name, reason in self.holds.items():
            yield Waiting(
                f"{name} is on hold{f': {reason}' if reason else ''}", f"{project.command()} hold {name} --end"
            )

    def as_text(self) -> str:
        """Return the status as readable text."""
        source = ", ".join(self.source_changes) or "as pinned"
        lines = ["needs a person"] if (waiting := self.waiting()) else []
        for each in waiting:
            # A command is on its own line, however long, so that it can be copied.
            lines += [wrapped(each.what, "  ", "    "), f"    {each.command}"]
        lines += [""] if waiting else []
        lines += [f"data       {self.data.since} to {self.data.through} from {self.data.source} ({source})", ""]
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
        lines += [""] if self.channels else []
        lines += [wrapped(f"{name:<11}{self._serves(name, channel)}") for name, channel in self.channels.items()]
        if self.watched and "production" in self.channels:
            lines.append(wrapped(f"monitor    {self._seen(self.watched)}"))
        return "\n".join(lines)

    def _serves(self, name: "ChannelName", channel: "Channel") -> str:
        if channel.release is None:
            return f"nothing since {channel.at} (generation {channel.generation})"
        share = f" for {channel.traffic:.0%} of requests" if channel.traffic is not None else ""
        people = ", ".join(self.approvers.get(channel.release, []))
        marks = [
            f"{channel.release}{share} since {channel.at} (generation {channel.generation}, {channel.operation})",
            f"approved by {people}" if people else "no approval",
            "IN QUARANTINE" if channel.release in self.quarantine else "",
            "on hold" if name in self.holds else "",
        ]
        return ", ".join(filter(None, marks))

    def _seen(self, watched: Watched) -> str:
        if watched.at is None:
            return f"has not measured this release yet: `{project.command()} monitor`"
        breaches, incidents = len(watched.breaches), "; ".join(watched.incidents)
        return f"{breaches or 'no'} open {'breach' if breaches == 1 else 'breaches'} at {watched.at}" + (
            f"; open incident: {incidents}" if incidents else ""
        )


def project_status() -> ProjectStatus:
    """Collect the status without changing anything."""
    from ..params import load_params
    from ..releases import approving, ledger, tracking, worktree
    from ..releases.pipeline import LOCK_FILE, Pipeline, result_digest
    from ..releases.store import Store
    from ..stages import ingest
    from ..stages.source import read_pins, unpinned

    params = load_params()
    data = params.data
    _, files = ingest.look(data)
    pins = read_pins()
    changes = [f"{file.name} {'changed' if file.name in pins else 'new'}" for file in unpinned(files)]
    stages = Pipeline().status()
    # Finding out which files changed is slow, so only do it if DVC reports a change.
    changed = LOCK_FILE.exists() and not all(stage.fresh for stage in stages)
    differences = [str(each) for each in worktree.differences(Store())] if changed else []
    book = ledger.load()
    channels = book.channels()
    serving = {channel.release for channel in channels.values() if channel.release}
    counted = approving.count_all(book, book.read_releases(sorted(serving)))
    approvers = {
        name: [each.approval.by.split(" <")[0] for each in found if not each.problem] for name, found in counted.items()
    }
    quarantine = {each: kept.reason for each in sorted(serving) if (kept := book.quarantine(each))}
    holds = {name: held.reason for name in channels if (held := book.held(name))}
    tracked, is_tracked = tracking.last_tracked(), tracking.is_tracked()
    is_of_result = bool(tracked and LOCK_FILE.exists() and tracked.result_digest == result_digest())
    return ProjectStatus(
        data,
        changes,
        stages,
        differences,
        tracked,
        is_tracked,
        is_of_result,
        channels,
        holds,
        book.warnings(),
        quarantine,
        approvers,
        None if parts.why_off("monitoring") else _watched(book, params.monitoring),
    )


def _watched(book: "Ledger", settings: "Monitoring") -> Watched:
    """Read the monitor's own files, without measuring anything."""
    from ..monitoring import alerts, history
    from ..monitoring import incidents as log_of

    production = book.channel("production")
    release = production.release if production else None
    consecutive = {str(grain): many for grain, many in settings.consecutive.items()}
    at = history.last_run(release) if release else None
    if release is None or at is None:
        return Watched(None, [], [])
    worst = history.in_breach(history.read(release, consecutive))
    breaches = [alerts.of_series(release, each, settings.alerts) for each in worst]
    incidents = [each.title for each in log_of.find(book, settings) if each.ended is None]
    return Watched(f"{at:%Y-%m-%dT%H:%M:%SZ}", breaches, incidents)
