"""A sweep: its draws, its judge, and that a kill costs nothing that was done."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lifecycle.params import Space, Sweep, load_params, with_values
from lifecycle.processes import running, wait_until
from lifecycle.releases import tracking
from lifecycle.releases.sweep import draw
from lifecycle.testing import (
    ROOT,
    cli,
    cli_json,
    commit_all,
    copy_project,
    digests,
    edit_params,
    environment,
    forget_runs,
    repro,
)

SPACE = {"train.learning_rate": {"log_uniform": [0.03, 0.3]}, "train.num_leaves": {"choice": [3, 5, 7]}}
whole = st.integers(1, 10_000)
part = st.floats(1e-6, 1e6, allow_nan=False, allow_subnormal=False)
ranges = (whole | part).flatmap(
    lambda low: st.tuples(st.just(low), type_of(low)).filter(lambda pair: pair[0] < pair[1])
)
spaces = st.one_of(
    st.lists(st.integers() | st.text(max_size=5), min_size=1).map(lambda values: Space(choice=values)),
    ranges.map(lambda pair: Space(uniform=pair)),
    ranges.map(lambda pair: Space(log_uniform=pair)),
)


def type_of(low: float) -> Any:
    return whole if isinstance(low, int) else part


@given(space=spaces, share=st.floats(0, 1, exclude_max=True))
def test_a_draw_is_in_its_space_and_is_read_back_from_params_yaml(space: Space, share: float) -> None:
    value = space.at(share)
    if space.choice:
        assert value in space.choice
    else:
        low, high = space.uniform or space.log_uniform or ()
        assert isinstance(value, int | float)
        assert low <= value <= high
        assert isinstance(value, int) == (isinstance(low, int) and isinstance(high, int))
    text = with_values("train:\n  a: 1  # kept\n", {"train.a": value})
    read = yaml.safe_load(text)["train"]["a"]
    assert (read, type(read)) == (value, type(value))
    assert text.endswith("  # kept\n")


@given(seed=st.integers(0, 2**40), number=st.integers(1, 1000), more=spaces)
def test_a_trial_depends_on_its_seed_and_number_alone(seed: int, number: int, more: Space) -> None:
    few = Sweep(trials=1, seed=seed, space=SPACE)
    many = Sweep(trials=1000, seed=seed, space={"train.a": more, **dict(reversed(SPACE.items()))})
    assert draw(few, number).items() <= draw(many, number).items()
    assert draw(few, number) == draw(few, number)


def test_draws_cover_the_space() -> None:
    shipped = load_params(ROOT / "params.yaml").sweep or Sweep(trials=1, seed=1, space=SPACE)
    drawn = [
        draw(Sweep(trials=1, seed=1, space=SPACE | {"train.b": {"uniform": [1, 4]}}), number) for number in range(300)
    ]
    assert {each["train.num_leaves"] for each in drawn} == {3, 5, 7}
    assert {each["train.b"] for each in drawn} == {1, 2, 3, 4}
    below = sum(each["train.learning_rate"] < 0.095 for each in drawn)  # the middle of the range on a log scale
    assert 110 < below < 190
    assert len({json.dumps(draw(shipped, number)) for number in range(shipped.trials)}) > shipped.trials / 2


@settings(max_examples=20)
@given(rate=st.floats(1e-9, 1, allow_nan=False), name=st.text(max_size=20))
def test_a_change_of_params_yaml_leaves_every_other_byte(rate: float, name: str) -> None:
    before = (ROOT / "params.yaml").read_text(encoding="utf-8")
    once = with_values(before, {"train.learning_rate": rate, "monitoring.columns.key": name})
    expected = yaml.safe_load(before)
    expected["train"]["learning_rate"], expected["monitoring"]["columns"]["key"] = rate, name
    assert yaml.safe_load(once) == expected
    was = yaml.safe_load(before)
    back = {"train.learning_rate": was["train"]["learning_rate"]}
    assert with_values(with_values(before, {"train.learning_rate": rate}), back) == before


def declare(folder: Path, trials: int = 3, **more: Any) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["sweep"] = {"trials": trials, "seed": 1, "space": SPACE, **more}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    commit_all(folder, "A sweep")


def table(said: dict[str, Any]) -> Any:
    """What must not depend on where the trials ran."""
    return {name: said[name] for name in ("metric", "trials", "best", "diff")}


def children(parent: str) -> list[dict[str, Any]]:
    """The sweep's child runs, as MLflow itself has them."""
    client = tracking.open_client()
    where = [client.get_run(parent).info.experiment_id]
    found = client.search_runs(where, f"tags.`mlflow.parentRunId` = '{parent}'")
    runs = [
        {**run.data.tags, "loss": run.data.metrics["best_validation_loss"], "status": run.info.status} for run in found
    ]
    return sorted(runs, key=lambda run: int(run["trial"]))


def test_killed_in_the_middle_it_goes_on_and_the_best_is_what_run_makes(built: Path, tmp_path: Path) -> None:
    declare(built)
    aside, log = tmp_path / "aside/project", tmp_path / "killed.log"
    copy_project(built, aside)
    expected = cli_json("sweep", folder=aside)
    with running([sys.executable, "-m", "lifecycle.cli", "sweep"], built, log, environment(built)):
        wait_until(lambda: " ran " in log.read_text(encoding="utf-8"), "no trial ends")
    kept = log.read_text(encoding="utf-8").count(" ran ")

    again = cli("sweep", "--apply", "--json")
    assert again.returncode == 0, again.stderr
    said = json.loads(again.stdout)
    assert table(said) == table(expected)
    assert again.stderr.count(" ran ") <= 3 - kept < 3
    runs = children(said["run_id"])
    assert [(run["trial"], run["status"]) for run in runs] == [(str(number), "FINISHED") for number in (1, 2, 3)]
    assert {int(run["trial"]): run["loss"] for run in runs} == {
        trial["trial"]: trial["loss"] for trial in said["trials"] if trial["trial"]
    }

    best = next(trial for trial in said["trials"] if trial["trial"] == said["best"])
    assert said["best"] != 0
    assert said["diff"]
    after = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["train"]
    assert best["values"].items() <= {f"train.{name}": value for name, value in after.items()}.items()
    forget_runs(aside)
    shutil.copy("params.yaml", aside)
    for folder in (built, aside):
        repro(folder)
    ours, fresh = (digests(folder / "model", folder / "reports/learning_curve.csv") for folder in (built, aside))
    assert [*ours.values()] == [*fresh.values()], "the trial's model is the one that a run makes"
    with Path("reports/learning_curve.csv").open(encoding="utf-8") as curve:
        assert min(float(row["validation_loss"]) for row in csv.DictReader(curve)) == best["loss"]


def test_no_trial_is_judged_on_the_holdout(built: Path) -> None:
    declare(built, trials=1)
    before = cli_json("sweep")
    params = load_params()
    names = params.monitoring.columns
    (file,) = Path("data/features").glob("*.parquet")
    rows = pq.read_table(file)
    months = sorted(rows[names.month].unique().to_pylist())[-params.split.holdout_months :]
    held_out = pc.is_in(rows[names.month], pa.array(months))
    other = pc.if_else(held_out, pc.invert(rows[names.label].cast(pa.bool_())), rows[names.label].cast(pa.bool_()))
    file.unlink()  # a link into the cache
    position = rows.column_names.index(names.label)
    pq.write_table(rows.set_column(position, names.label, other.cast(rows[names.label].type)), file)
    command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", "transform"]
    subprocess.run(command, check=True, capture_output=True)
    again = cli("sweep", "--json")
    assert " ran " in again.stderr, "the features are others"
    assert table(json.loads(again.stdout)) == table(before)


def test_what_cannot_be_swept_is_said_before_any_trial(built: Path) -> None:
    def refused() -> str:
        done = cli("sweep")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    declare(built, metric="auc")
    assert "sweep.metric in params.yaml is auc, and dvc.yaml has no plot of it by round" in refused()
    declare(built)
    edit_params(built, {"train": {"num_leaves": -1}, "sweep": {"space": {"train.learning_rate": {"choice": [0.1]}}}})
    assert "error: stage train failed: params.yaml: train.num_leaves" in refused()
    edit_params(built, {"data": {"through": load_params().data.months()[-2]}})
    assert "the stage ingest is stale (" in refused()
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    del params["sweep"]
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert "params.yaml has no section sweep" in refused()
