"""`serve`: answer requests for predictions until told to end."""

import logging
import os
import signal
import socket
import sys
from contextlib import suppress

from ..errors import UserError
from ..lifecycle import ledger, pointers
from ..params import load_params

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# How long requests on their way may take when the server is told to end.
GRACE_SECONDS = 10


def serve(host: str, port: int) -> None:
    """Serve the channels on one port, in this process.

    Raises:
        UserError: the port cannot be had, or params.yaml is wrong.
    """
    import uvicorn

    from ..serving.app import TOKEN, Service, make_app
    from ..serving.loader import Loader
    from ..serving.log import Log

    params = load_params()
    settings = params.serving
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    with suppress(UserError):  # a pointer that is there is enough to serve by
        pointers.write(ledger.load())
    listener = listen(host, port)
    loader = Loader(settings, params.monitoring.columns.key)
    loader.look()
    token = os.environ.get(TOKEN)
    app = make_app(Service(settings, loader, Log(settings.log)), token)
    production = loader.table.production
    _say(listener, production.release_id if production else None, loader.problems().get("production"))
    if host not in LOOPBACK and not token:
        print(f"note: whoever reaches this machine may ask; {TOKEN} in the environment sets a token", file=sys.stderr)
    # uvicorn ends well at these, and then lets them end the process: as it has ended well, there is nothing to say.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
    )
    uvicorn.Server(config).run(sockets=[listener])
    print("ended; every logged prediction is on the disk", file=sys.stderr)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UserError: it cannot.
    """
    # asyncio sends small answers at once (TCP_NODELAY) only on sockets that say that they are TCP.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port} cannot be listened on: {error}. `--help` names the option for another") from None
    return listener


def _say(listener: socket.socket, release: str | None, problem: str | None) -> None:
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    what = f"production is {release}" if release else f"not ready: {problem or 'production serves nothing'}"
    print(f"{address}  {what}\nPOST /predict; GET /health /info /metrics /openapi.json; Ctrl-C ends it", flush=True)
