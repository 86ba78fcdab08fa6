"""LongPPL: key tokens are those of a plain loop over short and full contexts, whoever says which they are."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conf.base import BadInput
from conf.load import load_model
from experiments.lab.measure import protocols
from experiments.lab.measure.longppl import LongPPL, format_table, key_tokens, measure_longppl
from experiments.lab.measure.segments import cut
from experiments.lab.measure.subject import open_subject
from models.checkpoint_files import save_checkpoint
from tests.runs import CACHE, run_program, tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = LongPPL(length=24, short=8, stride=4, gain=0.02, loss=9.0, segments=4)  # the last window is a partial one
NTK = {"name": "ntk", "factor": 4.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return train(compose(tiny(tmp_path_factory.mktemp("longppl"), "name=base", "steps=2", "optimizer.lr=1e-2")))


def read(checkpoint, extend=None, settings=SETTINGS, **more):
    return measure_longppl(checkpoint, extend, settings, str(CACHE), **more)


def plain_losses(model, text):
    """The losses of targets K … R by the authors' recipe, after a short context and after all there is: two lists."""
    start, short, stride, length = 0, SETTINGS.short, SETTINGS.stride, SETTINGS.length
    after_short, after_full = [], []
    for target in range(short, length + 1):
        if target >= start + short + stride:
            start += stride
        # the last window ends with the text, and still reads as many tokens as the others
        first = min(start, length - (short + stride - 1))
        for begin, losses in ((first, after_short), (0, after_full)):
            logits = model(torch.from_numpy(text[begin:target].astype(np.int64))[None])[0, -1]
            losses.append(F.cross_entropy(logits[None], torch.tensor([int(text[target])])).item())
    return after_short, after_full


@pytest.mark.parametrize("evaluator", [None, NTK])
def test_key_tokens_and_sums_are_those_of_a_plain_loop(base, evaluator):
    result, _ = read(base.checkpoint, evaluator_extend=evaluator)
    corpus = open_subject(base.checkpoint, None, str(CACHE)).corpus
    segments = cut(corpus.split("test"), SETTINGS.length + 1, SETTINGS.segments)
    judge, model = (load_model(base.checkpoint, extend)[0] for extend in (evaluator, None))
    sums = {"key": {}, "all": {}}
    with torch.inference_mode():
        for text, owner in zip(segments.tokens, segments.owners, strict=True):
            short, full = plain_losses(judge, text)
            _, own = plain_losses(model, text)
            for a, b, loss in zip(short, full, own, strict=True):
                key = a - b > SETTINGS.gain and b < SETTINGS.loss
                for name in ("key",) * key + ("all",):
                    nats, count = sums[name].get(owner, (0.0, 0))
                    sums[name][owner] = (nats + loss, count + 1)
    assert 0 < result["key"]["tokens"] < result["all"]["tokens"] == 4 * (24 - 8 + 1)
    for name, expected in sums.items():
        row = result[name]
        assert row["document_tokens"] == [expected[document][1] for document in row["documents"]]
        assert row["document_nll"] == pytest.approx([expected[document][0] for document in row["documents"]], rel=1e-5)
        assert row["perplexity"] == pytest.approx(math.exp(row["nll"] / row["tokens"]))
        assert row["interval"][0] <= row["perplexity"] <= row["interval"][1]
    assert result["share"] == result["key"]["tokens"] / result["all"]["tokens"]


def test_targets_of_another_text_are_other_targets(base):
    """All targets of two splits are as many, in stretches as long: they are no pairs."""
    settings = SETTINGS.model_copy(update={"segments": 2})
    rows = [read(base.checkpoint, settings=settings.model_copy(update={"split": split}))[0]["all"]
            for split in ("validation", "test")]  # fmt: skip
    assert rows[0]["tokens"] == rows[1]["tokens"] and rows[0]["token_set"] != rows[1]["token_set"]


def test_thresholds_are_strict_and_both_must_hold():
    short, full = np.array([3.5, 4.0, 4.0, 5.0]), np.array([1.5, 1.5, 1.9, 2.0])
    assert key_tokens(short, full, 2.0, 2.0).tolist() == [False, True, True, False]


def test_each_reads_once_for_all_thresholds_and_evaluators(base, monkeypatch):
    passes, iterate = [], protocols.iterate_losses

    def counted(model, documents, contexts, protocol, *given, **options):
        passes.append((model.position.extension.knobs.name, protocol))
        return iterate(model, documents, contexts, protocol, *given, **options)

    monkeypatch.setattr(protocols, "iterate_losses", counted)
    settings = SETTINGS.model_copy(update={"segments": 3})
    first, path = read(base.checkpoint, NTK, settings, evaluator=base.checkpoint)
    assert passes == [("none", "sliding"), ("none", "fixed_targets"), ("ntk", "fixed_targets")]
    other, same = read(base.checkpoint, NTK, settings.model_copy(update={"gain": 0.05}), evaluator=base.checkpoint)
    assert len(passes) == 3 and path != same
    assert other["all"] == first["all"] and other["key"]["tokens"] < first["key"]["tokens"]
    again, _ = read(base.checkpoint, NTK, settings, evaluator=base.checkpoint)
    assert again["read_back"] and again["key"] == first["key"]
    own, _ = read(base.checkpoint, NTK, settings)  # the evaluator is part of what a reading depends on
    assert not own["read_back"] and own["evaluator"]["label"] == "ntk4" and own["key"] != first["key"]


def test_an_evaluator_with_other_tokens_is_refused(base, tmp_path):
    checkpoint = torch.load(base.checkpoint, weights_only=True)
    checkpoint["lab"] |= {"tokenizer": "0" * 64, "corpus": "1" * 64}
    save_checkpoint(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(
        BadInput, match=r"evaluator=.*other\.ckpt has another tokenizer \(257 tokens\) than checkpoint="
    ):
        read(base.checkpoint, evaluator=tmp_path / "other.ckpt")


def test_where_no_token_is_key_a_sentence_says_so(base):
    result, _ = read(base.checkpoint, settings=SETTINGS.model_copy(update={"gain": 1e9}))
    assert result["key"] is None and result["share"] == 0
    assert "No targets after the first 7 tokens are key tokens" in format_table(result)


@pytest.mark.slow
def test_the_command(base):
    words = [f"checkpoint={base.folder}", f"cache={CACHE}", "segments=3", "logger=none", "gain=0.01", "loss=9"]
    words += ["extend=interpolate", "extend.factor=2", "extend@evaluator_extend=ntk", "evaluator_extend.factor=2"]
    status, out, err = run_program(*words, module="experiments.longppl")
    assert status == 0, err
    assert "extend=interpolate2" in out and "read with extend=ntk2" in out and "after 128 tokens of text" in out
    assert "after 8 to 9." in out  # a quarter of the window, and of that
