"""What stops a newcomer on day one is one sentence with the way out; nothing is left half-made."""

import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import HTTPServer

import pytest
from needs import lacking

from baking import bake
from running import python_of

# Nothing to fall back on: what is fetched is fetched from the index.
ALONE = {"PIP_FIND_LINKS": "", "UV_FIND_LINKS": "", "UV_HTTP_RETRIES": "0"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return bake(tmp_path_factory.mktemp("setup") / "out")


def setup(project, *command, python=sys.executable, **variables):
    """What a set-up that must fail says, as lines."""
    shutil.rmtree(project / ".venv", ignore_errors=True)
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    done = subprocess.run(
        [*command, "make", "--no-print-directory", "setup", f"PYTHON={python}"],
        cwd=project,
        env=environment | ALONE | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode != 0
    assert not (project / ".venv/.installed").exists()
    lines = (done.stdout + done.stderr).splitlines()
    # make[1] where the tests themselves were started by make.
    return [line for line in lines if not re.match(r"make(\[\d+\])?: \*\*\*|Installing", line)]


def test_no_python(project):
    [said] = setup(project, python="python3.99")
    assert said.startswith("There is no python3.99 here: install Python 3.11, 3.12 or 3.13,")
    assert "make setup PYTHON=/path/to/python" in said


def test_an_old_python(project):
    [said] = setup(project, python=python_of("3.10"))
    assert said.startswith("Python 3.11, 3.12 or 3.13 is needed and ")
    assert said.endswith("is 3.10: try make setup PYTHON=python3.12")
    assert not (project / ".venv").exists()


def test_no_git(project, tmp_path):
    for name in ("make", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name))
    [said] = setup(project, PATH=str(tmp_path))
    assert said.startswith("git is needed: apt install git")


def test_a_venv_that_was_moved_is_made_again(project):
    stamp = project / ".venv/.installed"
    stamp.parent.mkdir(exist_ok=True)
    for place, is_made in ((stamp.parent, False), ("/another/place/.venv", True)):
        stamp.write_text(str(place))
        said = subprocess.run(
            ["make", "-n", "setup"], cwd=project, capture_output=True, text=True, check=True
        )
        assert ("tools/setup.py" in said.stdout) == is_made
    shutil.rmtree(project / ".venv")


def test_no_network_or_a_proxy(project, tmp_path):
    dead = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    [said] = setup(project, UV_CACHE_DIR=str(tmp_path), **dead)
    assert said.startswith("make setup: the package index cannot be reached. Behind a proxy: ")


@contextmanager
def signed_by_itself(folder):
    """A server whose certificate nobody knows; yields its address."""
    if not shutil.which("openssl"):
        lacking("openssl", "no openssl here to make a certificate with")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = HTTPServer(("127.0.0.1", 0), None)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()


def test_a_certificate_that_nobody_knows(project, tmp_path):
    with signed_by_itself(tmp_path) as index:
        [said] = setup(project, UV_CACHE_DIR=str(tmp_path / "cache"), UV_DEFAULT_INDEX=index)
    assert said.startswith("make setup: the package index has a certificate that is not known")
    assert "SSL_CERT_FILE=" in said


def test_no_compiler(project, tmp_path):
    """Where a package has no wheel; here all have one, so one is told to do without."""
    (tmp_path / "uv.toml").write_text('[pip]\nno-binary = ["psutil"]\n')
    [said] = setup(project, UV_CONFIG_FILE=str(tmp_path / "uv.toml"), CC="/nonexistent")
    assert said.startswith("make setup: a package has no wheel for this machine")
    assert "apt install build-essential" in said
    assert "psutil" in said


def test_a_full_disk(project, tmp_path):
    inside = f'mount -t tmpfs -o size=1m tmpfs "{tmp_path}" && exec "$@"'
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, "sh"]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        lacking("mounts", "no disk can be mounted here")
    [said] = setup(project, *mounted, UV_CACHE_DIR=str(tmp_path))
    assert said.startswith("make setup: the disk is full. ")
    assert "UV_CACHE_DIR=/other/disk make setup" in said
