"""Ledgers without a pipeline: small records by hand, in a repository of a few bytes."""

from typing import Any

from lifecycle.releases import git
from lifecycle.releases import ledger as book
from lifecycle.releases.ledger import Channel, ChannelName, Entry, Kind, Ledger, Quarantine
from lifecycle.releases.record import Release

AT = "2020-01-01T00:00:00+00:00"
BY = "Alice <alice@example.org>"
NO_RULES = {"approvals": 0}


def record(content: str) -> Release:
    """A record of nothing but its source, in a commit that no branch names."""
    tree = git.tree_with(None, {"content.txt": content.encode()})
    commit = git.commit_tree(tree, [], f"{content}\n")
    observed = {"commit": commit, "by": BY, "at": AT}
    return Release({"predicate": {"materials": {"git": {"tree": tree}}, "content": content, "observed": observed}})


def release(ledger: Ledger, made: Release, by: str = BY) -> Ledger:
    entry = Entry(kind="release", release=made.id, by=by, at=AT)
    return ledger.append(entry, lambda _: {f"releases/{made.id}.json": made.to_bytes()}, parent=made.commit)


def approve(ledger: Ledger, release_id: str, by: str = BY) -> Ledger:
    entry = Entry(kind="approve", release=release_id, by=by, at=AT)
    return ledger.append(entry, lambda _: {f"approvals/{release_id}/{by.split()[0].lower()}.json": b"{}\n"})


def promote(ledger: Ledger, release_id: str, to: ChannelName, by: str = BY, at: str = AT) -> Ledger:
    lifted: dict[str, bytes | None] = {}
    if ledger.quarantine(release_id):
        lifted[f"quarantine/{release_id}.json"] = None
    entry = _move(ledger, "promote", to, release_id, by, at).model_copy(update={"evidence": {"policy": NO_RULES}})
    return ledger.append(
        entry,
        lambda numbered: {f"channels/{to}.json": channel_of(numbered).to_bytes()} | lifted,
        guards=[f"quarantine/{release_id}.json"],
    )


def rollback(
    ledger: Ledger, name: ChannelName, release_id: str | None, by: str = BY, at: str = AT, offline: bool = False
) -> Ledger:
    channel = ledger.channel(name)
    assert channel is not None and channel.release is not None
    left = channel.release
    entry = _move(ledger, "rollback", name, release_id, by, at).model_copy(update={"evidence": {"quarantined": left}})

    def files(numbered: Entry) -> dict[str, bytes | None]:
        why = Quarantine(release=left, channel=name, entry=numbered.number, by=by, at=at, reason="worse")
        return {
            f"channels/{name}.json": channel_of(numbered).to_bytes(),
            f"quarantine/{left}.json": why.to_bytes(),
        }

    return ledger.append(entry, files, guards=[f"quarantine/{release_id}.json"] if release_id else [], offline=offline)


def channel_of(entry: Entry) -> Channel:
    """What the channel's file says after this entry."""
    return Channel(
        release=entry.release,
        generation=entry.generation or 0,
        previous=entry.previous,
        entry=entry.number,
        operation=entry.kind,
        by=entry.by,
        at=entry.at,
        reason=entry.reason,
    )


def _move(ledger: Ledger, kind: Kind, name: ChannelName, release_id: str | None, by: str, at: str) -> Entry:
    channel = ledger.channel(name)
    return Entry(
        kind=kind,
        release=release_id,
        channel=name,
        generation=(channel.generation if channel else 0) + 1,
        previous=channel.release if channel else None,
        by=by,
        at=at,
        reason="worse" if kind == "rollback" else "wanted",
    )


def forge(ledger: Ledger, release_id: str, whole_tree: bool = True, **values: Any) -> Ledger:
    """A promotion to production as somebody writes it who does not ask: by git's plumbing.

    Args:
        ledger: what it is put on.
        release_id: what is promoted.
        whole_tree: whether the commit holds the other files of the ledger too.
        values: of the entry, in place of those that it should have.
    """
    entry = _move(ledger, "promote", "production", release_id, "Mallory <mallory@example.org>", AT)
    entry = entry.model_copy(update={"number": ledger.number + 1, "after": ledger.tip, **values})
    changes: dict[str, bytes | str | None] = {
        book.ENTRY: entry.to_bytes(),
        f"channels/{entry.channel}.json": channel_of(entry).to_bytes(),
    }
    if f"quarantine/{release_id}.json" in ledger.files:
        changes[f"quarantine/{release_id}.json"] = None
    return put(ledger, changes, whole_tree)


def put(ledger: Ledger, changes: dict[str, bytes | str | None], whole_tree: bool = True) -> Ledger:
    """A commit of these files on top of a ledger, by git's plumbing."""
    tree = git.tree_with(ledger.tip if whole_tree else None, changes)
    git.git("update-ref", book.REF, git.commit_tree(tree, [str(ledger.tip)], "Forged\n"))
    return book.load()
