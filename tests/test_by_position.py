"""Loss by position: bins that share out the window, means that a plain loop gives, a gate that knows what it asks."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest
import torch
from torch import nn

from conf.base import BadInput
from experiments.lab.measure.by_position import ByPosition, bins, by_position, format_table, measure_by_position
from experiments.lab.measure.optimum import optimal_losses, optimum
from experiments.lab.measure.protocols import token_losses
from experiments.lab.statistics import wilson
from tests.runs import CACHE, run_program, tiny
from tests.test_chains import chains
from tests.test_optimum import drawn
from train import compose, train

VOCABULARY = 8


class Knowing(nn.Module):
    """A model of known loss: at state t, having seen t + 1 tokens, every next token costs nats(t + 1) on average.

    It gives the next token of the repeated sequence 1, 2, … 7, 1, … the probability exp(-nats(seen)).
    """

    def __init__(self, nats):
        super().__init__()
        self.nats, self.anchor = nats, nn.Parameter(torch.zeros(1))

    def hidden(self, tokens):
        right = torch.tensor([math.exp(-self.nats(t + 1)) for t in range(tokens.shape[1])])
        follows = tokens % (VOCABULARY - 1) + 1
        logits = ((1 - right) / (VOCABULARY - 1)).log()[None, :, None].expand(*tokens.shape, VOCABULARY).clone()
        return logits.scatter(2, follows[..., None], right.log()[None, :, None].expand(*tokens.shape, 1))

    def logits(self, hidden):
        return hidden


def segments(count, length):
    return [(np.arange(length + 1) + start) % (VOCABULARY - 1) + 1 for start in range(count)]


@pytest.mark.parametrize("context", [4, 5, 7, 48, 64, 100])
def test_bins_share_out_the_window_and_halve_it(context):
    parts = bins(context)
    assert [seen for low, high in parts for seen in range(low, high + 1)] == list(range(1, context + 1))
    assert parts[-1] == (context // 2 + 1, context)
    assert parts[-3] == (context // 8 + 1, context // 4)
    with pytest.raises(BadInput, match="context=3"):
        bins(3)


def test_means_by_bin_and_document_equal_a_plain_loop():
    random = np.random.default_rng(0)
    texts, owners = [random.integers(0, VOCABULARY, 13) for _ in range(6)], [4, 4, 7, 7, 7, 9]
    table = torch.nn.Embedding(VOCABULARY, VOCABULARY)

    class Bigram(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = table

        def hidden(self, tokens):
            return self.table(tokens).cumsum(1)  # so that position matters

        def logits(self, hidden):
            return hidden

    (losses,) = token_losses(Bigram(), texts, [12], "windows")
    sums = by_position(losses, owners)
    assert sums.bins == [(1, 1), (2, 3), (4, 6), (7, 12)]
    expected = np.zeros((3, 4))
    for text, owner in zip(texts, owners, strict=True):
        for target in range(1, 13):
            logits = table.weight[torch.tensor(text[:target])].sum(0)
            place = next(i for i, (low, high) in enumerate(sums.bins) if low <= target <= high)
            expected[[4, 7, 9].index(owner), place] -= logits.log_softmax(-1)[text[target]].item()
    np.testing.assert_allclose(sums.nll, expected, rtol=1e-5)
    np.testing.assert_array_equal(sums.targets, np.outer([2, 3, 1], [1, 2, 3, 6]))
    assert sums.interval(2).value == pytest.approx(expected[:, 2].sum() / 18)


@pytest.mark.parametrize(("reach", "used"), [(2, False), (8, False), (28, True), (64, True)])
def test_the_gate_opens_for_a_model_that_reads_far(reach, used, monkeypatch):
    """Loss falls with context up to `reach` tokens; of a window of 32 the last 8 targets see 9-16 and 25-32."""
    random = np.random.default_rng(1)
    model = Knowing(lambda seen: 1.5 - 0.5 * min(seen, reach) / 64)

    def noisy(*args, **options):
        for losses in token_losses(*args, **options):
            noise = random.normal(0, 0.002, losses.nll.shape).astype(np.float32)
            yield dataclasses.replace(losses, nll=losses.nll + noise)

    monkeypatch.setattr("experiments.lab.measure.protocols.token_losses", noisy)
    result = read(model, segments(20, 32), ByPosition(context=32), monkeypatch)
    late, early = (
        np.mean([1.5 - 0.5 * min(seen, reach) / 64 for seen in part]) for part in (range(25, 33), range(9, 17))
    )
    gate = result["gate"]
    assert (gate["from"], gate["to"]) == (16, 32)
    assert gate["value"] == pytest.approx(early - late, abs=0.001)
    assert gate["passed"] == used
    assert [(row["from"], row["to"]) for row in result["doublings"]] == [(2, 4), (4, 8), (8, 16), (16, 32)]
    assert result["doublings"][-1] == gate and result["doublings"][0]["passed"] == (reach > 2)
    assert "8 → 16" in format_table(result)
    assert ("uses all 32 tokens" if used else "no use of the second half of 32 tokens") in format_table(result)


def read(model, texts, settings, monkeypatch, language=None):
    """What measure_by_position finds of a model, kept nowhere; each text is a document."""
    corpus = types.SimpleNamespace(language=language, split=lambda name: Texts(texts))
    monkeypatch.setattr("experiments.lab.measure.by_position.open_subject", lambda *_: None)
    monkeypatch.setattr(
        "experiments.lab.measure.by_position.cached_reading",
        lambda kind, subject, settings, label, splits, measure, losses: measure(model, None, corpus, {}),
    )
    return measure_by_position(None, None, settings, "")


class Texts(list):
    def at_least(self, length):
        return [i for i, text in enumerate(self) if len(text) >= length]


def test_on_chains_the_optimum_stands_beside_every_bin_and_is_not_beaten(monkeypatch):
    language = chains(states=VOCABULARY - 1)
    texts = list(drawn(language, documents=20, length=32))
    result = read(Knowing(lambda seen: 3.0), texts, ByPosition(context=32), monkeypatch, language)
    seen = np.arange(1, 33)
    best = optimal_losses(language, np.stack(texts), seen, seen)
    for row in result["rows"]:
        assert row["optimum"] == pytest.approx(best[:, row["low"] - 1 : row["high"]].mean())
        assert row["excess"]["value"] == pytest.approx(row["nll"] - row["optimum"])
    assert "optimum" in format_table(result) and "below the optimum" not in format_table(result)
    assert result["rows"][-1]["effective_context"]["value"] == pytest.approx(1.0), "no better than without a context"
    for row in result["rows"]:
        row["excess"]["value"] *= -1
    assert "below the optimum" in format_table(result)


def test_on_chains_every_bin_has_its_effective_context(monkeypatch):
    """That of the best reader who looks 8 tokens back: all of it up to 8, and 8 beyond."""
    language = chains(states=VOCABULARY - 1)
    texts = list(drawn(language, documents=60, length=32))

    def looking_back(*args, **options):
        for losses in token_losses(*args, **options):
            yield dataclasses.replace(losses, nll=optimum(language, texts, losses, 8))

    monkeypatch.setattr("experiments.lab.measure.protocols.token_losses", looking_back)
    result = read(Knowing(lambda seen: 3.0), texts, ByPosition(context=32), monkeypatch, language)
    known = [row["effective_context"]["value"] for row in result["rows"]]
    # A text's first token is its separator, which tells nothing: so 2 tokens are worth 1, and 4 are worth 3.
    assert known == pytest.approx([1, 1, 3, 8, 8, 8], rel=1e-6)


def test_intervals_of_shares_are_wilsons():
    """The textbook's value, the closed ends, and the definition: the ends are the shares that a z test just allows."""
    assert (wilson(0, 10).low, wilson(10, 10).high) == pytest.approx((0, 1))
    assert wilson(0, 10).high == pytest.approx(0.27753, abs=1e-5)
    for successes, trials in ((1, 50), (25, 50), (49, 50), (3, 7)):
        share = wilson(successes, trials)
        for end in (share.low, share.high):
            assert abs(share.value - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / trials), rel=1e-5)


@pytest.mark.slow
def test_the_command_measures_draws_keeps_and_reads_back(tmp_path):
    words = tiny(tmp_path, "name=base", "steps=2", "snapshots=[1,2]")
    folder = train(compose(words)).folder
    overrides = [f"checkpoint={folder}", f"cache={CACHE}", f"runs={tmp_path}", "segments=40", "logger=none"]
    status, out, err = run_program(*overrides, "snapshots=true", module="experiments.by_position")
    assert status == 0, err
    assert "step      1: gains of 2 → 4" in out and "step      2: gains" in out
    assert len(list((folder / "by_position").glob("training-step-00000002-none-test32-*.*"))) == 2
    for path in (folder / "by_position").glob("*snapshot*"):
        path.unlink()
    assert "17-32" in out and "32 tokens: from 16 on it gains" in out
    (place,) = (folder / "by_position").glob("*.json")
    result = json.loads(place.read_text())
    assert result["context"] == 32 and sum(row["targets"] for row in result["rows"]) == 40 * 32
    assert place.with_suffix(".png").stat().st_size > 5000 and place.with_suffix(".svg").is_file()
    place.write_text(json.dumps(result | {"step": 77}))
    settings_used, checkpoint = ByPosition(context=32, segments=40), folder / "checkpoints" / "step-00000002.ckpt"
    assert measure_by_position(checkpoint, None, settings_used, str(CACHE))[0]["step"] == 77
    longer = settings_used.model_copy(update={"context": 64})
    result, _ = measure_by_position(checkpoint, {"name": "interpolate", "factor": 2.0}, longer, str(CACHE))
    assert (result["rows"][-1]["low"], result["rows"][-1]["high"], result["label"]) == (33, 64, "interpolate2")
