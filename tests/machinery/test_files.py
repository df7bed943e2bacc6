"""A file is whole or it is not there, whatever happens to the process that writes it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifecycle.files import append_lines, file_lock, replacing, sha256, write_json, write_text


def test_makes_the_folder_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a/b/c.txt"
    write_text(path, "one\ntwo\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("old")
    with replacing(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_file_stands_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as aside:
        aside.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["written", "flushed"])
def test_killed_at_any_step_the_old_file_stands(step: str, tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("old")
    die = "os.kill(os.getpid(), signal.SIGKILL)"
    program = f"""
import os, signal
from pathlib import Path
from lifecycle.files import replacing
if {step == "flushed"}:
    Path.replace = lambda *_: {die}
with replacing(Path("c.txt")) as aside:
    aside.write_text("new")
    if {step == "written"}:
        {die}
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False)
    assert done.returncode < 0
    assert path.read_text() == "old"


def test_what_is_renamed_has_been_flushed_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = Path.replace

    def note_replace(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", lambda _: order.append("flush"))
    monkeypatch.setattr(Path, "replace", note_replace)
    write_text(tmp_path / "c.txt", "new")
    assert order == ["flush", "rename"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(value=st.dictionaries(st.text(), values, max_size=3))
def test_json_comes_back_and_equal_values_give_equal_bytes(value: dict[str, object], tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    write_json(one, value)
    write_json(other, dict(reversed(value.items())))
    assert json.loads(one.read_text(encoding="utf-8")) == value
    assert one.read_bytes() == other.read_bytes()


def test_json_has_no_word_for_not_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"auc": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_half_a_line_that_a_kill_has_left_spoils_no_other(tmp_path: Path) -> None:
    log = tmp_path / "new/log.jsonl"
    assert append_lines(log, "1\n2\n") == 0
    with log.open("a", encoding="utf-8") as file:
        file.write("hal")
    assert append_lines(log, "3\n") == len("1\n2\nhal")
    assert log.read_text(encoding="utf-8").splitlines() == ["1", "2", "hal", "3"]


def test_a_lock_is_held_once_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = """
from pathlib import Path
from lifecycle.files import file_lock
with file_lock(Path("lock")):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        with file_lock(lock, wait=False) as mine:
            assert not mine
        holder.kill()
    with file_lock(lock, wait=False) as mine:
        assert mine


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
