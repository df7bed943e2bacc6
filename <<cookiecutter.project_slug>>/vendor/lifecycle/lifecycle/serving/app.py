"""The HTTP server's app: one row or many in, predictions out, each with the id that it can be traced by."""

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .. import params
from ..errors import one_line
from ..predictions import ids
from .api import openapi_of
from .guard import PREDICT, Guard, Guarded, Refusal
from .loader import FEW_ROWS, Channel, Loader, Table
from .log import Log, Scored
from .metrics import Metrics
from .routing import BusyError
from .schema import InvalidError, Problem

MOST_KEY = 200
MOST_SHADOWS = 200

logger = logging.getLogger(__name__)


class Json(Response):
    """A body that is JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As bytes."""
        return orjson.dumps(content)


@dataclass(frozen=True)
class Asked:
    """What a request asks. `key` decides which channel answers; `keys` are what the rows are known by later."""

    id: str
    rows: list[Any]
    many: bool
    key: str | None
    keys: list[str | None]
    digest: str


@dataclass(frozen=True)
class Filled:
    """The rows as one channel's model gets them. `online`: the table that features were filled in from.

    `agrees`: whether a row has the features that this table has for its key; None where it does not know the key.
    """

    rows: list[Any]
    values: list[list[Any]]
    online: str | None
    agrees: list[bool | None]


class Service:
    """Answers requests by what the loader has loaded."""

    def __init__(self, settings: params.Serving, loader: Loader, log: Log) -> None:
        self.settings = settings
        self.loader = loader
        self.log = log
        self.metrics = Metrics(loader, log)
        self._shadows: set[asyncio.Task[None]] = set()

    async def answer(self, request: Request) -> Response:
        """POST /predict."""
        prediction_id = ids.new()
        if not _is_json(request.headers.get("content-type", "")):  # a web page may send other types without being asked
            wanted = Problem(None, None, "the Content-Type is application/json, and nothing else")
            return self._refuse(415, "invalid", prediction_id, None, wanted)
        try:
            body = await _body(request, self.settings.max_body_kb * 1024)
        except ClientDisconnect:
            logger.info("the client of %s left within its body", prediction_id)
            return self._refuse(400, "gone", prediction_id, None, Problem(None, None, "the body has no end"))
        start = time.perf_counter()
        table = self.loader.table  # once: all of this request is about these releases
        production = table.production
        if production is None:
            reason = self.loader.problems().get("production", "nothing is served")
            return self._refuse(503, "unready", prediction_id, None, Problem(None, None, reason))
        if body is None:
            limit = Problem(None, None, f"the body is larger than {self.settings.max_body_kb} kB")
            return self._refuse(413, "invalid", prediction_id, production, limit)
        try:
            asked = read(body, prediction_id, self.settings.max_rows, self.loader.key)
            filled = fill(asked, production, table)
        except InvalidError as error:
            return self._refuse(error.status, error.outcome, prediction_id, production, *error.problems)
        channel, online, scores = await self._predict(asked, filled, table, production)
        if scores is None:
            failed = Problem(None, None, "the model failed; the server's log says why")
            return self._refuse(500, "failed", prediction_id, production, failed)
        self.metrics.requests.labels(channel.name, "ok").inc()
        self.metrics.rows.labels(channel.name, channel.release_id).inc(len(scores))
        self.metrics.seconds.labels(channel.name).observe(time.perf_counter() - start)
        predictions = [
            {"prediction_id": ids.of_row(asked.id, position, asked.many), "score": score}
            for position, score in enumerate(scores)
        ]
        return Json(_head(asked.id, channel, online) | {"predictions": predictions})

    def turn_away(self, refusal: Refusal) -> Response:
        """The answer to a request that the guard refuses."""
        problem = Problem(None, None, refusal.reason)
        answer = self._refuse(refusal.status, refusal.outcome, ids.new(), None, problem)
        if refusal.status == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    async def _predict(
        self, asked: Asked, filled: Filled, table: Table, production: Channel
    ) -> tuple[Channel, str | None, list[float] | None]:
        """The channel that answers, the online table it used, and what it says; None when production fails."""
        canary = table.canary
        if canary and table.is_for_canary(asked.key or asked.id):
            tried = await self._try_canary(asked, table, canary, filled.agrees)
            if tried is not None:
                return canary, *tried
        elif canary and not canary.traffic and self.settings.shadow:
            self._shadow(asked, table, canary, filled.agrees)
        start = time.perf_counter()
        try:
            if len(filled.values) <= FEW_ROWS:  # done sooner than a thread wakes up
                scores, milliseconds = _timed(production, filled.values)
            else:
                scores, milliseconds = await production.lane.run(partial(_timed, production, filled.values))
        except Exception as error:
            logger.exception("%s failed at %s", production.release_id, asked.id)
            self._note(asked, filled, production, None, _since(start), f"{type(error).__name__}: {one_line(error)}")
            return production, filled.online, None
        self._note(asked, filled, production, scores, milliseconds)
        return production, filled.online, scores

    async def _try_canary(
        self, asked: Asked, table: Table, canary: Channel, agrees: list[bool | None], shadow: bool = False
    ) -> tuple[str | None, list[float]] | None:
        """The online table and what the canary says; None when it is left alone, fails or takes too long.

        `agrees`: by production's online table; it stands for rows that the canary refuses.
        """
        if not canary.breaker.allows():
            if not shadow:
                self.metrics.canary_failures.labels("open").inc()
            return None
        bound = self.settings.breaker.slow_ms
        start = time.perf_counter()
        filled = Filled(asked.rows, [], None, agrees)
        try:
            filled = fill(asked, canary, table)
            scores, milliseconds = await canary.lane.run(partial(_timed, canary, filled.values), bound / 1000)
        except (TimeoutError, BusyError) as error:
            if shadow and isinstance(error, BusyError):
                self.metrics.shadow_dropped.inc()
                return None
            reason, said = "slow", str(error) or f"it takes longer than {bound:g} ms"
        except InvalidError as error:
            reason, said = "error", f"what production takes is refused: {error.problems[0]}"
        except Exception as error:  # it is a canary: anything can happen
            reason, said = "error", f"{type(error).__name__}: {one_line(error)}"
        else:
            canary.breaker.ended(well=True)
            self._note(asked, filled, canary, scores, milliseconds, shadow=shadow)
            return filled.online, scores
        was_open = canary.breaker.is_open
        canary.breaker.ended(well=False)
        logger.warning("the canary %s failed at %s: %s", canary.release_id, asked.id, said)
        if canary.breaker.is_open and not was_open:
            logger.error("the canary %s is left alone: it failed too often", canary.release_id)
        if not shadow:
            self.metrics.canary_failures.labels(reason).inc()
        self._note(asked, filled, canary, None, _since(start), f"{reason}: {said}", shadow)
        return None

    def _shadow(self, asked: Asked, table: Table, canary: Channel, agrees: list[bool | None]) -> None:
        """Ask the canary as well, later; nobody waits for what it says."""
        if len(self._shadows) >= MOST_SHADOWS:
            self.metrics.shadow_dropped.inc()
            return
        task = asyncio.create_task(self._in_background(asked, table, canary, agrees))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _in_background(self, asked: Asked, table: Table, canary: Channel, agrees: list[bool | None]) -> None:
        await self._try_canary(asked, table, canary, agrees, shadow=True)

    async def finish(self) -> None:
        """Wait for the shadows that are on their way."""
        if self._shadows:
            await asyncio.wait(self._shadows, timeout=self.settings.breaker.slow_ms / 1000)

    def _note(
        self,
        asked: Asked,
        filled: Filled,
        channel: Channel,
        scores: list[float] | None,
        milliseconds: float,
        error: str | None = None,
        shadow: bool = False,
    ) -> None:
        if (disagree := filled.agrees.count(False)) and not shadow:
            self.metrics.disagreeing.labels(channel.name).inc(disagree)
        self.log.put(
            Scored(
                asked.id,
                asked.many,
                filled.rows,
                scores,
                channel.release_id,
                channel.name,
                channel.generation,
                asked.keys,
                shadow,
                milliseconds,
                error,
                asked.digest,
                filled.online,
                filled.agrees,
            )
        )

    def _refuse(
        self, status: int, outcome: str, prediction_id: str, channel: Channel | None, *problems: Problem
    ) -> Response:
        self.metrics.requests.labels("production", outcome).inc()
        return _refusal(status, prediction_id, channel, *problems)

    def info(self) -> dict[str, Any]:
        """GET /info."""
        table, problems = self.loader.table, self.loader.problems()
        channels: dict[str, Any] = {
            each.name: {
                "release": each.release_id,
                "generation": each.generation,
                "since": each.since,
                "traffic": each.traffic,
                "breaker": "open" if each.breaker.is_open else "closed",
                "not_filled_in": table.online.why_not(each.loaded.release) or None,
            }
            for each in table.channels
        }
        for name, reason in problems.items():
            channels.setdefault(name, {"release": None})
            channels[name] |= {"refused": self.loader.refused(name), "problem": reason}
        for name, warning in self.loader.warnings().items():
            channels.setdefault(name, {"release": None})["warning"] = warning
        log = {
            "waiting": self.log.waiting,
            "dropped": self.log.dropped,
            "problem": self.log.problem or None,
            "a_crash_loses": self.log.promise,
        }
        return {"channels": channels, "online": _online(table), "log": log}


def fill(asked: Asked, channel: Channel, table: Table) -> Filled:
    """The rows as the channel's model gets them.

    Raises:
        InvalidError: its schema refuses them, or what they leave out cannot be filled in.
    """
    rows, online = table.online.complete(asked.rows, channel.loaded)
    values = channel.loaded.schema.read(rows, table.known, asked.rows)
    return Filled(rows, values, online, table.online.agreement(asked.keys, asked.rows, rows, channel.loaded))


def _online(table: Table) -> dict[str, Any]:
    """What /info says of the online tables."""
    names = ("table", "features_md5", "features_sha256", "sql", "release", "rows", "newest", "built")
    tables = [
        {"online": each.digest} | {name: getattr(each.about, name) for name in names} | {"age_hours": each.age_hours()}
        for each in table.online.tables
    ]
    return {"key": table.online.key or None, "tables": tables, "problem": table.online.problem or None}


def _timed(channel: Channel, values: list[list[Any]]) -> tuple[list[float], float]:
    """The scores, and the milliseconds that they took."""
    start = time.perf_counter()
    return channel.loaded.score(values), _since(start)


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def _head(prediction_id: str, channel: Channel | None, online: str | None = None) -> dict[str, Any]:
    """What every answer begins with."""
    return {
        "prediction_id": prediction_id,
        "release": channel and channel.release_id,
        "channel": channel and channel.name,
        "generation": channel and channel.generation,
        "online": online,
    }


def _refusal(status: int, prediction_id: str, channel: Channel | None, *problems: Problem) -> Response:
    """What every answer that is not a prediction looks like."""
    return Json(_head(prediction_id, channel) | {"errors": [asdict(each) for each in problems]}, status)


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


async def _body(request: Request, most: int) -> bytes | None:
    """The body; None when it is larger than that."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return body


def read(body: bytes, prediction_id: str, most_rows: int, key_column: str = "") -> Asked:
    """What a body asks: {"row": {...}} or {"rows": [{...}, ...]}, and perhaps a "key".

    Without a "key", each row's own is taken, and the first row's decides which channel answers.

    Raises:
        InvalidError: it is something else.
    """
    asked = _parse(body)
    if (name := _said_twice(body, asked)) is not None:
        raise InvalidError(Problem(None, name[:100], "it stands there twice"))
    if not isinstance(asked, dict) or ("row" in asked) == ("rows" in asked):
        raise InvalidError(Problem(None, None, 'the body is {"row": {...}} or {"rows": [{...}, ...]}'))
    if unknown := sorted(asked.keys() - {"row", "rows", "key"}):
        raise InvalidError(Problem(None, unknown[0][:100], "a body has `row` or `rows`, and perhaps `key`"))
    rows = asked.get("rows", [asked.get("row")])
    if not isinstance(rows, list) or not 0 < len(rows) <= most_rows:
        raise InvalidError(Problem(None, "rows", f"it is a list of 1 to {most_rows} rows"))
    key = asked.get("key")
    if not (key is None or (isinstance(key, str) and 0 < len(key) <= MOST_KEY) or type(key) is int):
        raise InvalidError(Problem(None, "key", f"it is a text of 1 to {MOST_KEY} letters, or a whole number"))
    keys = [_own_key(row, key_column) for row in rows] if key is None else [str(key)] * len(rows)
    return Asked(prediction_id, rows, "rows" in asked, keys[0], keys, hashlib.sha256(body).hexdigest())


def _own_key(row: Any, column: str) -> str | None:
    found = row.get(column) if column and isinstance(row, dict) else None
    return str(found) if type(found) in (str, int) else None


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError as error:
        not_json = InvalidError(Problem(None, None, f"the body is not JSON: {error}"))
    for number, field, value in _not_finite(body):
        reason = f"{value} is neither JSON nor a finite number; use null for unknown values"
        raise InvalidError(Problem(number, field, reason))
    raise not_json


def _said_twice(body: bytes, asked: Any) -> str | None:
    """A name that one object of the body has twice: readers of JSON differ in which of the two they take.

    Raises:
        InvalidError: nobody can tell.
    """
    rows = asked.get("rows") if isinstance(asked, dict) else None
    objects = [asked, *(rows if isinstance(rows, list) else [asked.get("row")] if isinstance(asked, dict) else [])]
    if body.count(b":") == sum(len(each) for each in objects if isinstance(each, dict)):
        return None  # a colon for each name that is left, and none more: nothing was said twice

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise _TwiceError(name)
            found[name] = value
        return found

    try:
        json.loads(body, object_pairs_hook=once)
    except _TwiceError as error:
        return str(error)
    except (ValueError, RecursionError):
        raise InvalidError(
            Problem(None, None, "the body is nested too deeply, or has a number of too many digits")
        ) from None
    return None


class _TwiceError(Exception):
    """A name stands twice in one object."""


def _not_finite(body: bytes) -> list[tuple[int, str, float]]:
    """Where NaN or Infinity stands, which many a library writes and JSON does not have."""
    try:
        asked = json.loads(body)
        rows = asked["rows"] if "rows" in asked else [asked["row"]]
        return [
            (number, field, value)
            for number, row in enumerate(rows)
            for field, value in row.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def make_app(service: Service, guard: Guard) -> FastAPI:
    """The app; while it runs, the pointers are followed and the log is written."""
    loader = service.loader

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loader.start()
        service.log.start()
        yield
        await service.finish()
        loader.stop()
        service.log.stop()

    # The pages that FastAPI has for people load scripts from elsewhere.
    no_pages: dict[str, Any] = {"openapi_url": None, "docs_url": None, "redoc_url": None}
    app = FastAPI(title="Predictions", lifespan=lifespan, redirect_slashes=False, **no_pages)
    app.add_middleware(Guarded, guard=guard, refuse=service.turn_away, answer=service.answer)

    # Not through FastAPI's own reading of a body: the schema is the release's, and changes while the app runs.
    app.add_route(PREDICT, service.answer, methods=["POST"], include_in_schema=False)

    @app.get("/health/live", summary="Whether the process answers")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health", summary="The same as /health/ready")
    @app.get("/health/ready", summary="Whether predictions are answered; if not, why not")
    async def ready() -> Response:
        production = loader.table.production
        if production is None:
            reason = loader.problems().get("production", "production serves nothing")
            return Json({"status": "not ready", "reason": reason}, 503)
        return Json({"status": "ready", "release": production.release_id})

    @app.get("/info", summary="What each channel serves")
    async def info() -> dict[str, Any]:
        return service.info()

    @app.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        return PlainTextResponse(generate_latest(service.metrics.registry))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Json(openapi_of(app, loader.table.production, service.settings, loader.key, bool(guard.token)))

    @app.exception_handler(HTTPException)
    async def explain(_: Request, error: HTTPException) -> Response:
        allow = (error.headers or {}).get("Allow")
        reason = (
            f"the method here is {allow}" if allow else "there is nothing here: GET /openapi.json lists what there is"
        )
        answer = _refusal(error.status_code, ids.new(), None, Problem(None, None, reason))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def hide(_: Request, error: Exception) -> Response:
        return _refusal(500, ids.new(), None, Problem(None, None, "the server failed; its log says why"))

    return app
