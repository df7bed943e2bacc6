"""params.yaml, typed. The one place that says which values each setting may have."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError
from .files import write_text

PARAMS_FILE = Path("params.yaml")
THROUGH = re.compile(r"(?m)^(\s+through:\s*)[^\s#]+")


def _is_month(value: str) -> str:
    if not re.fullmatch(r"[12]\d{3}-(0[1-9]|1[0-2])", value):
        raise ValueError("a month reads YYYY-MM, like 2013-07")
    return value


Month = Annotated[str, AfterValidator(_is_month)]


class Record(BaseModel):
    """Immutable, and refuses keys it does not know: a typing slip in params.yaml is not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Record):
    """What one raw file may take: MB as it is stored, unpacked, and of memory while it is read.

    `future_days`: how many days from today a month may begin.
    """

    file_mb: int = Field(default=1_000, ge=1)
    unpacked_mb: int = Field(default=1_000, ge=1)
    memory_mb: int = Field(default=4_000, ge=1)
    future_days: int = Field(default=1, ge=0)


class Data(Record):
    """The data window. Both ends are included."""

    source: str
    since: Month
    through: Month
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _in_order(self) -> "Data":
        if self.through < self.since:
            raise ValueError(f"through ({self.through}) is earlier than since ({self.since})")
        if re.search(r"://[^/]*:[^/]*@", self.source):
            raise ValueError("source holds a password, and this file is committed: leave it to the environment")
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
        """Whether the value lies within the bounds; a missing value (NaN) does not."""
        above = self.min is None or value >= self.min
        below = self.max is None or value <= self.max
        return value == value and above and below


class Evaluate(Record):
    """Gates by the name of the metric in reports/metrics.json."""

    gates: dict[str, Gate]


class ChannelPolicy(Record):
    """What a release needs before a channel serves it for the first time.

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
    """Columns of the feature table that are no features: which row it is, of when, of which month, and its outcome."""

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
    """Files (a glob), the column that says of when a row is, and how many hours the newest may lag behind.

    A `.json` file is a list of records; one that is not there is left out.
    """

    files: str
    time: str


class Alerts(Record):
    """Where alerts go: Prefect blocks by slug, like slack-webhook/ops. What stays open is told again in a while."""

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
    """What a breach of a check leads to; of one source alone, if that is named: the prediction log, or features."""

    check: Check | Literal["freshness"]
    source: Literal["log", "features"] | None = None
    do: Action


class Triggers(Record):
    """The first rule that fits a breach counts; where none does, it is an alert and no more.

    `rollbacks_a_day`: after so many automatic ones, production is put on hold for a person; and after
    `retrain_attempts` retrainings for the same breach, none of which succeeded. `cooldown_hours`: from one automatic
    action to the next of its kind.
    """

    rules: list[Rule] = []
    rollbacks_a_day: int = Field(default=1, ge=0)
    retrain_attempts: int = Field(default=3, ge=1)
    cooldown_hours: dict[Action, Annotated[float, Field(ge=0)]] = {}


class Monitoring(Record):
    """What is watched, and from where on it is a breach. A check without a threshold is measured and never fires.

    `clock`: whether now is now, or the end of `data.through`, for data of the past. `consecutive`: how many windows in
    a row, by their length, must be above a threshold. `min_rows`, `min_importance`: windows with fewer rows, and
    features that bring a smaller share of the model's gain, are measured and not judged.
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
    """Candidate and champion on the same labelled rows. `margin`: how much more loss, on average, is still as good.

    `wait_days`: after that without a verdict, a person decides; here and in `canary`.
    """

    margin: float = Field(gt=0, lt=1)
    min_rows: int = Field(ge=1)
    wait_days: float = Field(gt=0)


class Canary(Record):
    """Shares of the requests, growing; none for a project without a canary. `min_requests`: at each of them.

    `error_rate`, `p99_ms`: what the canary must stay within. `score_psi`: how far its scores may be from those on the
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
    """How a release gets to production. `alpha`: chance, over a whole rollout, that an equal one is rolled back.

    It is also the chance, of each test, that a release is promoted that is worse by the margin or the bound.
    """

    alpha: float = Field(gt=0, lt=0.5)
    shadow: Shadow
    canary: Canary


class Scoring(Record):
    """How batch scoring is spread. `workers`: partitions at a time."""

    runner: Literal["threads", "dask", "ray"] = "threads"
    workers: int = Field(ge=1)


class Breaker(Record):
    """When a canary is left alone: after `failures` within `within_seconds`, for `rest_seconds`.

    A prediction that takes longer than `slow_ms` is a failure too.
    """

    failures: int = Field(default=5, ge=1)
    within_seconds: float = Field(default=30, gt=0)
    slow_ms: float = Field(default=100, gt=0)
    rest_seconds: float = Field(default=30, gt=0)


class PredictionLog(Record):
    """How the log of predictions is written: what a crash can lose follows from the first two.

    `keep_days`: older days are deleted by `monitor`; null for none.
    """

    flush_seconds: float = Field(default=0.2, gt=0)
    queue: int = Field(default=20_000, ge=1)
    keep_days: int | None = Field(default=None, ge=1)


class Serving(Record):
    """Settings of the HTTP server."""

    max_rows: int = Field(default=1000, ge=1)
    max_body_kb: int = Field(default=2048, ge=1)
    unseen_categories: Literal["refuse", "missing"] = "refuse"
    shadow: bool = True
    breaker: Breaker = Breaker()
    log: PredictionLog = PredictionLog()


class Params(Record):
    """All of params.yaml. `train` is the model's own: the training stage checks it."""

    data: Data
    split: Split
    train: dict[str, Any]
    evaluate: Evaluate
    promotion: Promotion
    monitoring: Monitoring
    rollout: Rollout
    scoring: Scoring
    serving: Serving = Serving()


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check the parameters.

    Raises:
        UserError: the file is missing, is not YAML, or holds a value out of range; says which.
    """
    try:
        return Params.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"there is no {path} here: change to the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {described(error)}") from None


def described(error: ValidationError, section: str = "") -> str:
    """The first thing that is wrong with some parameters: which one, what it must be, what it is."""
    first = error.errors()[0]
    where = ".".join(filter(None, (section, *map(str, first["loc"]))))
    return f"{where}: {first['msg'].removeprefix('Value error, ')} (found {first['input']!r})"


def only_window_moved(before: str, path: Path = PARAMS_FILE) -> bool:
    """Whether the file differs from what it was in nothing but `data.through`, as `run --through` writes it."""
    return _with_through(before, load_params(path).data.through) == path.read_text(encoding="utf-8")


def _with_through(text: str, month: str) -> str:
    return THROUGH.sub(rf'\g<1>"{month}"', text, count=1)


def set_through(month: str, path: Path = PARAMS_FILE) -> str:
    """Move the watermark, leaving every other byte of the file alone; returns the text it replaced.

    Raises:
        UserError: `month` does not read YYYY-MM, lies before `since`, or the file has no `through:` line.
    """
    try:
        _is_month(month)
    except ValueError as error:
        raise UserError(f"{path}: data.through: {error} (found {month!r})") from None
    before = path.read_text(encoding="utf-8")
    after = _with_through(before, month)
    if not THROUGH.search(before):
        raise UserError(f"{path} has no `through:` line under `data:` to change")
    if after != before:
        write_text(path, after)
        try:
            load_params(path)
        except UserError:
            write_text(path, before)
            raise
    return before
