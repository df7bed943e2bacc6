"""The command: what it prints, and what its exit code says."""

import pytest

from lifecycle.commands.monitor import monitor
from lifecycle.errors import UserError
from lifecycle.monitoring import page
from lifecycle.testing import Releases, edit_params


def set_bound(releases: Releases, fire: float) -> None:
    bounds = {"score_psi": {"fire": fire, "clear": fire}}
    edit_params(releases.folder, {"monitoring": {"thresholds": bounds, "freshness": {}, "min_rows": 1}})


def test_a_breach_is_bad_news_and_none_is_not(releases: Releases) -> None:
    set_bound(releases, 0.0)
    bad = monitor("production", [], "2031-01-01T00:00")
    assert bad.code
    assert [each["check"] for each in bad.data["breaches"]] == ["score_psi"]
    assert "1 of 1 checks in breach" in bad.text
    set_bound(releases, 1000.0)
    good = monitor("production", [], "2031-01-02T00:00+02:00")
    assert not good.code and good.data["at"] == "2031-01-01T22:00:00"
    assert not good.data["breaches"] and not good.data["alerts"]


def test_windows_too_thin_to_judge_are_not_shown_as_healthy(releases: Releases) -> None:
    edit_params(releases.folder, {"monitoring": {"min_rows": 10_000, "freshness": {}}})
    said = monitor("production", [], "2031-01-01T00:00")
    assert not said.code and said.data["verdict"] == "no window could be judged"
    assert "checks in breach" not in said.text
    [thin] = said.data["thin"]
    assert (thin["grain"], thin["what"], thin["needed"]) == ("month", "rows", 10_000)
    assert list(thin["windows"]) == [each["window"] for each in said.data["windows"]]
    rows = f"{thin['least']:,}" if thin["least"] == thin["most"] else f"{thin['least']:,} to {thin['most']:,}"
    told = f"{len(thin['windows'])} months had too few rows to judge: {rows}"
    html = page.FILE.read_text(encoding="utf-8")
    assert told in said.text and told in html and 'class="verdict good"' not in html


def test_a_time_that_is_none_is_refused(releases: Releases) -> None:
    with pytest.raises(UserError, match="--at must be a time like"):
        monitor("production", [], "yesterday")
