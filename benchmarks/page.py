"""How fast the lineage page of a large graph is: first paint, and frames when dragged and zoomed.

In a baked project with Chromium at hand:  .venv/bin/python .../benchmarks/page.py [NODES EDGES]
"""

import statistics
import sys
import tempfile
from pathlib import Path

ROUNDS = 5


def main(nodes: int, edges: int) -> None:
    """Print the medians over some rounds, and the slowest frame of 20."""
    sys.path[:0] = ["src", str(Path(__file__).resolve().parents[1] / "tests/machinery")]
    import browser
    import graphs
    from lifecycle.lineage import page

    with tempfile.TemporaryDirectory() as folder, browser.open_browser() as tab:
        file = Path(folder) / "page.html"
        page.write_page(file, graphs.many(nodes, edges), "benchmark")
        drawn, frames = [], {"drag": [], "zoom": [], "drag, a node chosen": []}
        for _ in range(ROUNDS):
            tab.open(file)
            drawn.append(tab.run("performance.getEntriesByName('drawn')[0].startTime"))
            frames["drag"] += tab.frames(drag)
            frames["zoom"] += tab.frames(zoom)
            tab.key("0")
            source = "lineage.state().nodes.find(id => id.startsWith('source'))"
            tab.run(f"location.hash = '#' + {source}")
            tab.wait("lineage.state().chosen !== null")
            tab.key("0")
            frames["drag, a node chosen"] += tab.frames(drag)
        print(f"{nodes:,} nodes, {edges:,} edges, {file.stat().st_size / 1e6:.1f} MB")
        print(f"  drawn after {statistics.median(drawn):.0f} ms (bound 1,000)")
        for name, found in frames.items():
            slow = statistics.quantiles(found, n=20)[-1]
            middle = statistics.median(found)
            print(f"  {name}: {middle:.1f} ms a frame (bound 33), 95% under {slow:.1f}")


def drag(tab) -> None:
    tab.mouse("mousePressed", 400, 300, button="left", clickCount=1)
    for step in range(60):
        tab.mouse("mouseMoved", 400 + 4 * step, 300 + step, button="left", buttons=1)
    tab.mouse("mouseReleased", 640, 360, button="left", clickCount=1)


def zoom(tab) -> None:
    for step in range(60):
        tab.mouse("mouseWheel", 500, 400, deltaX=0, deltaY=-50 if step < 30 else 50)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3] or (2000, 4000)))
