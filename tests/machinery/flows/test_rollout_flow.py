"""The flow is one pass of the same function, on what staging serves."""

from lifecycle.releases import ledger as book
from lifecycle.testing import Releases


def test_a_run_takes_what_staging_serves_and_says_where_it_stands(api: str, releases: Releases) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from lifecycle.flows.rollout import rollout

    with temporary_settings(updates={PREFECT_API_URL: api}):
        assert rollout() == "waiting"
        canary = book.load().channel("canary")
        assert canary is not None
        assert (canary.release, canary.traffic) == (releases.second, 0.05)
        assert rollout(releases.first) == "done"
