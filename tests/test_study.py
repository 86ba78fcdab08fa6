"""The extension study on tiny models: its plan, its arms, its runs, one seed or several, and its page."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conf.base import BadInput
from conf.compose import compose_values
from conf.overrides import FOLDER
from conf.validation import validate
from experiments.extend.arms import base_runs, make_arms, study_settings
from experiments.extend.findings import Findings, Measured, Reading
from experiments.extend.plan import StudyPlan, make_study_plan
from experiments.extend.report import (
    cost_table,
    k_max_table,
    perplexity_table,
    sentences,
    steps_table,
    tables,
)
from experiments.extend.seeds import seeds_table
from experiments.extend.study import results_folder
from experiments.lab.scale import Scale
from experiments.reproduce.arms import arms_of
from experiments.reproduce.claims import CLAIMS
from tests.runs import ROOT, reproduce_request, run_program, tiny
from train import compose, train


def prepared(tmp_path, *words):
    """The settings of a study, and a function that gives the base run of a scheme."""
    words = tiny(tmp_path, *words)
    values = compose_values("extend_study", words)
    return study_settings(values["study"]), lambda position: base_runs(
        validate(Scale, values["scale"]), words, position, 1
    )[0]


@pytest.mark.parametrize("position", ["rope", "sinusoidal"])
def test_every_method_has_its_arms_or_a_sentence(tmp_path, position):
    study, base = prepared(tmp_path)
    result, left_out = make_arms(base(position), study)
    at = {(arm.method, arm.factor): arm.steps for arm in result}
    zero, tuned = (0,), study.finetune_steps
    for method in ("interpolate", "ntk", "yarn", "llama3", "longrope", "resonance"):
        assert [at[method, factor] for factor in (2, 4, 8, 16)] == [(0, *tuned)] * 4 and (method, 1) not in at
    for method in ("none", "base", "none-rowssu"):
        assert at[method, 1] == zero and [at[method, factor] for factor in (2, 4, 8, 16)] == [tuned] * 4
    assert at["dynamic_ntk", 1] == at["dynamic_interpolate", 1] == zero and at["control", 1] == tuned
    never = ("dynamic_ntk", "dynamic_interpolate", "self_extend", "rerope", "leaky_rerope", "dca")
    assert not any(arm.tuning for arm in result if arm.method in never)
    if position == "rope":
        assert left_out == [] and len(at) == 57
        assert at["drop", 1] == (0, *tuned) and at["rerope", 1] == at["dca", 1] == at["self_extend", 16] == zero
    else:
        assert len(left_out) == 5 and len(at) == 46
        assert all("position=sinusoidal has no plain rotation" in sentence for sentence in left_out)
    assert all(arm.extend.get("factor", arm.factor) == arm.factor for arm in result)


def test_methods_take_settings_and_factors_that_do_not_fit_are_left_out(tmp_path):
    (tmp_path / "found.yaml").write_text("factor: 4.0\nlong: [1, 1, 2, 2, 4, 4, 4, 4]\n")
    methods = f"[none,{{name: ntk, form: critical}},{{name: longrope, path: {tmp_path}/found.yaml}}]"
    study, base = prepared(tmp_path, f"study.extends={methods}", "study.factors=[2,4]")
    result, left_out = make_arms(base("rope"), study)
    assert {arm.label for arm in result if arm.method.startswith("ntk")} == {"ntk-formcritical2", "ntk-formcritical4"}
    assert [arm.factor for arm in result if arm.method.startswith("longrope")] == [4]
    assert len(left_out) == 1 and "is for factor=4.0, not factor=2.0" in left_out[0]


def test_a_scheme_that_ends_with_its_window_is_refused_before_it_is_trained(tmp_path):
    study, base = prepared(tmp_path)
    with pytest.raises(BadInput, match=r"study\.positions=learned cannot be read at 512 tokens: .*end at 32"):
        make_arms(base("learned"), study)


SENTENCES = {
    "study.finetune_steps=[]": "study.finetune_steps=",
    "study.finetune_steps=[0]": "study.finetune_steps.0=0 ",
    "study.factors=[1]": "study.factors.0=1 ",
    "+study.bananas=1": "study.bananas=1 is not a setting",
    "study.segments=many": "study.segments='many'",
    "study.extends=[none,yarm]": "study.extends=yarm is not known; allowed: none, interpolate",
    "study.extends=[yarn]": "study.extends must have none",
    "study.extends=[none,{name: longrope, path: a/f.yaml},{name: longrope, path: b/f.yaml}]": "longrope-f twice",
    "study.extends=[none,{name: ntk, factor: 4}]": "study.factors",
}


@pytest.mark.parametrize("override", SENTENCES)
def test_a_wrong_setting_is_one_sentence_with_its_whole_name(tmp_path, override):
    with pytest.raises(BadInput) as caught:
        prepared(tmp_path, override)
    assert SENTENCES[override] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("study.factors=[2,3]", "batch=4 must be a multiple of 3 in study.factors"),
        ("study.passkey=true", "set data.retrieval.fraction"),
        ("window=4", "window=4 is too short"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_runs(tmp_path, override, message):
    words = tiny(
        tmp_path, *{"study.factors=[2]", override} - ({"study.factors=[2]"} if "factors" in override else set())
    )
    status, out, err = run_program(*words, module="experiments.extend")
    assert (status, out) == (1, "") and message in err and len(err.splitlines()) == 1


def test_a_window_too_short_to_score_an_eighth_of_is_read_at_the_contexts_named(tmp_path):
    words = tiny(tmp_path, "window=4", "study.factors=[2]", "study.contexts=[4,8]", "study.positions=[rope]")
    measurement = make_study_plan(compose_values("extend_study", words), words).measurement
    assert (measurement.contexts, measurement.stride) == ((4, 8), 2)


def composed(*words):
    """The settings of a study and the base run of rope."""
    values = compose_values("extend_study", list(words))
    return study_settings(values["study"]), base_runs(validate(Scale, values["scale"]), words, "rope", 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize("choice", [path.stem for path in (FOLDER / "experiment").glob("*.yaml")])
def test_an_experiment_describes_the_base_run_that_train_makes_of_it(choice):
    """The scale, which has a default, says nothing then."""
    words = [f"experiment={choice}"]
    words += ["data.train=a.txt", "data.validation=b.txt", "data.test=c.txt"] if choice == "books_micro" else []
    study, base = composed(*words)
    assert base == compose(words) and base.batch % max(study.factors) == 0 and base.group == choice
    with pytest.raises(BadInput, match="scale=micro: an experiment has a size of its own"):
        composed(*words, "scale=micro")


@pytest.mark.slow
def test_scales_differ_in_the_base_models_alone():
    names = ("pico", "nano", "micro", "mini", "small")
    studies = [composed(f"scale={name}") for name in names]
    assert composed() == studies[1] and studies[1][1].name == "rope-nano-s1"
    for (study, base), name in zip(studies, names, strict=True):
        assert study == studies[0][0] and base.model.name == name and base.group == f"extend-{name}"
        assert base.optimizer.name == "muon" and base.batch % max(study.factors) == 0 and base.window >= 64
    windows, corpora = zip(*((base.window, base.data.name) for _, base in studies), strict=True)
    assert list(windows) == sorted(windows) and corpora == ("chains", *["sotu"] * 4)


def test_what_is_said_wins_over_the_scale(tmp_path):
    _, base = composed("scale=micro", "window=64", "optimizer=adamw", "group=mine", "data.tokenizer.kind=bytes",
                       "data.tokenizer.vocabulary=null")  # fmt: skip
    assert (base.window, base.optimizer.name, base.group, base.model.name) == (64, "adamw", "mine", "micro")


@pytest.mark.slow
def test_a_scale_says_nothing_of_a_tokenizer_where_there_is_none():
    _, base = composed("data=chains")
    assert (base.data.name, base.window, base.group) == ("chains", composed()[1].window, "extend-nano")
    request = reproduce_request(ROOT, "convergence", "seeds=1", 'train=["data=chains"]')
    assert {run.data.name for (run,) in arms_of(CLAIMS["convergence"](), request).values()} == {"chains"}
    scale = validate(Scale, compose_values("reproduce", ["claim=bound", "scale=pico"])["scale"])
    assert "data=chains" in scale.compatible_with(["data.states=8"]), "the corpus of a scale may be changed in part"
    assert "data=chains" not in scale.compatible_with(["data=sotu"]) and "window=64" not in scale.compatible_with(
        ["window=32"]
    )


def test_the_demo_is_the_small_study(tmp_path):
    words = ["experiment=demo", f"runs={tmp_path}"]
    values = compose_values("extend_study", words)
    for position in ("rope", "sinusoidal"):
        base = base_runs(validate(Scale, values["scale"]), words, position, 1)[0]
        result, left_out = make_arms(base, study_settings(values["study"]))
        assert base.name == f"{position}-pico-s1" and left_out == []
        tuned = sorted((arm.method, arm.factor) for arm in result if arm.tuning)
        methods = ("interpolate", "none", "yarn")
        assert tuned == [("control", 1), *((method, factor) for method in methods for factor in (2, 4, 8))]


def study_folder(place, group):
    (folder,) = (place / group).glob("study-*")
    return folder, json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_the_study_measures_every_arm_and_reuses_what_it_has(tmp_path):
    words = tiny(tmp_path, "group=all", "study.extends=[none,interpolate,self_extend]", "study.factors=[2,4]",
                 "study.finetune_steps=[1,2]", "study.segments=4")  # fmt: skip
    status, out, err = run_program(*words, module="experiments.extend")
    assert status == 0, err
    folder, results = study_folder(tmp_path, "all")
    got = {(r["position"], r["arm"], r["factor"], r["steps"]) for r in results["readings"]}
    both, tuned = ("rope", "sinusoidal"), (1, 2)
    expected = {(p, "none", 1, 0) for p in both} | {(p, "control", 1, n) for p in both for n in tuned}
    expected |= {(p, "none", f, n) for p in both for f in (2, 4) for n in tuned}
    expected |= {(p, "interpolate", f, n) for p in both for f in (2, 4) for n in (0, *tuned)}
    expected |= {("rope", "self_extend", f, 0) for f in (2, 4)}
    assert got == expected and len(results["readings"]) == len(expected)
    assert all([row["context"] for row in r["rows"]] == [8, 16, 32, 64, 128] for r in results["readings"])
    assert len({row["token_set"] for r in results["readings"] for row in r["rows"]}) == 1

    plan, rest = out.split("[1/12] rope-", 1)
    assert "12 runs, 10 fine-tuned from others; 0 are done, 12 to train: 0.00 M tokens" in plan
    assert "  rope                 6 arms, 6 runs, 0 done\n" in plan and "\nIt takes about " in plan
    assert f"readings             {len(expected)}, {len(expected)} to do: 4 segments each" in plan
    assert f"[ 1/{sum(p == 'rope' for p, *_ in expected)}] rope, extrapolation, 0 steps: " in rest
    assert "left out: extend=self_extend" in plan and results["left_out"] and "not fine-tuned: self_extend" in plan
    assert results["found"] in rest and "extrapolation" in rest
    assert (folder / "table.txt").read_text().strip() in rest
    small = json.loads((folder / "summary.json").read_text())
    for reading, whole in zip(small["readings"], results["readings"], strict=True):
        for row, full in zip(reading["rows"], whole["rows"], strict=True):
            assert row["low"] <= row["perplexity"] == full["perplexity"] <= row["high"] and "document_nll" not in row
            assert row["documents"] == len(full["documents"])
    assert small["command"] and small["commit"] and small["versions"]["torch"]
    drawn = {f"{name}-{position}" for name in ("figure", "recovery") for position in both}
    assert {path.stem for path in folder.glob("*.png")} == {path.stem for path in folder.glob("*.svg")} == drawn
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("all/*/results.json") if path.parent != folder}
    assert len(trained) == 12
    status, again, _ = run_program(*words, module="experiments.extend")
    assert (
        status == 0
        and "All of it is there already" in again
        and ", 0 to do" in again
        and "12 are done, 0 to train" in again
    )
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert study_folder(tmp_path, "all")[1] == results


@pytest.mark.slow
def test_several_seeds_are_one_study_with_intervals_over_them(tmp_path):
    words = tiny(tmp_path, "group=seeds", "study.positions=[rope]", "study.extends=[none]", "study.factors=[2]",
                 "study.finetune_steps=[1]", "study.segments=4")  # fmt: skip
    status, out, err = run_program(*words, "seeds=2", module="experiments.extend")
    assert status == 0, err
    folder, results = study_folder(tmp_path, "seeds")
    assert folder.name.startswith("study-") and "-seeds2" in folder.name and results["seeds"] == [1, 2]
    assert {path.name for path in folder.glob("*.png")} == {"figure.png"}
    assert (folder / "figure.png").stat().st_size > 10_000
    by_seed = {(r["arm"], r["factor"], r["steps"], r["seed"]): r["rows"] for r in results["readings"]}
    assert len(by_seed) == len(results["readings"]) == 6
    first, second = (by_seed["none", 1, 0, seed] for seed in (1, 2))
    assert first[0]["nll"] != second[0]["nll"] and first[0]["token_set"] == second[0]["token_set"]
    mean = np.sqrt(first[0]["perplexity"] * second[0]["perplexity"])
    assert f"rope, extrapolation, 0 steps: {mean:.2f} at 8" in out
    assert "geometric mean over seeds 1, 2" in out and len(results["over seeds"]) == 4
    commands = [json.loads(path.read_text())["command"] for path in tmp_path.glob("seeds/rope-*/environment.json")]
    assert commands == [["python", "-m", "experiments.extend", *words, "seeds=2"]] * 6
    runs = {json.loads(path.read_text())["seed"] for path in tmp_path.glob("seeds/rope-*/config.json")}
    assert runs == {1, 2} and "2 arms, 4 runs" not in out and "3 arms, 6 runs, 0 done" in out


def test_studies_that_differ_have_folders_of_their_own(tmp_path):
    run = SimpleNamespace(name="rope-nano-s1", runs=str(tmp_path), group="g")
    there, trained = (
        SimpleNamespace(
            base=run, bases={"rope": [run]}, existing=existing, checkpoints={run.name: Path("a/step-00000008.ckpt")}
        )
        for existing in (True, False)
    )
    differ = [[], ["seed=2"], ["batch=4"], ["optimizer=adamw"], ["data=files", "data.test=a.txt"],
              ["data=files", "data.test=b.txt"], ["study.factors=[2]"], ["data@study.data=sotu"]]  # fmt: skip
    folders = {results_folder(there, ["checkpoint=c", "cache=d", *words]) for words in differ}
    assert len(folders) == len(differ) and tmp_path / "g" / "study-rope-nano-s1-seed2" in folders
    assert results_folder(trained, ["batch=4", "seeds=2"]).name == "study-rope-nano-s1-seeds2", "batch is in its name"
    there.checkpoints = {run.name: Path("a/snapshot-00000004.ckpt")}
    assert results_folder(there, []).name == "study-rope-nano-s1-snapshot-00000004"


def test_settings_that_no_factor_takes_are_refused_before_anything_is_left_out(tmp_path):
    (tmp_path / "found.yaml").write_text("factor: 4.0\nlong: [1, 1, 2, 2, 4, 4, 4, 4]\n")
    for method, sentence in {
        "{name: yarn, beta_fst: 32}": "yarn cannot take beta_fst=32",
        "{name: longrope, path: nowhere.yaml}": "nowhere.yaml",
        f"{{name: longrope, path: {tmp_path}/found.yaml}}": "is for factor=4.0",
    }.items():
        with pytest.raises(BadInput, match=sentence):
            prepared(tmp_path, f"study.extends=[none,{method}]", "study.factors=[2,8]")


def test_a_cost_that_stands_in_several_rows_is_one_test(result):
    """ReRoPE has no factor: its cost is the same at every window, and counts once among those adjusted."""

    def rows(factors):
        study = result.study.model_copy(update={"factors": factors})
        return seeds_table(replace(result, study=study))[1]

    one, two = rows((4,)), rows((2, 4))
    costs = [[row["cost"] for row in table if row["arm"] == "rerope"] for table in (one, two)]
    assert len(costs[1]) == 2 and costs[1] == costs[0] * 2


def test_the_best_of_many_is_judged_as_the_best_of_many(result):
    """Of twelve methods that do nothing one is 2.4 standard errors below by luck: alone it would be better."""
    draws = np.random.default_rng(0).normal(0, 1, (12, 40))
    draws -= draws.mean(axis=1, keepdims=True)
    draws[0] -= 2.4 / 40**0.5
    lucky = [reading("none", 1, 0, (5, 4, 3, 10, 20)), reading("control", 1, 5, (5, 4, 3, 9, 19))]
    for number, noise in enumerate(draws):
        one = reading(f"m{number}", 4, 0, (5, 4, 3, 10, 20))
        rows = one.models[0].rows
        rows = [row | {"document_nll": (np.array(row["document_nll"]) + 15 * noise).tolist()} for row in rows]
        lucky.append(replace(one, models=[Measured(1, rows)]))
    findings = replace(result, readings=lucky, study=result.study.model_copy(update={"tuned": ()}))
    assert findings.against_plain("rope", "m0", 4, 0).word() == "lower"
    assert "the best other, m0" in (found := sentences(findings).splitlines()[1]) and "(no different: " in found


def test_keys_are_looked_for_in_the_shortest_text_where_all_are_beyond_an_arms_window():
    task = SimpleNamespace(template="compact", digits=5, keys=1)
    study = SimpleNamespace(passkey=True, depths=3, trials=2, split="test", precision="auto")
    plan = SimpleNamespace(study=study, lengths=[512, 1024], base=SimpleNamespace(window=64))
    plan.learned = SimpleNamespace(retrieval=task)
    arm = SimpleNamespace(factor=2)
    assert StudyPlan.passkey(plan, arm, "whole").lengths == (512,)


def test_steps_are_told_in_order(tmp_path):
    study, base = prepared(tmp_path, "study.finetune_steps=[64,4]", "study.factors=[2]", "study.extends=[none]")
    assert study.steps == (4, 64) and make_arms(base("rope"), study)[0][-1].steps == (4, 64)


@pytest.mark.slow
def test_a_base_model_that_exists_is_not_trained_again(tmp_path):
    overrides = tiny(tmp_path, "group=there", "name=base", "steps=4")
    base = train(compose(overrides), overrides)
    places = [word for word in overrides if word.split("=")[0] in ("runs", "cache", "trainer", "logger")]
    small = ["study.extends=[none,interpolate]", "study.factors=[2]", "study.finetune_steps=[1]", "study.segments=4"]
    words = [f"checkpoint={base.folder}", *places, "trainer.progress=false", *small]
    status, out, err = run_program(*words, "group=mine", module="experiments.extend")
    assert status == 0, err
    assert "3 runs, 3 fine-tuned from others; 0 are done" in out
    _, results = study_folder(tmp_path, "mine")
    assert {r["arm"] for r in results["readings"]} == {"none", "interpolate", "control"}
    assert results["study"]["positions"] == ["rope"] and results["base"]["steps"] == 4
    configs = [json.loads(path.read_text()) for path in tmp_path.glob("mine/base-tuned-*/config.json")]
    assert {config["checkpoint"] for config in configs} == {str(base.checkpoint)} and len(configs) == 3
    for wrong, sentence in {
        "seeds=2": "which is one model",
        "steps=8": "steps cannot be set beside checkpoint=",
        "study.positions=[rope]": "study.positions cannot be set",
        "scale=micro": "scale cannot be set",
    }.items():
        status, _, err = run_program(*words, wrong, module="experiments.extend")
        assert status == 1 and sentence in err and err.count("\n") == 1


@pytest.mark.slow
def test_another_text_is_measured_in_the_tokens_of_the_base_model_and_named(tmp_path):
    (tmp_path / "book.txt").write_text("It was the best of times, it was the worst of times. " * 40)
    small = ["study.positions=[rope]", "study.extends=[none]", "study.factors=[2]", "study.finetune_steps=[1]"]
    words = tiny(tmp_path, "group=book", *small, "study.segments=4")
    book = ["data@study.data=files", "study.data.name=book", f"study.data.test={tmp_path}/book.txt"]
    status, out, err = run_program(*words, *book, module="experiments.extend")
    assert status == 0, err
    assert "4 segments each of book, test, at" in out and "Measured on book, test." in out
    _, results = study_folder(tmp_path, "book")
    assert results["text"]["name"] == "book" and results["text"]["trained_on"] == 0
    readings = [json.loads(path.read_text()) for path in tmp_path.glob("book/*/perplexity/*.json")]
    assert {reading["corpus"]["fingerprint"] for reading in readings} == {results["text"]["fingerprint"]}
    assert len(readings) == 4 and {reading["corpus"]["name"] for reading in readings} == {"book"}
    assert results["base"]["data"]["name"] == "sotu"  # what the runs are trained on is not touched
    status, again, _ = run_program(*words, *book, module="experiments.extend")
    assert status == 0 and ", 0 to do: " in again
    status, own, _ = run_program(*words, module="experiments.extend")  # the runs are the same, the readings are others
    assert status == 0 and "All of it" not in own and "0 to train" in own and "4 segments each of sotu" in own
    other = [word.replace("name=book", "name=novel") for word in book]
    status, _, err = run_program(*words, *other, module="experiments.extend")
    assert status == 0, err
    folders = list(tmp_path.glob("book/study-*"))
    assert len(folders) == 3 and all(len(path.name) <= 160 for path in folders)  # long names, cut, are still different
    for wrong, sentence in {
        "study.data.tokenizer.kind=bytes": "a text is read with the checkpoint's own tokenizer",
        "study.split=validation": "study.data=book has no text for study.split=validation",
        "study.data.test=[]": "study.data.test",
    }.items():
        status, _, err = run_program(*words, *book, wrong, module="experiments.extend")
        assert status == 1 and sentence in err and err.count("\n") == 1


@pytest.mark.slow
def test_stages_start_from_one_another_and_keys_are_asked_for(tmp_path):
    words = tiny(tmp_path, "group=stages", "study.positions=[rope]", "study.extends=[none,interpolate]",
                 "study.factors=[2,4]", "study.finetune_steps=[1]", "study.segments=4", "study.progressive=true",
                 "study.passkey=true", "study.depths=3", "study.trials=4", "data.retrieval.fraction=0.5")  # fmt: skip
    status, out, err = run_program(*words, module="experiments.extend")
    assert status == 0, err

    def started(label):
        (place,) = (tmp_path / "stages").glob(f"rope-*-tuned-{label}-n1-progressive/config.json")
        return json.loads(place.read_text())["checkpoint"]

    assert "tuned" not in started("interpolate2-w64") and "-tuned-interpolate2-w64-" in started("interpolate4-w128")
    assert "-tuned-none-w64-" in started("none-w128") and "tuned" not in started("control-w32")
    assert "k_max" in out
    lengths = {
        (r["arm"], r["factor"], r["steps"]): [row["length"] for row in r["passkey"]]
        for r in study_folder(tmp_path, "stages")[1]["readings"]
    }
    assert lengths["none", 1, 0] == lengths["control", 1, 1] == [32, 64, 128]
    assert lengths["none", 4, 1] == lengths["interpolate", 4, 0] == [32, 64, 128]
    assert lengths["interpolate", 2, 1] == [32, 64]
    drawn = {path.stem for path in study_folder(tmp_path, "stages")[0].glob("*.png")}
    assert drawn == {f"{name}-rope" for name in ("figure", "recovery", "k_max", "passkey")}


@pytest.mark.slow
def test_what_follows_the_length_is_read_twice_and_said_to_be(tmp_path):
    (tmp_path / "found.yaml").write_text(
        "factor: 2.0\nlong: [1, 1, 2, 2, 2, 2, 2, 2]\nshort: [1, 1, 1, 1, 1, 1, 1, 1]\n"
    )
    methods = f"[none,yarn,dynamic_ntk,{{name: longrope, path: {tmp_path}/found.yaml}}]"
    words = tiny(tmp_path, "group=twice", "study.positions=[rope]", f"study.extends={methods}", "study.factors=[2]",
                 "study.finetune_steps=[1]", "study.segments=4", "study.passkey=true", "study.depths=3",
                 "study.trials=4", "data.retrieval.fraction=0.5")  # fmt: skip
    status, out, err = run_program(*words, module="experiments.extend")
    assert status == 0, err
    assert "read twice, whole and as decoded: dynamic_ntk, longrope-found: " in out
    folder, results = study_folder(tmp_path, "twice")
    result = {(r["arm"], r["steps"]): r for r in results["readings"]}
    longrope = "longrope-found-decoded"
    assert {arm for arm, _ in result if arm.endswith("-decoded")} == {"dynamic_ntk-decoded", longrope}
    assert (longrope, 1) in result and ("dynamic_ntk-decoded", 1) not in result
    whole, decoded = result["dynamic_ntk", 0], result["dynamic_ntk-decoded", 0]
    assert [row["token_set"] for row in whole["rows"]] == [row["token_set"] for row in decoded["rows"]]
    nats = [[row["nll"] for row in item["rows"]] for item in (whole, decoded)]
    np.testing.assert_allclose(
        *(item[:-1] for item in nats), rtol=1e-6
    )  # up to the trained window nothing is stretched
    assert abs(nats[0][-1] - nats[1][-1]) > 1e-5 * nats[0][-1]  # rounding is a hundredth of it
    table = (folder / "table.txt").read_text()
    assert "dynamic_ntk* " in table and "dynamic_ntk-decoded " in table and "\n* depends on the length" in table
    assert "yarn*" not in table
    status, again, _ = run_program(*words, module="experiments.extend")
    assert status == 0 and "All of it is there already" in again


def reading(arm, factor, steps, perplexities, k_max=None, noise=0.0):
    """Rows at 8, 16, 32, 64 and 128 tokens, in which documents differ by nats and arms by what is asked."""
    documents = 40
    hard = np.random.default_rng(0).normal(0, 0.5, documents)
    own = np.random.default_rng(1).normal(0, 1, documents) * noise
    rows = []
    for context, perplexity in zip((8, 16, 32, 64, 128), perplexities, strict=True):
        nll = 100 * (np.log(perplexity) + hard - hard.mean() + own - own.mean())
        row = {"context": context, "perplexity": perplexity, "document_nll": nll.tolist(), "token_set": "one"}
        rows.append(row | {"document_tokens": [100] * documents})
    passkey = [] if k_max is None else [{"length": length, "k_max_20%": dict.fromkeys(("value", "low", "high"), k)}
                                        for length, k in k_max.items()]  # fmt: skip
    return Reading("rope", arm, factor, steps, [Measured(1, rows, passkey)])


@pytest.fixture
def result(tmp_path):
    study, _ = prepared(tmp_path, "study.positions=[rope]", "study.factors=[4]", "study.finetune_steps=[5]",
                        "study.extends=[none,interpolate,yarn,rerope]")  # fmt: skip
    readings = [
        reading("none", 1, 0, (5, 4, 3, 10, 20), {32: 30, 128: 31}),
        reading("interpolate", 4, 0, (9, 9, 9, 9, 40), {128: 7}),
        reading("yarn", 4, 0, (5, 4, 3.3, 9, 10), {128: 8}),
        reading("rerope", 1, 0, (5, 4, 3, 6, 19), {32: 9, 128: 10}, noise=0.5),
        reading("none", 4, 5, (5, 4, 3, 4, 5), {128: 40}),
        reading("interpolate", 4, 5, (5, 4, 3.6, 4, 4), {128: 120}),
        reading("yarn", 4, 5, (5, 4, 3, 4, 5), {128: 121}),
        reading("control", 1, 5, (5, 4, 2.7, 9, 19), {32: 29, 128: 33}),
    ]
    base = reading("none", 1, 0, (5, 4, 3, 10, 20))
    rows = [row for row in base.models[0].rows if row["context"] in (16, 32)]
    return Findings(32, study, readings, [replace(base, models=[Measured(1, rows)])])


def test_no_mark_and_no_footnote_where_the_length_does_not_matter(result):
    assert result.twice == set() and "*" not in tables(result)


def _scaled(row, by):
    nll = (np.array(row["document_nll"]) + np.log(by) * np.array(row["document_tokens"])).tolist()
    return row | {"perplexity": row["perplexity"] * by, "document_nll": nll}


@pytest.fixture
def seeds(result):
    """Three seeds: interpolation is a tenth better than extrapolation after 5 steps, more or less by seed."""

    def over_seeds(reading):
        (model,) = reading.models
        tuned = (reading.arm, reading.steps) == ("interpolate", 5)
        models = [
            Measured(seed, [_scaled(row, gain if tuned else 1) for row in model.rows], model.passkey)
            for seed, gain in ((1, 1.11), (2, 1.12), (3, 1.14))
        ]
        return replace(reading, models=models)

    return replace(result, readings=[over_seeds(reading) for reading in result.readings])


def test_seeds_make_one_table_with_intervals_over_seeds(seeds):
    printed, rows = seeds_table(seeds)
    at = {(row["arm"], row["window"], row["steps"]): row for row in rows}
    tuned = at["interpolate", 128, 5]
    gain = (1.11 * 1.12 * 1.14) ** (1 / 3)
    assert tuned["perplexity"] == pytest.approx(4 * gain) and tuned["by seed"] == pytest.approx([4.44, 4.48, 4.56])
    over = tuned["over extrapolation"]
    assert over["value"] == pytest.approx(4 * gain / 5) and over["low"] < 4.44 / 5 and over["high"] > 4.56 / 5
    assert over["word"] == "lower" and at["yarn", 128, 5]["over extrapolation"]["word"] == "equal"
    assert at["none", 32, 0]["cost"] is None and at["none", 128, 0]["over extrapolation"] is None
    assert at["control", 128, 5]["k_max"] == [33, 33, 33] and len(rows) == len(set(at)) == 9
    assert len(printed.splitlines()) == 12 and "extrapolation" in printed


def test_every_table_and_sentence_speaks_of_all_seeds(seeds):
    assert rows_of(steps_table(seeds))["interpolate", "128"] == ["40.00>", "4.49<"]
    best = sentences(seeds).splitlines()[1]
    low, high = map(float, re.search(r"interpolate 4\.49 \(better: 0\.899 \[(.+?), (.+?)\]\)", best).groups())
    assert low < 4.44 / 5 and high > 4.56 / 5, "wider than the seeds lie apart"


def test_the_effective_context_is_a_table_where_the_optimum_is_known(result):
    assert "Effective context" not in tables(result)

    def known(reading):
        (model,) = reading.models
        first = model.rows[0]["perplexity"]
        rows = [row | {"effective_context": {"value": row["context"] / first}} for row in model.rows]
        return replace(reading, models=[replace(model, rows=rows)])

    table = tables(replace(result, readings=list(map(known, result.readings)))).split("Effective context")[1]
    lines = table.splitlines()
    assert lines[2].split() == ["position", "arm", "window", "steps", "8", "16", "32", "64", "128"]
    assert lines[3].split()[1:] == ["extrapolation", "32", "0", "2", "3", "6", "13", "26"]


def rows_of(table):
    return {(words[1], words[2]): words[3:] for words in map(str.split, table.splitlines()[1:])}


def test_tables_by_steps_mark_what_differs_from_extrapolation(result):
    rows = rows_of(steps_table(result))
    assert rows == {
        ("extrapolation", "128"): ["20.00", "5.00"],
        ("interpolate", "128"): ["40.00>", "4.00<"],
        ("yarn", "128"): ["10.00<", "5.00="],
        ("rerope", "128"): ["19.00="],  # five per cent better, and too noisy to tell
        ("control", "128"): ["19.00>"],
    }


def test_the_table_of_perplexities_has_every_reading_once(result):
    lines = perplexity_table(result).splitlines()
    assert lines[0].split() == ["position", "arm", "window", "steps", "8", "16", "32", "64", "128"]
    assert [line.split()[1:4] for line in lines[1:]] == [
        ["extrapolation", "32", "0"],
        ["rerope", "32", "0"],
        ["control", "32", "5"],
        ["extrapolation", "128", "5"],
        ["interpolate", "128", "0"],
        ["interpolate", "128", "5"],
        ["yarn", "128", "0"],
        ["yarn", "128", "5"],
    ]


def test_cost_is_the_ratio_to_the_base_model_within_its_window(result):
    cost = {tuple(line.split()[1:4]): line.split()[4:] for line in cost_table(result).splitlines()[1:]}
    assert cost["interpolate", "128", "0"][0] == "9.00" and cost["interpolate", "128", "0"][1::3] == [
        "1.800",
        "2.250",
        "3.000",
    ]
    assert cost["yarn", "128", "0"][-3:] == ["1.100", "[1.100,", "1.100]"] and len(cost) == 7
    assert cost["control", "32", "5"][-3] == "0.900"


def test_k_max_is_that_of_the_window_of_its_row(result):
    table = k_max_table(result)
    rows = {
        key: [cell for cell in cells if "," not in cell and "]" not in cell] for key, cells in rows_of(table).items()
    }
    assert rows["extrapolation", "32"] == ["30"] and rows["extrapolation", "128"] == ["31", "40"]
    assert rows["control", "32"] == ["29"] and rows["control", "128"] == ["33"]
    assert rows["interpolate", "128"] == ["7", "120"] and rows["rerope", "128"] == ["10"]


def test_the_sentences_say_what_was_found_whatever_it_is(result):
    gate, recovery = sentences(result).splitlines()
    assert gate.endswith("Asked of more targets, the model uses all 32 tokens: from 16 on it gains "
                         f"{np.log(4 / 3):.3f} [0.288, 0.288] nats a token.")  # fmt: skip
    assert "untuned extrapolation 20.00, the best other, yarn 10.00 (better: 0.500" in recovery
    assert "after 5 steps extrapolation 5.00, the best other, interpolate 4.00 (better: 0.800" in recovery
    assert recovery.endswith("the control tuned at 32 then stands at 19.00.")


@pytest.mark.slow
def test_a_study_of_a_single_document_tells_no_arms_apart(tmp_path):
    (tmp_path / "one.txt").write_text("All that is known of one book is known of no other. " * 40)
    words = [*tiny(tmp_path, "group=one"), "study.positions=[rope]", "study.extends=[none,interpolate]"]
    words += ["study.factors=[2]", "study.tuned=[]", "study.segments=8", "data@study.data=files"]
    status, out, err = run_program(*words, f"study.data.test={tmp_path}/one.txt", module="experiments.extend")
    assert status == 0, err
    assert "All of one model and a single document: there are no intervals" in out
    assert "shows no use of the second half of" in out and "(no different: " in out
    summary = json.loads((study_folder(tmp_path, "one")[0] / "summary.json").read_text())
    assert all(row["documents"] == 1 and row["low"] is None for r in summary["readings"] for row in r["rows"])


@pytest.mark.slow
def test_a_study_of_chains_shows_who_reads_how_far(tmp_path):
    words = [item for item in tiny(tmp_path, "group=far") if not item.startswith(("data.", "cache="))]
    words += ["data=chains", "data.length=300", "data.documents={train: 4, validation: 2, test: 4}"]
    words += [f"cache={tmp_path}/cache", "study.positions=[rope]", "study.extends=[none,interpolate]"]
    words += ["study.factors=[2]", "study.finetune_steps=[1]", "study.segments=4"]
    status, out, err = run_program(*words, module="experiments.extend")
    assert status == 0, err
    folder, results = study_folder(tmp_path, "far")
    assert "Effective context" in out
    assert all(row["effective_context"] and row["optimum"] for r in results["readings"] for row in r["rows"])
    assert (folder / "effective.png").stat().st_size > 10_000
