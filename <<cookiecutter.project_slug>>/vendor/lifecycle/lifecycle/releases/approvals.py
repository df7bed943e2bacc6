"""Approvals: who has reviewed exactly this release and agrees to it.

An approval names the release's digest. If the project has an `allowed_signers` file (the format is in the `ssh-keygen`
manual), an approval counts only if it is signed with a key that the file lists for the approver.
"""

import hashlib
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from . import git
from .entries import Stored
from .record import Release

SIGNERS_FILE = "allowed_signers"
NAMESPACE = "ml-lifecycle-approval"
PERSON = re.compile(r"[^<>\n]*[^<>\s][^<>\n]* <[^<>\s@]+@[^<>\s@]+>")


class Approval(Stored):
    """One person's agreement to one release. `own`: the approver is the person who released it."""

    release: str
    digest: str
    by: str
    at: str
    own: bool
    comment: str = ""


@dataclass(frozen=True)
class Counted:
    """An approval and whether it counts. `problem` is empty if it does."""

    approval: Approval
    signed: bool
    problem: str = ""


def mail_of(person: str) -> str:
    """Return the address in `Name <mail>`. Signatures are checked against it."""
    return person.rpartition("<")[2].rstrip(">")


def is_own(person: str, release: Release) -> bool:
    """Return whether this person made the release. Compares addresses only: a name can be written in many ways."""
    return mail_of(person).lower() == mail_of(release.observed["by"]).lower()


def file_name(person: str) -> str:
    """Return the name of the ledger file that holds a person's approval."""
    plain = re.sub(r"[^a-z0-9]+", "-", mail_of(person).lower()).strip("-")
    return f"{plain}-{hashlib.sha256(person.encode()).hexdigest()[:6]}"


def default_key() -> str:
    """Return the key that git signs with."""
    try:
        return git.git("config", "--get", "user.signingKey").strip()
    except git.GitError:
        raise UserError(
            f"approvals are signed in this project ({SIGNERS_FILE} is there): name your SSH key with --key, "
            "or permanently with `git config user.signingKey ~/.ssh/id_ed25519`"
        ) from None


def held_against(files: dict[str, bytes], release: Release, signers: bytes | None) -> list[Counted]:
    """Return the approvals in these files, each with whether it counts. `signers`: the allowed signers file, if any."""
    found = []
    for path, content in files.items():
        if not path.endswith(".json"):
            continue
        signature = files.get(path.removesuffix(".json") + ".sig")
        try:
            approval = Approval.model_validate_json(content)
        except ValueError:
            raise UserError(f"{path} in the ledger is not readable") from None
        problem = problem_with(approval, content, signature, release, signers)
        found.append(Counted(approval, signed=signature is not None and not problem, problem=problem))
    return found


def allowed_signers() -> bytes | None:
    """Return the committed file of allowed signers, or None. An uncommitted file does not count."""
    return git.read(f"HEAD:./{SIGNERS_FILE}")[0]


def signers_blob() -> str | None:
    """Return the git blob of the allowed signers file."""
    try:
        return git.git("rev-parse", "--verify", "--quiet", f"HEAD:./{SIGNERS_FILE}").strip()
    except git.GitError:
        return None


def problem_with(
    approval: Approval, content: bytes, signature: bytes | None, release: Release, signers: bytes | None
) -> str:
    """Return why an approval does not count, or an empty string if it does."""
    if approval.digest != release.digest:
        return f"it is for other content ({approval.digest[:12]})"
    if signers is None:
        return ""
    if signature is None:
        return "it is not signed"
    with tempfile.TemporaryDirectory(prefix="approval-") as folder:
        Path(folder, "signers").write_bytes(signers)
        Path(folder, "sig").write_bytes(signature)
        who = mail_of(approval.by)
        verify = ["-Y", "verify", "-f", f"{folder}/signers", "-I", who, "-n", NAMESPACE, "-s", f"{folder}/sig"]
        return "" if _ssh_keygen(verify, content)[0] else f"{SIGNERS_FILE} does not allow this signature for {who}"


def sign(content: bytes, key: str) -> bytes:
    """Sign this content with an SSH key."""
    with tempfile.TemporaryDirectory(prefix="approval-") as folder:
        file = Path(folder, "approval.json")
        file.write_bytes(content)
        done, said = _ssh_keygen(["-Y", "sign", "-f", str(Path(key).expanduser()), "-n", NAMESPACE, str(file)])
        if not done:
            raise UserError(f"the approval could not be signed with {key}: {said}")
        return Path(f"{file}.sig").read_bytes()


def _ssh_keygen(arguments: list[str], content: bytes = b"") -> tuple[bool, str]:
    try:
        done = subprocess.run(["ssh-keygen", *arguments], input=content, capture_output=True)
    except FileNotFoundError:
        raise UserError("ssh-keygen is not installed: signed approvals need OpenSSH") from None
    return done.returncode == 0, " ".join((done.stdout + done.stderr).decode("utf-8", "replace").split())
