"""`sweep`: try other training settings, and compare them on the validation months.

A trial is the training stage with other settings, on the present features. Its loss is the lowest one in the curve that
training writes: no trial is judged on the holdout. DVC's run-cache keeps each result by content, so a trial whose
result is known does not run again.
"""

import csv
import difflib
import hashlib
import itertools
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from .. import fan_out
from ..errors import UserError
from ..files import write_text
from ..params import PARAMS_FILE, FanOut, Params, Sweep, with_values
from ..progress import say
from . import elsewhere, tracking
from .pipeline import PIPELINE_FILE, Pipeline, artifacts
from .record import canonical
from .store import Output, Store

SWEEP_TAG, TRIAL_TAG = "sweep", "trial"


@dataclass(frozen=True)
class Trial:
    """A trial: its settings, and its loss after each round. Number 0 has the settings in params.yaml."""

    number: int
    values: dict[str, Any]
    losses: list[float]

    @property
    def loss(self) -> float:
        """The lowest loss: training keeps the model of that round."""
        return min(self.losses)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a sweep: its trials, best first, and how the best one changes params.yaml."""

    trials: list[Trial]
    diff: str
    run_id: str


def draw(settings: Sweep, number: int) -> dict[str, Any]:
    """Return the settings of a trial. Each depends on the seed, the trial's number, and its own space alone."""
    return {
        name: space.at(random.Random(f"{settings.seed} {number} {name}").random())  # noqa: S311
        for name, space in sorted(settings.space.items())
    }


def sweep(params: Params, apply: bool = False) -> Outcome:
    """Run the trials that have no result yet, and log all of them to MLflow. `apply` writes the best to params.yaml.

    Raises:
        UserError: params.yaml has no sweep, a stage before training is stale, a trial fails, or MLflow does not answer.
    """
    if (settings := params.sweep) is None:
        raise UserError(f"{PARAMS_FILE} has no section sweep: vendor/lifecycle/docs/pipeline.md#sweep shows one")
    before = PARAMS_FILE.read_text(encoding="utf-8")
    values = [{}, *(draw(settings, number) for number in range(1, settings.trials + 1))]
    training = _Training(settings, [with_values(before, each) for each in values], params.fan_out)
    what = f"the results of the trials are kept, but MLflow at {tracking.tracking_uri()} could not take them"
    with tracking.in_words(what, "Run again when it is back; no trial will run twice"):
        runs, trials = _Runs(settings, training.keys[1]), []
        for number, losses in training.results():
            trials.append(Trial(number, values[number], losses))
            runs.log(trials[-1])
        trials.sort(key=lambda trial: (trial.loss, trial.number))
        runs.end(trials)
    before = PARAMS_FILE.read_text(encoding="utf-8")  # someone may have edited it meanwhile
    after = with_values(before, trials[0].values)
    if apply and after != before:
        write_text(PARAMS_FILE, after)
    names = (str(PARAMS_FILE), str(PARAMS_FILE))
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, n=1, lineterm="")
    return Outcome(trials, "\n".join(diff), runs.parent)


class _Training:
    """The training stage, with each of some texts as params.yaml. `keys`: where DVC's run-cache has the results."""

    def __init__(self, settings: Sweep, texts: list[str], where: FanOut) -> None:
        self._metric, self._texts, self._where = settings.metric, texts, where
        self._far, self._store, pipeline = bool(fan_out.address(where)), Store(), Pipeline()
        model = next(each["path"] for each in artifacts().values() if each["type"] == "model")
        self._stage, outs = next((stage, outs) for stage, outs in pipeline.outs().items() if model in outs)
        curves = [path for path, _, names in tracking.curves() if path in outs and self._metric in names]
        if not curves:
            raise UserError(
                f"sweep.metric in {PARAMS_FILE} is {self._metric}, and {PIPELINE_FILE} has no plot of it by round from "
                f"an output of the stage {self._stage}"
            )
        self._curve = curves[0]
        stages = yaml.safe_load(PIPELINE_FILE.read_text(encoding="utf-8"))["stages"]
        declared = {*map(str, stages[self._stage].get("params", []))}
        if other := [name for name in settings.space if not {name, "train"} & declared]:
            raise UserError(f"{PIPELINE_FILE}: the stage {self._stage} does not declare {other[0]} among its params")
        for status in itertools.takewhile(lambda each: each.stage != self._stage, pipeline.status()):
            if not status.fresh:
                raise UserError(f"the stage {status.stage} is stale ({status.reasons[0]}): `run` first, then sweep")
        self.keys = [pipeline.run_cache_key(self._stage, text) for text in texts]

    def results(self) -> Iterator[tuple[int, list[float]]]:
        """Yield the number and losses of each trial: first the known ones, then the others as they end."""
        missing = []
        for number in range(len(self.keys)):
            if losses := self._losses(number):
                say(f"trial {number}", "cached", 0, f"{self._metric} {min(losses)}")
                yield number, losses
            else:
                missing.append(number)
        if not missing:
            return
        with (
            elsewhere.lent(self._stage, self._store, self._far) as origin,
            fan_out.workers(self._where) as call,
            ThreadPoolExecutor(self._where.workers) as pool,
        ):
            try:
                running = {pool.submit(self._run, call, origin, number): number for number in missing}
                for future in as_completed(running):
                    yield running[future], future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _run(self, call: fan_out.Call, origin: elsewhere.Origin, number: int) -> list[float]:
        start = time.monotonic()
        call(elsewhere.run_apart, self._stage, origin, self._texts[number])
        if (losses := self._losses(number)) is None:
            raise UserError(
                f"trial {number} has left no result: did a file that {self._stage} depends on change meanwhile?"
            )
        say(f"trial {number}", "ran", time.monotonic() - start, f"{self._metric} {min(losses)}")
        return losses

    def _losses(self, number: int) -> list[float] | None:
        key = self.keys[number]
        entry = self._store.fetch_run(key) if self._far else self._store.run(key)
        for out in (Output.of(out) for out in (entry or {}).get("outs", []) if out["path"] == self._curve):
            if not self._store.fetch([out]):
                with self._store.object_path(out.md5).open(encoding="utf-8") as file:
                    return [float(row[self._metric]) for row in csv.DictReader(file)]
        return None


class _Runs:
    """The sweep in MLflow: a run, with a child for each trial. A trial that is logged already is not logged again."""

    def __init__(self, settings: Sweep, first: str) -> None:
        """Find the sweep or begin it. `first`: the key of its first trial, which depends on code and features."""
        from mlflow.entities import Param

        self._metric, self._client = settings.metric, tracking.open_client()
        model = next(name for name, each in artifacts().items() if each["type"] == "model")
        self._experiment = tracking.experiment_of(self._client, f"{model}-sweep")
        said = {"seed": settings.seed} | {
            name: each.model_dump(exclude_unset=True) for name, each in settings.space.items()
        }
        digest = hashlib.sha256(canonical([first, settings.metric, said])).hexdigest()
        found = self._client.search_runs([self._experiment], f"tags.{SWEEP_TAG} = '{digest}'")
        self.parent = found[0].info.run_id if found else self._begin(f"sweep-{digest[:8]}", {SWEEP_TAG: digest})
        tracking.log_values(self._client, self.parent, [], [Param(name, str(value)) for name, value in said.items()])
        self._there = set()
        for child in self._client.search_runs([self._experiment], f"tags.`mlflow.parentRunId` = '{self.parent}'"):
            if child.info.status == "FINISHED":
                self._there.add(child.data.tags[TRIAL_TAG])
            else:  # it was cut short
                self._client.delete_run(child.info.run_id)

    def _begin(self, name: str, tags: dict[str, str]) -> str:
        return str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)

    def log(self, trial: Trial) -> None:
        """Log a trial as a child run."""
        from mlflow.entities import Metric, Param

        name = str(trial.number)
        if not trial.number or name in self._there:
            return
        child = self._begin(f"trial-{name}", {"mlflow.parentRunId": self.parent, TRIAL_TAG: name})
        now = int(datetime.now(UTC).timestamp() * 1000)
        metrics = [Metric(self._metric, loss, now, step) for step, loss in enumerate(trial.losses, 1)]
        params = [Param(name, str(value)) for name, value in trial.values.items()]
        tracking.log_values(self._client, child, [Metric(f"best_{self._metric}", trial.loss, now, 0), *metrics], params)
        self._client.set_terminated(child, "FINISHED")

    def end(self, trials: list[Trial]) -> None:
        """Log the best loss, and that of the settings in params.yaml."""
        present = next(trial for trial in trials if not trial.number)
        for name, trial in (("best", trials[0]), ("present", present)):
            self._client.log_metric(self.parent, f"{name}_{self._metric}", trial.loss)
        self._client.set_tag(self.parent, "best_trial", trials[0].number)
        self._client.set_terminated(self.parent, "FINISHED")
