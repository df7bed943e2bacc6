"""What a person is told when the disk takes nothing more, or holds a damaged file."""

import errno
import resource
import shutil
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path

import duckdb
import pytest

from lifecycle.errors import UserError, of_disk, one_line, plain
from lifecycle.monitoring import alerts
from lifecycle.releases import operations, restore
from lifecycle.releases.pipeline import Pipeline, locked
from lifecycle.releases.store import Store
from lifecycle.testing import CLI, Releases, cli, cli_json, environment


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_it_names_the_place_and_what_to_do(number: int) -> None:
    said = of_disk(OSError(number, "no", "/some/where"))
    assert said is not None
    assert said.startswith("the disk ") and "(/some/where)" in said and "the same command again" in said


def test_control_characters_from_outside_do_not_reach_a_terminal() -> None:
    said = "caf\u00e9 \U0001f6eb\ta\nb \x1b[2J \x9b31m \x07 \u202egnp \u2028 \ud800"
    assert plain(said) == "caf\u00e9 \U0001f6eb\ta\nb \\x1b[2J \\x9b31m \\x07 \\u202egnp \\u2028 \\ud800"
    assert "\x1b" not in one_line(said)


def test_no_command_prints_a_reason_s_control_characters(releases: Releases) -> None:
    cli_json("hold", "production", "--reason", "\x1b[2Jholidays\nproduction r-0 \x9b1m")
    for command in (
        ["history"],
        ["status"],
        ["incidents"],
        ["hold", "production"],
        ["rollback", "\x1b[2J", "--reason", "x"],
    ):
        done = cli(*command)
        assert not set("\x1b\x9b") & set(done.stdout + done.stderr), command
    assert "\\x1b[2Jholidays production r-0 \\x9b1m" in cli("history").stdout


def test_other_errors_are_not_the_disk_s() -> None:
    assert of_disk(OSError(errno.ENOENT, "no", "/some/where")) is None


def test_a_damaged_parquet_file_is_named_with_the_way_on(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"\xff" * 1000)
    with pytest.raises(duckdb.Error) as damaged:
        duckdb.sql(f"select * from read_parquet('{file}')")
    said = of_disk(damaged.value)
    assert said is not None
    assert said.startswith("a file is damaged (") and str(file) in said and "the same command again" in said


def test_lines_that_are_not_text_hide_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "FAILED", tmp_path / "failed.jsonl")
    operations.FAILED.write_bytes(b'\xff\xfe\n{"at": "now"}\n')
    assert operations.failed_rollbacks() == alerts.read(operations.FAILED) == [{"at": "now"}]


def test_a_damaged_note_of_a_restore_has_a_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "NOTE", tmp_path / "restore.json")
    restore.NOTE.write_bytes(b"\xff")
    with pytest.raises(UserError, match="delete that file, then `restore RELEASE` again"):
        restore.finish(Store())


# Without stages, it is one that DVC takes.
@pytest.mark.parametrize(
    ("read", "content"), [(locked, "schema: '2.0'"), *product([locked, Pipeline], ["", "[]", "stages: {"])]
)
def test_a_damaged_lock_file_has_a_way_back(read: Callable[[], object], content: str, project: Path) -> None:
    (project / "dvc.lock").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="`git restore dvc"):
        read()


def test_a_promotion_that_cannot_be_written_changes_nothing_and_goes_on_later(releases: Releases) -> None:
    """A limit on the size of files is a full disk for whoever writes a larger one, root as well."""
    shutil.rmtree(f".lifecycle/releases/{releases.second}")
    before = cli_json("history")["entries"]
    done = subprocess.run(
        [*CLI, "promote", releases.second, "--to", "production"],
        env=environment(releases.folder),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "make space, then the same command again" in done.stderr
    assert done.stderr.count("\n") == 1
    assert cli_json("history")["entries"] == before
    assert cli("promote", releases.second, "--to", "production").returncode == 0
