"""The lineage page, in a real browser, from the disk."""

import json
import statistics
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lifecycle.commands.lineage import lineage
from lifecycle.errors import UserError
from lifecycle.lineage import page
from lifecycle.lineage.graph import KINDS, Graph
from lifecycle.releases import ledger
from lifecycle.testing import Releases

from browser import Page, open_browser
from graphs import A, B, add, many, reached, two_releases


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with open_browser() as opened:
        yield opened


def shown(tab: Page, graph: Graph, folder: Path, fragment: str = "") -> Any:
    """Write the page of a graph, open it, and return what it says is on the screen."""
    page.write_page(folder / "page.html", graph, "late-trips")
    tab.open(folder / "page.html", fragment)
    return state(tab)


def state(tab: Page) -> Any:
    return tab.run("lineage.state()")


def click_node(tab: Page, node: str) -> Any:
    tab.click(*tab.run(f"lineage.at({json.dumps(node)})"))
    return state(tab)


def compare(tab: Page, a: str, b: str) -> Any:
    for name, release in (("a", a), ("b", b)):
        chosen = f"document.getElementById('{name}')"
        tab.run(f"{chosen}.value = '{release}', {chosen}.dispatchEvent(new Event('change'))")
    return state(tab)


def panel(tab: Page) -> str:
    return str(tab.run("document.getElementById('panel').innerText"))


def next_frame(tab: Page) -> None:
    tab.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_it_opens_from_the_disk_whole_and_asks_nobody_for_anything(tab: Page, tmp_path: Path) -> None:
    graph = two_releases()
    seen = shown(tab, graph, tmp_path)
    assert sorted(seen["nodes"]) == sorted(graph.nodes)
    assert sorted(map(tuple, seen["edges"])) == sorted(graph.edges)
    assert tab.requests == [(tmp_path / "page.html").as_uri()]
    assert tab.complaints == []


def test_what_came_first_is_on_the_left_and_no_two_nodes_share_a_place(tab: Page, tmp_path: Path) -> None:
    for graph in (two_releases(), many(300, 600)):
        seen = shown(tab, graph, tmp_path)
        places = {node: (x, y) for node, x, y in seen["places"]}
        assert len(set(places.values())) == len(graph.nodes)
        assert [edge for edge in graph.edges if places[edge[0]][0] >= places[edge[1]][0]] == []
        by_kind = [[places[node.id][0] for node in graph.nodes.values() if node.kind == kind] for kind in KINDS]
        filled = [each for each in by_kind if each]
        assert all(max(left) < min(right) for left, right in pairwise(filled))
        assert shown(tab, graph, tmp_path)["places"] == seen["places"]


def test_a_click_shows_facts_and_marks_what_is_up_and_downstream_and_nothing_else(tab: Page, tmp_path: Path) -> None:
    graph = two_releases()
    shown(tab, graph, tmp_path)
    for node in graph.nodes:
        seen = click_node(tab, node)
        assert seen["chosen"] == node
        assert set(seen["up"]) == reached(graph, node, [A, B], back=True), node
        assert set(seen["down"]) == reached(graph, node, [A, B], back=False), node
        assert graph.nodes[node].label in panel(tab)
    click_node(tab, "file:data/june.parquet@1")
    assert "29,327" in panel(tab)
    assert "111111111111…" in panel(tab)
    assert "1" * 13 not in panel(tab)
    click_node(tab, "model:staging.trips")
    assert tab.run("document.querySelector('pre').textContent") == "select *\nfrom raw.trips\nwhere a < b"
    click_node(tab, "run:model 1")
    assert "train.leaves\t31" in panel(tab)
    assert "roc_auc\tmin 0.6\t0.71\tyes" in panel(tab)
    assert tab.complaints == []


def test_of_a_large_graph_too(tab: Page, tmp_path: Path) -> None:
    graph = many(400, 900)
    shown(tab, graph, tmp_path)
    for node in list(graph.nodes)[::67]:
        seen = click_node(tab, node)
        assert seen["chosen"] == node
        assert set(seen["up"]) == reached(graph, node, graph.nodes[node].releases, back=True)
        assert set(seen["down"]) == reached(graph, node, graph.nodes[node].releases, back=False)


def test_the_rest_is_dimmed_and_escape_brings_it_back(tab: Page, tmp_path: Path) -> None:
    shown(tab, two_releases(), tmp_path)

    def strip(node: str) -> Any:
        """The colour of a node's left end, where the colour of its kind is."""
        next_frame(tab)
        return tab.run(
            f"""(() => {{ const {{places, camera}} = lineage.state(), canvas = document.getElementById('canvas');
            const [, x, y] = places.find(each => each[0] === {json.dumps(node)});
            return [...canvas.getContext('2d').getImageData((camera.x + (x + 3) * camera.zoom) * devicePixelRatio,
            (camera.y + (y + 18) * camera.zoom) * devicePixelRatio, 1, 1).data]; }})()"""
        )

    related, other = "file:data/may.parquet", "file:data/unused.parquet"
    before = strip(related), strip(other)
    click_node(tab, "source:raw.trips")
    assert strip(related) == before[0]
    assert min(strip(other)[:3]) > max(before[1][:3]) > 0
    assert tab.run("location.hash") == "#source%3Araw.trips"
    tab.key("Escape")
    assert (strip(related), strip(other)) == before
    seen = state(tab)
    assert (seen["chosen"], seen["up"], seen["down"]) == (None, [], [])
    assert tab.run("location.hash") == ""


def test_search_finds_by_name_and_id_and_jumps(tab: Page, tmp_path: Path) -> None:
    graph = many(2000, 100)
    shown(tab, graph, tmp_path)
    tab.key("/")
    tab.type("model_59")
    assert set(state(tab)["hits"]) == {node for node in graph.nodes if "model_59" in node}
    tab.key("Escape")
    assert state(tab)["hits"] == []
    tab.type(f"COLUMN {17:012x}")
    assert state(tab)["hits"] == [f"column:schema.column_17@{17:012x}"]
    tab.key("Enter")
    assert state(tab)["chosen"] == f"column:schema.column_17@{17:012x}"
    x, y = tab.run(f"lineage.at({json.dumps(state(tab)['chosen'])})")
    left, top, width, height = tab.run("(b => [b.x, b.y, b.width, b.height])(canvas.getBoundingClientRect())")
    assert (x, y) == pytest.approx((left + width / 2, top + height / 2), abs=1)
    assert state(tab)["camera"]["zoom"] >= 0.8


def test_of_one_release_only_its_nodes_are_shown(tab: Page, tmp_path: Path) -> None:
    graph = two_releases()
    shown(tab, graph, tmp_path)
    for a, b, release in ((A, "", A), ("", B, B)):
        seen = compare(tab, a, b)
        mine = {name for name, node in graph.nodes.items() if release in node.releases}
        assert set(seen["nodes"]) == mine
        assert set(map(tuple, seen["edges"])) == {edge for edge in graph.edges if set(edge) <= mine}
    assert len(compare(tab, "", "")["nodes"]) == len(graph.nodes)
    options = "[...document.getElementById('a').options].map(each => each.text)"
    assert tab.run(options) == ["all (2)", f"{B}, production", f"{A}, staging"]


def test_two_releases_compared_differ_in_exactly_what_differs(tab: Page, tmp_path: Path) -> None:
    graph = two_releases()
    add(graph, "file", "data/other.parquet", "r-cccccccccccc", after=[])
    shown(tab, graph, tmp_path)
    seen = compare(tab, A, B)
    expected = {
        name: {(True, True): "both", (True, False): "a", (False, True): "b"}[A in node.releases, B in node.releases]
        for name, node in graph.nodes.items()
        if {A, B} & set(node.releases)
    }
    assert seen["marks"] == expected
    counts = tab.run("[...document.querySelectorAll('#legend tr')].map(each => each.innerText.replace(/\\s+/g, ' '))")
    wanted = [list(expected.values()).count(each) for each in ("a", "b", "both")]
    assert counts == [f"only in A: {A} {wanted[0]}", f"only in B: {B} {wanted[1]}", f"in both {wanted[2]}"]
    assert "in both, in different versions (2)" in panel(tab)  # june and the feature table
    click_node(tab, "file:data/june.parquet@2")
    assert f"only in B: {B}" in panel(tab)


def test_an_address_names_a_node(tab: Page, tmp_path: Path) -> None:
    graph = two_releases()
    assert shown(tab, graph, tmp_path, "#model%3Astaging.trips")["chosen"] == "model:staging.trips"
    assert "select *" in panel(tab)
    tab.run("location.hash = '#file:data/may.parquet'")
    tab.wait("lineage.state().chosen === 'file:data/may.parquet'")
    compare(tab, A, "")
    tab.run(f"location.hash = '#release:{B}'")  # not of the release that is shown
    tab.wait(f"lineage.state().chosen === 'release:{B}'")
    assert shown(tab, graph, tmp_path, "#nothing%ZZ")["chosen"] is None
    assert tab.complaints == []


HOSTILE = [
    "</script><img src=x onerror=pwned=1>",
    "<!--<script>pwned=1</script>",
    "\"'><svg onload=pwned=1>",
    "javascript:pwned=1",
    "{{ 7 * 7 }} {% raw %} ${pwned=1} \\u003c \\",
    "\u202e\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\U0001f469\u200d\U0001f52c" * 30,
    "line\u2028sep\nnew\ttab\x00nul",
    "__proto__",
    "x" * 5000,
]


@pytest.mark.parametrize("label", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_node_holds_is_text_and_nothing_else(label: str, tab: Page, tmp_path: Path) -> None:
    graph = Graph()
    release = f"r-{label}"
    facts = {label: label, "sql": f"select 1 -- {label}\n", "list": [label], "deep": {label: {label: label}}}
    node = add(graph, "model", f"{label}.{label}", release, **facts)
    add(graph, "file", label, release)
    graph.nodes[node].label = label
    page.write_page(tmp_path / "page.html", graph, label)
    tab.open(tmp_path / "page.html")
    assert state(tab)["nodes"] == [f"file:{label}", node]
    click_node(tab, node)
    assert tab.run("document.querySelector('#panel h2').textContent") == label
    assert tab.run("document.querySelector('#panel pre[aria-label=sql]').textContent") == f"select 1 -- {label}\n"
    compare(tab, release.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\0", "\\0"), "")
    assert tab.run("document.querySelectorAll('img, svg, iframe, main script, aside script').length") == 0
    assert tab.run("document.scripts.length") == 2
    assert tab.run("typeof pwned") == "undefined"
    assert tab.requests == [(tmp_path / "page.html").as_uri()]
    assert tab.complaints == []


def test_it_moves_and_zooms_by_mouse_and_keys(tab: Page, tmp_path: Path) -> None:
    shown(tab, two_releases(), tmp_path)
    node = "model:staging.trips"
    start = tab.run(f"lineage.at('{node}')")
    tab.mouse("mousePressed", 300, 600, button="left", clickCount=1)
    for x in (310, 350, 400):
        tab.mouse("mouseMoved", x, 620, button="left", buttons=1)
    tab.mouse("mouseReleased", 400, 620, button="left", clickCount=1)
    x, y = tab.run(f"lineage.at('{node}')")
    assert (x - start[0], y - start[1]) == pytest.approx((100, 20))
    assert state(tab)["chosen"] is None  # a drag is no click
    zoom = state(tab)["camera"]["zoom"]
    tab.mouse("mouseWheel", x, y, deltaX=0, deltaY=-120)
    tab.wait(f"lineage.state().camera.zoom > {zoom * 1.1}")
    assert tab.run(f"lineage.at('{node}')") == pytest.approx([x, y], abs=0.5)  # what is below the mouse stays there
    tab.key("0")
    assert tab.run(f"lineage.at('{node}')") == pytest.approx(start)
    tab.key("+")
    assert state(tab)["camera"]["zoom"] == pytest.approx(1.25 * zoom)
    click_node(tab, node)
    tab.key("ArrowLeft")
    assert state(tab)["chosen"] == "source:raw.trips"
    tab.key("ArrowRight")
    assert state(tab)["chosen"] == node
    tab.click_on("#fit")
    assert state(tab)["camera"]["zoom"] == pytest.approx(zoom)


def test_every_control_has_a_name_and_is_reached_by_keys(tab: Page, tmp_path: Path) -> None:
    shown(tab, two_releases(), tmp_path)
    click_node(tab, "model:staging.trips")
    tree = tab.call("Accessibility.getFullAXTree")["nodes"]
    controls = [each for each in tree if each["role"]["value"] in ("button", "combobox", "application", "textbox")]
    assert len(controls) >= 9
    assert [each["role"]["value"] for each in controls if not each.get("name", {}).get("value")] == []
    reached_by_tab = tab.run(
        "[...document.querySelectorAll('input, select, button, canvas')].filter(each => each.tabIndex < 0).length"
    )
    assert reached_by_tab == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme: str, tab: Page, tmp_path: Path) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    shown(tab, two_releases(), tmp_path)
    style = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
    names = ("page", "card", "band", "text", "quiet", "up", "down", "a", "b")
    colours = {name: tab.run(style.format(name)) for name in names}
    tab.call("Emulation.setEmulatedMedia", features=[])
    assert (luminance(colours["page"]) > 0.5) == (scheme == "light")
    for text in ("text", "quiet", "up", "down", "a", "b"):
        for behind in ("page", "card", "band") if text in ("text", "quiet") else ("card",):
            light, dark = sorted((luminance(colours[text]), luminance(colours[behind])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, behind)


def luminance(colour: str) -> float:
    """As WCAG has it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_two_thousand_nodes_are_drawn_soon_and_move_smoothly(tab: Page, tmp_path: Path) -> None:
    graph = many(2000, 4000)
    drawn, dragged, zoomed = [], [], []
    for _ in range(3):  # the best of three: other tests may be busy
        assert len(shown(tab, graph, tmp_path)["edges"]) == 4000
        drawn.append(tab.run("performance.getEntriesByName('drawn')[0].startTime"))
        dragged.append(statistics.median(tab.frames(drag)))
        zoomed.append(statistics.median(tab.frames(turn_wheel)))
    # A tenth of a second is where it would feel slow; how fast it is on a quiet machine is for the benchmark.
    assert min(drawn) < 3000
    assert min(dragged) < 100
    assert min(zoomed) < 100


def drag(tab: Page) -> None:
    tab.mouse("mousePressed", 400, 300, button="left", clickCount=1)
    for step in range(30):
        tab.mouse("mouseMoved", 400 + 4 * step, 300 + step, button="left", buttons=1)
    tab.mouse("mouseReleased", 520, 330, button="left", clickCount=1)


def turn_wheel(tab: Page) -> None:
    for step in range(30):
        tab.mouse("mouseWheel", 500, 400, deltaX=0, deltaY=-60 if step < 20 else 60)


def test_equal_graphs_make_equal_pages() -> None:
    one, other = two_releases(), two_releases()
    other.nodes = dict(reversed(other.nodes.items()))
    other.edges = dict(reversed(other.edges.items()))
    assert page.render(one, "x") == page.render(other, "x")


def test_before_the_first_release_it_says_what_to_do(project: Path) -> None:
    with pytest.raises(UserError, match="no release yet: `release` makes one"):
        lineage(None, [], as_json=False)


def test_the_page_of_real_releases(tab: Page, releases: Releases) -> None:
    said = lineage(None, [], as_json=False)
    assert said.text.startswith("open .lifecycle/lineage.html\n")
    tab.open(Path(".lifecycle/lineage.html"))
    seen = state(tab)
    assert sorted(seen["nodes"]) == [node["id"] for node in said.data["nodes"]]
    assert sorted(map(tuple, seen["edges"])) == sorted(map(tuple, said.data["edges"]))
    differ = {node for node, mark in compare(tab, releases.first, releases.second)["marks"].items() if mark != "both"}
    assert {f"release:{releases.first}", f"release:{releases.second}"} < differ
    assert not [node for node in differ if node.startswith(("file:", "source:", "model:", "column:", "features:"))]
    for node in seen["nodes"]:
        click_node(tab, node)
    assert tab.complaints == []


def test_of_many_releases_those_that_serve_and_the_newest_are_shown(
    releases: Releases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    book = ledger.load()
    assert {release.id for release in page.choose(book)} == {releases.first, releases.second}
    assert [release.id for release in page.choose(book, ["staging"])] == [releases.second]
    monkeypatch.setattr(page, "SHOWN", 1)
    assert {release.id for release in page.choose(book)} == {releases.first, releases.second}  # production serves first
    one = lineage(tmp_path / "one.html", [releases.second[:6]], as_json=True)
    assert {name for node in one.data["nodes"] for name in node["releases"]} == {releases.second}
    assert releases.second in (tmp_path / "one.html").read_text(encoding="utf-8")
