"""The command: what it prints, and what its exit code says."""

import pytest

from lifecycle.commands.monitor import monitor
from lifecycle.errors import UserError

from lifecycle.testing import Releases, edit_params


def set_bound(releases: Releases, fire: float) -> None:
    bounds = {"score_psi": {"fire": fire, "clear": fire}}
    edit_params(releases.folder, {"monitoring": {"thresholds": bounds, "freshness": {}, "min_rows": 1}})


def test_a_breach_is_bad_news_and_none_is_not(releases: Releases) -> None:
    set_bound(releases, 0.0)
    bad = monitor("production", [], "2031-01-01T00:00")
    assert not bad.ok
    assert [each["check"] for each in bad.data["breaches"]] == ["score_psi"]
    assert "1 of 1 checks in breach" in bad.text
    set_bound(releases, 1000.0)
    good = monitor("production", [], "2031-01-02T00:00+02:00")
    assert good.ok and good.data["at"] == "2031-01-01T22:00:00"
    assert not good.data["breaches"] and not good.data["alerts"]


def test_a_time_that_is_none_is_refused(releases: Releases) -> None:
    with pytest.raises(UserError, match="--at is a time like"):
        monitor("production", [], "yesterday")
