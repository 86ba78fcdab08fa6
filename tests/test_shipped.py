"""A shipped model: a folder that every command takes for a checkpoint, whole or refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from conf.base import BadInput
from conf.load import load_model
from data.corpus import prepare
from experiments.lab.finetuning import existing_base
from experiments.lab.measure.perplexity import Measurement, measure_checkpoint
from experiments.pretrained import ship_run
from models.checkpoint_files import find_checkpoint, home, load_checkpoint
from models.restore import read_record
from tests.runs import run_program
from train import compose, train


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A corpus of its own for each split, long enough to be read."""
    folder = tmp_path_factory.mktemp("texts")
    for split, words in (("train", "one two three four five six"), ("validation", "two six"), ("test", "six five one")):
        (folder / f"{split}.txt").write_text(f"{words} " * 200)
    return folder


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    """A sinusoid, which no architecture of transformers has, with a tokenizer that was trained on its text."""
    runs = tmp_path_factory.mktemp("runs")
    words = [
        "position=sinusoidal",
        "data=files",
        *(f"data.{s}={texts}/{s}.txt" for s in ("train", "validation", "test")),
    ]
    words += ["data.tokenizer.vocabulary=260", "model.layers=1", "model.heads=2", "model.width=32", "window=16"]
    words += ["batch=4", "steps=3", "validation_windows=2", f"runs={runs}", f"cache={runs}/cache", "name=base"]
    return train(compose([*words, "logger=none", "trainer=cpu", "trainer.progress=false"]), words)


@pytest.fixture(scope="module")
def shipped(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "sinusoidal"
    ship_run(trained.folder, folder, str(trained.folder.parent.parent / "cache"))
    return folder


def test_a_shipped_model_is_the_runs_rounded_and_says_how_it_was_made(trained, shipped):
    assert {path.name for path in shipped.iterdir()} == {"model.safetensors", "shipped.json", "tokenizer.json"}
    own, theirs = load_model(trained.checkpoint)[0].state_dict(), load_model(shipped)[0].state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(theirs[name], own[name].bfloat16().float()) for name in own)
    about = json.loads((shipped / "shipped.json").read_text())
    assert (about["made"]["seed"], about["made"]["step"], about["made"]["tokens"]) == (1, 3, 3 * 4 * 16)
    assert about["made"]["command"].startswith("python train.py position=sinusoidal data=files")
    text = json.dumps(about["made"]) + json.dumps({**about["lab"]["config"], "data": None})
    assert "runs=" not in text and str(trained.folder.parent) not in text


def test_it_is_measured_and_tuned_as_its_run_is(trained, shipped, tmp_path, one_thread, monkeypatch):
    cache = str(trained.folder.parent.parent / "cache")
    assert find_checkpoint(shipped) == shipped == home(shipped)
    settings = Measurement(contexts=(8, 16), stride=4, segments=4)
    ours = measure_checkpoint(shipped, None, settings, cache)
    theirs = measure_checkpoint(trained.checkpoint, None, settings, cache)
    assert ours["corpus"]["fingerprint"] == theirs["corpus"]["fingerprint"], "the same texts by the same tokenizer"
    assert ours["corpus"]["trained_on"] == {"test": 0}
    for row, other in zip(ours["rows"], theirs["rows"], strict=True):
        assert row["token_set"] == other["token_set"] and row["perplexity"] == pytest.approx(
            other["perplexity"], rel=0.05
        )
    assert measure_checkpoint(shipped, None, settings, cache)["read_back"] and list(shipped.glob("perplexity/*.json"))

    base = existing_base(shipped, cache=cache)
    assert (base.runs, base.group, base.position.name) == ("runs", "default", "sinusoidal")
    moved, alone = tmp_path / "moved" / "here" / "base", tmp_path / "model.ckpt"
    shutil.copytree(trained.folder, moved)
    shutil.copy(trained.checkpoint, alone)
    base = existing_base(moved / "checkpoints" / trained.checkpoint.name)
    assert (Path(base.runs).resolve(), base.group) == ((tmp_path / "moved").resolve(), "here")
    base = existing_base(alone)
    assert (base.runs, base.group) == (str(trained.folder.parent.parent), "default"), "it says itself where runs belong"
    monkeypatch.chdir(moved.parent / "base" / "checkpoints")
    assert existing_base(Path("..") / "checkpoints" / trained.checkpoint.name).group == "here"
    monkeypatch.undo()
    words = [f"checkpoint={shipped}", "window=32", "steps=1", "batch=1", "extend=interpolate", "extend.factor=2"]
    words += [
        f"runs={tmp_path}",
        f"cache={cache}",
        "name=tuned",
        "logger=none",
        "trainer=cpu",
        "trainer.progress=false",
    ]
    tuned = train(compose([*words, "validation_windows=1"]))
    record = read_record(tuned.checkpoint)
    assert record["config"]["original_window"] == 16 and record["config"]["checkpoint"] == str(shipped)


@pytest.mark.slow
def test_a_model_of_prepared_tokens_is_shipped_with_their_tokenizer(trained, tmp_path, one_thread):
    cache = trained.folder.parent.parent / "cache"
    folder = prepare(load_model(trained.checkpoint)[1].data, cache, progress=False).folder
    words = ["data=prepared", f"data.folder={folder}", "model.layers=1", "model.heads=2", "model.width=32", "window=16"]
    words += ["batch=4", "steps=2", "validation_windows=2", f"runs={tmp_path}", f"cache={tmp_path}/cache", "name=p"]
    done = train(compose([*words, "logger=none", "trainer=cpu", "trainer.progress=false"]))
    ship_run(done.folder, tmp_path / "base", str(cache))
    settings = Measurement(contexts=(8,), stride=4, segments=4)
    ours, theirs = (
        measure_checkpoint(path, None, settings, str(cache)) for path in (tmp_path / "base", done.checkpoint)
    )
    assert ours["rows"][0]["token_set"] == theirs["rows"][0]["token_set"]


@pytest.mark.slow
def test_the_demo_measures_and_tunes_it(trained, shipped, tmp_path, one_thread):
    cache = trained.folder.parent.parent / "cache"
    words = ["experiment=demo_text", f"checkpoint={shipped}", f"runs={tmp_path}", f"cache={cache}", "logger=none"]
    words += ["study.extends=[none,interpolate]", "study.finetune_steps=[1]", "study.segments=2", "trainer=cpu"]
    status, _, err = run_program(*words, "trainer.progress=false", module="experiments.extend")
    assert status == 0, err
    (page,) = (tmp_path / "demo_text").glob("study-*/table.txt")
    assert "interpolate" in page.read_text() and (page.parent / "figure.png").is_file()
    assert not (tmp_path / "demo_text" / "base").exists(), "the base is there already"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "shipped.json"])
def test_what_is_damaged_is_refused(shipped, tmp_path, name):
    for path in filter(lambda path: path.is_file(), shipped.iterdir()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    load_checkpoint(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-9] + b"x" + whole[-8:] if name != "shipped.json" else whole[:40])
    with pytest.raises(BadInput, match=f"checkpoint={tmp_path}.*{name}"):
        load_checkpoint(tmp_path)


def test_the_command_ships_a_run_and_refuses_what_it_does_not_know(trained, tmp_path):
    cache = trained.folder.parent.parent / "cache"
    words = [f"checkpoint={trained.folder}", f"to={tmp_path}/out", f"cache={cache}"]
    assert run_program(*words, "form=gguf", module="experiments.pretrained")[0] == 1
    status, out, err = run_program(*words, "form=lab", module="experiments.pretrained")
    assert (status, out.strip()) == (0, f"{tmp_path}/out"), err
    status, _, err = run_program(*words, "form=lab", module="experiments.pretrained")
    assert status == 1 and "is there already" in err
