"""Another kind of model touches the project's own files: those that the contract page names."""

import json
import re
from pathlib import Path

import pytest
import yaml
from test_own_data import blank, machinery

from baking import TEMPLATE
from running import run

pytestmark = pytest.mark.xdist_group("options")

MODELS = Path(__file__).parent / "models"
CONTRACT = TEMPLATE / ("<" + "<cookiecutter.project_slug>>/vendor/lifecycle/docs/contract.md")
SRC = "src/things_that_end"
# One score a row is the class itself, and a prediction is right or wrong.
PREDICT = '''        """The class of each row, a whole number."""
        return np.asarray(self.scores(table).argmax(axis=1), dtype=np.float64)
'''
LOSSES = """    happened = label.combine_chunks().to_numpy(zero_copy_only=False)
    return np.asarray(predicted != happened, dtype=np.float64)
"""


def edit(path, *changes):
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, (path, old)
        text = text.replace(old, new)
    path.write_text(text)


def set_params(project, gates, compared):
    """Parameters of the logistic regression, and bounds."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"] = {"seed": 1, "threads": 1, "inverse_penalty": 1.0}
    params["evaluate"]["gates"] = gates
    params["promotion"]["channels"]["production"]["against_champion"] = compared
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def logistic(project):
    (project / SRC / "model.py").write_text((MODELS / "logistic.py").read_text())
    set_params(project, {"roc_auc": {"min": 0.65}}, {"log_loss": {"max": 0.02}})


def three_classes(project):
    logistic(project)
    body = (MODELS / "logistic.py").read_text()
    predict = re.search(r'        """Probability of the label.*?\n\n', body, re.DOTALL)[0]
    losses = re.search(r"    happened = .*?\n\n", body, re.DOTALL)[0]
    body = body.replace(predict, f"{PREDICT}\n").replace(losses, f"{LOSSES}\n")
    (project / SRC / "model.py").write_text(body)
    (project / SRC / "evaluate.py").write_text((MODELS / "three_classes.py").read_text())
    models = project / "transform/models/features"
    edit(
        models / "events.sql",
        (
            "    e.outcome\n",
            "    e.outcome::integer + (e.outcome and e.value > 0)::integer as outcome\n",
        ),
    )
    edit(models / "features.yml", ("data_type: boolean\n", "data_type: integer\n"))
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text())
    pipeline["stages"]["evaluate"]["outs"].remove("reports/plots")
    pipeline["plots"] = [each for each in pipeline["plots"] if "Learning curve" in each]
    (project / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    set_params(project, {"better_than_baseline": {"min": 0.01}}, {"accuracy": {"min": -0.05}})


def named(kind):
    """The files that the contract page names for a change."""
    row = re.search(rf"(?m)^\| {kind} \|(.*)\|$", CONTRACT.read_text())[1]
    return {Path(name).name for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize(
    ("change", "kind"),
    [(logistic, "another model for the same question"), (three_classes, "three or more classes")],
)
def test_another_model_touches_the_files_that_the_contract_names(change, kind, ready, tmp_path):
    project = blank(ready, tmp_path / "out")
    before, cli = machinery(project), ".venv/bin/things-that-end"
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--allow-empty", "-m", "Baked")
    change(project)
    changed = run(project, "git", "diff", "--name-only").split()
    names = {"*.sql" if name.endswith(".sql") else Path(name).name for name in changed}
    assert names <= named(kind)
    assert machinery(project) == before
    run(project, cli, "check")
    run(project, cli, "run")
    run(project, "git", "commit", "--quiet", "--all", "-m", "Another model")
    release = json.loads(run(project, cli, "release", "--json"))["release"]
    run(project, cli, "promote", release, "--to", "staging")
    run(project, cli, "approve", release)
    run(project, cli, "promote", release, "--to", "production")
    assert "scored" in run(project, cli, "score", "--months", "2013-01")
    assert "whole" in run(project, cli, "verify", "--all")
