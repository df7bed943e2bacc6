"""`doctor --team`: which of the team's servers this machine reaches, what you may do there, and what is missing.

The checks change nothing, except that one writes a small file to the DVC remote and deletes it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from .. import flows, project
from ..errors import one_line, redacted
from ..params import load_params
from ..releases import approvals, git, tracking
from ..releases import ledger as book
from ..releases.pipeline import Pipeline
from ..releases.store import Store

# How long to wait for a server that does not answer.
PATIENCE_SECONDS = 10
DEPLOYMENTS = Path("prefect.yaml")


@dataclass(frozen=True)
class Row:
    """One check. `missing`: not set up, so that only this machine has it. `do`: the next thing to type."""

    part: str
    state: Literal["works", "missing", "fails"]
    said: str
    do: str = ""


def check_team() -> list[Row]:
    """Look at every server that the project may share with a team."""
    found: list[Row] = []
    for part, check in CHECKS.items():
        try:
            found += [Row(part, *row) for row in check()]
        except Exception as error:  # each server has errors of its own
            found.append(Row(part, "fails", one_line(error)))
    return found


# The rest of a row, after its part.
Checked = Iterator[tuple[Any, ...]]


def _git() -> Checked:
    if (remote := git.remote()) is None:
        said = "this repository has no remote `origin`: the code and the ledger are on this machine only"
        yield "missing", said, "git remote add origin URL"
        return
    # Not a fetch, which would also push operations that only this clone has.
    far, here = git.git("ls-remote", remote, book.REF).split("\t")[0], git.resolve(book.REF)
    if not far:
        yield "missing", f"`{remote}` answers, and has no ledger yet", f"git push {remote} {book.BRANCH}"
    else:
        same = "the same ledger as" if far == here else "another ledger than"
        yield "works", f"`{remote}` answers, and has {same} this clone"
    try:
        git.git("push", "--dry-run", "--quiet", remote, "HEAD:refs/lifecycle/doctor")
    except git.GitError as error:
        yield "fails", f"you may not push, so you cannot release, approve or promote: {one_line(error)}"
    else:
        yield "works", "you may push; whether a branch is protected, only the git server knows"


def _dvc() -> Checked:
    store = Store()
    name, url, is_shared = store.remote_place()
    where = f"`{name}` ({redacted(url)})"
    if not is_shared:
        do = f"dvc remote modify {name} url s3://BUCKET/PATH"
        yield "missing", f"{where} is a folder in this project: the data are on this machine only", do
        return
    store.try_remote()
    yield "works", f"you may read and write {where}"


def _mlflow() -> Checked:
    if tracking.own_database():
        said = "its database is a file in this project: other machines do not see the runs"
        yield "missing", said, "export MLFLOW_TRACKING_URI=https://..."
        return
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE_SECONDS))
    tracking.open_client().search_experiments(max_results=1)
    yield "works", f"{redacted(tracking.tracking_uri())} answers"


def _prefect() -> Checked:
    if not (url := os.environ.get("PREFECT_API_URL")):
        said = "each run starts a server of its own, and nothing runs on a schedule"
        yield "missing", said, "export PREFECT_API_URL=https://.../api"
        return
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: PATIENCE_SECONDS}),
        get_client(sync_client=True) as client,
    ):
        version = client.request("GET", "/admin/version").json()
        yield "works", f"{redacted(url)} answers, version {version}"
        pools = _deployments()
        own = {"flows": {"name": {"any_": [name.partition("/")[0] for name in pools]}}}
        names = {each["id"]: each["name"] for each in client.request("POST", "/flows/filter", json=own).json()}
        deployed = client.request("POST", "/deployments/filter", json=own).json()
        there = {f"{names[each['flow_id']]}/{each['name']}" for each in deployed}
        if absent := [name for name in pools if name not in there]:
            yield "missing", f"not deployed: {', '.join(absent)}", "prefect --no-prompt deploy --all"
        for pool in dict.fromkeys(pools[name] for name in pools if name in there):
            workers = client.request("POST", f"/work_pools/{pool}/workers/filter", json={}).json()
            if any(each["status"] == "ONLINE" for each in workers):
                yield "works", f"the pool {pool} has a worker"
            else:
                yield "fails", f"the pool {pool} has no worker: its runs wait", f"prefect worker start --pool {pool}"


def _deployments() -> dict[str, str]:
    """Return the deployments of this machinery's flows as `flow/name`, each with its work pool."""
    own = project.here().name
    found = {}
    for each in yaml.safe_load(DEPLOYMENTS.read_bytes())["deployments"]:
        module, _, function = str(each["entrypoint"]).rpartition(".")
        if module.startswith("lifecycle."):
            flow = own if function == "pipeline" else flows.flow_name(function.replace("_", "-"))
            found[f"{flow}/{each['name']}"] = str(each["work_pool"]["name"])
    placed = [stage.run_on for stage in Pipeline().stages() if stage.run_on]
    return found | {f"{flows.flow_name('run-stage')}/{pool}": pool for pool in placed}


def _approvals() -> Checked:
    promotion, me = load_params().promotion, git.identity()
    production = promotion.channels.get("production")
    if production is None or not production.approvals:
        yield "missing", "production needs no approval", "set promotion.channels.production.approvals in params.yaml"
        return
    if promotion.self_approval:
        do = "set promotion.self_approval: false in params.yaml"
        yield "missing", "people can approve their own releases, without a second person", do
    signers = approvals.allowed_signers()
    if signers is None:
        said = f"approvals are not signed: anyone who can push can approve under any name. Your name is {me}"
        yield "missing", said, "commit a file allowed_signers: vendor/lifecycle/docs/releases.md"
    elif (mail := approvals.mail_of(me)) in signers.decode(errors="replace"):
        yield "works", f"you may approve, as {mail}"
    else:
        yield "works", f"you may not approve: allowed_signers does not name {mail}"


CHECKS: dict[str, Callable[[], Checked]] = {
    "git": _git,
    "DVC remote": _dvc,
    "MLflow": _mlflow,
    "Prefect": _prefect,
    "approvals": _approvals,
}
