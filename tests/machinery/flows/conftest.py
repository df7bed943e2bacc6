"""Prefect's API for the tests of flows: one a process, since Prefect reads where it is only once."""

import os
from collections.abc import Iterator
from contextlib import chdir

import pytest


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prefect's API, as a run starts it for itself when no server is there."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("PREFECT_"):
                patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setenv("PREFECT_API_URL", "")
        from lifecycle.flows import server

        with chdir(home):
            server.ensure_api()
        yield os.environ["PREFECT_API_URL"]
        process = server._started.pop()
        process.kill()
        process.wait()
