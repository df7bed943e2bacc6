"""Where the parts of a job run: threads of this process, or a Dask or Ray cluster.

Workers share no folder with this machine: what a part needs comes with the call, or from the git and DVC remotes.
"""

import importlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from .errors import UserError, one_line
from .params import FanOut

# Runs a function with its arguments, and returns its result. Any number of threads may use it.
Call = Callable[..., Any]
# How often to try to connect to Ray, which gives up after half a minute.
CONNECTS = 3
PACKAGES = {"dask": "distributed", "ray": "ray[client]"}


def here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in this thread."""
    return function(*arguments)


def address(settings: FanOut) -> str:
    """Return the address of the cluster: DASK_ADDRESS or RAY_ADDRESS. Empty if the workers are on this machine."""
    return "" if settings.runner == "threads" else os.environ.get(f"{settings.runner.upper()}_ADDRESS", "")


@contextmanager
def workers(settings: FanOut) -> Iterator[Call]:
    """Yield what runs a function on a worker. The cluster gives the part of a lost worker to another one.

    Raises:
        UserError: the package of the runner is not installed, or no cluster answers at the address.
    """
    if settings.runner == "threads":
        yield here
        return
    try:
        library = importlib.import_module(PACKAGES[settings.runner].partition("[")[0])
    except ModuleNotFoundError as error:
        raise UserError(
            f"fan_out.runner in params.yaml is {settings.runner}, and {error.name} is not installed: add "
            f"{PACKAGES[settings.runner]} to the dependencies in pyproject.toml, then `make lock setup`"
        ) from None
    where = address(settings)
    try:
        _knock(where)
        call, close = (_dask if settings.runner == "dask" else _ray)(library, where, settings.workers)
    except OSError as error:
        raise UserError(
            f"no {settings.runner} cluster answers at {where or 'this machine'} ({one_line(error)}): start it, or use "
            f"processes of this machine with `unset {settings.runner.upper()}_ADDRESS`"
        ) from None
    try:
        yield call
    finally:
        close()


def _knock(where: str) -> None:
    """Raise OSError if nothing listens there. Ray itself would wait for minutes, and then end this process."""
    parts = urlsplit(where if "//" in where else f"//{where}")
    if parts.port:
        socket.create_connection((str(parts.hostname), parts.port), timeout=10).close()


def _dask(distributed: Any, where: str, count: int) -> tuple[Call, Callable[[], None]]:
    own = {"n_workers": count, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    client = distributed.Client(where) if where else distributed.Client(**own)

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            # Arguments go with each part: what is scattered is lost with the worker that holds it.
            return client.submit(function, *arguments, pure=False).result()
        except (distributed.KilledWorker, distributed.CancelledError) as error:
            raise _lost(error) from None

    return call, client.close


def _ray(ray: Any, where: str, count: int) -> tuple[Call, Callable[[], None]]:
    own = {"address": "local", "num_cpus": count, "include_dashboard": False}
    for attempt in range(CONNECTS):
        try:
            ray.init(**({"address": where} if where else own), log_to_driver=False, logging_level="ERROR")
            break
        except ConnectionError:  # a busy head: it starts a server for each client
            if attempt == CONNECTS - 1:
                raise

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return ray.get(ray.remote(function).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise _lost(error) from None

    return call, ray.shutdown


def _lost(error: Exception) -> UserError:
    return UserError(
        f"the cluster has lost the workers of one part too often ({one_line(error)}): read their logs, then run the "
        "same command again; finished parts stay"
    )
