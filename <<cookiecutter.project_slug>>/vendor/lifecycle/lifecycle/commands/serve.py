"""`serve`: answer prediction requests until stopped."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError, plain
from .command import command

if TYPE_CHECKING:
    import socket
    from asyncio import Transport

# How long a client may take to send a request, and to start the next one on the same connection.
CLIENT_SECONDS = 20
# How long open requests may take when the server is stopped.
GRACE_SECONDS = 10


@command("serve --port 8080", part="serving", json=False)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:PORT]", help="A name by which clients reach the server. Repeatable."),
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let any machine ask without a token.")] = False,
) -> None:
    """Serve predictions from production and canary, until Ctrl-C.

    Follows every promotion and rollback without a restart. With SERVING_TOKEN set, requests need that bearer token.
    """
    import signal

    import uvicorn

    from ..params import load_params
    from ..releases import ledger, pointers
    from ..serving.app import Service, make_app
    from ..serving.guard import TOKEN, guard, token_of_environment
    from ..serving.loader import Loader
    from ..serving.log import Log

    params = load_params()
    settings = params.serving
    token = token_of_environment()
    if token is None and not no_token and not _is_loopback(host):
        raise UserError(f"{host} lets other machines send requests: set {TOKEN} in the environment, or add --no-token")
    _log_to_stderr()
    with suppress(UserError):  # an existing pointer is enough to serve
        pointers.write(ledger.load())
    listener = listen(host, port)
    loader = Loader(settings, params.monitoring.columns.key)
    loader.look()
    guarded = guard(host, listener.getsockname()[1], allow_host or [], token)
    app = make_app(Service(settings, loader, Log(settings.log)), guarded)
    production = loader.table.production
    _say(listener, production.release_id if production else None, loader.problems().get("production"))
    # uvicorn shuts down cleanly on these signals and then raises them again: ignore that, since all is done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(configuration(app)).run(sockets=[listener])
    print("ended; every logged prediction is on the disk", file=sys.stderr)


def configuration(app: Any, seconds: int = CLIENT_SECONDS) -> Any:
    """Return uvicorn's configuration: a client that sends nothing for this long is disconnected."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        """Add timeouts: uvicorn itself waits forever for the first request, and for the rest of one."""

        def connection_made(self, transport: "Transport") -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._next_look = self.loop.call_later(seconds, self._look, None)

        def connection_lost(self, exc: Exception | None) -> None:
            self._next_look.cancel()
            super().connection_lost(exc)

        def _look(self, seen: object) -> None:
            """Close the connection if the client still owes the same request as at the last check."""
            cycle = self.cycle
            waits = cycle is None or cycle.response_complete or cycle.more_body
            if waits and cycle is seen:
                self.transport.close()
            else:
                self._next_look = self.loop.call_later(seconds, self._look, cycle if waits else self)

    return uvicorn.Config(
        app,
        http=Impatient,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=seconds,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _log_to_stderr() -> None:
    """Log this project's messages from level INFO; for libraries, only warnings."""
    import logging

    class Plain(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return plain(super().format(record))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Plain("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger(__package__.partition(".")[0]).setLevel(logging.INFO)


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> "socket.socket":
    """Return a socket that listens on this address.

    Raises:
        UserError: it is not available.
    """
    import socket

    # asyncio sends small answers at once (TCP_NODELAY) only on sockets that are declared as TCP.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{host}:{port} cannot be listened on: {error}. `--help` names the option for another"
        ) from None
    return listener


def _say(listener: "socket.socket", release: str | None, problem: str | None) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    what = f"production is {release}" if release else f"not ready: {problem or 'production serves nothing'}"
    print(f"{address}  {what}\nPOST /predict; GET /health /info /metrics /openapi.json; Ctrl-C ends it", flush=True)
