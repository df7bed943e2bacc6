"""The flow maps the months over the runner that params.yaml names, and comes to what the command does."""

import importlib.util
from pathlib import Path

import pytest

from << cookiecutter.package_name >>.errors import UserError
from << cookiecutter.package_name >>.lifecycle import scoring
from << cookiecutter.package_name >>.params import Scoring, load_params

from support import Releases, digests, edit_params


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@pytest.mark.parametrize(
    "runner",
    [
        "threads",
        pytest.param("dask", marks=pytest.mark.skipif(not has("prefect_dask"), reason="prefect-dask is an extra")),
        pytest.param("ray", marks=pytest.mark.skipif(not has("prefect_ray"), reason="prefect-ray is an extra")),
    ],
)
def test_every_runner_comes_to_the_same_files(api: str, releases: Releases, runner: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from << cookiecutter.package_name >>.flows.score import score

    params = load_params()
    jobs, _ = scoring.plan("production", [], params.monitoring.columns)
    expected = scoring.score(jobs, workers=1)
    files = [Path(each.file) for each in expected]
    before = digests(*files)
    for file in files:
        file.unlink()
    edit_params(releases.folder, {"scoring": {"runner": runner}})
    with temporary_settings(updates={PREFECT_API_URL: api}):
        done = score()
    assert done == expected
    assert digests(*files) == before


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_runner_that_is_not_installed_is_named(runner: str) -> None:
    if has(f"prefect_{runner}"):
        pytest.skip("it is installed")
    from << cookiecutter.package_name >>.flows import score

    with pytest.raises(UserError, match=f"scoring.runner is {runner}, which is not installed"):
        score.runner(Scoring(runner=runner, workers=2))  # type: ignore[arg-type]
