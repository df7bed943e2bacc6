"""Servers of predictions inside a test, and clients that ask them."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import uvicorn

from lifecycle import params
from lifecycle.commands.serve import CLIENT_SECONDS, configuration, listen
from lifecycle.predictions import log as predictions
from lifecycle.processes import wait_until
from lifecycle.releases import ledger as book
from lifecycle.serving.app import Service, make_app
from lifecycle.serving.guard import guard
from lifecycle.serving.loader import Loader
from lifecycle.serving.log import Log


@dataclass(frozen=True)
class Client:
    """Asks a server on loopback, on one connection."""

    port: int
    token: str = ""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """The status and the JSON, or the text, of an answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            return send(connection, method, path, body, **headers)
        finally:
            connection.close()

    def predict(self, body: Any, **headers: str) -> tuple[int, Any]:
        """POST /predict."""
        return self.ask("POST", "/predict", body, **headers)

    def get(self, path: str) -> Any:
        """What a GET answers; whatever the status."""
        return self.ask("GET", path)[1]


def send(connection: HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """One request on a connection that stays open."""
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if content is not None:
        headers = {"Content-Type": "application/json"} | headers
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text.decode()


@dataclass(frozen=True)
class Served(Client):
    """A server inside the test, and what it is made of."""

    service: Service | None = None

    @property
    def loader(self) -> Loader:
        """Of the server."""
        assert self.service
        return self.service.loader

    def wait_for(self, channel: str, release: str | None) -> None:
        """Until the server serves it."""

        def there() -> bool:
            now = getattr(self.loader.table, channel)
            return (now and now.release_id) == release

        wait_until(there, f"{channel} does not serve {release}: {self.loader.problems()}")

    def logged(self, prediction_id: str, lines: int = 1) -> list[dict[str, Any]]:
        """The lines of a prediction, once there are so many."""
        wait_until(lambda: len(predictions.find(prediction_id)) >= lines, f"{prediction_id} is not logged")
        return predictions.find(prediction_id)


@contextmanager
def running(
    settings: params.Serving, token: str | None = None, names: Sequence[str] = (), seconds: int = CLIENT_SECONDS
) -> Iterator[Served]:
    """A server in a thread; `names` and `seconds` as for `serve`."""
    loader = Loader(settings, params.load_params().monitoring.columns.key)
    loader.look()
    service = Service(settings, loader, Log(settings.log))
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(configuration(make_app(service, guard("127.0.0.1", port, names, token)), seconds))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started, "the server does not start")
            yield Served(port, token or "", service)
        finally:
            server.should_exit = True
            thread.join()


class Asking:
    """Clients that ask without a pause, in threads of their own, until the block ends."""

    def __init__(self, clients: int) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[number]) for number in range(clients)]

    def _ask(self, number: int) -> None:
        """Ask until `_stop` is set."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


Serve = Callable[..., Served]


def probe(release_id: str) -> tuple[list[dict[str, Any]], list[float]]:
    """Rows of a release's record, and what it predicts for them."""
    found = book.load().release(release_id).model["probe"]
    return found["rows"], found["predictions"]


# What the model of the third release does when a file of this name says so: `slow`, or `crash`.
SWITCH = Path("sabotage")
SABOTAGE = f'''

def _sabotaged(predict):
    def wrapped(*arguments, **named):
        import pathlib
        import time

        what = pathlib.Path("{SWITCH}").read_text() if pathlib.Path("{SWITCH}").exists() else ""
        if what == "slow":
            time.sleep(1)
        if what == "crash":
            raise RuntimeError("as asked")
        return predict(*arguments, **named)

    return wrapped


Model.predict = _sabotaged(Model.predict)
Model.predict_rows = _sabotaged(Model.predict_rows)
'''
