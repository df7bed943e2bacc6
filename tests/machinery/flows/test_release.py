"""Releases as flows: the same functions, and nobody at the keyboard. Without Prefect everything works too."""

import subprocess
import sys

import pytest

from lifecycle.errors import UserError
from lifecycle.processes import free_port
from lifecycle.releases import ledger, operations
from lifecycle.testing import Releases, cli_json, commit_all, environment


@pytest.fixture
def in_flows(api: str, releases: Releases, monkeypatch: pytest.MonkeyPatch) -> Releases:
    monkeypatch.setenv("PREFECT_API_URL", api)
    return releases


def test_flows_promote_and_roll_back_and_say_that_it_was_automation(in_flows: Releases) -> None:
    from lifecycle.flows import release as flows

    assert flows.promote(in_flows.second, "production") == 2
    assert flows.rollback("production", "it drifts") == in_flows.first
    book = ledger.load()
    channel = book.channel("production")
    assert channel is not None
    assert (channel.release, channel.generation) == (in_flows.first, 3)
    assert [entry.automation for _, entry in book.entries()[-2:]] == [True, True]


def test_a_flow_never_promotes_what_was_rolled_back_and_a_person_may(in_flows: Releases) -> None:
    from lifecycle.flows import release as flows

    operations.promote(in_flows.second, "production")
    operations.rollback("production", "it drifts")
    with pytest.raises(UserError, match="Automation does not promote it again; a person may"):
        flows.promote(in_flows.second, "production", reason="try once more")
    assert operations.promote(in_flows.second, "production", reason="the drift was in the labels").result.changed
    assert ledger.load().quarantine(in_flows.second) is None


def test_a_flow_releases_the_same_content_once(in_flows: Releases) -> None:
    from lifecycle.flows import release as flows

    before = ledger.load().tip
    assert flows.release("nightly") == in_flows.second
    assert ledger.load().tip == before


def test_what_has_been_dealt_with_is_not_rolled_back_again(in_flows: Releases) -> None:
    from lifecycle.flows import release as flows

    operations.promote(in_flows.second, "production")
    before = ledger.load().tip
    assert flows.rollback("production", "an old event", generation=1) is None
    assert ledger.load().tip == before
    assert flows.rollback("production", "it drifts", generation=2) == in_flows.first


def test_where_approvals_are_signed_the_page_is_no_way_around(in_flows: Releases) -> None:
    from lifecycle.flows import release as flows

    (in_flows.folder / "allowed_signers").write_text("ada@example.org ssh-ed25519 AAAA\n", encoding="utf-8")
    commit_all(in_flows.folder, "Approvals are signed")
    before = ledger.load().tip
    with pytest.raises(UserError, match="approvals are signed in this project"):
        flows.approve(in_flows.second)
    assert ledger.load().tip == before


NO_PREFECT = """
import sys
from lifecycle.releases import operations
operations.promote(sys.argv[1], "production")
operations.rollback("production", "no reason to wait for Prefect")
assert not any(name.split(".")[0] == "prefect" for name in sys.modules), "prefect was imported"
"""


def test_with_prefect_down_promotion_and_rollback_go_on(releases: Releases) -> None:
    dead = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    command = [sys.executable, "-c", NO_PREFECT, releases.second]
    subprocess.run(command, env=environment(releases.folder, **dead), check=True)
    (last, *_) = cli_json("history", "production", **dead)["entries"]
    assert (last["kind"], last["release"], last["automation"]) == ("rollback", releases.first, False)
