"""A reading answers the question asked: found again by what it depends on, of any text, and kept where it can be."""

import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from conf.base import BadInput
from conf.compose import compose_values
from conf.load import load_model
from data.tokenizer import ByteTokenizer
from experiments.lab.measure import readings, subject
from experiments.lab.measure.by_position import ByPosition, measure_by_position
from experiments.lab.measure.held_out import shared_documents
from experiments.lab.measure.passkey import Passkey, measure_passkey
from experiments.lab.measure.perplexity import Measurement, measure_checkpoint
from experiments.lab.measure.protocols import measure
from experiments.lab.measure.readings import describe_origin, read_back_note
from experiments.lab.measure.request import read_request
from experiments.lab.measure.subject import open_subject
from experiments.longrope import Recovery, Search, recover, search_factors
from experiments.longrope.searching import Progress
from experiments.perplexity import run_command
from models.checkpoint_files import save_checkpoint
from tests.runs import CACHE, ROOT, tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")

PERPLEXITY = Measurement(contexts=(16, 64), stride=8, segments=4)
BY_POSITION = ByPosition(context=64, segments=4)
PASSKEY = Passkey(template="compact", digits=3, keys=1, lengths=(64,), depths=2, trials=2)
SMALL = {
    "population": 4,
    "parents": 2,
    "mutations": 1,
    "crossovers": 1,
    "generations": 0,
    "probability": 0.3,
    "seed": 0,
}
SMALL |= {"tokens": 128, "segments": 2}
SLOW = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    words = tiny(tmp_path_factory.mktemp("base"), "name=base", "steps=2")
    return train(compose(words), words)


@pytest.fixture
def lone(base, tmp_path):
    """The checkpoint as somebody mails it: a file in a folder of other things."""
    return shutil.copy(base.checkpoint, tmp_path / "model.ckpt")


def progress():
    class Bar:
        def set_postfix(self, **scores): ...

        def update(self, count): ...

    return Progress(Bar())


def factors(path, long, **more):
    path.write_text(yaml.safe_dump({"long": list(long), "factor": 4.0} | more))
    return str(path)


READERS = {
    "perplexity": lambda checkpoint, extend, **more: measure_checkpoint(
        checkpoint, extend, PERPLEXITY, str(CACHE), **more
    ),
    "by_position": lambda checkpoint, extend, **more: measure_by_position(
        checkpoint, extend, BY_POSITION, str(CACHE), **more
    )[0],
    "passkey": lambda checkpoint, extend, **more: measure_passkey(checkpoint, extend, PASSKEY, str(CACHE), **more)[0],
}


def numbers(result):
    """What was measured, without where the factors came from and when."""
    return {key: value for key, value in result.items() if key not in ("extend", "measured", "read_back", "checkpoint")}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("switch", [False, True], ids=["longrope", "switch"])
def test_a_reading_is_of_what_its_files_hold_and_not_of_their_names(lone, tmp_path, kind, switch):
    def read(path):
        extend = {"name": "longrope", "factor": 4.0, "path": path}
        extend = {"name": "switch", "factor": 4.0, "over": extend} if switch else extend
        return READERS[kind](lone, extend)

    first = read(factors(tmp_path / "f.yaml", [1.0] * 8))
    second = read(factors(tmp_path / "f.yaml", SLOW))
    assert numbers(second) != numbers(first) and not second["read_back"]
    same = read(factors(tmp_path / "g.yaml", SLOW))
    assert numbers(same) == numbers(second) and same["read_back"]
    assert numbers(read(factors(tmp_path / "f.yaml", [1.0] * 8))) == numbers(first)


def test_a_recovery_is_of_the_factors_it_was_given_and_of_the_base_as_it_is(lone, base, tmp_path):
    settings = Recovery(**SMALL)

    def run(checkpoint):
        return recover(checkpoint, tmp_path / "f.yaml", settings, str(CACHE), progress())

    factors(tmp_path / "f.yaml", [2.0] * 8)
    _, folder = run(lone)
    assert run(lone)[0]["read_back"] and run(lone)[1] == folder
    factors(tmp_path / "f.yaml", SLOW)
    second, other = run(lone)
    assert other != folder and not second["read_back"]

    tuned = torch.load(lone, weights_only=True)
    tuned["lab"]["config"]["checkpoint"] = str(tmp_path / "base.ckpt")
    shutil.copy(base.checkpoint, tmp_path / "base.ckpt")
    save_checkpoint(tuned, tmp_path / "tuned.ckpt")
    before, one = run(tmp_path / "tuned.ckpt")
    assert "base" in before["methods"]
    again = torch.load(base.checkpoint, weights_only=True)  # the base is trained again at the same path
    again["state_dict"]["gpt.embedding.weight"] *= 1.5
    save_checkpoint(again, tmp_path / "base.ckpt")
    after, another = run(tmp_path / "tuned.ckpt")
    assert another != one and not after["read_back"]
    assert (
        after["methods"]["base"] != before["methods"]["base"] and after["methods"]["long"] == before["methods"]["long"]
    )


@pytest.mark.parametrize("kind", ["perplexity", "longrope"])
def test_another_protocol_device_text_or_weights_is_another_reading(base, monkeypatch, tmp_path, kind):
    settings = PERPLEXITY if kind == "perplexity" else Search(**SMALL, factor=2.0)
    keys = [open_subject(base.checkpoint, None, str(CACHE)).key(kind, settings)]
    keys.append(open_subject(base.checkpoint, {"name": "none"}, str(CACHE)).key(kind, settings))
    assert keys[0] == keys[1]  # as trained, in other words
    monkeypatch.setitem(subject.VERSIONS, kind, 99)
    keys.append(open_subject(base.checkpoint, None, str(CACHE)).key(kind, settings))
    monkeypatch.setattr(subject, "device_and_precision", lambda _: {"device": "cuda", "precision": "bfloat16"})
    keys.append(open_subject(base.checkpoint, None, str(CACHE)).key(kind, settings))
    data = {**compose_values("config", ["data=sotu"])["data"]}
    (tmp_path / "a.txt").write_text(WORDS)
    small = {**data, "source": "files", "name": "small", "train": None, "test": str(tmp_path / "a.txt")}
    keys.append(open_subject(base.checkpoint, None, str(CACHE), small).key(kind, settings))
    keys.append(open_subject(base.checkpoint, {"name": "ntk", "factor": 2.0}, str(CACHE)).key(kind, settings))
    again = torch.load(base.checkpoint, weights_only=True)  # trained again, with all settings as they were
    again["state_dict"]["gpt.embedding.weight"] *= 1.5
    save_checkpoint(again, tmp_path / "again.ckpt")
    keys.append(open_subject(tmp_path / "again.ckpt", {"name": "ntk", "factor": 2.0}, str(CACHE)).key(kind, settings))
    assert len(set(keys[1:])) == len(keys) - 1


def test_what_is_read_back_says_so_and_when_and_by_what_it_was_measured(base, capsys):
    words = [f"checkpoint={base.folder}", f"cache={CACHE}", "segments=3", "logger=none", "contexts=[16]"]
    run_command(compose_values("perplexity", words), words)
    first = capsys.readouterr().out
    run_command(compose_values("perplexity", words), words)
    second = capsys.readouterr().out
    assert "Measured 20" in first and "Read back: measured 20" in second and "text: sotu" in second
    assert "float32 on cpu, commit" in second
    settings = Measurement(contexts=(16,), stride=8, segments=3)
    result = measure_checkpoint(base.checkpoint, None, settings, str(CACHE))
    assert result["read_back"] and result["measured"]["time"].startswith("20")
    assert {"commit", "changed", "device", "precision", "torch", "version"} < set(result["measured"])
    old = result["measured"] | {"time": "2001-02-03T04:05:06+00:00", "commit": "abc", "changed": True}
    assert "2001-02-03 04:05:06 UTC in float32 on cpu, commit abc, changed since" in describe_origin(
        result | {"measured": old}
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": []}'])
def test_a_torn_reading_is_measured_again(base, content, capsys):
    settings = Measurement(contexts=(16,), stride=4, segments=2)
    first = measure_checkpoint(base.checkpoint, None, settings, str(CACHE))
    path = readings.reading_path(
        open_subject(base.checkpoint, None, str(CACHE)), "perplexity", settings, settings.label
    )
    path.write_text(content)
    again = measure_checkpoint(base.checkpoint, None, settings, str(CACHE))
    assert numbers(again) == numbers(first) and not again["read_back"]
    assert "cannot be read" in capsys.readouterr().out
    assert measure_checkpoint(base.checkpoint, None, settings, str(CACHE))["read_back"]


@pytest.mark.parametrize("kind", READERS)
def test_where_nothing_can_be_written_a_line_says_so_first_and_the_number_is_there(lone, monkeypatch, capsys, kind):
    message = []

    def refused(*given, **matching):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    real = subject.Subject.model
    monkeypatch.setattr(readings.tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(subject.Subject, "model", lambda self: (message.append(capsys.readouterr().out), real(self))[1])
    result = READERS[kind](lone, None)
    assert "cannot be written (Read-only file system)" in message[0]
    assert not result["read_back"] and not list(lone.parent.glob("*/*.json"))


def test_a_disk_that_is_full_by_then_costs_no_number(lone, monkeypatch, capsys):
    def full(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(readings, "write_json", full)
    assert measure_checkpoint(lone, None, PERPLEXITY, str(CACHE))["rows"]
    assert "could not be written (No space left on device)" in capsys.readouterr().out


def test_a_file_where_the_folder_would_be(lone, capsys):
    for kind in ("longrope", "perplexity"):
        (lone.parent / kind).write_text("in the way")
    result, folder = search_factors(lone, Search(**SMALL, factor=2.0), str(CACHE), progress())
    assert result["methods"]["found"] and (folder / "factors.yaml").is_file()  # in a folder for the moment
    shutil.rmtree(folder)
    words = [f"checkpoint={lone}", f"cache={CACHE}", "segments=3", "logger=none", "contexts=[16]"]
    run_command(compose_values("perplexity", words), words)
    out = capsys.readouterr().out
    assert "cannot be written" in out and " perplexity " in out


def test_readings_of_a_lone_file_lie_beside_it_and_a_home_is_expanded(base, lone, tmp_path, monkeypatch):
    measure_checkpoint(lone, None, PERPLEXITY, str(CACHE))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt", "perplexity"]
    monkeypatch.setenv("HOME", str(base.folder.parent))
    values = compose_values("perplexity", [f"checkpoint='~/{base.folder.name}'", "cache='~/c'", "runs='~/r'"])
    request = read_request(values)
    assert request.checkpoint == base.checkpoint
    assert request.cache == f"{base.folder.parent}/c" and request.runs == f"{base.folder.parent}/r"


WORDS = "It was a bright cold day in April, and the clocks were striking thirteen; nobody looked up. "


def text(tmp_path, **files):
    """Plain settings of a text in files, as in conf/data/files.yaml."""
    paths = {}
    for split, contents in files.items():
        paths[split] = []
        for number, content in enumerate(contents):
            path = tmp_path / f"{split}{number}.txt"
            path.write_text(content)
            paths[split].append(str(path))
    return compose_values("config", ["data=files"])["data"] | {"name": "mine"} | paths


def test_any_text_is_measured_in_the_tokens_of_the_checkpoint(lone, tmp_path):
    """Against the same model on tokens encoded by hand."""
    content = "".join(f"{number} {WORDS}" for number in range(8))
    result = READERS["perplexity"](lone, None, data=text(tmp_path, test=[content, content[:50]]))
    tokens = np.r_[256, ByteTokenizer().encode([content])[0]]
    segments = [tokens[start : start + 65] for start in range(0, len(tokens) - 64, 65)]
    chosen = [segments[i] for i in np.unique(np.linspace(0, len(segments) - 1, 4).astype(int))]
    expected = measure(load_model(lone)[0], chosen, (16, 64), "fixed_targets", 8, bytes_per_token=np.ones(257))
    for row, right in zip(result["rows"], expected, strict=True):
        assert row["nll"] == pytest.approx(right.nll, rel=1e-6) and row["tokens"] == 4 * 8
        assert row["bits_per_byte"] == pytest.approx(right.bits_per_byte, rel=1e-6)  # the separator counts nowhere
    assert result["corpus"]["name"] == "mine" and result["corpus"]["trained_on"] == {"test": 0}
    for kind in ("by_position", "passkey"):
        other = READERS[kind](lone, None, data=text(tmp_path, test=[content]))
        assert other["corpus"]["name"] == "mine" and numbers(other) != numbers(READERS[kind](lone, None))
    results, _ = search_factors(lone, Search(**SMALL, factor=2.0), str(CACHE), progress(),
                      text(tmp_path, test=[content], validation=[content + WORDS]))  # fmt: skip
    assert results["corpus"]["name"] == "mine" and results["corpus"]["documents"] == {"validation": 1, "test": 1}
    with pytest.raises(BadInput, match="data=mine has no text for split=validation"):
        search_factors(lone, Search(**SMALL, factor=2.0), str(CACHE), progress(), text(tmp_path, test=[content + "."]))


def test_a_text_that_was_trained_on_is_said_to_be(lone, tmp_path, capsys):
    corpus = open_subject(lone, None, str(CACHE)).corpus
    trained = corpus.decode(corpus.split("train")[0])
    data = text(tmp_path, test=[trained, WORDS * 3])
    result = READERS["perplexity"](lone, None, data=data)
    assert result["corpus"]["trained_on"] == {"test": 1} and result["corpus"]["documents"] == {"test": 2}
    assert "1 of 2 documents of test were trained on" in describe_origin(result)
    own = measure_checkpoint(lone, None, PERPLEXITY.model_copy(update={"split": "train"}), str(CACHE))
    count = len(corpus.split("train"))
    assert own["corpus"]["trained_on"] == {"train": count}
    assert f"{count} of {count} documents of train were trained on" in describe_origin(own)
    assert "trained on" not in describe_origin(READERS["perplexity"](lone, None))


def test_documents_are_shared_if_they_are_the_same_whole():
    class Held:
        def __init__(self, *documents):
            self.documents = [np.array(document, dtype=np.uint16) for document in documents]
            self.offsets = np.r_[0, np.cumsum([len(document) for document in documents])]

        def __len__(self):
            return len(self.documents)

        def __getitem__(self, i):
            return self.documents[i]

    ours = Held([9, 1, 2], [9, 1], [9, 4, 4, 4], [9, 1, 2])
    assert shared_documents(ours, Held([9, 1, 2, 3], [9, 1, 2], [9, 2], [9, 5, 5, 5])) == 2
    assert shared_documents(ours, Held()) == 0


def test_where_the_training_text_is_gone_another_can_still_be_read(lone, tmp_path):
    checkpoint = torch.load(lone, weights_only=True)
    checkpoint["lab"]["config"]["data"] |= {"source": "files", "name": "gone", "train": ["/gone/*.txt"]}
    checkpoint["lab"]["config"]["data"] |= {"validation": None, "test": None, "column": "text"}
    save_checkpoint(checkpoint, lone)
    data = text(tmp_path, test=[WORDS * 9])
    result = READERS["perplexity"](lone, None, data=data)
    assert result["corpus"]["trained_on"] is None
    assert "Whether the model was trained on it is not known" in describe_origin(result)


def test_what_a_text_cannot_bring_along_is_refused(base):
    for key in ("data.tokenizer.kind=bytes", "data.isolate_documents=true", "data.retrieval.keys=2"):
        words = [f"checkpoint={base.folder}", "data=files", "data.test=a.txt", key]
        with pytest.raises(BadInput, match=f"{key.split('=')[0]} cannot be set: .* the checkpoint's own"):
            read_request(compose_values("perplexity", words), words)
    words = [f"checkpoint={base.folder}", "data=files", "data.test=/no/such.txt", "logger=none"]
    with pytest.raises(BadInput, match=r"such\.txt"):
        run_command(compose_values("perplexity", words), words)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [*READERS, "longrope"])
def test_weights_that_are_no_numbers_are_one_sentence_and_nothing_is_kept(lone, kind, value):
    checkpoint = torch.load(lone, weights_only=True)
    checkpoint["state_dict"]["gpt.blocks.0.down.weight"][0, 0] = value
    save_checkpoint(checkpoint, lone)
    with pytest.raises(BadInput, match="values that are not finite"):
        if kind == "longrope":
            search_factors(lone, Search(**SMALL, factor=2.0), str(CACHE), progress())
        else:
            READERS[kind](lone, None)
    assert not list(lone.parent.rglob("*.json"))


@pytest.mark.parametrize("kind", READERS)
def test_a_reading_that_is_no_number_is_one_sentence_and_not_kept(lone, kind):
    checkpoint = torch.load(lone, weights_only=True)
    checkpoint["state_dict"]["gpt.embedding.weight"][:] = 3e38  # finite, and its logits are not
    save_checkpoint(checkpoint, lone)
    with pytest.raises(BadInput, match="that is not finite: nothing is kept"):
        READERS[kind](lone, None)
    assert not list(lone.parent.rglob("*.json"))


@pytest.mark.parametrize("links", [1, 2])
def test_a_checkpoint_that_comes_from_itself_is_refused(lone, tmp_path, links):
    names = ["model", *(f"link{number}" for number in range(1, links))]
    checkpoint = torch.load(lone, weights_only=True)
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        checkpoint["lab"]["config"]["checkpoint"] = str(tmp_path / f"{following}.ckpt")
        save_checkpoint(checkpoint, tmp_path / f"{name}.ckpt")
    factors(tmp_path / "f.yaml", SLOW)
    with pytest.raises(BadInput, match="fine-tuned from itself"):
        recover(lone, tmp_path / "f.yaml", Recovery(**SMALL), str(CACHE), progress())


def test_help_loads_nothing_heavy():
    """Each program is imported after the ones before it; what any of them loads is there from then on."""
    modules = ("perplexity", "by_position", "passkey", "longrope.__main__")
    code = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module('experiments.' + name); "
    code += "print(name, [heavy for heavy in ('torch', 'lightning', 'wandb') if heavy in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.splitlines() == [f"{name} []" for name in modules], out.stderr


def test_a_line_of_several_readings_says_which_were_read_back():
    def result(read_back, time, commit):
        return {"read_back": read_back, "measured": {"time": f"{time}T01:02:03+00:00", "commit": commit}}

    fresh, old, older = (
        result(False, "2026-01-01", "c" * 40),
        result(True, "2025-01-01", "b"),
        result(True, "2024", None),
    )
    assert read_back_note([fresh, fresh]) == ""
    assert read_back_note([old]) == " (read back, measured 2025-01-01 01:02 UTC or later, commit b)"
    assert read_back_note([fresh, old, older]).startswith(" (2 of 3 read back, measured 2024")
    assert read_back_note([old, older]).endswith("commit b, unknown)")
