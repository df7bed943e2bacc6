"""What becomes of the watermark when a run that was to move it fails."""

from pathlib import Path

import pytest

from lifecycle.commands import run
from lifecycle.errors import UserError
from lifecycle.params import load_params


@pytest.mark.parametrize("built_before_it_failed", [False, True])
def test_the_watermark_stays_where_the_results_are(
    built_before_it_failed: bool, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_params().data.through
    lower = load_params().data.since

    def fail() -> bool:
        if built_before_it_failed:
            Path("dvc.lock").write_text("of the new window", encoding="utf-8")
        raise UserError("no")

    monkeypatch.setattr(run, "_run", fail)
    with pytest.raises(UserError, match="no"):
        run.run_pipeline(lower)
    assert load_params().data.through == (lower if built_before_it_failed else before)
