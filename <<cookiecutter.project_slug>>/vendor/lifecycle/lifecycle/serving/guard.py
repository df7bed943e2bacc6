"""Access control: the client must use the server's own name, not come from another web page, and have the token."""

import hmac
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import UserError

TOKEN = "SERVING_TOKEN"  # noqa: S105  the name of a variable
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  for comparison, not to listen on
PREDICT = "/predict"
# Paths that a supervisor or load balancer may request without a name or a token. They reveal no data.
OPEN = frozenset({"/health", "/health/live", "/health/ready"})


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused. `outcome`: its label in the metrics."""

    status: int
    outcome: str
    reason: str


MISDIRECTED = Refusal(421, "foreign", "the Host is not a name of this server; `serve --allow-host NAME` adds one")
FOREIGN = Refusal(403, "foreign", "the Origin is another site: web pages from elsewhere get no answer")
UNAUTHORISED = Refusal(401, "unauthorised", "a bearer token is needed")


@dataclass(frozen=True)
class Guard:
    """The requirements for every request except those to /health.

    The Host check stops DNS rebinding: a web page that makes its own name resolve to this machine. `hosts` are names
    with ports, as in a Host header. With `any_address`, IP addresses are allowed too, since they are not names.
    """

    hosts: frozenset[bytes]
    any_address: bool = False
    token: str | None = None

    def refuses(self, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
        """Return why a request with these headers is refused, or None if it is allowed. Names are in lower case."""
        host = origin = authorization = None
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    return MISDIRECTED
                host = value.lower()
            elif name == b"origin":
                origin = value.lower()
            elif name == b"authorization":
                authorization = value
        if host is None or not (host in self.hosts or (self.any_address and _is_address(host))):
            return MISDIRECTED
        if origin is not None and origin not in (b"http://" + host, b"https://" + host):
            return FOREIGN
        return None if self.token is None or _has_token(authorization, self.token) else UNAUTHORISED


def _has_token(authorization: bytes | None, token: str) -> bool:
    scheme, _, sent = (authorization or b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(sent.strip(), token.encode())


def _is_address(host: bytes) -> bool:
    name = host.decode("latin-1")
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def guard(host: str, port: int, more: Iterable[str] = (), token: str | None = None) -> Guard:
    """Return the guard of a server that listens there. `more`: other names that clients use for it."""
    bound = [f"[{host}]" if ":" in host else host] if host not in EVERYWHERE else []
    names = ["localhost", "127.0.0.1", "[::1]", *bound, *more]
    hosts = {f"{name}:{port}" for name in names} | {*more} | ({*names} if port == 80 else set())
    return Guard(frozenset(name.lower().encode() for name in hosts), host in EVERYWHERE, token)


def token_of_environment() -> str | None:
    """Return the token from the environment, or None if it is not set.

    Raises:
        UserError: it is empty, or not valid in a header.
    """
    token = os.environ.get(TOKEN)
    if token == "":
        raise UserError(f"{TOKEN} is empty, which protects nothing: `unset {TOKEN}`, or give it a value")
    if token and not (token.isascii() and token.isprintable() and token == token.strip()):
        raise UserError(
            f"{TOKEN} must be printable ASCII without spaces at its ends: other characters do not fit a header"
        )
    return token


@dataclass(frozen=True)
class Guarded:
    """The app behind its guard. Calls `answer` directly for POST /predict: going through the app doubles the time."""

    app: ASGIApp
    guard: Guard
    refuse: Callable[[Refusal], Response]
    answer: Callable[[Request], Awaitable[Response]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
        elif found := self.guard.refuses(scope["headers"]):
            await self.refuse(found)(scope, receive, send)
        elif scope["path"] == PREDICT and scope["method"] == "POST":
            await (await self.answer(Request(scope, receive, send)))(scope, receive, send)
        else:
            await self.app(scope, receive, send)
