"""Prefect flows: thin, over functions that work without Prefect.

Prefect reads the environment when it is imported, so its settings are made here first.
"""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .. import parts, project

P = ParamSpec("P")
R = TypeVar("R")

# Its database and profiles belong to the project, not to the user.
os.environ.setdefault("PREFECT_HOME", str(Path(".prefect").resolve()))
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")


def flow_name(part: str) -> str:
    """Return the name of a flow. Several projects may share a server, which tells flows apart by their names alone."""
    return f"{project.here().name}-{part}"


def of_part(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Wrap a flow of an optional part. If the project lacks the part, the flow logs that and succeeds."""

    def decorate(flow: Callable[P, R]) -> Callable[P, R]:
        @wraps(flow)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> Any:
            off = parts.why_off(name)
            if off is None:
                return flow(*args, **kwargs)
            from prefect import get_run_logger
            from prefect.states import Completed

            get_run_logger().warning(off)
            return Completed(name="Skipped", message=off)

        return wrapped

    return decorate
