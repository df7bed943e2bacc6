"""The project meets the machinery's contract. Look here first after a rewrite."""

from pathlib import Path

from lifecycle.testing import ROOT, cli


def test_the_project_meets_the_contract() -> None:
    done = cli("check", folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_so_does_what_the_pipeline_built(finished: Path) -> None:
    """Once there are features and a model, they are held to it too."""
    done = cli("check", folder=finished)
    assert done.returncode == 0, done.stdout + done.stderr
