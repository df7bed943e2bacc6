from collections.abc import Iterator
from pathlib import Path

import pytest

from machines import Team, made_team


@pytest.fixture
def team(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    """A team's machines, with the project's repository and DVC remote there."""
    with made_team(built, tmp_path, monkeypatch) as team:
        yield team
