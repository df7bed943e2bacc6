"""Approve a release, and count the approvals that the ledger has for it."""

from collections.abc import Iterable

from ..errors import UserError
from . import git
from .approvals import (
    PERSON,
    Approval,
    Counted,
    allowed_signers,
    default_key,
    file_name,
    held_against,
    is_own,
    problem_with,
    sign,
)
from .entries import Entry
from .ledger import Ledger
from .record import Release


def approve(
    ledger: Ledger, release: Release, comment: str = "", key: str = "", by: str = ""
) -> tuple[Approval, Ledger]:
    """Write an approval of this release. Approving again without a change does nothing.

    Args:
        ledger: the current ledger.
        release: the release to approve.
        comment: stored with the approval.
        key: an SSH key to sign with; by default git's `user.signingKey`.
        by: `Name <mail>`; by default the person at the keyboard.

    Raises:
        UserError: `by` is not of the form `Name <mail>`, or a signature is required but cannot be made or is not valid.
    """
    by = by or git.identity()
    if not PERSON.fullmatch(by):
        raise UserError(f"an approval needs a person, like Ada Lovelace <ada@example.org>, not {by!r}")
    for given in count(ledger, release):
        if not given.problem and (given.approval.by, given.approval.comment) == (by, comment):
            return given.approval, ledger
    approval = Approval(
        release=release.id, digest=release.digest, by=by, at=ledger.now(), own=is_own(by, release), comment=comment
    )
    path = f"approvals/{release.id}/{file_name(by)}"
    files: dict[str, bytes | None] = {f"{path}.json": approval.to_bytes()}
    if (signers := allowed_signers()) is not None:
        signature = sign(approval.to_bytes(), key or default_key())
        if problem := problem_with(approval, approval.to_bytes(), signature, release, signers):
            raise UserError(f"your approval would not count: {problem}. Nothing was changed")
        files[f"{path}.sig"] = signature
    entry = Entry(kind="approve", release=release.id, by=by, at=approval.at, reason=comment)
    return approval, ledger.append(entry, lambda _: files)


def count(ledger: Ledger, release: Release) -> list[Counted]:
    """Return every approval of this release, each with whether it counts."""
    return count_all(ledger, [release])[release.id]


def count_all(ledger: Ledger, releases: Iterable[Release]) -> dict[str, list[Counted]]:
    """Return every approval of these releases, by release id."""
    signers = allowed_signers()
    return {release.id: held_against(ledger.approvals(release.id), release, signers) for release in releases}
