"""What a run is and is not: its identity, its folder where something goes wrong, its name, what it takes over."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from conf import run_folder
from conf.base import BadInput
from conf.compose import compose_values
from conf.files import read_json, write_json
from conf.load import load_model
from conf.names import run_name
from conf.overrides import over_checkpoint, swept_keys
from conf.resolve import resolve
from conf.run_folder import RunFolder
from models.checkpoint_files import load_checkpoint, save_checkpoint
from models.progress import Metrics
from tests.runs import CACHE, tiny
from train import compose, train


def run(folder, *overrides):
    words = tiny(folder, *overrides)
    return train(compose(words), words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps that must not be changed."""
    return run(tmp_path_factory.mktemp("finished"), "name=a", "steps=4")


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of it, elsewhere."""
    return shutil.copytree(finished.folder, tmp_path / "default" / "a")


def again(folder: Path, *overrides):
    """Ask for the finished run where this folder is."""
    return run(folder.parent.parent, f"group={folder.parent.name}", f"name={folder.name}", "steps=4", *overrides)


def texts(folder: Path, word: str) -> Path:
    """Thirty small texts."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(30):
        (folder / f"{number:02d}.txt").write_text(f"{word} number {number} " * 30)
    return folder


def files(folder: Path) -> list[str]:
    return ["data=files", f"data.train={folder}/*.txt", "data.name=mine"]


# Where a run lies, on what it is computed, how often it is shown and saved.


@pytest.mark.parametrize(
    "override",
    [
        "log_every=3",
        "validate_every=4",
        "checkpoint_every=3",
        "trainer=auto",
        "trainer.progress=true",
        "logger=csv",
        f"cache={CACHE}/../{CACHE.name}",
    ],
)
def test_circumstances_are_not_what_a_run_is(copy, finished, override):
    assert again(copy, override).metrics == finished.metrics


def test_a_run_that_was_copied_moved_renamed_or_linked_is_the_same(copy, finished, tmp_path, monkeypatch):
    assert again(copy).metrics == finished.metrics
    moved = copy.rename(tmp_path / "default" / "b")
    assert again(moved).metrics == finished.metrics
    link = tmp_path / "linked"
    link.symlink_to(tmp_path, target_is_directory=True)
    assert again(link / "default" / "b").metrics == finished.metrics
    monkeypatch.chdir(tmp_path)
    assert train(compose(tiny(Path("."), "name=b", "steps=4"))).metrics == finished.metrics


def test_an_interrupted_run_goes_on_elsewhere_with_other_intervals(copy, finished):
    (copy / "results.json").unlink()
    (copy / "checkpoints" / "step-00000004.ckpt").unlink()
    RunFolder(copy).set_status("running")
    result = again(copy, "checkpoint_every=1", "log_every=2")
    ours, theirs = (load_checkpoint(item.checkpoint)["state_dict"] for item in (result, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_interrupted_run_goes_on_in_the_precision_in_which_it_began(copy, capsys, monkeypatch):
    """Which trainer.precision=auto leaves to the machine: here a run that a GPU began."""
    monkeypatch.setattr("models.progress.matmul_rate", lambda *_: 1e9)  # in bfloat16 many CPUs take seconds for it
    (copy / "results.json").unlink()
    (copy / "checkpoints" / "step-00000004.ckpt").unlink()
    RunFolder(copy).set_status("running")
    checkpoint = copy / "checkpoints" / "step-00000002.ckpt"
    loaded = load_checkpoint(checkpoint)
    assert loaded["lab"]["precision"] == "32-true"
    loaded["lab"]["precision"] = "bf16-mixed"
    save_checkpoint(loaded, checkpoint)
    result = again(copy)
    assert "goes on in bf16-mixed, in which it began; trainer.precision=auto is 32-true here" in capsys.readouterr().out
    assert load_checkpoint(result.checkpoint)["lab"]["precision"] == "bf16-mixed"
    assert read_json(copy / "environment.json")["precision"] == "bf16-mixed"


@pytest.mark.parametrize("override", ["validation_windows=4", "trainer.accumulate=2", "trainer.precision=32-true"])
def test_what_changes_results_is_what_a_run_is(copy, override):
    with pytest.raises(BadInput, match=override.partition("=")[0]):
        again(copy, override)


# What a run is made of.


def test_texts_count_by_content_and_not_by_how_they_are_spelled(tmp_path, monkeypatch):
    folder = texts(tmp_path / "texts", "word")
    first = run(tmp_path, "name=a", "steps=2", *files(folder))
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path, "name=a", "steps=2", *files(Path("texts"))).metrics == first.metrics
    shutil.move(folder, tmp_path / "elsewhere")
    assert run(tmp_path, "name=a", "steps=2", *files(tmp_path / "elsewhere")).metrics == first.metrics


@pytest.mark.parametrize("state", ["done", "interrupted"])
def test_a_run_whose_texts_changed_is_refused(tmp_path, state):
    words = ("name=a", "steps=4", *files(texts(tmp_path / "texts", "word")))
    folder = run(tmp_path, *words).folder
    if state == "interrupted":
        (folder / "results.json").unlink()
        RunFolder(folder).set_status(state, step=4)
    texts(tmp_path / "texts", "another")
    with pytest.raises(BadInput, match="other texts behind data=mine"):
        run(tmp_path, *words)
    (folder / "inputs.json").unlink()  # as in folders of before: the checkpoint knows its corpus too
    if state == "interrupted":
        with pytest.raises(BadInput, match="texts of data=mine changed"):
            run(tmp_path, *words)


@pytest.mark.slow
def test_a_fine_tuned_run_whose_base_was_trained_again_is_refused(tmp_path):
    base = run(tmp_path, "name=base", "steps=2")
    words = [word for word in tiny(tmp_path, "name=t", "steps=2") if not word.startswith(("model.", "data.", "window"))]
    words.append(f"checkpoint={base.folder}")
    tuned = train(compose(words))
    shutil.rmtree(base.folder)
    run(tmp_path, "name=base", "steps=2")
    assert train(compose(words)).metrics == tuned.metrics  # bit for bit the same base
    shutil.rmtree(base.folder)
    run(tmp_path, "name=base", "steps=2", "seed=5")
    with pytest.raises(BadInput, match="other weights in checkpoint="):
        train(compose(words))


def tokenizer_file(path: Path, swap: bool) -> Path:
    """A tokenizer of one token a letter; with swap another one of equal size."""
    letters = [chr(code) for code in range(32, 127)]
    if swap:
        letters = letters[::-1]
    vocabulary = {letter: number for number, letter in enumerate(["[UNK]", *letters])}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "[UNK]"}
    path.write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    return path


@pytest.mark.slow
def test_another_tokenizer_of_equal_size_is_refused(tmp_path):
    folder = texts(tmp_path / "texts", "word")
    one, other = tokenizer_file(tmp_path / "one.json", False), tokenizer_file(tmp_path / "other.json", True)
    words = [*files(folder), "data.tokenizer.kind=file"]
    base = run(tmp_path, "name=base", "steps=2", *words, f"data.tokenizer.path={one}")
    tune = [word for word in tiny(tmp_path, "name=t", "steps=2") if not word.startswith(("model.", "data.", "window"))]
    tune += [f"checkpoint={base.folder}", *words, "data.tokenizer.vocabulary=null"]
    with pytest.raises(BadInput, match="another tokenizer"):
        train(compose([*tune, f"data.tokenizer.path={other}"]))
    train(compose([*tune, f"data.tokenizer.path={one}"]))
    with pytest.raises(BadInput, match="another tokenizer behind data=mine"):
        run(tmp_path, "name=base", "steps=2", *words, f"data.tokenizer.path={other}")


# What a fine-tuned run takes over.


def tuned(finished, *overrides):
    words = [word for word in tiny(Path("nowhere")) if not word.startswith(("model.", "data.", "window"))]
    return compose([*words, f"checkpoint={finished.folder}", *overrides])


def test_single_settings_go_over_those_of_the_checkpoint(tmp_path):
    base = run(tmp_path, "steps=2", "extend=yarn", "extend.factor=4", "data.retrieval.digits=3")
    config = tuned(base, "data.retrieval.fraction=0.1", "data.isolate_documents=true", "extend.temperature=1.2")
    assert config.data.tokenizer.kind == "bytes" and config.data.retrieval.digits == 3
    assert config.data.retrieval.fraction == 0.1 and config.data.isolate_documents
    assert (config.extend.name, config.extend.factor, config.extend.temperature) == ("yarn", 4.0, 1.2)
    assert tuned(base, "extend.factor=8").extend.factor == 8.0
    replaced = tuned(base, "extend=ntk")
    assert (replaced.extend.name, replaced.extend.factor) == ("ntk", 4.0)
    assert tuned(base, "data=sotu").data.tokenizer.kind == "bpe"
    with pytest.raises(BadInput, match=r"extend\.faktor=8 is not a setting.*factor"):
        tuned(base, "extend.faktor=8")


def test_keys_of_an_extension_that_the_checkpoint_lacks_are_refused_by_name(finished):
    with pytest.raises(BadInput, match=r"extend\.factor=2 is not a setting"):
        tuned(finished, "extend.factor=2")


def test_a_new_file_of_factors_takes_the_place_of_the_old(tmp_path):
    for name, long in (("one", [1.0] * 8), ("two", [2.0] * 8)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"long": long, "factor": 4.0}))
    base = run(tmp_path, "steps=2", "extend=longrope", f"extend.path={tmp_path}/one.yaml")
    assert tuned(base).extend.long == (1.0,) * 8
    assert tuned(base, f"extend.path={tmp_path}/two.yaml").extend.long == (2.0,) * 8


def test_what_goes_over_a_checkpoint_is_forced_and_only_that():
    words = ["checkpoint=a", "extend.factor=2", "data=files", "data.train=x", "+extend.x=1", "seed=1"]
    assert over_checkpoint(words) == ["checkpoint=a", "++extend.factor=2", *words[2:4], "++extend.x=1", "seed=1"]
    assert over_checkpoint(words[1:]) == words[1:]


def test_a_run_folder_is_a_checkpoint_and_home_is_expanded(finished, monkeypatch):
    assert Path(tuned(finished).checkpoint) == finished.checkpoint
    monkeypatch.setenv("HOME", str(finished.folder.parent))
    config = compose([*tiny(Path("x")), "runs=~/runs", "cache=~/cache"])
    assert config.runs == f"{finished.folder.parent}/runs" and config.cache == f"{finished.folder.parent}/cache"
    words = [word for word in tiny(Path("x")) if not word.startswith(("model.", "data.", "window"))]
    assert Path(compose([*words, "checkpoint=~/a"]).checkpoint) == finished.checkpoint


# Names.


@pytest.mark.parametrize(
    "override", ["group=..", "name=..", "name=.", "name=.lock", "group=wandb", "name=-x", "group=.hidden", "name=a/b"]
)
def test_names_stay_below_runs(tmp_path, override):
    with pytest.raises(BadInput, match=override.partition("=")[0]):
        compose(tiny(tmp_path, override))


SWEEPS = {
    "trainer.precision": "32-true,bf16-mixed",
    "trainer.accumulate": "1,2",
    "trainer.compile": "true,false",
    "snapshots": "[2],[4],[2,4]",
    "checkpoint_every": "1,2",
    "log_every": "1,2",
    "cache": "a,b",
    "logger": "csv,none",
    "optimizer.lr": "1e-3,1e-4",
    "seed": "1,2",
    "data.train": "a/x.txt,b/x.txt,[a/x.txt,b/x.txt],'ü.txt','ö.txt'",
    "checkpoint": "runs/a/x/checkpoints/step-1.ckpt,runs/b/x/checkpoints/step-1.ckpt",
    "frequencies.seed": "-1,1",
}


@pytest.mark.parametrize("key", SWEEPS)
def test_jobs_of_a_sweep_have_different_names(tmp_path, key):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (sweep,) = OverridesParser.create().parse_overrides([f"{key}={SWEEPS[key]}"])
    values = list(sweep.sweep_string_iterator())
    assert len(values) > 1 and swept_keys([f"{key}={SWEEPS[key]}", "window=8"]) == [key]
    config = compose(tiny(tmp_path))
    names = set()
    for value in values:
        base = config.model_copy(update={"seed": int(value)}) if key == "seed" else config
        names.add(run_name(base, ["position=rope", f"{key}={value}"], [key]))
    assert len(names) == len(values), names


def test_what_a_run_is_shows_in_its_name_also_without_a_sweep(tmp_path):
    plain, mixed = (compose(["position=rope", *more]).name for more in ([], ["trainer.precision=bf16-mixed"]))
    assert plain == "rope-nano-s1" and mixed == "rope-nano-precisionbf16_mixed-s1"
    assert compose(["snapshots=[2,4]"]).name == "rope-nano-snapshots2_4-s1"
    assert compose(["trainer=cpu", "log_every=3", "cache=x", "trainer.progress=false"]).name == "rope-nano-s1"


def test_resolving_knows_the_keys_of_a_sweep():
    words = ["checkpoint_every=7"]
    assert resolve(compose_values("config", words), words, swept=words[0].split("=")[:1]).name.endswith("every7-s1")


# What goes wrong in a folder.


def test_a_command_that_failed_on_a_typo_has_claimed_nothing(tmp_path):
    with pytest.raises(BadInput, match="no file matches"):
        run(tmp_path, "name=a", "data=files", f"data.train={tmp_path}/typo.txt")
    assert not (tmp_path / "default").exists()
    folder = tmp_path / "default" / "a"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", compose(tiny(tmp_path, "name=a", "steps=9")).model_dump(mode="json"))
    run(tmp_path, "name=a", "steps=2")
    assert read_json(folder / "config.json")["steps"] == 2


def test_a_finished_run_without_its_checkpoint_is_refused(copy):
    for path in (copy / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match=r"step-00000004\.ckpt of a finished run is gone"):
        again(copy)


def test_a_run_whose_checkpoints_are_gone_does_not_start_over(copy):
    (copy / "results.json").unlink()
    RunFolder(copy).set_status("running")
    for path in (copy / "checkpoints").iterdir():
        path.unlink()
    rows = (copy / "metrics.jsonl").read_text()
    with pytest.raises(BadInput, match="had a checkpoint of step 4, which is gone"):
        again(copy)
    assert (copy / "metrics.jsonl").read_text() == rows


@pytest.mark.parametrize("name", ["status.json", "config.json", "results.json", "inputs.json"])
@pytest.mark.parametrize("content", ["", '{"state": "do', "[1]", '{"time": 1}', pytest.param("[" * 10**5, id="deep")])
def test_a_torn_file_is_named_and_survived(copy, finished, name, content, capsys):
    (copy / name).write_text(content)
    again_metrics = again(copy).metrics
    assert again_metrics["validation/nll"] == finished.metrics["validation/nll"]
    err = capsys.readouterr().err
    assert name == "status.json" or (name in err and "torn" in err)


def test_a_folder_with_nothing_but_torn_settings_is_a_sentence(copy):
    (copy / "config.json").write_text("")
    for path in (copy / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match=r"config\.json is torn"):
        again(copy)


def test_a_broken_line_costs_no_other(copy):
    path = copy / "metrics.jsonl"
    rows = Metrics(path).rows()
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b'{"step": 2, "tr\xff', b"null", b'{"step": "2"}', *lines[1:], b'{"st']))
    assert Metrics(path).rows() == rows


def test_small_files_reach_the_disk_whole_or_not_at_all(tmp_path, monkeypatch):
    path, synced = tmp_path / "x.json", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    write_json(path, {"a": 1})
    assert synced == [f"{path}.{os.getpid()}.tmp", str(tmp_path)]
    with pytest.raises(BadInput, match="not finite"):
        write_json(path, {"a": float("nan")})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1} and [item.name for item in tmp_path.iterdir()] == ["x.json"]


def test_a_finished_run_is_read_where_nothing_can_be_written(copy, finished, monkeypatch):
    def refuse(path, mode="r", *arguments, **matching):
        if mode[0] in "wax":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return open(path, mode, *arguments, **matching)

    monkeypatch.setattr(run_folder, "open", refuse, raising=False)
    assert again(copy).metrics == finished.metrics
    RunFolder(copy).status  # noqa: B018 - reading it writes nothing
    (copy / "results.json").unlink()
    with pytest.raises(BadInput, match="cannot be written: Read-only file system"):
        again(copy)


def test_places_that_cannot_be_are_sentences(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "gone" / "deeper")
    with pytest.raises(BadInput, match="dangling is a link to a place that is not there"):
        run(tmp_path / "dangling", "name=a")
    with pytest.raises(BadInput, match="Not a directory"):
        run(Path("/dev/null/x"), "name=a")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_in_the_middle_is_a_sentence_and_a_failed_run(tmp_path, monkeypatch, number):
    write = Metrics.write

    def failing(self, row):
        if row["step"] == 3:
            raise OSError(number, os.strerror(number), str(self.path))
        write(self, row)

    monkeypatch.setattr(Metrics, "write", failing)
    with pytest.raises(BadInput, match=os.strerror(number)):
        run(tmp_path, "name=a")
    status = RunFolder(tmp_path / "default" / "a").status
    assert status["state"] == "failed" and os.strerror(number) in status["error"] and status["saved"] == 2
    monkeypatch.setattr(Metrics, "write", write)
    assert run(tmp_path, "name=a").metrics["step"] == 6


def test_a_full_disk_takes_the_last_status_in_place_of_the_one_before(copy, monkeypatch):
    folder = RunFolder(copy)
    monkeypatch.setattr(run_folder, "write_json", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    folder.set_status("failed", error="disk full")
    assert folder.status["state"] == "failed" and folder.status["error"] == "disk full"


# What is not finite is failure.


@pytest.mark.parametrize(
    "words", [("optimizer.lr=1e30",), ("optimizer.lr=1e30", "log_every=100", "validate_every=100")]
)
def test_divergence_is_failure(tmp_path, words):
    with pytest.raises(
        BadInput, match=r"diverged: the (loss|validation loss|norm of the gradient) is (nan|inf) at step \d"
    ):
        run(tmp_path, "name=a", "optimizer.warmup=0", *words)
    folder = tmp_path / "default" / "a"
    status = RunFolder(folder).status
    assert status["state"] == "failed" and "diverged" in status["error"] and not (folder / "results.json").exists()
    for path in (folder / "checkpoints").glob("step-*.ckpt"):
        load_model(path)  # of finite weights: nothing was saved after the loss was lost
    json.loads(json.dumps(Metrics(folder / "metrics.jsonl").rows(), allow_nan=False))


def test_the_sentence_says_the_last_finite_loss_and_the_last_good_checkpoint(tmp_path, monkeypatch):
    from models.language_model import LanguageModel

    step = LanguageModel.training_step

    def spoiled(self, batch, index):
        loss = step(self, batch, index)
        if index == 4:
            loss = loss * float("nan")
            self.loss = loss.detach()
        return loss

    monkeypatch.setattr(LanguageModel, "training_step", spoiled)
    with pytest.raises(BadInput) as caught:
        run(tmp_path, "name=a")
    assert "the loss is nan at step 5, after a loss of" in str(caught.value)
    assert "at step 4; the last good checkpoint is that of step 4" in str(caught.value)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("key", ["optimizer.lr", "optimizer.clip", "optimizer.weight_decay", "frequencies.base"])
def test_settings_are_finite(tmp_path, key, value):
    with pytest.raises(BadInput, match=key):
        compose(tiny(tmp_path, f"{key}={value}"))


def test_factors_are_finite(tmp_path):
    with pytest.raises(BadInput, match=r"extend\.factor=inf"):
        compose(tiny(tmp_path, "extend=ntk", "extend.factor=inf"))
