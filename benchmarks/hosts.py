"""Seconds from a rollback that is typed on a laptop to the first new answer of the last host.

The hosts are network namespaces with clones of their own, which share a git server and S3 with the
laptop. Needs root, and a project with a release in production and another that may be promoted:

    .venv/bin/python benchmarks/hosts.py PROJECT
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.request import Request, urlopen

TEMPLATE = Path(__file__).resolve().parents[1]
HOSTS, MOVES, PORT = 3, 10, 8080


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path)
    project = parser.parse_args().project.resolve()
    machinery = TEMPLATE / "<<cookiecutter.project_slug>>/vendor/lifecycle"
    paths = [machinery, project / "src", project / "tests"]
    paths += [TEMPLATE / "tests", TEMPLATE / "tests/machinery"]
    sys.path[:0] = map(str, paths)
    os.environ |= {
        "LIFECYCLE_PROJECT": str(project),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    with tempfile.TemporaryDirectory() as folder:
        measure(project, Path(folder))


def measure(project, folder):
    from lifecycle.testing import copy_project
    from team import team

    copy_project(project, folder / "project", ".venv")
    with team(folder / "project") as made:
        for seconds, hook in ((5, False), (5, True)):
            times = moves(made, folder, seconds, hook)
            how = f"every {seconds} s" + (", and after a hook" if hook else "")
            median, most = statistics.median(times), max(times)
            print(f"{HOSTS} hosts, fetching {how}: {median:.2f} s (median), {most:.2f} s at most")


def moves(made, folder, seconds, hook):
    from lifecycle.processes import running
    from lifecycle.testing import CLI, cli_json, edit_params

    settings = made.settings(made.laptop)
    status = cli_json("status", folder=made.laptop, **settings)["channels"]
    ids = [status[name]["release"] for name in ("production", "staging")]
    times = []
    with ExitStack() as stack:
        hosts = [made.host(f"host-{hook}-{number}") for number in range(HOSTS)]
        for host in hosts:
            edit_params(made.clone(host), {"serving": {"follow_seconds": seconds}})
            serve = ["serve", "--host", "0.0.0.0", "--port", str(PORT), "--no-token"]
            own = made.settings(host.folder)
            command, log = host.command(*CLI, *serve), host.folder / "serve.log"
            stack.enter_context(running(command, made.clone(host), log, own))
        wait(hosts, ids[0])
        for number in range(MOVES):
            move = (
                ["rollback", "production"]
                if number % 2
                else ["promote", ids[1], "--to", "production"]
            )
            start = time.monotonic()
            cli_json(*move, "--reason", "a measurement", folder=made.laptop, **settings)
            if hook:
                for host in hosts:
                    ask(host, "/ledger", "POST")
            wait(hosts, ids[(number + 1) % 2])
            times.append(time.monotonic() - start)
    return times


def wait(hosts, release):
    while not all(serves(host, release) for host in hosts):
        time.sleep(0.02)


def serves(host, release):
    try:
        return ask(host, "/info")["channels"]["production"]["release"] == release
    except (OSError, KeyError):
        return False


def ask(host, path, method="GET"):
    request = Request(f"http://{host.address}:{PORT}{path}", method=method)
    with urlopen(request, timeout=5) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
