"""A test that lacks something is skipped on a laptop, and fails in CI."""

import pytest
from needs import lacking


@pytest.mark.parametrize(
    ("ci", "without", "outcome"),
    [
        ("", "", pytest.skip.Exception),
        ("true", "", pytest.fail.Exception),
        ("true", "mounts", pytest.fail.Exception),
        ("true", "mounts chromium", pytest.skip.Exception),
    ],
)
def test_ci_skips_nothing_that_it_does_not_name(ci, without, outcome, monkeypatch):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("TESTS_WITHOUT", without)
    with pytest.raises(outcome, match="no browser"):
        lacking("chromium", "no browser")
