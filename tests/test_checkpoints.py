"""Checkpoint files: what was written is what is read, only proven damage is damage, and a stranger's file is data."""

import errno
import os
import re
import shutil

import pytest
import torch

from conf.base import BadInput
from conf.load import load_model
from conf.run_folder import RunFolder
from models import checkpoint_files
from models.checkpoint_files import Damaged, check_file, home, latest, load_checkpoint, save_checkpoint
from models.progress import Metrics
from models.restore import read_record, weights_digest
from tests.runs import tiny
from train import compose, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of eight steps with the checkpoints of its last two intervals."""
    words = tiny(tmp_path_factory.mktemp("finished"), "name=a", "steps=8")
    return train(compose(words), words)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(finished.folder, tmp_path / "default" / "a")


def interrupted(folder):
    """Have a finished run look as if it had been killed after its last checkpoint."""
    (folder / "results.json").unlink()
    RunFolder(folder).set_status("running")
    return tiny(folder.parent.parent, "name=a", "steps=8")


def newest(folder):
    return folder / "checkpoints" / "step-00000008.ckpt"


def flip(path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.8, 0.99, -40, -20, -1])
def test_a_flipped_bit_anywhere_is_damage(copy, share):
    path = newest(copy)
    size = path.stat().st_size
    flip(path, int(share * size) if share >= 0 else size + share)
    with pytest.raises(Damaged, match=r"step-00000008\.ckpt is damaged|cannot be read"):
        load_model(path)


def test_every_byte_is_covered(tmp_path):
    """Of a small file, all of them: the archive, its padding and its directory, the mark and the digest."""
    path = tmp_path / "small.ckpt"
    save_checkpoint({"state_dict": {"weight": torch.ones(2)}}, path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Damaged):
            load_checkpoint(path)
    for length in (0, 10, len(whole) // 2, len(whole) - 33, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            load_checkpoint(path)


def test_files_without_a_digest_are_read_and_held_to_the_checksums_of_their_archive(copy):
    path = newest(copy)
    torch.save(load_checkpoint(path), path)  # as before there were digests
    model, _, record = load_model(path)
    assert record["step"] == 8 and not check_file(path)
    content = path.read_bytes()
    weights = model.state_dict()[
        "blocks.0.qkv.weight" if "blocks.0.qkv.weight" in model.state_dict() else "embedding.weight"
    ]
    at = content.index(weights.numpy().tobytes())
    flip(path, at + 5)
    with pytest.raises(Damaged, match="truncated or damaged"):
        load_model(path)


def test_an_interrupted_run_sets_a_damaged_checkpoint_aside_and_goes_on_from_the_one_before(copy, finished, capsys):
    words = interrupted(copy)
    flip(newest(copy), 20_000)
    again = train(compose(words), words)
    assert "step-00000008.ckpt is damaged" in capsys.readouterr().out
    assert (copy / "checkpoints" / "step-00000008.damaged").exists()
    ours, theirs = (load_checkpoint(item.checkpoint)["state_dict"] for item in (again, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert again.metrics["validation/nll"] == finished.metrics["validation/nll"]
    steps, expected = (
        [row["step"] for row in Metrics(folder / "metrics.jsonl").rows()] for folder in (copy, finished.folder)
    )
    assert steps == expected, "what was recorded after the checkpoint is recorded anew, not twice"


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(copy):
    words = interrupted(copy)
    rows = (copy / "metrics.jsonl").read_text()
    for path in (copy / "checkpoints").glob("step-*.ckpt"):
        flip(path, 20_000)
    (copy / "status.json").write_text('{"state": "running"}')  # as of older runs, which did not record what they saved
    for _ in range(2):  # nor at the second try, when they are already set aside
        with pytest.raises(BadInput, match=r"every checkpoint in .* is damaged.* does not start over by itself"):
            train(compose(words), words)
    assert (copy / "metrics.jsonl").read_text() == rows


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOMEM])
def test_what_cannot_be_read_is_no_damage_and_nothing_is_touched(copy, monkeypatch, number):
    words = interrupted(copy)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (copy / "checkpoints").iterdir())
    rows = (copy / "metrics.jsonl").read_text()

    def refuse(path, *arguments):
        if str(path).endswith("step-00000008.ckpt"):
            raise OSError(number, os.strerror(number), str(path))
        return open(path, *arguments)

    monkeypatch.setattr(checkpoint_files, "open", refuse, raising=False)
    with pytest.raises(BadInput, match=re.escape(os.strerror(number))) as caught:
        train(compose(words), words)
    assert not isinstance(caught.value, Damaged)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (copy / "checkpoints").iterdir()) == before
    assert (copy / "metrics.jsonl").read_text() == rows


def test_want_of_memory_is_no_damage(finished, monkeypatch):
    def load(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(BadInput, match="not enough memory") as caught:
        load_checkpoint(finished.checkpoint)
    assert not isinstance(caught.value, Damaged)


def test_a_full_disk_leaves_the_old_checkpoint_and_no_part_of_the_new(tmp_path, monkeypatch):
    path = tmp_path / "step-00000001.ckpt"
    save_checkpoint({"state_dict": {"weight": torch.ones(2)}}, path)

    class Full(checkpoint_files._HashedFile):
        def __init__(self, file):
            super().__init__(self)

        def write(self, data):
            if self.error is None:
                self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return memoryview(data).nbytes

    monkeypatch.setattr(checkpoint_files, "_HashedFile", Full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint({"state_dict": {"weight": torch.zeros(1000)}}, path)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert load_checkpoint(path)["state_dict"]["weight"].sum() == 2


def changed(finished, tmp_path, change):
    """The checkpoint of a run with something else in it, honestly sealed."""
    loaded = load_checkpoint(finished.checkpoint)
    change(loaded)
    path = tmp_path / "crafted.ckpt"
    save_checkpoint(loaded, path)
    return path


def weight(name, make):
    def change(loaded):
        loaded["state_dict"][name] = make(loaded["state_dict"].get(name))

    return change


def setting(*keys, value):
    def change(loaded):
        inside = loaded["lab"]["config"]
        for key in keys[:-1]:
            inside = inside[key]
        inside[keys[-1]] = value

    return change


EMBEDDING = "gpt.embedding.weight"
MALFORMED = {
    "no record": (lambda loaded: loaded.pop("lab"), "not written by train.py"),
    "a record of words": (lambda loaded: loaded.update(lab="words"), "not written by train.py"),
    "no settings": (lambda loaded: loaded["lab"].pop("config"), "lacks config"),
    "no step": (lambda loaded: loaded.pop("global_step"), "lacks global_step"),
    "no weights": (lambda loaded: loaded.pop("state_dict"), "not written by train.py"),
    "a weight missing": (
        lambda loaded: loaded["state_dict"].pop("gpt.blocks.0.attention.qkv.weight"),
        "lacks blocks.0",
    ),
    "a weight too many": (weight("gpt.extra", lambda _: torch.ones(2)), "one weight too many, extra"),
    "another shape": (weight("gpt.blocks.1.attention.out.weight", lambda w: w[:, :5]), r"of shape \(32, 5\)"),
    "int8": (weight(EMBEDDING, lambda w: w.to(torch.int8)), "int8; weights are floating-point"),
    "complex": (weight(EMBEDDING, lambda w: w.to(torch.complex64)), "complex64; weights are floating-point"),
    "a word for a weight": (weight(EMBEDDING, lambda w: "word"), "as str"),
    "nan": (weight(EMBEDDING, lambda w: w * float("nan")), "not finite"),
    "infinite": (weight(EMBEDDING, lambda w: w / 0), "not finite"),
    "ten million layers": (setting("model", "layers", value=10**7), "layers"),
    "a huge vocabulary": (lambda loaded: loaded["lab"].update(vocabulary=10**9), "1000000000 x 32"),
    "another width": (setting("model", "width", value=64), "settings say 2 layers and 257 x 64"),
    "an unknown scheme": (setting("position", value={"name": "ropee"}), "position=ropee is not known"),
    "an infinite base": (setting("frequencies", "base", value=float("inf")), "frequencies.base=inf"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_checkpoint_is_one_sentence(finished, tmp_path, kind):
    change, words = MALFORMED[kind]
    with pytest.raises(BadInput, match=words) as caught:
        load_model(changed(finished, tmp_path, change))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_weights_tell_checkpoints_apart_and_nothing_else_does(finished, tmp_path):
    same = changed(finished, tmp_path, setting("cache", value="elsewhere"))
    assert weights_digest(load_checkpoint(same)) == weights_digest(load_checkpoint(finished.checkpoint))
    other = changed(finished, tmp_path, weight(EMBEDDING, lambda w: w * 1.0001))
    assert weights_digest(load_checkpoint(other)) != weights_digest(load_checkpoint(finished.checkpoint))


def test_results_lie_in_the_run_folder_or_beside_a_lone_file(finished, tmp_path, monkeypatch):
    assert home(finished.checkpoint) == finished.folder
    lone = shutil.copy(finished.checkpoint, tmp_path / "lone.ckpt")
    assert home(lone) == tmp_path
    monkeypatch.chdir(finished.checkpoint.parent)
    assert home(type(lone)(finished.checkpoint.name)).resolve() == finished.folder


def test_the_record_and_the_newest_checkpoint_are_found(finished):
    assert latest(finished.checkpoint.parent) == finished.checkpoint
    assert read_record(finished.checkpoint)["step"] == 8
