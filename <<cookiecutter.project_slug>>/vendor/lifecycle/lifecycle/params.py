"""params.yaml, typed. The only place that defines the valid values of each setting."""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError
from .files import write_text

PARAMS_FILE = Path("params.yaml")
THROUGH = "data.through"
# Many times faster if PyYAML has libyaml.
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# The name of `fan_out` in files that were made before there was `sweep`.
OLD_FAN_OUT = "scoring"


def _is_month(value: str) -> str:
    if not re.fullmatch(r"[12]\d{3}-(0[1-9]|1[0-2])", value):
        raise ValueError("a month reads YYYY-MM, like 2013-07")
    return value


def _is_public(value: str) -> str:
    if re.search(r"://[^/]*:[^/]*@", value):
        raise ValueError("it holds a password, and this file is committed: leave it to the environment")
    return value


Month = Annotated[str, AfterValidator(_is_month)]
# A place without credentials.
PublicUrl = Annotated[str, AfterValidator(_is_public)]


class Record(BaseModel):
    """Immutable, and rejects unknown keys, so that a typo in params.yaml does not silently give a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Record):
    """Limits on one raw file, in MB: its stored size, its unpacked size, and the memory to read it.

    `future_days`: how many days from today a month may begin.
    """

    file_mb: int = Field(default=1_000, ge=1)
    unpacked_mb: int = Field(default=1_000, ge=1)
    memory_mb: int = Field(default=4_000, ge=1)
    future_days: int = Field(default=1, ge=0)


class Data(Record):
    """The data window. Both ends are included."""

    source: PublicUrl
    since: Month
    through: Month
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _in_order(self) -> "Data":
        if self.through < self.since:
            raise ValueError(f"through ({self.through}) is earlier than since ({self.since})")
        return self

    def months(self) -> list[str]:
        """Every month of the window, oldest first."""
        year, month = map(int, self.since.split("-"))
        months = []
        while (label := f"{year:04d}-{month:02d}") <= self.through:
            months.append(label)
            year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        return months


class Split(Record):
    """How many months the validation set and the holdout take from the end of the window."""

    validation_months: int = Field(ge=1)
    holdout_months: int = Field(ge=1)


class Gate(Record):
    """The bounds a metric must stay within."""

    min: float | None = None
    max: float | None = None

    def passes(self, value: float) -> bool:
        """Return whether the value is within the bounds. A missing value (NaN) is not."""
        above = self.min is None or value >= self.min
        below = self.max is None or value <= self.max
        return value == value and above and below


class Evaluate(Record):
    """Gates, by the name of the metric in reports/metrics.json."""

    gates: dict[str, Gate]


class ChannelPolicy(Record):
    """The requirements before a channel serves a release for the first time.

    `after`: the channel it must have been in. `against_champion`: how far a metric may change from what production
    serves, on the same holdout.
    """

    after: Literal["staging", "canary"] | None = None
    approvals: int = Field(ge=0)
    against_champion: dict[str, Gate] = {}


class Promotion(Record):
    """The policy of promotions. `may_not_approve` holds mail addresses."""

    channels: dict[Literal["staging", "canary", "production"], ChannelPolicy]
    self_approval: bool
    may_not_approve: list[str] = []

    @model_validator(mode="after")
    def _in_order(self) -> "Promotion":
        order = ["staging", "canary", "production"]
        for name, rules in self.channels.items():
            if rules.after is None:
                continue
            if rules.after not in self.channels or order.index(rules.after) >= order.index(name):
                raise ValueError(f"{name} cannot come after {rules.after}, which is not a channel before it here")
        return self


class MonitoredColumns(Record):
    """Columns of the feature table that are not features: the row's key, its time, its month, and its outcome."""

    key: str
    time: str
    month: str
    label: str


class Threshold(Record):
    """A breach opens above `fire` and closes below `clear`."""

    fire: float = Field(ge=0)
    clear: float = Field(ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> "Threshold":
        if self.clear > self.fire:
            raise ValueError(f"clear ({self.clear}) is above fire ({self.fire})")
        return self


class Fresh(Threshold):
    """Files (a glob), the column with a row's time, and how many hours the newest row may lag behind.

    A `.json` file is a list of records; a missing one is skipped.
    """

    files: str
    time: str


class Alerts(Record):
    """Where alerts go: Prefect blocks by slug, like slack-webhook/ops. Repeats an open breach after a cooldown."""

    blocks: list[str] = []
    cooldown_hours: float = Field(gt=0)
    runbook: str


Check = Literal[
    "psi",
    "distance",
    "nulls",
    "outside",
    "score_psi",
    "score_distance",
    "skill_drop",
    "ranking_drop",
    "bias",
    "slice_skill_drop",
    "unlabelled",
    "errors",
    "p99_ms",
]


Action = Literal["alert", "retrain", "hold", "rollback"]


class Rule(Record):
    """The action for a breach of a check; if `source` is set, only for that one: the prediction log, or features."""

    check: Check | Literal["freshness"]
    source: Literal["log", "features"] | None = None
    do: Action


class Triggers(Record):
    """The first rule that matches a breach applies. If none does, the breach only causes an alert.

    `rollbacks_a_day`: after this many automatic ones, production is put on hold for a person; likewise after
    `retrain_attempts` failed retrainings for the same breach. `cooldown_hours`: between two automatic actions of the
    same kind.
    """

    rules: list[Rule] = []
    rollbacks_a_day: int = Field(default=1, ge=0)
    retrain_attempts: int = Field(default=3, ge=1)
    cooldown_hours: dict[Action, Annotated[float, Field(ge=0)]] = {}


class Monitoring(Record):
    """What is monitored, and the thresholds for a breach. A check without a threshold is measured but never fires.

    `clock`: whether the current time is the real one or, for past data, the end of `data.through`. `consecutive`: how
    many windows in a row, by their length, must be above a threshold. `min_rows`, `min_importance`: windows with fewer
    rows, and features with a smaller share of the model's gain, are measured but not judged.
    """

    columns: MonitoredColumns
    slices: list[str] = []
    clock: Literal["now", "data"] = "now"
    log_window: Literal["day", "hour"] = "day"
    log_windows: int = Field(default=14, ge=1)
    min_rows: int = Field(ge=1)
    min_importance: float = Field(ge=0, le=1)
    consecutive: dict[Literal["month", "day", "hour"], Annotated[int, Field(ge=1)]]
    thresholds: dict[Check, Threshold]
    freshness: dict[str, Fresh] = {}
    alerts: Alerts
    triggers: Triggers = Triggers()


class Shadow(Record):
    """Candidate and champion on the same labelled rows. `margin`: how much more loss, on average, is still acceptable.

    `wait_days`: without a verdict after this time, a person decides; here and in `canary`.
    """

    margin: float = Field(gt=0, lt=1)
    min_rows: int = Field(ge=1)
    wait_days: float = Field(gt=0)


class Canary(Record):
    """Growing shares of the requests; empty for a project without a canary. `min_requests`: at each share.

    `error_rate`, `p99_ms`: the canary's limits. `score_psi`: how far its scores may be from those on the
    shadow's rows (population stability index). `quiet_minutes`: how old the newest prediction may be.
    """

    shares: list[Annotated[float, Field(gt=0, lt=1)]]
    min_requests: int = Field(ge=1)
    error_rate: float = Field(gt=0, lt=1)
    p99_ms: float = Field(gt=0)
    score_psi: float = Field(gt=0)
    quiet_minutes: float = Field(gt=0)
    wait_days: float = Field(gt=0)

    @model_validator(mode="after")
    def _growing(self) -> "Canary":
        if any(after <= before for before, after in pairwise(self.shares)):
            raise ValueError(f"shares must grow, and these do not: {self.shares}")
        return self


class Rollout(Record):
    """How a release gets to production. `alpha`: probability, over a rollout, that an equal one is rolled back.

    For each test, it is also the probability that a release worse by the margin or the bound is promoted.
    """

    alpha: float = Field(gt=0, lt=0.5)
    shadow: Shadow
    canary: Canary


class FanOut(Record):
    """How batch scoring and sweeps are distributed. `workers`: number of parts at a time."""

    runner: Literal["threads", "dask", "ray"] = "threads"
    workers: int = Field(ge=1)


Range = Annotated[list[int | float], Field(min_length=2, max_length=2)]


class Space(Record):
    """The values that a setting may take in a sweep: a list, or a range. Two whole bounds give whole numbers."""

    choice: list[int | float | str | bool] | None = Field(default=None, min_length=1)
    uniform: Range | None = None
    log_uniform: Range | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> "Space":
        if [self.choice, self.uniform, self.log_uniform].count(None) != 2:
            raise ValueError("give one of choice, uniform and log_uniform")
        if (bounds := self.uniform or self.log_uniform) and bounds[0] >= bounds[1]:
            raise ValueError(f"the range must be [low, high], and is {bounds}")
        if self.log_uniform and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform needs a low end above 0, and has {self.log_uniform[0]}")
        return self

    def at(self, share: float) -> int | float | str | bool:
        """Return the value at a share of the way, from 0 to below 1."""
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        low, high = self.uniform or self.log_uniform or []
        whole = isinstance(low, int) and isinstance(high, int)
        half = 0.5 if whole else 0  # each whole number has a stretch of its own
        start, end = low - half, high + half
        value = start * (end / start) ** share if self.log_uniform else start + share * (end - start)
        # Four digits: what is written to params.yaml is what was tried.
        return min(max(round(value) if whole else float(f"{value:.4g}"), low), high)


class Sweep(Record):
    """A random search over settings of `train`. Each trial's values depend on the seed and its number alone.

    `metric`: the column of the training stage's curve whose lowest value counts.
    """

    trials: int = Field(ge=1)
    seed: int = Field(ge=0)
    metric: str = "validation_loss"
    space: dict[str, Space] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_training(self) -> "Sweep":
        if other := [name for name in self.space if not name.startswith("train.")]:
            raise ValueError(f"space has {other[0]}: a sweep only tries settings of train")
        return self


class Breaker(Record):
    """When to stop using a canary: after `failures` within `within_seconds`, for `rest_seconds`.

    A prediction that takes longer than `slow_ms` counts as a failure.
    """

    failures: int = Field(default=5, ge=1)
    within_seconds: float = Field(default=30, gt=0)
    slow_ms: float = Field(default=100, gt=0)
    rest_seconds: float = Field(default=30, gt=0)


class PredictionLog(Record):
    """How the prediction log is written. The first two settings determine what a crash can lose.

    `keep_days`: `monitor` deletes older days; null keeps all. `store`: a URL where the logs of all hosts come together;
    `ship_seconds`: how often a server copies its own there.
    """

    flush_seconds: float = Field(default=0.2, gt=0)
    queue: int = Field(default=20_000, ge=1)
    keep_days: int | None = Field(default=None, ge=1)
    store: PublicUrl | None = None
    ship_seconds: float = Field(default=300, gt=0)


class Serving(Record):
    """Settings of the HTTP server. `follow_seconds`: how often it fetches the ledger; null: only when asked to."""

    max_rows: int = Field(default=1000, ge=1)
    max_body_kb: int = Field(default=2048, ge=1)
    unseen_categories: Literal["refuse", "missing"] = "refuse"
    shadow: bool = True
    follow_seconds: float | None = Field(default=5, gt=0)
    breaker: Breaker = Breaker()
    log: PredictionLog = PredictionLog()


class Params(Record):
    """All of params.yaml. `train` belongs to the model: the training stage checks it."""

    data: Data
    split: Split
    train: dict[str, Any]
    evaluate: Evaluate
    promotion: Promotion
    monitoring: Monitoring
    rollout: Rollout
    fan_out: FanOut = Field(validation_alias=AliasChoices("fan_out", OLD_FAN_OUT))
    sweep: Sweep | None = None
    serving: Serving = Serving()


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check the parameters.

    Raises:
        UserError: the file is missing, is not YAML, or has a value out of range; the message says which.
    """
    try:
        return Params.model_validate(yaml.load(path.read_text(encoding="utf-8"), SAFE_LOADER))  # noqa: S506
    except FileNotFoundError:
        raise UserError(f"there is no {path} here: change to the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _not_yaml(path, error) from None
    except ValidationError as error:
        raise UserError(f"{path}: {described(error)}") from None


def _not_yaml(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}")


def described(error: ValidationError, section: str = "") -> str:
    """Describe the first error in some parameters: which one, what it must be, what it is."""
    first = error.errors()[0]
    where = ".".join(filter(None, (section, *map(str, first["loc"]))))
    return f"{where}: {first['msg'].removeprefix('Value error, ')} (found {first['input']!r})"


def only_window_moved(before: str, path: Path = PARAMS_FILE) -> bool:
    """Return whether the file only differs from `before` in `data.through`, as `run --through` writes it."""
    with suppress(UserError):
        return with_values(before, {THROUGH: load_params(path).data.through}) == path.read_text(encoding="utf-8")
    return False


def with_values(text: str, values: dict[str, Any]) -> str:
    """Return the text of params.yaml with other values for some settings, by dotted name. No other byte changes.

    Raises:
        UserError: the text has no such setting.
    """
    try:
        found = dict(_scalars(yaml.compose(text, SAFE_LOADER)))
    except yaml.YAMLError as error:
        raise _not_yaml(PARAMS_FILE, error) from None
    if missing := sorted(values.keys() - found.keys()):
        raise UserError(f"{PARAMS_FILE} has no setting {missing[0]} to change")
    for name in sorted(values, key=lambda name: found[name], reverse=True):
        (start, end), value = found[name], values[name]
        quotes = '"' if isinstance(value, str) else None
        written = yaml.safe_dump(value, default_style=quotes, width=math.inf).splitlines()[0]
        text = text[:start] + written + text[end:]
    return text


def _scalars(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the dotted name of each single value, and where it begins and ends in the text."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(value, yaml.ScalarNode):
            yield f"{prefix}{key.value}", (value.start_mark.index, value.end_mark.index)
        yield from _scalars(value, f"{prefix}{key.value}.")


def set_through(month: str, path: Path = PARAMS_FILE) -> str:
    """Move the watermark without changing any other byte of the file. Return the text it replaced.

    Raises:
        UserError: `month` is not of the form YYYY-MM, is before `since`, or the file has no data.through.
    """
    try:
        _is_month(month)
    except ValueError as error:
        raise UserError(f"{path}: {THROUGH}: {error} (found {month!r})") from None
    before = path.read_text(encoding="utf-8")
    if (after := with_values(before, {THROUGH: month})) != before:
        write_text(path, after)
        try:
            load_params(path)
        except UserError:
            write_text(path, before)
            raise
    return before
