"""The contract between a project and this machinery: everything that a project may import from it.

Defines, with types, what a model and its module, a raw table and a stage must provide. `check` checks a project against
it, and docs/contract.md explains it. The model's own module imports nothing from this package, not even this module:
a release's model runs for years with the code that it was released with.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import USER_ERROR, UserError, redacted_traceback
from .files import replacing, write_json, write_text
from .params import PARAMS_FILE, Gate, Split, described, load_params
from .tables import Before, Table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

S = TypeVar("S", bound=BaseModel)

__all__ = [
    "Before",
    "Feature",
    "Gate",
    "Model",
    "ModelModule",
    "Split",
    "Table",
    "UserError",
    "load_params",
    "replacing",
    "run_stage",
    "settings_of",
    "write_json",
    "write_text",
]


class Feature(Protocol):
    """One input column of a model. `categories`: the values seen in training for a text column, else None."""

    @property
    def name(self) -> str:
        """The column's name in the feature table."""

    @property
    def type(self) -> str:
        """The type: `string` for text, `integer` or `double` for numbers, or `boolean`."""

    @property
    def categories(self) -> tuple[str, ...] | None:
        """The allowed values, or None if any value is allowed."""


class Model(Protocol):
    """A fitted model.

    Optional methods: `predict_rows(rows)` does the same for a few rows of plain values in the order of the features;
    online serving prefers it. `importance()` returns a share for each feature by name: monitoring weighs drift by it.
    """

    @property
    def features(self) -> Sequence[Feature]:
        """The input columns, in order."""

    def predict(self, table: "pa.Table", threads: int = 1) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Return one score for each row, shape (rows,). `table` has at least the features."""


class ModelModule(Protocol):
    """The module named by `model` under [tool.lifecycle]."""

    # Packages that loading and predicting need, in addition to the module's own.
    REQUIREMENTS: tuple[str, ...]

    def load(self, folder: Path) -> Model:
        """Load a model that training saved. Runs no code from the files."""

    def losses(self, label: "pa.ChunkedArray", predicted: Any) -> Any:
        """Return the loss of each prediction, shape (rows,), in [0, 1]. Rollouts compare two models by it."""


def run_stage(stage: Callable[[], None]) -> None:
    """Run a stage in a separate process. A UserError ends it with one line, and the pipeline does not retry."""
    try:
        with redacted_traceback():
            stage()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)


def settings_of(kind: type[S], values: dict[str, Any], section: str) -> S:
    """Return a section of params.yaml as the project's own Pydantic model.

    Raises:
        UserError: a value is missing, unknown or out of range; the message says which.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{PARAMS_FILE}: {described(error, section)}") from None
