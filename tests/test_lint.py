"""A fresh bake is formatted and lint-clean by its own settings, whatever it is called.

Names change the length of lines and the order of imports, so more than one is baked.
"""

import subprocess
import sys

import pytest

from baking import BLANK, HOSTILE, LONG, PROJECT, SHORT, TEMPLATE, bake

NAMED = {
    "default": {},
    "short": SHORT,
    "long": LONG,
    "hostile": HOSTILE,
    "typographic": {
        "project_name": "Flights – “NYC’s”",
        "description": "a – ‘b’",
        "author_name": "С–D",
    },
    "first": {"project_slug": "aaa", "license": "Apache-2.0"},
    "blank": BLANK,
    "blank short": SHORT | {"example": "blank"},
    "blank long": LONG | {"example": "blank"},
    "last": {"project_slug": "zzz", "license": "MIT"},
}


def ruff(folder, *arguments):
    """Run the ruff beside this Python in a folder."""
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("named", NAMED)
def test_fresh_bake_is_clean(named, tmp_path, no_git):
    baked = bake(tmp_path / "out", NAMED[named])
    formatted = ruff(baked, "format", "--check")
    assert formatted.returncode == 0, formatted.stdout + formatted.stderr
    checked = ruff(baked, "check", "--output-format=concise")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_machinery_is_clean_and_typed_where_it_is(tmp_path):
    folder = PROJECT / "vendor/lifecycle"
    for arguments in (["format", "--check"], ["check", "--output-format=concise"]):
        done = ruff(folder, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    typed = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    assert typed.returncode == 0, typed.stdout + typed.stderr


def test_the_template_itself_is_clean():
    formatted = ruff(TEMPLATE, "format", "--check")
    assert formatted.returncode == 0, formatted.stdout + formatted.stderr
    checked = ruff(TEMPLATE, "check", "--output-format=concise")
    assert checked.returncode == 0, checked.stdout + checked.stderr
