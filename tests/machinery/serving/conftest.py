"""Servers, and a release whose model fails when it is told to."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lifecycle import params
from lifecycle.testing import OWN, Releases, commit_all, copy_project, with_own_settings

from clients import SABOTAGE, Serve, Served, running
from workers import move


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server here, with these settings in place of the defaults, until the test ends."""
    with ExitStack() as stack:

        def start(token: str | None = None, names: Sequence[str] = (), seconds: int = 60, **changes: Any) -> Served:
            settings = params.Serving.model_validate(changes)
            return stack.enter_context(running(settings, token, names, seconds))

        yield start


@pytest.fixture(scope="session")
def three_releases(two_releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy with a third release in staging, whose model can be told to fail; its id. Never to be changed."""
    from dvc.repo import Repo

    from lifecycle.releases import reconcile, release

    folder = tmp_path_factory.mktemp("three") / "project"
    copy_project(two_releases.folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        with_own_settings(folder, patch)
        with (folder / "src" / OWN / "model.py").open("a", encoding="utf-8") as file:
            file.write(SABOTAGE)
        commit_all(folder, "A model that fails when it is told to")
        repo = Repo(".")
        repo.commit(force=True)  # the same outputs, of the new code
        repo.close()
        opened = reconcile.open_ledger()
        made = release.release(opened.ledger, opened.store).release.id
        move(made, "staging")
    return folder, made


@pytest.fixture
def third(releases: Releases, three_releases: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of that release; the test stands in a copy of its own, where `first` serves production."""
    shutil.rmtree(releases.folder)
    copy_project(three_releases[0], releases.folder)
    monkeypatch.chdir(releases.folder)
    return three_releases[1]
