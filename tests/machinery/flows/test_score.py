"""The flow comes to what the command does."""

from pathlib import Path
<% if cookiecutter.fan_out != 'threads' %>
import pytest
<% endif %>
from lifecycle.releases import scoring
from lifecycle.params import load_params

from support import Releases, digests<% if cookiecutter.fan_out != 'threads' %>, edit_params


@pytest.mark.parametrize("runner", ["threads", "<< cookiecutter.fan_out >>"])
def test_every_runner_comes_to_the_same_files(api: str, releases: Releases, runner: str) -> None:
<%- else %>


def test_the_flow_comes_to_the_same_files(api: str, releases: Releases) -> None:
<%- endif %>
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from lifecycle.flows.score import score

    params = load_params()
    jobs, _ = scoring.plan("production", [], params.monitoring.columns)
    expected = scoring.score(jobs, workers=1)
    files = [Path(each.file) for each in expected]
    before = digests(*files)
    for file in files:
        file.unlink()
<%- if cookiecutter.fan_out != 'threads' %>
    edit_params(releases.folder, {"scoring": {"runner": runner}})
<%- endif %>
    with temporary_settings(updates={PREFECT_API_URL: api}):
        done = score()
    assert done == expected
    assert digests(*files) == before
