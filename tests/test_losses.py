"""Losses of all targets are kept beside a reading if asked for: those it sums, of the tokens they say they are of."""

import errno
import os

import numpy as np
import pytest
import torch

from conf.base import BadInput
from experiments.lab.measure import losses, protocols
from experiments.lab.measure.by_position import ByPosition, measure_by_position
from experiments.lab.measure.losses import by_context
from experiments.lab.measure.perplexity import Measurement, measure_perplexity
from experiments.lab.measure.subject import open_subject
from models.checkpoint_files import save_checkpoint
from tests.runs import CACHE, run_program, tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = Measurement(contexts=(16, 48), stride=8, segments=5)
KEPT = PLAIN.model_copy(update={"losses": True})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return train(compose(tiny(tmp_path_factory.mktemp("losses"), "name=base", "steps=1")))


@pytest.fixture
def lone(base, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(base.checkpoint.read_bytes())
    return tmp_path / "model.ckpt"


def read(checkpoint, settings=KEPT):
    return measure_perplexity(checkpoint, None, settings, str(CACHE))


@pytest.mark.parametrize("protocol", ["fixed_targets", "windows", "sliding"])
def test_kept_losses_sum_to_the_numbers_and_are_of_the_tokens_they_name(lone, protocol):
    result, path = read(lone, KEPT.model_copy(update={"protocol": protocol}))
    kept, documents = by_context(path.with_suffix(".npz")), open_subject(lone, None, str(CACHE)).corpus.split("test")
    assert list(kept) == [16, 48]
    for row in result["rows"]:
        arrays = kept[row["context"]]
        assert arrays["nll"].shape == arrays["tokens"].shape == arrays["top"].shape
        sums = {document: 0.0 for document in row["documents"]}
        for segment, (document, start) in enumerate(zip(arrays["documents"], arrays["starts"], strict=True)):
            sums[int(document)] += arrays["nll"][segment].sum(dtype=np.float64)
            text = documents[int(document)][start + arrays["positions"]]
            assert np.array_equal(text, arrays["tokens"][segment])
        assert list(sums.values()) == pytest.approx(row["document_nll"])
        assert arrays["seen"].max() == row["context"]


def test_losses_by_position_are_kept_likewise(lone):
    settings = ByPosition(context=32, segments=5, losses=True)
    result, path = measure_by_position(lone, None, settings, str(CACHE))
    arrays = by_context(path.with_suffix(".npz"))[32]
    for row in result["rows"]:
        inside = (row["low"] <= arrays["seen"]) & (arrays["seen"] <= row["high"])
        assert arrays["nll"][:, inside].mean(dtype=np.float64) == pytest.approx(row["nll"])
    assert measure_by_position(lone, None, settings, str(CACHE))[0]["read_back"]


def test_a_reading_without_them_is_measured_again_and_then_read_back(lone, capsys):
    first, path = read(lone, PLAIN)
    assert not list(path.parent.glob("*.npz"))
    again, same = read(lone)
    assert same == path and not again["read_back"] and again["rows"] == first["rows"]
    assert f"{path} has no losses of all targets beside it: measured again" in capsys.readouterr().out
    assert read(lone)[0]["read_back"] and read(lone, PLAIN)[0]["read_back"]
    assert capsys.readouterr().out == ""
    path.with_suffix(".npz").write_bytes(path.with_suffix(".npz").read_bytes()[:99])
    assert not read(lone)[0]["read_back"]
    assert "cannot be read" in capsys.readouterr().out
    assert read(lone)[0]["read_back"]


def test_a_stopped_reading_goes_on_after_the_last_context_whose_losses_are_kept(lone, monkeypatch):
    measured, iterate = [], protocols.iterate_losses

    def interrupted(model, documents, contexts, *given, **options):
        for one in iterate(model, documents, contexts, *given, **options):
            measured.append(one.context)
            yield one
            if len(measured) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(protocols, "iterate_losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(lone)
    result, path = read(lone)
    assert measured == [16, 48] and set(by_context(path.with_suffix(".npz"))) == {16, 48}
    assert [row["context"] for row in result["rows"]] == [16, 48]


def test_a_stopped_reading_that_kept_no_losses_begins_anew_for_them(lone, monkeypatch):
    iterate = protocols.iterate_losses

    def interrupted(*given, **options):
        yield next(iterate(*given, **options))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(protocols, "iterate_losses", interrupted)
        read(lone, PLAIN)
    _, path = read(lone)
    assert set(by_context(path.with_suffix(".npz"))) == {16, 48}


def test_a_disk_that_is_full_costs_the_losses_and_no_number(lone, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(losses, "write_bytes", full)
    result, path = read(lone)
    assert result["rows"] and path.is_file() and not path.with_suffix(".npz").exists()
    assert "could not be written (No space left on device): these losses are not kept" in capsys.readouterr().out


def test_losses_that_are_no_numbers_are_not_kept(lone):
    checkpoint = torch.load(lone, weights_only=True)
    checkpoint["state_dict"]["gpt.embedding.weight"][:] = 3e38
    save_checkpoint(checkpoint, lone)
    with pytest.raises(BadInput, match="not finite: nothing is kept"):
        read(lone)
    assert not list(lone.parent.rglob("*.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["perplexity", "by_position"])
def test_commands_name_the_file(base, command):
    words = [f"checkpoint={base.folder}", f"cache={CACHE}", "segments=3", "logger=none", "losses=true"]
    words += ["contexts=[16]"] if command == "perplexity" else ["context=16"]
    status, out, err = run_program(*words, module=f"experiments.{command}")
    assert status == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("Losses of all targets: ")]
    assert by_context(base.folder / line.removeprefix("Losses of all targets: "))
