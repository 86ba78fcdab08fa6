"""Studies of a base model that exists: how its arms are fine-tuned, what is read, and what is kept of it."""

import json

import pytest

from conf.base import BadInput
from conf.compose import compose_values
from conf.overrides import given_keys
from data.corpus import prepare
from experiments.extend.plan import make_study_plan
from experiments.lab.measure import protocols
from experiments.lab.measure.perplexity import Measurement, measure_checkpoint
from experiments.lab.measure.subject import open_subject
from models.checkpoint_files import load_checkpoint
from tests.runs import CACHE, run_program, tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")
PLACES = ("runs", "cache", "trainer", "logger", "trainer.progress")
SMALL = ["study.extends=[none,yarn]", "study.factors=[2]", "study.finetune_steps=[1,2]", "study.segments=3"]
POSE = ["seen=skipwise", "window=16", "batch=8", "trainer.accumulate=2", "study.finetune_lr=1e-3"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    words = tiny(tmp_path_factory.mktemp("base"), "name=base", "steps=2")
    return train(compose(words), words)


def of_base(base, folder, *overrides):
    """The words of a study of this base model, all below a folder."""
    places = [word for word in tiny(folder) if word.split("=")[0] in PLACES]
    return [f"checkpoint={base.folder}", *places, "group=mine", *SMALL, *overrides]


def plan_of(*words):
    return make_study_plan(compose_values("extend_study", list(words)), list(words))


def runs_of(plan):
    """The fine-tuning runs of a plan by method."""
    return {method: run for (_, method, _), run in plan.tuned.items()}


def test_short_windows_are_tuned_on_at_positions_of_the_long_one_and_the_control_at_its_own(base, tmp_path):
    runs = runs_of(plan_of(*of_base(base, tmp_path, *POSE)))
    assert {run.window for run in runs.values()} == {16} and {run.batch for run in runs.values()} == {8}
    assert {method: getattr(run.seen, "longest", None) for method, run in runs.items()} == {
        "none": 64,
        "yarn": 64,
        "control": None,
    }
    assert runs["control"].seen.name == "contiguous" and runs["yarn"].original_window == 32
    assert {run.optimizer.lr for run in runs.values()} == {1e-3} and runs["none"].trainer.accumulate == 2
    assert runs["yarn"].name.endswith("-skipwise16") and runs["yarn"].extend.factor == 2.0


def test_windows_follow_the_factor_unless_one_is_set_with_as_many_tokens_in_every_step(base, tmp_path):
    default, more, fixed = (
        runs_of(plan_of(*of_base(base, tmp_path, *words)))
        for words in ([], ["batch=8"], ["window=16", "seed=7", "batch=8"])
    )
    assert {method: (run.window, run.batch) for method, run in default.items()} == {
        "none": (64, 2),
        "yarn": (64, 2),
        "control": (32, 4),
    }
    assert {run.window * run.batch for run in more.values()} == {256}
    assert {(run.window, run.batch, run.seed, run.seen.name) for run in fixed.values()} == {(16, 8, 7, "contiguous")}
    assert {run.optimizer.lr for run in default.values()} == {base_lr(base) / 4}


def base_lr(base):
    return json.loads((base.folder / "config.json").read_text())["optimizer"]["lr"]


def test_optimizer_text_and_cadence_are_those_of_fine_tuning(base, tmp_path):
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name}: it was the best of times, it was the worst of times. " * 60)
    text = [f"data.{name}={tmp_path}/{name}.txt" for name in ("train", "validation", "test")]
    text += ["data=files", "data.name=tale", "data.retrieval.template=passkey"]
    words = [*text, "optimizer=muon", "optimizer.weight_decay=0", "validate_every=1", "checkpoint_every=1"]
    plan = plan_of(*of_base(base, tmp_path, *words))
    for run in runs_of(plan).values():
        assert (run.optimizer.name, run.optimizer.weight_decay, run.optimizer.schedule) == ("muon", 0.0, "constant")
        assert (run.data.name, run.data.tokenizer.kind, run.data.retrieval.template) == ("tale", "bytes", "passkey")
        assert (run.validate_every, run.checkpoint_every, run.log_every) == (1, 1, 1)
    assert plan.base.data.name == "sotu" and plan.text["name"] == "tale" and plan.text["trained_on"] == 0
    assert plan.study.data.train is None  # what is not measured is not tokenised again


def test_a_text_of_another_tokenizer_is_refused_before_anything_runs(base, tmp_path):
    words = ["data=chains", "data.length=300", "data.documents={train: 4, validation: 2, test: 4}"]
    with pytest.raises(BadInput, match="was trained with another tokenizer"):
        plan_of(*of_base(base, tmp_path, *words))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("model.layers=3", "model.layers cannot be set beside checkpoint="),
        ("position=alibi", "position cannot be set beside checkpoint="),
        ("extend=yarn", "extend cannot be set beside checkpoint="),
        ("steps=9", "study.finetune_steps are the steps"),
        ("optimizer.lr=1", "study.finetune_lr is the learning rate"),
        ("data.tokenizer.kind=bytes", "the checkpoint's own tokenizer"),
        ("experiment=demo", "model cannot be set beside checkpoint="),
        ("tokenizer=a.json", "tokenizer cannot be set beside checkpoint="),
        ("from=somewhere", "a study has one base model"),
        ("study.tuned=[yarn]", "study.tuned must have none"),
        ("study.tuned=[none,ntk]", "study.tuned has ntk, which is not in study.extends"),
        ("study.precision=half", "study.precision='half'"),
        ("study.contexts=[]", "study.contexts"),
    ],
)
def test_what_contradicts_the_base_model_or_the_study_is_one_sentence(base, tmp_path, word, sentence):
    status, _, err = run_program(*of_base(base, tmp_path, word), module="experiments.extend")
    assert status == 1 and sentence in err and err.count("\n") == 1, err


def test_where_positions_reach_is_the_study_s_to_say_and_skipwise_needs_a_base_model(base, tmp_path):
    with pytest.raises(BadInput, match=r"seen\.longest cannot be set beside checkpoint"):
        plan_of(*of_base(base, tmp_path, "seen=skipwise", "seen.longest=64"))
    with pytest.raises(BadInput, match="seen=skipwise is for tuning a base model that exists"):
        plan_of(*tiny(tmp_path, *SMALL, "seen=skipwise"))


def test_an_experiment_sets_keys_and_groups_too():
    keys = given_keys(["experiment=stretch", "+study.segments=2", "data@study.data=files"])
    assert {"seen", "window", "optimizer.warmup", "study.tuned", "study.segments", "data@study.data"} <= keys
    assert "defaults" not in keys and given_keys(["experiment=null"]) == {"experiment"}


@pytest.mark.slow
def test_the_study_of_a_real_checkpoint_imports_tunes_reads_and_resumes(tmp_path):
    """A Llama of `transformers`, tuned in bfloat16 by PoSE and Muon with recomputed activations."""
    pytest.importorskip("transformers", reason="transformers, pinned in requirements-dev.txt, is not installed")
    from tests import transformers_models as theirs

    model = theirs.build("llama", **theirs.LLAMA)
    theirs.save(model, tmp_path / "llama", tokens=61)
    for split, name in enumerate(("train", "validation", "test")):
        texts = [" ".join(f"w{2 + (7 * i + i // 11) % 50}" for i in range(start, start + 600)) for start in (split, 9)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    words = ["experiment=stretch", f"from={tmp_path}/llama", "name=small", "data=files", "logger=none", "trainer=cpu"]
    words += [f"data.{name}={tmp_path}/{name}.jsonl" for name in ("train", "validation", "test")]
    words += [f"runs={tmp_path}/runs", f"cache={tmp_path}/cache", "trainer.progress=false", "window=16", "batch=4"]
    words += ["trainer.precision=bf16-mixed", "trainer.activation_checkpointing=true", "optimizer=muon", *SMALL]
    words += ["study.precision=bfloat16", "study.contexts=[16,32,64]", "study.tuned=[none,yarn]"]
    status, out, err = run_program(*words, module="experiments.extend")
    assert status == 0, err
    assert f"The base model: {tmp_path}/runs/pretrained/small" in out
    assert "3 runs, 3 fine-tuned from others; 0 are done" in out
    assert "2 steps of 64 tokens, at windows of 16 at positions (skipwise) up to 32, 64" in out
    (study,) = (tmp_path / "runs" / "stretch").glob("study-small*")
    results = json.loads((study / "results.json").read_text())
    assert {(row["arm"], row["window"], row["seen"]) for row in results["tuning"]} == {
        ("none", 16, "skipwise"),
        ("yarn", 16, "skipwise"),
        ("control", 16, "contiguous"),
    }
    assert all(row["tokens_per_second"] > 0 and row["peak_memory_gb"] > 0 for row in results["tuning"])
    assert "tokens/s" in (study / "table.txt").read_text()
    assert json.loads((study / "summary.json").read_text())["tuning"] == results["tuning"]
    for folder in (tmp_path / "runs" / "stretch").glob("small-tuned-*"):
        files = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert files == ["snapshot-00000001.ckpt", "snapshot-00000002.ckpt", "step-00000002.ckpt"]
        snapshot, last = (load_checkpoint(folder / "checkpoints" / name) for name in files[1:])
        assert "optimizer_states" not in snapshot and last["optimizer_states"] and snapshot["global_step"] == 2
    read = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/small*/perplexity/*.json")]
    assert len(read) == 9 and {result["measured"]["precision"] for result in read} == {"bfloat16"}
    assert not list((tmp_path / "runs").glob("*/small*/perplexity/*.parts"))
    status, again, _ = run_program(*words, module="experiments.extend")
    assert status == 0 and "it was there already" in again and "All of it is there already" in again


@pytest.mark.slow
def test_nothing_is_tuned_and_short_contexts_are_read(base, tmp_path):
    words = of_base(base, tmp_path, "study.tuned=[]", "study.contexts=[8,16]")
    status, out, err = run_program(*words, module="experiments.extend")
    assert status == 0, err
    assert "0 runs, 0 fine-tuned from others" in out and "at 8, 16 tokens" in out
    assert "Perplexity at the longest context within that window by fine-tuning steps" in out
    assert "control" not in out and "rope at 16 tokens: untuned extrapolation" in out


def test_a_reading_that_is_stopped_goes_on_after_its_last_context(base, tmp_path, monkeypatch):
    settings = Measurement(contexts=(8, 16, 32), stride=4, segments=2, split="validation")
    whole = measure_checkpoint(base.checkpoint, {"name": "ntk", "factor": 4.0}, settings, str(CACHE))
    extend, read, score = {"name": "ntk", "factor": 3.0}, [], protocols._score

    def stop_at_32(model, tokens, batch, *rest):
        read.append(batch[0][1].length)
        if read[-1] == 32 and read.count(32) == 1:
            raise KeyboardInterrupt
        score(model, tokens, batch, *rest)

    monkeypatch.setattr(protocols, "_score", stop_at_32)
    with pytest.raises(KeyboardInterrupt):
        measure_checkpoint(base.checkpoint, extend, settings, str(CACHE))
    (parts,) = (base.folder / "perplexity").glob("*.parts")
    assert list(json.loads(parts.read_text())) == ["8", "16"]
    result = measure_checkpoint(base.checkpoint, extend, settings, str(CACHE))
    assert read == [8, 16, 32, 32] and not parts.exists()
    assert [row["context"] for row in result["rows"]] == [8, 16, 32]
    assert [row["token_set"] for row in result["rows"]] == [row["token_set"] for row in whole["rows"]]


def test_the_precision_is_in_the_key_of_a_reading_as_what_it_comes_to(base):
    usual, same, other = (
        open_subject(base.checkpoint, None, str(CACHE), precision=precision).key("perplexity", Measurement(
            contexts=(8,), stride=4, precision=precision))
        for precision in ("auto", "float32", "bfloat16")
    )  # fmt: skip
    import torch

    assert usual == (other if torch.cuda.is_available() else same) and same != other


@pytest.mark.slow
@pytest.mark.parametrize("module", ["perplexity", "by_position", "passkey"])
def test_every_command_for_one_checkpoint_takes_a_precision(base, module):
    more = {"perplexity": ["contexts=[16]"], "by_position": [], "passkey": ["lengths=[64]", "depths=2", "trials=2"]}
    words = [f"checkpoint={base.folder}", f"cache={CACHE}", "logger=none", "precision=bfloat16", *more[module]]
    status, out, err = run_program(*words, module=f"experiments.{module}")
    assert status == 0 and "in bfloat16 on" in out, err


def test_bfloat16_reads_as_float32_does_within_its_rounding(base):
    from conf.load import load_model

    model, config, _ = load_model(base.checkpoint)
    documents = [prepare(config.data, CACHE, progress=False).split("test")[i] for i in range(2)]
    exact, rounded = (
        protocols.token_losses(model, documents, [32], "windows", region=96, precision=precision)[0].nll
        for precision in ("float32", "bfloat16")
    )
    assert abs(exact - rounded).max() > 0 and abs(exact.mean() - rounded.mean()) < 0.01 * exact.mean()
