"""Install requirements.lock into .venv: `make setup`. An old Python can run this far enough to print what is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VENV = Path(".venv")
PYTHON = str(VENV / "bin/python")
# Says where .venv was made: its programs hold that path.
STAMP = VENV / ".installed"
UV = "uv>=0.6"
NO_INDEX = (
    "the package index cannot be reached. Behind a proxy: HTTPS_PROXY=http://host:port make setup. "
    "With a mirror: UV_DEFAULT_INDEX=https://mirror.example.org make setup"
)
# What an installer says when it fails -> the way out.
ADVICE = {
    "no space left": "the disk is full. .venv takes 1.4 GB and uv's cache as much: make room, or put the cache on "
    "another disk, UV_CACHE_DIR=/other/disk make setup",
    "certificate": "the package index has a certificate that is not known here. Behind a proxy that signs by itself: "
    "SSL_CERT_FILE=/its/ca.pem make setup",
    "error sending request": NO_INDEX,
    "timed out": NO_INDEX,
    "no matching distribution": NO_INDEX,
    "failed to build": "a package has no wheel for this machine and must be compiled. Install a compiler first: "
    "apt install build-essential python3-dev, or on a Mac xcode-select --install",
    "ensurepip": "this Python has no venv. On Debian and Ubuntu: apt install python3-venv",
}


def must(*command: str, **variables: str) -> None:
    """Run a command; where it fails, say why in a sentence with the way out, or else in its own words."""
    done = subprocess.run(
        command,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        for words, advice in ADVICE.items():
            for line in done.stdout.splitlines():
                if words in line.lower():
                    sys.exit(f"make setup: {advice} ({line.split('cause: ')[-1].strip()})")
        sys.exit(f"{done.stdout}make setup: not installed, for the reason above")


def uv() -> str:
    """The path of uv: the machine's, or else one in .venv."""
    found = shutil.which("uv") or shutil.which(str(VENV / "bin/uv"))
    if not found:
        must(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV)
    return found or str(VENV / "bin/uv")


def main() -> None:
    """Check what is needed, make .venv, fill it."""
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        found = "{} is {}.{}".format(sys.executable, *sys.version_info[:2])
        sys.exit(f"Python 3.11, 3.12 or 3.13 is needed and {found}: try make setup PYTHON=python3.12")
    if not shutil.which("git"):
        sys.exit("git is needed: apt install git, or on a Mac xcode-select --install")
    made_in = STAMP.read_text(encoding="utf-8") if STAMP.exists() else ""
    if not shutil.which(PYTHON) or made_in not in ("", str(VENV.resolve())):
        must(sys.executable, "-m", "venv", "--clear", str(VENV))
    print("Installing requirements.lock into .venv: 1.4 GB, minutes the first time ...", flush=True)
    pip = [uv(), "pip", "install", "--quiet", "--python", PYTHON]
    cache = subprocess.run([pip[0], "cache", "dir"], stdout=subprocess.PIPE, encoding="utf-8", check=False)
    try:
        Path(cache.stdout.strip()).mkdir(parents=True, exist_ok=True)
        settings = {}
    except OSError:  # a home that cannot be written to
        settings = {"UV_NO_CACHE": "1"}
    must(*pip, "--compile-bytecode", "--require-hashes", "-r", "requirements.lock", **settings)
    must(*pip, "--no-deps", "--no-build-isolation", "--editable", ".", **settings)
    STAMP.write_text(str(VENV.resolve()), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("make setup: interrupted; the next one goes on from here")
