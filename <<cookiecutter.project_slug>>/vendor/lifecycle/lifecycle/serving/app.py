"""The HTTP server's app: takes one row or many, and returns predictions, each with an id for tracing it."""

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
from .follow import LedgerFollower
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
    """A response with a JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialize the content to bytes."""
        return orjson.dumps(content)


@dataclass(frozen=True)
class Asked:
    """A parsed request. `key` decides which channel answers; `keys` identify the rows when their outcomes arrive."""

    id: str
    rows: list[Any]
    many: bool
    key: str | None
    keys: list[str | None]
    digest: str


@dataclass(frozen=True)
class Filled:
    """The rows as one channel's model gets them. `online`: the table that supplied missing features.

    `agrees`: whether a row's features match this table's for its key; None if the table does not have the key.
    """

    rows: list[Any]
    values: list[list[Any]]
    online: str | None
    agrees: list[bool | None]


class Service:
    """Answer requests with the releases that the loader has loaded."""

    def __init__(self, settings: params.Serving, loader: Loader, log: Log) -> None:
        self.settings = settings
        self.loader = loader
        self.log = log
        self.ledger = LedgerFollower(settings.follow_seconds)
        self.metrics = Metrics(loader, log, self.ledger)
        self._shadows: set[asyncio.Task[None]] = set()

    async def answer(self, request: Request) -> Response:
        """POST /predict."""
        prediction_id = ids.new()
        if not _is_json(request.headers.get("content-type", "")):  # a web page may send others without CORS preflight
            wanted = Problem(None, None, "the Content-Type must be application/json")
            return self._refuse(415, "invalid", prediction_id, None, wanted)
        try:
            body = await _body(request, self.settings.max_body_kb * 1024)
        except ClientDisconnect:
            logger.info("the client of %s left within its body", prediction_id)
            return self._refuse(400, "gone", prediction_id, None, Problem(None, None, "the body is incomplete"))
        start = time.perf_counter()
        table = self.loader.table  # read once: the whole request uses these releases
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
        """Return the response for a request that the guard refuses."""
        problem = Problem(None, None, refusal.reason)
        answer = self._refuse(refusal.status, refusal.outcome, ids.new(), None, problem)
        if refusal.status == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    async def _predict(
        self, asked: Asked, filled: Filled, table: Table, production: Channel
    ) -> tuple[Channel, str | None, list[float] | None]:
        """Return the answering channel, its online table, and the scores, which are None if production fails."""
        canary = table.canary
        if canary and table.is_for_canary(asked.key or asked.id):
            tried = await self._try_canary(asked, table, canary, filled.agrees)
            if tried is not None:
                return canary, *tried
        elif canary and not canary.traffic and self.settings.shadow:
            self._shadow(asked, table, canary, filled.agrees)
        start = time.perf_counter()
        try:
            if len(filled.values) <= FEW_ROWS:  # faster than waking up a thread
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
        """Return the online table and the canary's scores. None if it is skipped, fails or takes too long.

        `agrees`: according to production's online table; used for rows that the canary refuses.
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
        except Exception as error:  # a canary can fail in any way
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
        """Also ask the canary, in the background; the response does not wait for it."""
        if len(self._shadows) >= MOST_SHADOWS:
            self.metrics.shadow_dropped.inc()
            return
        task = asyncio.create_task(self._in_background(asked, table, canary, agrees))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _in_background(self, asked: Asked, table: Table, canary: Channel, agrees: list[bool | None]) -> None:
        await self._try_canary(asked, table, canary, agrees, shadow=True)

    async def finish(self) -> None:
        """Wait for the shadow requests that are still running."""
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
            "behind": self.log.behind or None,
            "a_crash_loses": self.log.promise,
        }
        return {"channels": channels, "ledger": self.ledger.state(), "online": _online(table), "log": log}


def fill(asked: Asked, channel: Channel, table: Table) -> Filled:
    """Return the rows as the channel's model gets them.

    Raises:
        InvalidError: its schema refuses them, or missing features cannot be filled in.
    """
    rows, online = table.online.complete(asked.rows, channel.loaded)
    values = channel.loaded.schema.read(rows, table.known, asked.rows)
    return Filled(rows, values, online, table.online.agreement(asked.keys, asked.rows, rows, channel.loaded))


def _online(table: Table) -> dict[str, Any]:
    """Return the online tables for /info."""
    names = ("table", "features_md5", "features_sha256", "sql", "release", "rows", "newest", "built")
    tables = [
        {"online": each.digest} | {name: getattr(each.about, name) for name in names} | {"age_hours": each.age_hours()}
        for each in table.online.tables
    ]
    return {"key": table.online.key or None, "tables": tables, "problem": table.online.problem or None}


def _timed(channel: Channel, values: list[list[Any]]) -> tuple[list[float], float]:
    """Return the scores, and the time they took in milliseconds."""
    start = time.perf_counter()
    return channel.loaded.score(values), _since(start)


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def _head(prediction_id: str, channel: Channel | None, online: str | None = None) -> dict[str, Any]:
    """Return the fields that every answer starts with."""
    return {
        "prediction_id": prediction_id,
        "release": channel and channel.release_id,
        "channel": channel and channel.name,
        "generation": channel and channel.generation,
        "online": online,
    }


def _refusal(status: int, prediction_id: str, channel: Channel | None, *problems: Problem) -> Response:
    """Return an error response. All answers without a prediction have this form."""
    return Json(_head(prediction_id, channel) | {"errors": [asdict(each) for each in problems]}, status)


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


async def _body(request: Request, most: int) -> bytes | None:
    """Return the body, or None if it is larger than `most` bytes."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return body


def read(body: bytes, prediction_id: str, most_rows: int, key_column: str = "") -> Asked:
    """Parse a body: {"row": {...}} or {"rows": [{...}, ...]}, and optionally a "key".

    Without a "key", each row's own key is used, and the first row's decides which channel answers.

    Raises:
        InvalidError: the body has another form.
    """
    asked = _parse(body)
    if (name := _said_twice(body, asked)) is not None:
        raise InvalidError(Problem(None, name[:100], "it is there twice"))
    if not isinstance(asked, dict) or ("row" in asked) == ("rows" in asked):
        raise InvalidError(Problem(None, None, 'the body must be {"row": {...}} or {"rows": [{...}, ...]}'))
    if unknown := sorted(asked.keys() - {"row", "rows", "key"}):
        raise InvalidError(
            Problem(None, unknown[0][:100], "unknown name: the body has `row` or `rows`, and optionally `key`")
        )
    rows = asked.get("rows", [asked.get("row")])
    if not isinstance(rows, list) or not 0 < len(rows) <= most_rows:
        raise InvalidError(Problem(None, "rows", f"it must be a list of 1 to {most_rows} rows"))
    key = asked.get("key")
    if not (key is None or (isinstance(key, str) and 0 < len(key) <= MOST_KEY) or type(key) is int):
        raise InvalidError(Problem(None, "key", f"it must be text of 1 to {MOST_KEY} characters, or an integer"))
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
    """Return a name that occurs twice in one object of the body: JSON parsers differ in which value they keep.

    Raises:
        InvalidError: this cannot be determined.
    """
    rows = asked.get("rows") if isinstance(asked, dict) else None
    objects = [asked, *(rows if isinstance(rows, list) else [asked.get("row")] if isinstance(asked, dict) else [])]
    if body.count(b":") == sum(len(each) for each in objects if isinstance(each, dict)):
        return None  # one colon for each remaining name and no more: there are no duplicates

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
    """Raised if a name occurs twice in one object."""


def _not_finite(body: bytes) -> list[tuple[int, str, float]]:
    """Find NaN and Infinity, which many libraries write although JSON does not have them."""
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
    """Create the app. While it runs, it follows the pointers and writes the log."""
    loader = service.loader

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.ledger.start()
        loader.start()
        service.log.start()
        yield
        await service.finish()
        service.ledger.stop()
        loader.stop()
        service.log.stop()

    # FastAPI's documentation pages load scripts from other sites.
    no_pages: dict[str, Any] = {"openapi_url": None, "docs_url": None, "redoc_url": None}
    app = FastAPI(title="Predictions", lifespan=lifespan, redirect_slashes=False, **no_pages)
    app.add_middleware(Guarded, guard=guard, refuse=service.turn_away, answer=service.answer)

    # Bypass FastAPI's body parsing: the schema is the release's, and changes while the app runs.
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

    @app.post("/ledger", status_code=202, summary="Fetch the ledger now: for a hook of the git server")
    async def moved() -> dict[str, str]:
        service.ledger.wake()
        return {"status": "accepted"}

    @app.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        return PlainTextResponse(generate_latest(service.metrics.registry))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Json(openapi_of(app, loader.table.production, service.settings, loader.key, bool(guard.token)))

    @app.exception_handler(HTTPException)
    async def explain(_: Request, error: HTTPException) -> Response:
        allow = (error.headers or {}).get("Allow")
        reason = f"the method must be {allow}" if allow else "no such path: GET /openapi.json lists the paths"
        answer = _refusal(error.status_code, ids.new(), None, Problem(None, None, reason))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def hide(_: Request, error: Exception) -> Response:
        return _refusal(500, ids.new(), None, Problem(None, None, "the server failed; its log says why"))

    return app
