"""What the docs show is what their commands print, after `make demo` or in a fresh project."""

import re

import pytest

from baking import bake
from running import run, with_prefect
from test_docs import DOCS, TOLD, blocks, masked, with_output

pytestmark = pytest.mark.xdist_group("run")


@pytest.mark.parametrize("page", TOLD, ids=lambda page: page.name)
def test_a_page_prints_what_its_commands_print(page, lived):
    project, _ = lived
    text = page.read_text(encoding="utf-8")
    shown, now = masked(text), masked(with_output(text, project))
    assert shown == now


def test_the_quick_start_goes_as_it_says(ready, tmp_path):
    """After a first run, here out of another project's environment and cache."""
    project = with_prefect(bake(tmp_path / "out"), ready)
    (ready[0] / ".venv/.installed").touch()
    (project / ".venv").symlink_to(ready[0] / ".venv")
    run(project, ".venv/bin/dvc", "cache", "dir", "--local", str(ready[0] / ".dvc/cache"))
    for key in ("user.name", "user.email"):
        run(project, "git", "config", key, "tests@example.com")
    run(project, "make", "run")
    [commands] = blocks((DOCS / "quickstart.md").read_text(encoding="utf-8"))
    printed = run(project, "sh", "-ec", commands)
    for stage in ("ingest", "transform", "train", "evaluate"):
        assert re.search(rf"(?m)^{stage} +fresh$", printed)
    assert re.search(r"\br-[0-9a-f]{12}\b", printed)
    assert run(project, "git", "status", "--porcelain") == ""
