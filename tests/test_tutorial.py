"""What the tutorial shows is what its commands print, in the project that `make demo` leaves."""

import pytest

from test_docs import DOCS, masked, with_output


@pytest.mark.xdist_group("run")
def test_the_tutorial_prints_what_the_commands_print(lived):
    project, _ = lived
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    shown, now = masked(page), masked(with_output(page, project))
    assert shown == now
