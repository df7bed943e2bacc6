"""What evaluate leaves: a page that needs nothing else and shows what was measured, and the same bytes every time."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lifecycle.contract import load_params
from lifecycle.testing import ROOT, digests

from << cookiecutter.__package_name >> import evaluate, report


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


class _Page(HTMLParser):
    """Collects what a page would load or point to, and which tags it leaves open."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(finished: Path) -> None:
    text = (finished / report.PAGE).read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert len(page.loads) == 1
    assert page.loads[0].startswith("data:image/png;base64,iVBORw0KGgo")
    assert not re.search(r"https?://|@import|url\(|<script|<link", text)


def test_the_page_shows_what_was_measured(finished: Path) -> None:
    text, metrics = (finished / report.PAGE).read_text(encoding="utf-8"), read(finished / report.METRICS)
    assert f"{metrics['rows']:,} rows held out" in text
    for baseline in metrics["baselines"].values():
        for name, value in baseline.items():
            assert f"<td>{value:.4f}</td>" in text
            assert f"<td>{metrics[name]:.4f}</td>" in text
    for column, values in read(finished / report.SLICES).items():
        assert f"<h2>By {column.replace('_', ' ')}</h2>" in text
        assert all(f"<td>{value}</td>" in text for value in values)
    for gate in read(finished / report.GATES):
        assert f"<td>{gate['name']}</td>" in text
    assert "nan" not in text.split("base64,")[0]


def test_the_stage_gives_the_same_bytes_again(built: Path) -> None:
    before = digests(Path("reports"))
    evaluate.main()
    assert digests(Path("reports")) == before


def test_the_slices_are_those_of_params(finished: Path) -> None:
    assert list(read(finished / report.SLICES)) == sorted(load_params(ROOT / "params.yaml").monitoring.slices)


def test_every_gate_is_on_a_metric_that_is_measured(finished: Path) -> None:
    assert load_params(ROOT / "params.yaml").evaluate.gates.keys() <= read(finished / report.METRICS).keys()
