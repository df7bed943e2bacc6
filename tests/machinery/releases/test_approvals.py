"""Approvals: they are for one content, by one person, and signed where the project says by whom."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lifecycle.errors import UserError
from lifecycle.releases import approvals, approving, git
from lifecycle.releases import ledger as book
from lifecycle.releases.approvals import Approval, Counted
from lifecycle.releases.verify import verify_ledger
from lifecycle.testing import Releases, cli, cli_json, commit_all, new_repository, with_own_settings

import ledgers

# In `own_settings`: whom git takes the tests for. Alice, who releases, is somebody else.
TESTS = "Tests <tests@example.org>"


@pytest.fixture
def release_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small release by Alice; the test stands in its repository, as somebody else."""
    with_own_settings(new_repository(tmp_path / "repository"), monkeypatch)
    made = ledgers.record("content")
    ledgers.release(book.load(), made)
    return made.id


@pytest.fixture
def key(tmp_path: Path) -> Callable[[str], Path]:
    """Makes an SSH key."""

    def make(name: str) -> Path:
        path = tmp_path / "keys of people" / name
        path.parent.mkdir(exist_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        return path

    return make


def allow(people: dict[str, Path]) -> None:
    """Commit the file that says whose key is whose."""
    lines = [
        f'{mail} namespaces="{approvals.NAMESPACE}" {path.with_suffix(".pub").read_text("utf-8")}'
        for mail, path in people.items()
    ]
    Path(approvals.SIGNERS_FILE).write_text("".join(lines), encoding="utf-8")
    commit_all(Path.cwd(), "Whose approvals count")


def approve(release_id: str, signed_by: Path | None = None, comment: str = "") -> Approval:
    ledger = book.load()
    return approving.approve(ledger, ledger.release(release_id), comment, str(signed_by or ""))[0]


def counted(release_id: str) -> list[Counted]:
    ledger = book.load()
    return approving.count(ledger, ledger.release(release_id))


def put_into_ledger(release_id: str, **files: bytes) -> None:
    """As somebody does who writes to the branch with git alone."""
    entry = ledgers.Entry(kind="approve", release=release_id, by=TESTS, at=ledgers.AT)
    book.load().append(
        entry, lambda _: {f"approvals/{release_id}/{name.replace('_', '.')}": file for name, file in files.items()}
    )


def approval_of(release_id: str, by: str = TESTS, digest: str = "") -> bytes:
    digest = digest or book.load().release(release_id).digest
    return Approval(release=release_id, digest=digest, by=by, at=ledgers.AT, own=False).to_bytes()


def sign(content: bytes, key: Path, namespace: str = approvals.NAMESPACE) -> bytes:
    done = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", namespace], input=content, capture_output=True, check=True
    )
    return done.stdout


# Without signatures


def test_an_approval_says_who_and_when_and_why_and_names_the_content(release_id: str) -> None:
    approval = approve(release_id, comment="the slices look right")
    (found,) = counted(release_id)
    assert found == Counted(approval, signed=False)
    assert (approval.by, approval.own, approval.comment) == (TESTS, False, "the slices look right")
    assert approval.digest == book.load().release(release_id).digest
    last = book.load().last_entry()
    assert last and (last.kind, last.release, last.by, last.reason) == (
        "approve",
        release_id,
        TESTS,
        "the slices look right",
    )
    assert verify_ledger(book.load()).problems == []


@pytest.mark.parametrize(
    ("name", "mail", "own"),
    [
        ("Alice", "alice@example.org", True),
        ("A. L. Ice", "Alice@Example.org", True),
        ("Alice", "alice@example.com", False),
    ],
)
def test_one_s_own_is_recorded_as_such(
    release_id: str, name: str, mail: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_COMMITTER_NAME", name)
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", mail)
    assert approve(release_id).own is own
    assert counted(release_id)[0].approval.own is own


def test_a_second_one_of_a_person_takes_the_place_of_the_first(
    release_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(release_id, comment="one")
    second = approve(release_id, comment="two")
    assert [each.approval.comment for each in counted(release_id)] == ["two"]
    tip = book.load().tip
    assert (approve(release_id, comment="two"), book.load().tip) == (second, tip), "the same again is no other one"
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "somebody@example.org")
    approve(release_id, comment="three")
    assert {each.approval.comment for each in counted(release_id)} == {"two", "three"}


def test_one_for_another_content_does_not_count(release_id: str) -> None:
    put_into_ledger(release_id, other_json=approval_of(release_id, digest="0" * 64))
    (found,) = counted(release_id)
    assert found.problem == "it is for other content (000000000000)"


def test_one_for_another_release_put_beside_this_one_does_not_count(release_id: str) -> None:
    other = ledgers.record("other content")
    ledgers.release(book.load(), other)
    approve(other.id)
    (content,) = book.load().approvals(other.id).values()
    put_into_ledger(release_id, other_json=content)
    assert counted(release_id)[0].problem == f"it is for other content ({other.digest[:12]})"


def test_one_that_cannot_be_read_is_named(release_id: str) -> None:
    put_into_ledger(release_id, broken_json=b"{")
    with pytest.raises(UserError, match=rf"approvals/{release_id}/broken\.json in the ledger is not readable"):
        counted(release_id)


# With signatures


def test_the_right_key_is_accepted_and_recorded_as_signed(release_id: str, key: Callable[[str], Path]) -> None:
    mine = key("mine")
    allow({"tests@example.org": mine})
    approval = approve(release_id, mine)
    assert counted(release_id) == [Counted(approval, signed=True)]
    assert verify_ledger(book.load()).problems == []


def test_the_key_that_git_is_told_of_is_taken(release_id: str, key: Callable[[str], Path]) -> None:
    mine = key("mine")
    allow({"tests@example.org": mine})
    git.git("config", "user.signingKey", str(mine))
    approve(release_id)
    assert [each.signed for each in counted(release_id)] == [True]


def test_a_key_that_is_missing_is_said_how_to_name(release_id: str, key: Callable[[str], Path], tmp_path: Path) -> None:
    allow({"tests@example.org": key("mine")})
    before = book.load()
    with pytest.raises(UserError, match=r"--key.*git config user\.signingKey"):
        approve(release_id)
    with pytest.raises(UserError, match=r"could not be signed with .*no such key.*No such file"):
        approve(release_id, tmp_path / "no such key")
    assert book.load() == before


def test_a_foreign_key_is_refused(release_id: str, key: Callable[[str], Path]) -> None:
    mine, foreign = key("mine"), key("foreign")
    allow({"tests@example.org": mine, "bob@example.org": foreign})
    before = book.load()
    with pytest.raises(UserError, match=r"would not count: allowed_signers does not allow .* tests@example\.org"):
        approve(release_id, foreign)
    assert book.load() == before


def forged(release_id: str, key: Callable[[str], Path]) -> dict[str, dict[str, bytes]]:
    """What somebody with write access to the branch, and no key of Tests, may try."""
    mine, foreign = key("mine"), key("foreign")
    allow({"tests@example.org": mine, "bob@example.org": foreign})
    content = approval_of(release_id)
    other = approval_of(release_id, by="Bob <bob@example.org>")
    return {
        "no signature": {"a_json": content},
        "an empty signature": {"a_json": content, "a_sig": b""},
        "a foreign key": {"a_json": content, "a_sig": sign(content, foreign)},
        "a signature of something else": {"a_json": content, "a_sig": sign(other, mine)},
        "a signature for another purpose": {"a_json": content, "a_sig": sign(content, mine, "git")},
        "an approval that was edited": {"a_json": content.replace(b"false", b"true"), "a_sig": sign(content, mine)},
        "somebody who is not listed": {
            "a_json": (theirs := approval_of(release_id, by="Eve <eve@example.org>")),
            "a_sig": sign(theirs, foreign),
        },
    }


@pytest.mark.parametrize(
    "how",
    [
        "no signature",
        "an empty signature",
        "a foreign key",
        "a signature of something else",
        "a signature for another purpose",
        "an approval that was edited",
        "somebody who is not listed",
    ],
)
def test_a_forged_one_in_the_ledger_does_not_count(release_id: str, how: str, key: Callable[[str], Path]) -> None:
    put_into_ledger(release_id, **forged(release_id, key)[how])
    (found,) = counted(release_id)
    assert not found.signed
    assert ("not signed" if how == "no signature" else "does not allow this signature") in found.problem


def test_the_honest_counterpart_of_the_forged_ones_counts(release_id: str, key: Callable[[str], Path]) -> None:
    mine = key("mine")
    allow({"tests@example.org": mine})
    content = approval_of(release_id)
    put_into_ledger(release_id, a_json=content, a_sig=sign(content, mine))
    assert [each.problem for each in counted(release_id)] == [""]


def test_what_is_not_committed_allows_nobody(release_id: str, key: Callable[[str], Path]) -> None:
    mine, foreign = key("mine"), key("foreign")
    allow({"tests@example.org": mine})
    committed = Path(approvals.SIGNERS_FILE).read_text(encoding="utf-8")
    foreign_line = committed.replace(
        mine.with_suffix(".pub").read_text("utf-8"), foreign.with_suffix(".pub").read_text("utf-8")
    )
    assert foreign_line != committed
    Path(approvals.SIGNERS_FILE).write_text(foreign_line, encoding="utf-8")
    with pytest.raises(UserError, match="would not count"):
        approve(release_id, foreign)
    Path(approvals.SIGNERS_FILE).unlink()
    with pytest.raises(UserError, match="approvals are signed in this project"):
        approve(release_id)
    commit_all(Path.cwd(), "No signatures any more")
    assert not approve(release_id).own
    assert [each.signed for each in counted(release_id)] == [False]


def test_signatures_wanted_later_are_wanted_of_those_before(release_id: str, key: Callable[[str], Path]) -> None:
    approve(release_id)
    assert counted(release_id)[0].problem == ""
    allow({"tests@example.org": key("mine")})
    assert counted(release_id)[0].problem == "it is not signed"


def test_a_file_that_lists_nobody_allows_nobody(release_id: str, key: Callable[[str], Path]) -> None:
    allow({})
    assert approvals.allowed_signers() == b""
    with pytest.raises(UserError, match="would not count"):
        approve(release_id, key("mine"))


# By the command line, up to the promotion


def test_signed_approvals_open_production_and_nothing_else_does(releases: Releases, key: Callable[[str], Path]) -> None:
    mine, foreign = key("mine"), key("foreign")
    allow({"tests@example.org": mine})
    # The approval of before is not signed.
    done = cli("promote", releases.second, "--to", "production")
    assert done.returncode == 1
    assert f"that of {TESTS} does not count: it is not signed: `approve {releases.second}`" in done.stderr
    done = cli("approve", releases.second, "--key", str(foreign))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: your approval would not count: allowed_signers does not allow")
    content = approval_of(releases.second, by="Somebody <tests@example.org>")
    put_into_ledger(releases.second, forged_json=content, forged_sig=sign(content, foreign))
    done = cli("promote", releases.second, "--to", "production")
    assert done.returncode == 1
    assert "that of Somebody <tests@example.org> does not count: allowed_signers does not allow" in done.stderr
    said = cli_json("approve", releases.second, "--key", str(mine), "--comment", "looked at it")
    assert (said["signed"], said["own"], said["comment"]) == (True, True, "looked at it")
    cli_json("promote", releases.second, "--to", "production")
    entry = book.load().last_entry()
    assert entry and [(each["by"], each["signed"]) for each in entry.evidence["approvals"]] == [(TESTS, True)]
    assert json.loads(cli("verify", releases.second, "--json").stdout)["verified"][0]["problems"] == [
        "approval of Somebody <tests@example.org>: allowed_signers does not allow this signature for tests@example.org"
    ]


@pytest.mark.parametrize(
    "by", ["Ada", "<ada@example.org>", " <a@b.c>", "Ada <ada>", "Ada <a@b.c>\nx <y@z.w>", "A <a@b c>"]
)
def test_an_approval_is_somebodys(release_id: str, by: str) -> None:
    ledger = book.load()
    with pytest.raises(UserError, match="an approval needs a person"):
        approving.approve(ledger, ledger.release(release_id), by=by)
    assert book.load().tip == ledger.tip


def test_an_approval_in_another_name_counts_as_that_persons(release_id: str) -> None:
    ledger = book.load()
    approving.approve(ledger, ledger.release(release_id), by="Ada Lovelace <ada@example.org>")
    (found,) = counted(release_id)
    assert (found.approval.by, found.problem) == ("Ada Lovelace <ada@example.org>", "")
