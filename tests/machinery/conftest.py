"""The machinery's tests: on plain Python, on a project that is baked for them or named by --project."""

import under_test

under_test.prepare()

import pytest
from hypothesis import settings

from lifecycle.testing import ROOT
from lifecycle.testing.projects import *  # noqa: F403  the fixtures

# The machine may be busy: how long one example takes says nothing.
settings.register_profile("project", deadline=None, max_examples=50)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def at_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start where a person would; most tests go on to a copy."""
    monkeypatch.chdir(ROOT)


def pytest_collection_modifyitems(items):
    """Tests of a file share its fixtures: they stay on one worker."""
    for item in items:
        if "machinery" in item.path.parts and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
