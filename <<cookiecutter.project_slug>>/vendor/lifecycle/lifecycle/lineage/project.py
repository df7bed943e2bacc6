"""The identity of this project for others: its name, and where its code is."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..releases import git
from ..releases.pipeline import artifacts


@dataclass(frozen=True)
class Project:
    """`name`: that of its model. `tables`: the kept tables. `repository`: the web page of its code, if any.

    `prefix`: the project's folder in its repository. `changed`: files that differ from `commit`.
    """

    name: str
    tables: tuple[str, ...]
    folder: Path
    repository: str | None
    prefix: str
    commit: str | None
    changed: frozenset[str]

    @property
    def address(self) -> str:
        """A URI for the whole project."""
        return self.repository or f"urn:ml-lifecycle:{self.name}"

    def url(self, file: str, commit: str | None) -> str:
        """Return the web page of a file, in a commit if there is one, in GitHub's form, which GitLab accepts too."""
        if self.repository and commit:
            return f"{self.repository}/blob/{commit}/{self.prefix}{file}"
        return (self.folder / file).as_uri()


def here() -> Project:
    """Return the project in the current folder, in its current state."""
    declared = artifacts()
    head = git.head()
    remote = git.remote() if head else None
    return Project(
        name=next(name for name, each in declared.items() if each["type"] == "model"),
        tables=tuple(each["path"] for each in declared.values() if each["type"] == "dataset"),
        folder=Path.cwd(),
        repository=web_address(git.git("remote", "get-url", remote).strip()) if remote else None,
        prefix=git.git("rev-parse", "--show-prefix").strip() if head else "",
        commit=head.sha if head else None,
        changed=frozenset(head.changed if head else ()),
    )


def web_address(remote: str) -> str | None:
    """Return the web page of a git remote, without user and password. None for a remote that is a folder."""
    if short := re.fullmatch(r"(?:[^@/:]+@)?([\w.-]{2,}):(?!/)(.+)", remote):
        host, path = short.groups()
    else:
        parts = urlsplit(remote)
        if parts.scheme not in ("http", "https", "ssh", "git") or not parts.hostname:
            return None
        port = f":{parts.port}" if parts.port and parts.scheme.startswith("http") else ""
        host, path = f"{parts.hostname}{port}", parts.path
    return f"https://{host}/{path.strip('/').removesuffix('.git')}"
