"""On the real months, with a server under load all the time: nobody decides, and nothing fails.

After the tutorial: what happens here goes on where `make demo` ends.
"""

import json
import subprocess
import time

import pytest

from demo import Demo

pytestmark = pytest.mark.xdist_group("run")

PATIENCE_SECONDS = 300


def story_of(project, channel):
    """What a channel served: generation -> release."""
    demo = Demo(project)
    said = demo.run(demo.cli, "history", channel, "--limit", "99", "--json").stdout
    return json.loads(said)["entries"]


def state(demo):
    """All that a bad batch must leave alone."""
    tip = demo.run("git", "rev-parse", "lifecycle/ledger").stdout
    return tip, demo.serves(), (demo.project / "dvc.lock").read_bytes()


def test_a_healthy_release_arrives_and_a_worse_one_goes_without_a_person(lived):
    project, _ = lived
    demo = Demo(project)
    good = demo.serves()
    releases = [e["release"] for e in story_of(project, "production") if e["kind"] == "promote"]
    first = releases[-1]
    # The team's policy lets evidence decide, and a rollout has one canary share.
    demo.run(demo.cli, "restore", good)
    demo.set_params(
        r"production: \{after: staging, approvals: 1", "production: {after: staging, approvals: 0"
    )
    demo.set_params(r"shares: \[0.05, 0.25, 0.5\]", "shares: [0.5]")
    # The demo's own rollback was less than an hour ago.
    demo.set_params(r"cooldown_hours: \{rollback: 1,", "cooldown_hours: {rollback: 0,")
    demo.commit("Evidence decides")
    demo.pipeline("December arrives", "--through", "2013-12")
    healthy = demo.release("with December")

    with demo.served() as load:
        started = time.monotonic()
        while True:
            done = subprocess.run(
                [demo.cli, "rollout", healthy], cwd=project, capture_output=True, text=True
            )
            if done.returncode != 3:
                break
            assert time.monotonic() < started + PATIENCE_SECONDS, done.stdout
        assert done.returncode == 0, done.stdout + done.stderr
        assert demo.serves() == healthy
        last = story_of(project, "production")[0]
        assert (last["kind"], last["automation"]) == ("promote", True)
        assert last["evidence"]

        seen = subprocess.run(
            [demo.cli, "monitor", first, "--month", "2013-12", "--json"],
            cwd=project,
            capture_output=True,
            text=True,
        )
        assert seen.returncode == 1
        december = json.loads(seen.stdout)
        assert {"score_psi"} <= {each["check"] for each in december["breaches"]}
        assert december["alerts"]

        before = state(demo)
        demo.bad_delivery()
        assert state(demo) == before

        mistaken = demo.spoil()
        demo.promote(mistaken)
        demo.by_itself(load, mistaken)

    assert demo.serves() == healthy
    last = story_of(project, "production")[0]
    assert (last["kind"], last["automation"]) == ("rollback", True)
    figures = {each["check"] for each in last["evidence"]["trigger"]["figures"]}
    assert figures & {"skill_drop", "ranking_drop"}
    assert load.failed == []
    served = {
        (channel, entry["generation"]): entry["release"]
        for channel in ("production", "canary")
        for entry in story_of(project, channel)
    }
    for _, answer in load.answers:
        assert answer["release"] == served[answer["channel"], answer["generation"]]
    assert {good, healthy, mistaken} <= {answer["release"] for _, answer in load.answers}
