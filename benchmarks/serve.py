"""The server beside `mlflow models serve`, with the same model, on the same machine, in one run.

A project on the real flights is baked, run and released; then both servers, one process each, are
asked for one row at a time over connections that stay open, in turns. At the end production moves
between two releases under load.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from multiprocessing import Process, Queue
from pathlib import Path
from urllib.request import urlopen

TEMPLATE = Path(__file__).resolve().parents[1]
NAME = "flight-delays"
TURNS, SECONDS, MOVES = 3, 5, 5
CLIENTS = (1, 4)
PATIENCE = 180


def main():
    """Bake a project, set it up, and go on in its environment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--python", help="of an environment that fits; default: a new one")
    parser.add_argument(
        "--project", type=Path, help="with a release in production; default: a bake"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        sys.exit(inside())
    scratch = Path(tempfile.mkdtemp(prefix="serve-"))
    try:
        project = asked.project or bake(scratch)
        python = asked.python or project / ".venv/bin/python"
        if not asked.python and not asked.project:
            print("setting up the project ...", file=sys.stderr)
            subprocess.run(["make", "setup", f"PYTHON={sys.executable}"], cwd=project, check=True)
        programs = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
        environment = os.environ | {"PYTHONPATH": str(project / "src"), "PATH": programs}
        environment |= {"DO_NOT_TRACK": "1"}
        if not asked.project:
            make_releases(project, python, environment)
        command = [python, __file__, "--inside"]
        sys.exit(subprocess.run(command, cwd=project, env=environment).returncode)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def bake(scratch):
    """A new project."""
    bake = [sys.executable, "-m", "cookiecutter", TEMPLATE, "--no-input", "--default-config"]
    subprocess.run([*bake, "-o", scratch], check=True, stdout=subprocess.DEVNULL)
    return scratch / NAME


def make_releases(project, python, environment):
    """Two releases, the first in production and the second fit for it."""

    def run(*arguments):
        command = [python, "-m", f"{NAME.replace('-', '_')}.cli", *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        return done.stdout

    git = ["git", "-c", "user.name=Bench", "-c", "user.email=bench@example.org"]
    for key, value in (("user.name", "Bench"), ("user.email", "bench@example.org")):
        subprocess.run(["git", "config", key, value], cwd=project, check=True)
    for number in range(2):
        print(f"release {number + 1} of 2 ...", file=sys.stderr)
        run("run")
        release = json.loads(run("release", "--json"))["release"]
        run("promote", release, "--to", "staging")
        run("approve", release)
        if number == 0:
            run("promote", release, "--to", "production")
            params = project / "params.yaml"
            text = params.read_text(encoding="utf-8")
            params.write_text(text.replace("num_leaves: 63", "num_leaves: 31"), encoding="utf-8")
            subprocess.run([*git, "commit", "-qam", "Smaller trees"], cwd=project, check=True)


def inside():
    """Both servers, in the project's environment; returns the exit code."""
    from importlib import import_module

    ledger = import_module("lifecycle.releases.ledger").load()
    release = ledger.release("production")
    tracked = release.observed["mlflow"]
    row = release.model["probe"]["rows"][0]
    ours, theirs = free_port(), free_port()
    bodies = {
        "serve": (ours, "/predict", json.dumps({"row": row}).encode()),
        "mlflow models serve": (
            theirs,
            "/invocations",
            json.dumps(
                {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}}
            ).encode(),
        ),
    }
    model = f"models:/{tracked['model_name']}/{tracked['version']}"
    their_command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        model,
        "--env-manager",
        "local",
        "--workers",
        "1",
    ]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracked["tracking_uri"]}
    our_command = [sys.executable, "-m", "lifecycle.cli", "serve", "--port", str(ours)]
    with (
        server(our_command, f"http://127.0.0.1:{ours}/health", environment) as our_pid,
        server(
            [*their_command, "--port", str(theirs)], f"http://127.0.0.1:{theirs}/ping", environment
        ) as their_pid,
    ):
        agree(release, bodies)
        pids = {"serve": our_pid, "mlflow models serve": their_pid}
        measured = {name: {clients: [] for clients in CLIENTS} for name in bodies}
        for name, asked in bodies.items():
            load(pids[name], *asked, clients=1, seconds=2)  # warm
        for _ in range(TURNS):
            for clients in CLIENTS:
                for name, asked in bodies.items():
                    measured[name][clients].append(
                        load(pids[name], *asked, clients=clients, seconds=SECONDS)
                    )
        handler = handler_p50(ours)
        moved = moves(ledger, bodies["serve"])
    return report(measured, handler, moved)


def agree(release, bodies):
    """See that both serve the same model."""
    expected = release.model["probe"]["predictions"][0]
    for name, (port, path, body) in bodies.items():
        answer = json.loads(ask(socket.create_connection(("127.0.0.1", port)), request(path, body)))
        said = answer["predictions"][0]
        score = said["score"] if isinstance(said, dict) else said
        if abs(score - expected) > 1e-9:
            sys.exit(f"{name} says {score} and not {expected}")


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(command, health, environment):
    """A server, from when it answers; what it prints goes to a file."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            until = time.monotonic() + PATIENCE
            while not answers(health):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    sys.exit(f"{command} does not answer: {log.read().decode()}")
                time.sleep(0.2)
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def answers(url):
    """Whether a GET is answered with success."""
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def request(path, body):
    """A POST, as bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def ask(connection, content):
    """Send a request and read the body of its answer, which must be a success."""
    connection.sendall(content)
    said = b""
    while b"\r\n\r\n" not in said:
        said += connection.recv(65536)
    head, body = said.split(b"\r\n\r\n", 1)
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(said.decode())
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return body


def client(port, path, body, seconds, results):
    """Ask without a pause; puts the seconds that each answer took."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    content, took = request(path, body), []
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        ask(connection, content)
        took.append(time.perf_counter() - start)
    results.put(took)


def load(pid, port, path, body, clients, seconds):
    """Answers a second; in ms the median and 99th percentile of their times, and CPU."""
    results, before = Queue(), cpu_seconds(pid)
    processes = [
        Process(target=client, args=(port, path, body, seconds, results)) for _ in range(clients)
    ]
    for process in processes:
        process.start()
    took = sorted(each for _ in processes for each in results.get())
    for process in processes:
        process.join()
    percentile = [took[int(len(took) * share)] * 1000 for share in (0.5, 0.99)]
    return len(took) / seconds, *percentile, (cpu_seconds(pid) - before) / len(took) * 1000


def cpu_seconds(pid):
    """Of a process and all it has started."""
    import psutil

    whole = psutil.Process(pid)
    times = [each.cpu_times() for each in (whole, *whole.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def handler_p50(port):
    """The bound in ms below which half of the requests were handled, by the server's own count."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    buckets = [
        (float(line.split('le="')[1].split('"')[0]), float(line.split()[-1]))
        for line in lines
        if line.startswith('serving_seconds_bucket{channel="production"')
    ]
    return 1000 * next(bound for bound, count in buckets if count >= buckets[-1][1] / 2)


def moves(ledger, asked):
    """Move production to and fro under load; the seconds until the other release answered."""
    from importlib import import_module

    operations = import_module("lifecycle.releases.operations")
    production, staging = (ledger.channel(name).release for name in ("production", "staging"))
    port, path, body = asked
    seen, stop, failed = [], threading.Event(), []

    def watch():
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while not stop.is_set():
                seen.append(
                    (time.time(), json.loads(ask(connection, request(path, body)))["release"])
                )
        except Exception as error:
            failed.append(str(error))

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for each in watchers:
        each.start()
    took = []
    pointer = Path(".lifecycle/channels/production.json")
    for number in range(MOVES * 2):
        target = staging if number % 2 == 0 else production
        if number % 2 == 0:
            operations.promote(target, "production", reason="a benchmark")
        else:
            operations.rollback("production", "a benchmark")
        at = pointer.stat().st_mtime
        until = time.time() + 30
        while time.time() < until and not any(t > at and r == target for t, r in seen[-400:]):
            time.sleep(0.005)
        took.append(next(t for t, r in seen if t > at and r == target) - at)
    stop.set()
    for each in watchers:
        each.join()
    return {"seconds": took, "answers": len(seen), "failed": failed}


def report(measured, handler, moved):
    """The tables; returns the exit code."""
    print("| clients | server | answers/s | p50 ms | p99 ms | CPU ms an answer |")
    print("|---:|---|---:|---:|---:|---:|")
    middle = {}
    for clients in CLIENTS:
        for name, runs in measured.items():
            middle[clients, name] = [
                statistics.median(each) for each in zip(*runs[clients], strict=True)
            ]
            rate, p50, p99, cpu = middle[clients, name]
            print(f"| {clients} | {name} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {cpu:.2f} |")
    ratios = {}
    for clients in CLIENTS:
        ours, theirs = middle[clients, "serve"], middle[clients, "mlflow models serve"]
        ratios[clients] = ours[0] / theirs[0]
        print(f"{clients} clients: {ratios[clients]:.1f} times the answers", end=", ")
        print(f"p99 {ours[2] / theirs[2]:.2f} times, CPU {ours[3] / theirs[3]:.2f} times")
    print(f"half of the requests were handled within {handler:g} ms")
    seconds = moved["seconds"]
    print(
        f"{len(seconds)} moves of production under load: the other release answers after "
        f"{statistics.median(seconds):.2f} s, {max(seconds):.2f} at most; "
        f"{moved['answers']:,} answers, {len(moved['failed'])} failed"
    )
    worse = any(middle[c, "serve"][2] > middle[c, "mlflow models serve"][2] for c in CLIENTS)
    return 1 if moved["failed"] or worse or min(ratios.values()) < 5 else 0


if __name__ == "__main__":
    main()
