"""Progressive extension: both paths on a tiny model, read back, killed and gone on with, and what is refused."""

import json
import re
import shutil
import signal
import time

import pytest

import train as training
from conf.base import BadInput
from conf.compose import compose_values
from conf.validation import validate
from experiments.lab.launch import Launcher
from experiments.lab.measure.perplexity import measure_checkpoint
from experiments.lab.statistics import compare
from experiments.progressive.plan import Progressive, describe, make_stages
from experiments.progressive.report import PathReading, path_ratios, sentences, table
from experiments.progressive.stages import read_with, run_command, run_progressive
from models.restore import read_record
from tests.runs import CACHE, command, tiny
from train import compose, train

SMALL = ["factors=[2,4]", "steps=[2,1]", "segments=4", "search.population=4", "search.parents=2", "search.mutations=1"]
SMALL += ["search.crossovers=1", "search.generations=1", "search.tokens=256", "search.segments=4", "trainer=cpu"]
SMALL += ["trainer.progress=false", "logger=none", f"cache={CACHE}"]
LABELS = ["base", "progressive x2, 0 steps", "progressive x2, 2 steps", "progressive x4, 2 steps"]
LABELS += ["progressive x4, 3 steps", "recovered x4, 3 steps", "direct x4, 0 steps", "direct x4, 3 steps"]


def words(checkpoint, *changes):
    given = {change.split("=")[0] for change in changes}
    return [f"checkpoint={checkpoint}", *(word for word in SMALL if word.split("=")[0] not in given), *changes]


def plan(run, *changes):
    values = compose_values("progressive", words(run.checkpoint, *changes))
    own = {
        key: values.pop(key) for key in ("checkpoint", "logger", "cache", "runs", "trainer", "launcher", "jobs_on_gpu")
    }
    changes = {"trainer": own["trainer"], "logger": own["logger"], "cache": str(CACHE)}
    return make_stages(run.checkpoint, validate(Progressive, values), validate(Launcher, own["launcher"]), **changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    overrides = tiny(tmp_path_factory.mktemp("runs"), "name=base", "steps=4", "group=g")
    return train(compose(overrides), overrides)


@pytest.fixture(scope="module")
def result(base):
    return run_progressive(plan(base))


@pytest.mark.slow
def test_every_stage_starts_where_the_one_before_it_ended(base, result):
    first, second = result["stages"]
    configs = [read_record(training.Path(item["checkpoint"]))["config"] for item in (first, second, result["direct"])]
    starts = [str(base.checkpoint), first["checkpoint"], str(base.checkpoint)]
    assert [config["checkpoint"] for config in configs] == starts
    assert [config["window"] for config in configs] == [64, 128, 128]
    assert [config["steps"] for config in configs] == [2, 1, 3]
    assert {config["original_window"] for config in configs} == {32}
    for config, results in zip(configs, (first, second, result["direct"]), strict=True):
        assert list(config["extend"]["long"]) == results["long"] and config["extend"]["n_hat"] == results["n_hat"]
        assert config["extend"]["short"] is None and config["extend"]["factor"] == config["window"] / 32
        assert config["batch"] * config["window"] == 4 * 32
    tokens = [config["batch"] * config["window"] * config["steps"] for config in configs]
    assert tokens[0] + tokens[1] == tokens[2] == result["tokens"]  # equal fine-tuning either way
    searched = [json.loads((training.Path(item["search"]) / "results.json").read_text()) for item in result["stages"]]
    assert [item["longer"] for item in searched] == [64, 128]
    assert searched[1]["run"] == configs[0]["name"] and "again" in searched[1]["rivals"]


@pytest.mark.slow
def test_readings_are_of_the_same_targets_and_compared_in_pairs(base, result):
    readings = [PathReading(**item) for item in result["readings"]]
    assert [item.label for item in readings] == LABELS
    contexts = [16, 32, 64, 128]
    assert all([row["context"] for row in item.rows] == contexts for item in readings)
    assert len({row["token_set"] for item in readings for row in item.rows}) == 1
    settings, last = plan(base).reading, result["stages"][-1]
    results = {item.label: item for item in readings}
    extends = {LABELS[4]: last["search"], LABELS[5]: result["recovery"]["search"]}
    for label, folder in extends.items():
        extend = read_with(training.Path(folder) / "factors.yaml")
        again = measure_checkpoint(training.Path(last["checkpoint"]), extend, settings, str(CACHE))
        assert again["rows"] == results[label].rows
    assert results[LABELS[4]].rows[2:] == results[LABELS[5]].rows[2:]  # beyond the window the same factors
    assert results[LABELS[4]].rows[1] != results[LABELS[5]].rows[1]
    ratio = compare([results[LABELS[4]].rows[3]], [results[LABELS[7]].rows[3]]).ratio
    assert result["ratios"]["progressive / direct"][128]["value"] == ratio.value
    ours, theirs = (results[label].rows[3]["perplexity"] for label in (LABELS[4], LABELS[7]))
    assert ratio.value == pytest.approx(ours / theirs)
    recovered = results[LABELS[5]].rows[1]["perplexity"] / results["base"].rows[1]["perplexity"]
    assert result["ratios"]["recovered / base"][32]["value"] == pytest.approx(recovered)


@pytest.mark.slow
def test_on_chains_the_effective_context_is_a_second_table():
    known = {"effective_context": {"value": 30.4, "low": 28.0, "high": 32.0}}
    rows = [{"context": context, "perplexity": 5.0} | known for context in (32, 64)]
    plain, effective = table([PathReading("base", 1, 0, rows)]).split("\n\nEffective context: ")
    assert plain.splitlines()[-1].split() == ["base", "1", "0", "5.000", "5.000"]
    assert effective.splitlines()[-1].split("0", 1)[1].split("  ") == ["", "30 [28, ≥32]", "30 [28, 32]"]


def test_a_verdict_says_which_path_is_better():
    def path(name, *nats):
        row = {"context": 4, "token_set": "t", "document_nll": nats, "document_tokens": [2] * len(nats)}
        return PathReading(name, 4, 1, [row | {"perplexity": 1.0}])

    def verdict(ours, theirs):
        readings = [path("base", 1, 1), path("progressive", *ours), path("direct", *theirs), path("recovered", *ours)]
        ratios = {name: {**by, 1: by[4]} for name, by in path_ratios(readings).items()}
        return sentences({"window": 1, "factors": [2, 4], "steps": [1, 0], "ratios": ratios})

    assert "0.607 [0.607, 0.607] of direct: better." in verdict((1, 2), (2, 3))
    assert "1.649 [1.649, 1.649] of direct: worse." in verdict((2, 3), (1, 2))
    assert "of direct: not shown to differ." in verdict((1, 3), (2, 2))


@pytest.mark.slow
def test_a_finished_extension_is_read_back(base, result, monkeypatch):
    for name in ("_run", "_fit"):
        monkeypatch.setattr(training, name, None)  # nothing is trained
    again = run_progressive(plan(base))
    assert again == result
    other = plan(base, "lr=1e-3", "steps=[2,0]")
    assert other.folder != plan(base).folder
    with pytest.raises(BadInput, match="TypeError"):  # at another learning rate it would be
        run_progressive(other)


@pytest.mark.slow
def test_the_command_plans_tells_draws_and_keeps(base, result, capsys):
    overrides = words(base.folder)
    run_command(compose_values("progressive", overrides), overrides)
    out, made = capsys.readouterr().out, plan(base)
    readings = [PathReading(**item) for item in result["readings"]]
    assert (
        out.startswith(describe(made).split(" M to train on")[0])
        and table(readings) in out
        and sentences(result) in out
    )
    assert "stage 2: search at 128 tokens, about 6 candidates on 2 texts; fine-tune 1 steps of 128 tokens" in out
    assert "direct: search at 128 tokens, about 6 candidates on 2 texts, on the base model; fine-tune 3 steps" in out
    text = (made.folder / "results.json").read_text()
    assert len(text) < 30_000 and json.loads(text)["found"] == sentences(result)
    assert json.loads(text)["overrides"] == overrides and json.loads(text)["versions"]["torch"]
    for name in ("table.txt", "figure.png", "figure.svg"):
        assert (made.folder / name).stat().st_size > 100


@pytest.mark.slow
def test_killed_anywhere_the_same_command_goes_on(base, result, tmp_path):
    """Killed outright after the first reading of the first stage, when it is about to fine-tune."""
    shutil.copytree(base.folder, tmp_path / "g" / "base", ignore=shutil.ignore_patterns("longrope", "progressive"))
    checkpoint = tmp_path / "g" / "base" / "checkpoints" / base.checkpoint.name
    process = command(*words(checkpoint), module="experiments.progressive")
    while f"\n{LABELS[1]}" not in process.output()[0]:
        assert process.poll() is None, process.output()
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    again = run_progressive(plan(training.Result(checkpoint.parent.parent, checkpoint, {})))
    for ours, theirs in zip(again["readings"], result["readings"], strict=True):
        assert ours == theirs
    assert again["ratios"] == result["ratios"]
    assert [item["long"] for item in again["stages"]] == [item["long"] for item in result["stages"]]


@pytest.mark.slow
def test_precision_reaches_every_search_and_reading_and_has_a_folder_of_its_own(base):
    exact, coarse = (plan(base, f"search.precision={name}") for name in ("float32", "bfloat16"))
    assert coarse.settings.recovery.precision == coarse.reading.precision == "bfloat16"
    assert exact.folder != coarse.folder == plan(base, "search.precision=bfloat16").folder
    assert exact.folder == plan(base).folder


@pytest.mark.slow
def test_what_cannot_be_is_one_sentence(base, result, tmp_path):
    for change, sentence in {
        "factors=[4,2]": "factors=[4, 2] must be two or more, each above the one before it",
        "factors=[4]": "factors=[4] must be two or more",
        "steps=[1]": "steps=[1] must have a number for each of factors=[2, 4]",
        "steps=[0,0]": "steps=[0, 0] tune nothing",
        "factors=[2,8]": "batch=4 must be a multiple of 8 in factors=[2, 8]",
        "search.parents=1": "parents=1 cannot be crossed",
        "segments=0": "segments=0",
    }.items():
        with pytest.raises(BadInput, match=re.escape(sentence)) as caught:
            plan(base, change)
        assert "\n" not in str(caught.value)
    tuned = training.Path(result["stages"][0]["checkpoint"])
    with pytest.raises(BadInput, match="was extended already"):
        plan(training.Result(tuned.parent.parent, tuned, {}))
    given = tiny(tmp_path, "window=16", "name=narrow", "steps=2")
    with pytest.raises(BadInput, match="fitness=needle takes texts of at least"):  # the recovery's have 16 tokens
        plan(train(compose(given), given), "search.fitness=needle", "factors=[2,4]")
    given = tiny(tmp_path, "seen=randomized", "seen.longest=64", "name=random", "steps=2")
    with pytest.raises(BadInput, match="longest=64 must be at least window=128"):  # before anything is searched
        plan(train(compose(given), given))
    given = tiny(tmp_path, "position=alibi", "name=bare", "steps=2")
    with pytest.raises(BadInput, match="position=alibi has no frequencies"):
        plan(train(compose(given), given))
