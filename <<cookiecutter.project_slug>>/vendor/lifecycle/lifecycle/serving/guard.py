"""Who may ask: a client that knows the server by its own name, from no other web page, with the token."""

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
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  what is compared with, not what is listened on
PREDICT = "/predict"
# What a supervisor or load balancer may ask without a name or a token. It tells nothing of the data.
OPEN = frozenset({"/health", "/health/live", "/health/ready"})


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered. `outcome`: in the metrics."""

    status: int
    outcome: str
    reason: str


MISDIRECTED = Refusal(421, "foreign", "the Host is not a name of this server; `serve --allow-host NAME` adds one")
FOREIGN = Refusal(403, "foreign", "the Origin is another site: web pages from elsewhere get no answer")
UNAUTHORISED = Refusal(401, "unauthorised", "a bearer token is needed")


@dataclass(frozen=True)
class Guard:
    """What every request but those to /health must have.

    The Host check stops DNS rebinding: a web page that lets its own name point to this machine. `hosts` are names with
    their ports, as a Host header has them; with `any_address`, an IP address will do too, since it is not a name.
    """

    hosts: frozenset[bytes]
    any_address: bool = False
    token: str | None = None

    def refuses(self, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
        """Why the request with these headers is not answered; None where it is. Names are in lower case."""
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
    """The guard of a server that listens there; `more` are other names by which clients know it."""
    bound = [f"[{host}]" if ":" in host else host] if host not in EVERYWHERE else []
    names = ["localhost", "127.0.0.1", "[::1]", *bound, *more]
    hosts = {f"{name}:{port}" for name in names} | {*more} | ({*names} if port == 80 else set())
    return Guard(frozenset(name.lower().encode() for name in hosts), host in EVERYWHERE, token)


def token_of_environment() -> str | None:
    """The token that the environment sets; None where it sets none.

    Raises:
        UserError: it is empty, or cannot stand in a header.
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
    """The app behind its guard. `answer` gets POST /predict at once: the way through the app takes as long again."""

    app: ASGIApp
    guard: Guard
    refuse: Callable[[Refusal], Response]
    answer: Callable[[Request], Awaitable[Response]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
        elif found := self.guard.refuses(scope["headers"]):
            await self.refuse(found)(scope, receive, send)
        elif scope["path"] == PREDICT and scope["method"] == "POST":
            await (await self.answer(Request(scope, receive, send)))(scope, receive, send)
        else:
            await self.app(scope, receive, send)
