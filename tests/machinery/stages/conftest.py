"""A source to land, without a project around it."""

import shutil
from pathlib import Path

import pytest

from lifecycle.params import set_through
from lifecycle.testing import ROOT, edit_params

import synthetic


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and a source of three months, nothing landed; the watermark is the last month."""
    for name in ("params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    edit_params(tmp_path, synthetic.PARAMS)
    synthetic.write_source(tmp_path / "extracts", synthetic.MONTHS[:3])
    monkeypatch.chdir(tmp_path)
    set_through(synthetic.MONTHS[2])
    return tmp_path
