"""The workspace and the sweeps for a W&B server: what is built, without one; every parameter of a sweep composes."""

import re

import pytest
import torch
import yaml

from conf.base import BadInput
from conf.compose import compose_values
from conf.tracking import X_AXES
from conf.validation import validate
from experiments import dashboard
from experiments.dashboard import Request, outline, workspace
from models.positions import SCHEMES
from tests.runs import ROOT
from train import compose

SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
# wandb-workspaces is written for pydantic 1.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")
MACROS = {"${env}", "${program}", "${args_no_hyphens}"}


def options(*words: str) -> Request:
    return validate(Request, compose_values("dashboard", list(words)))


def test_every_curve_has_the_x_axis_it_is_logged_with():
    """What a server would get: the panel's metrics and axes are those of conf/tracking.py."""
    built = workspace(options(), "me")
    spec = built._to_model().model_dump(by_alias=True)["spec"]["section"]["panelBankConfig"]["sections"]
    curves = [p["config"] for section in spec for p in section["panels"] if p["viewType"] == "Run History Line Plot"]
    assert len(curves) == 9 and {item["xAxis"] for item in curves} == {"tokens", "context/length"}
    for item in curves:
        (metric,) = item["metrics"]
        assert f"{metric.split('/')[0]}/*" in X_AXES[item["xAxis"]]
    scalars = [p["config"]["metrics"][0] for s in spec for p in s["panels"] if p["viewType"] == "Scalar Chart"]
    assert scalars == [f"final/{item}" for item in dashboard.FINAL]
    bars = [p["config"] for s in spec for p in s["panels"] if p["viewType"] == "Bar Chart"]
    assert len(bars) == 3 and all(item["groupBy"] == "position.value.name" for item in bars)


def test_runs_are_chosen_by_tag_and_grouped_by_settings():
    built = workspace(options("tags=[convergence,rope]", "by=[position.name,frequencies.base]"), "me")
    (runs,) = built._to_model().model_dump(by_alias=True)["spec"]["section"]["runSets"]
    assert [item["value"] for item in runs["filters"]["filters"]] == [["convergence"], ["rope"]]
    assert [item["name"] for item in runs["grouping"]] == ["position.value.name", "frequencies.value.base"]
    text = outline(built)
    assert "where " in text and "convergence" in text and "grouped by position.name, frequencies.base" in text
    assert "LinePlot: context/perplexity against context/length" in text


def test_without_a_key_it_is_built_but_not_saved(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "")
    dashboard.run_command(compose_values("dashboard", ["dry_run=true"]), [])
    assert "runs of (the entity of the key)/positions" in capsys.readouterr().out
    for words in ([], ["entity=me"]):
        with pytest.raises(BadInput, match=r"was not saved: No API key configured.*; dry_run=true shows it"):
            dashboard.run_command(compose_values("dashboard", words), [])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What compose reads of a checkpoint: how it was trained."""
    path = tmp_path_factory.mktemp("runs") / "step-00001000.ckpt"
    record = {"config": compose([]).model_dump(mode="json"), "vocabulary": 2048, "separator": 0, "corpus": "text"}
    torch.save({"lab": record, "global_step": 1000, "state_dict": {}}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_parameter_of_a_sweep_composes(path, checkpoint):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] == "grid" and (ROOT / sweep["program"]).is_file() and sweep["project"] == "positions"
    assert sweep["metric"] == {"name": "final/validation/nll", "goal": "minimize"}
    command = sweep["command"]
    assert {word for word in command if "$" in word} == MACROS and command[-1] == "${args_no_hyphens}"
    fixed = [re.sub(r"^checkpoint=.+/step-00001000\.ckpt$", f"checkpoint={checkpoint}", word) for word in command[3:-1]]
    values = {key: entry["values"] for key, entry in sweep["parameters"].items()}
    names = set()
    for key, choices in values.items():
        for choice in choices:
            point = {other: item[0] for other, item in values.items()} | {key: choice}
            config = compose([*fixed, *(f"{name}={value}" for name, value in point.items())])
            assert config.group == f"sweep-{path.stem}"
            names.add(config.name)
    assert len(names) == sum(map(len, values.values())) - len(values) + 1, "each point is a run of its own"


def test_the_sweeps_are_the_main_ones():
    assert [path.stem for path in SWEEPS] == ["bases", "factors", "positions"]
    positions = yaml.safe_load(SWEEPS[2].read_text())["parameters"]["position"]["values"]
    assert set(positions) == set(SCHEMES) - {"binary", "mixture"}
