"""Servers on machines of their own follow the ledger, which a person moves on a laptop."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from lifecycle.processes import running, wait_until
from lifecycle.testing import CLI, Releases, cli_json, commit_all, edit_params

from hosts import Host
from team import Team, team

PORT = 8080


def ask(host: Host, path: str, method: str = "GET") -> Any:
    with urlopen(Request(f"http://{host.address}:{PORT}{path}", method=method), timeout=5) as answer:
        text = answer.read().decode()
        return json.loads(text) if path != "/metrics" else text


def wait_for(release: str, *hosts: Host) -> None:
    """Wait until each of these hosts answers with the release."""

    def there(host: Host) -> bool:
        try:
            return bool(ask(host, "/info")["channels"]["production"]["release"] == release)
        except (OSError, KeyError):
            return False

    for host in hosts:
        log = host.folder / "serve.log"
        try:
            wait_until(lambda host=host: there(host))  # type: ignore[misc]
        except AssertionError:
            raise AssertionError(f"{host.folder.name} does not serve {release}: {log.read_text()}") from None


@contextmanager
def serving(made: Team, name: str, **settings: Any) -> Iterator[Host]:
    """A host that serves, with these settings of `serving` in params.yaml."""
    host = made.host(name)
    folder = made.clone(host)
    edit_params(folder, {"serving": settings})
    command = host.command(*CLI, "serve", "--host", "0.0.0.0", "--port", str(PORT), "--no-token")
    with running(command, folder, host.folder / "serve.log", made.settings(folder)):
        yield host


def use(made: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type commands on the laptop from now on."""
    for name, value in made.settings(made.laptop).items():
        monkeypatch.setenv(name, value)


def sign_approvals(made: Team, key: Path, release: str) -> None:
    """From now on approvals must be signed, which the hosts' clones are too old to know."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    signers = f"tests@example.org {key.with_suffix('.pub').read_text(encoding='utf-8')}"
    (made.laptop / "allowed_signers").write_text(signers, encoding="utf-8")
    commit_all(made.laptop, "Who may approve")
    subprocess.run(["git", "push", "--quiet", "origin", "main"], cwd=made.laptop, check=True)
    cli_json("approve", release, "--key", str(key))


def test_every_host_follows_what_a_laptop_decides(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon, late = {"follow_seconds": 0.5}, {"follow_seconds": None}
    with team(releases.folder) as made, serving(made, "east", **soon) as east, serving(made, "west", **late) as west:
        use(made, monkeypatch)
        wait_for(releases.first, east, west)
        assert not made.clone(east).joinpath(".lifecycle/releases", releases.second).exists()

        sign_approvals(made, tmp_path / "key", releases.second)
        cli_json("promote", releases.second, "--to", "production", "--reason", "it is better")
        wait_for(releases.second, east)
        assert ask(west, "/info")["channels"]["production"]["release"] == releases.first
        assert ask(west, "/ledger", "POST") == {"status": "accepted"}
        wait_for(releases.second, west)

        east.unplug()
        cli_json("rollback", "production", "--reason", "it is worse")
        ask(west, "/ledger", "POST")
        wait_for(releases.first, west)
        east.plug()
        wait_for(releases.first, east)


def test_a_host_without_the_git_server_says_so_and_goes_on(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    with team(releases.folder) as made, serving(made, "east", follow_seconds=0.5) as east:
        use(made, monkeypatch)
        wait_for(releases.first, east)
        wait_until(lambda: ask(east, "/info")["ledger"]["asked"])
        assert ask(east, "/info")["ledger"]["problem"] is None
        for process in psutil.process_iter(["cmdline"]):
            if f"--base-path={made.laptop.parent / 'servers'}" in (process.info["cmdline"] or ()):
                process.kill()
        wait_until(lambda: ask(east, "/info")["ledger"]["problem"])
        state = ask(east, "/info")
        assert "cannot be reached" in state["ledger"]["problem"]
        assert state["channels"]["production"]["release"] == releases.first
        assert ask(east, "/health/ready")["status"] == "ready"
        (age,) = [line for line in ask(east, "/metrics").splitlines() if line.startswith("serving_ledger_age_seconds ")]
        assert float(age.split()[1]) > 0
