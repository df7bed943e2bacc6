"""Faults in the data that arrives from the source."""

import json
from collections.abc import Callable
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from ..files import sha256
from .load import JSON
from .sandbox import Sandbox, last_line
from .scenario import Scenario, expect

if TYPE_CHECKING:
    import pandas as pd


def corrupt_batch(scenario: Scenario) -> str:
    """Corrupt a tenth of the newest raw file with numbers out of all bounds."""

    def spoil(rows: "pd.DataFrame") -> "pd.DataFrame":
        for name in rows.select_dtypes("number"):
            rows.loc[rows.index[: max(len(rows) // 10, 1)], name] *= -1000
        return rows

    return _refused(scenario, spoil)


def schema_change(scenario: Scenario) -> str:
    """Rename a column of the newest raw file, and send requests without a feature."""
    said = _refused(scenario, lambda rows: rows.rename(columns={rows.columns[0]: f"{rows.columns[0]}_v2"}))
    row = dict(scenario.load.rows[0][1])
    field = row.popitem()[0]
    status, text = _post(scenario.sandbox.port, {"row": row})
    expect(status == 422 and field in text, f"the server answered a row without {field} with {status}")
    return f"{said}; a request without {field}: 422"


def _refused(scenario: Scenario, spoil: "Callable[[pd.DataFrame], pd.DataFrame]") -> str:
    import pandas as pd

    sandbox, watch = scenario.sandbox, scenario.watch
    monthly = sorted(sandbox.source.glob("*/*.parquet"))
    file = (monthly or sorted(sandbox.source.glob("*.parquet")))[-1]
    sound, before = file.read_bytes(), _built(sandbox)
    file.chmod(0o644)
    spoil(pd.read_parquet(file)).to_parquet(file, index=False)
    watch.begin()
    done = sandbox.cli("run")
    expect(done.returncode == 1, f"`run` took it: exit code {done.returncode}")
    watch.found()
    expect(_built(sandbox) == before, "it changed what is built")
    expect(list((sandbox.folder / "data/quarantine").rglob("*")), "nothing is in quarantine")
    file.write_bytes(sound)
    sandbox.must("run")
    expect(_built(sandbox) == before, "with the sound file, something else is built")
    watch.over()
    return f"refused: {last_line(done).removeprefix('error: ')[:120]}"


def _built(sandbox: Sandbox) -> dict[str, str]:
    names = ("dvc.lock", "params.yaml", "data/source.json")
    files = [sandbox.folder / name for name in names] + sorted((sandbox.folder / "data/features").rglob("*"))
    return {str(file): sha256(file) for file in files if file.is_file()}


def _post(port: int, body: Any) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/predict", json.dumps(body), JSON)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
