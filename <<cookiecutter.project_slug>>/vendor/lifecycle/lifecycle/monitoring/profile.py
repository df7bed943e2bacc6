"""A release's reference profile: the distribution of its training rows, and how well it predicted its holdout.

Also records how far single months and days of the training rows are from all of them: seasonal variation is not drift.
Computed once for a release, from the feature table that it was trained on.
"""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..errors import UserError
from ..files import write_text
from ..params import Monitoring, Record, Split
from ..releases import loading
from ..releases.record import Release, canonical
from ..releases.store import Store
from . import drift
from .quality import Quality, Usual, quality, usual
from .summary import Column, Summary, cut, kind_of, quoted, summarise, text
from .window import Grain, connect, score_rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FOLDER = Path(".lifecycle/profiles")
VERSION = 2
SCORE = "_score"
# How to split the training rows, to find the normal variation of windows of that length. Samples the short ones.
GRAINS: dict[Grain, str] = {
    "month": "_part",
    "day": "strftime(_at, '%Y-%m-%d')",
    "hour": "strftime(_at, '%Y-%m-%dT%H')",
}
MOST_PARTS = 120
# Windows outside this share of the training windows are not explained by the season.
NATURAL = 0.95


class Profile(Record):
    """The reference for recent rows. `of` is a digest of everything that it was computed from."""

    of: str
    release: str
    train: tuple[str, ...]
    holdout: tuple[str, ...]
    columns: tuple[Column, ...]
    reference: dict[str, Summary]
    # grain -> check -> column -> how far a window of training rows is from all of them.
    natural: dict[str, dict[str, dict[str, float]]]
    # The score: its bins, and its distribution on the holdout.
    score: Column
    scores: Summary
    importance: dict[str, float]
    # grain -> "score", or slice=value -> prediction quality in holdout windows of that length.
    usual: dict[str, dict[str, Usual]]


def profile_of(release: Release, store: Store, settings: Monitoring) -> Profile:
    """Return the release's profile: the stored one if nothing it depends on has changed, else a new one.

    Raises:
        UserError: the release's feature table or model is not available.
    """
    of = _digest(release, settings)
    path = FOLDER / f"{release.id}.json"
    try:
        kept = Profile.model_validate_json(path.read_bytes())
        if kept.of == of:
            return kept
    except (FileNotFoundError, ValidationError):
        pass
    made = build(release, store, settings, of)
    write_text(path, made.model_dump_json(indent=1) + "\n")
    return made


def _digest(release: Release, settings: Monitoring) -> str:
    columns = settings.columns.model_dump()
    content = [VERSION, release.id, columns, settings.slices, settings.log_window, settings.min_rows]
    return hashlib.sha256(canonical(content)).hexdigest()


def build(release: Release, store: Store, settings: Monitoring, of: str) -> Profile:
    """Compute a profile."""
    model = loading.load_model(release, loading.materialise(release, store))
    connection = connect()
    table = f"read_parquet({text(str(feature_table(release, store)))})"
    labelled = f"{table} where {quoted(settings.columns.label)} is not null"
    score_rows(connection, "labelled", labelled, settings.columns, model)
    train, holdout = _split(connection, Split.model_validate(release.materials["params"]["split"]))
    for name, months in (("train", train), ("holdout", holdout)):
        chosen = ", ".join(map(text, months))
        connection.execute(f"create temp view {name} as select * from labelled where _part::varchar in ({chosen})")
    features = release.model["features"]
    columns = cut(connection, "train", {name: kind_of(kind) for name, kind in features.items()})
    reference = summarise(connection, "train", columns)["all"]
    [score] = cut(connection, "holdout", {SCORE: "number"})
    grains: tuple[Grain, ...] = ("month", settings.log_window)
    importance = model.importance() if hasattr(model, "importance") else {}
    return Profile(
        of=of,
        release=release.id,
        train=tuple(train),
        holdout=tuple(holdout),
        columns=tuple(columns),
        reference=reference,
        natural={grain: _natural(connection, columns, GRAINS[grain]) for grain in grains},
        score=score,
        scores=summarise(connection, "holdout", [score])["all"][SCORE],
        importance={name: round(float(share), 6) for name, share in importance.items()},
        usual={grain: _usual(connection, GRAINS[grain], settings) for grain in grains},
    )


def feature_table(release: Release, store: Store) -> Path:
    """Return the feature table that a release was trained on, from DVC's cache or the remote.

    Raises:
        UserError: neither has it.
    """
    wanted = release.model["feature_table"]
    outputs = [out for out in release.outputs() if f"{wanted}/".startswith(f"{out.path}/")]
    if wrong := store.fetch(outputs):
        raise UserError(f"the feature table of {release.id} is missing: {wrong[0]}, and the remote does not have it")
    return next(store.object_path(file.md5) for file in store.files(outputs) if file.path == wanted)


def _split(connection: "DuckDBPyConnection", by: Split) -> tuple[list[str], list[str]]:
    """Return the months of the training rows and of the holdout, from the release's own parameters."""
    found = connection.execute("select distinct _part::varchar from labelled order by 1").fetchall()
    months = [month for (month,) in found]
    holdout_from = len(months) - by.holdout_months
    train = months[: max(holdout_from - by.validation_months, 0)]
    if not train:
        raise UserError(f"the feature table has {len(months)} months with labels: too few for the release's split")
    return train, months[holdout_from:]


def _natural(connection: "DuckDBPyConnection", columns: list[Column], by: str) -> dict[str, dict[str, float]]:
    parts = [part for (part,) in connection.execute(f"select distinct {by} from train order by 1").fetchall()]
    chosen = ", ".join(text(str(part)) for part in parts[:: math.ceil(len(parts) / MOST_PARTS)])
    # Scores on training rows are too good as a reference, but can be compared with each other.
    [score] = cut(connection, "train", {SCORE: "number"})
    every = [*columns, score]
    whole = summarise(connection, "train", every)["all"]
    single = summarise(connection, f"train where ({by})::varchar in ({chosen})", every, by)
    return {
        check: {
            each.name: _high([measure(whole[each.name], part[each.name]) for part in single.values()]) for each in every
        }
        for check, measure in drift.CHECKS.items()
    }


def _usual(connection: "DuckDBPyConnection", by: str, settings: Monitoring) -> dict[str, Usual]:
    """Return the prediction quality in windows of the holdout, and its seasonal variation.

    If no window has enough rows to be judged, the whole holdout counts as one.
    """
    found = {}
    if windows := _windows(connection, "holdout", by, "'score'", settings.min_rows).get("score"):
        seen = _windows(connection, "train", by, "'score'", settings.min_rows)["score"]
        # The model is better on its training rows, but the spread between their windows is still meaningful.
        apart = [usual(each).drops(window, beyond=1) for each in (windows, seen) for window in each]
        natural = {check: _high([each[check] for each in apart]) for check in apart[0]}
        found["score"] = usual(windows).model_copy(update={"natural": natural})
    for name in settings.slices:
        values = _windows(connection, "holdout", by, f"{quoted(name)}::varchar", settings.min_rows)
        found |= {f"{name}={value}": usual(windows) for value, windows in values.items()}
    return found


def _windows(
    connection: "DuckDBPyConnection", rows: str, by: str, value: str, min_rows: int
) -> dict[str, list[Quality]]:
    """Return the windows with enough rows to be judged, by the value of an expression; else all its rows as one."""
    windows: dict[str, list[Quality]] = {}
    for part, each in quality(connection, rows, f"({by})::varchar || '|' || ({value})").items():
        if each.labelled >= min_rows and "|" in part:
            windows.setdefault(part.split("|", 1)[1], []).append(each)
    return {whole: windows.get(whole, [each]) for whole, each in quality(connection, rows, value).items()}


def _high(values: list[float | None]) -> float:
    known = sorted(value for value in values if value is not None)
    return round(known[min(math.ceil(NATURAL * len(known)), len(known)) - 1], 6) if known else 0.0


def as_data(profile: Profile) -> dict[str, Any]:
    """Convert a profile for --json."""
    return profile.model_dump(mode="json")
