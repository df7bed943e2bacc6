"""The flow comes to what the command does."""

from pathlib import Path

import pytest

from lifecycle.params import load_params
from lifecycle.releases import scoring
from lifecycle.testing import Releases, digests, edit_params


@pytest.mark.parametrize("runner", ["threads", "dask"])
def test_every_runner_comes_to_the_same_files(api: str, releases: Releases, runner: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from lifecycle.flows.score import score

    params = load_params()
    jobs, _ = scoring.plan("production", [], params.monitoring.columns)
    expected = scoring.score(jobs, workers=1)
    files = [Path(each.file) for each in expected]
    before = digests(*files)
    for file in files:
        file.unlink()
    edit_params(releases.folder, {"fan_out": {"runner": runner}})
    with temporary_settings(updates={PREFECT_API_URL: api}):
        done = score()
    assert done == expected
    assert digests(*files) == before
