"""The pipeline's stages, as dvc.yaml runs them: files in, files out, nothing else."""

import sys
from collections.abc import Callable

from ..errors import USER_ERROR, UserError, redacted_traceback


def run_stage(stage: Callable[[], None]) -> None:
    """Run a stage as a process of its own: a user's mistake ends it with one line, and need not be tried again."""
    try:
        with redacted_traceback():
            stage()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
