"""LongCE: weights and gradients of a plain loop over short contexts; off, nothing changes and nothing is computed."""

import math

import pytest
import torch
import torch.nn.functional as F

import models.loss as loss
from conf.base import BadInput
from models.language_model import LanguageModel
from models.longce import LongCE, short_losses
from models.loss import next_token_loss
from tests.cases import VOCABULARY, Case, tokens
from tests.runs import tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT, STRIDE, WINDOW = 5, 3, 16


def slow_short_losses(model, windows):
    """After a short context by the authors' recipe, target by target; NaN where there is none."""
    losses = torch.full((len(windows), windows.shape[1] - 1), torch.nan, dtype=torch.float64)
    for row, window in enumerate(windows):
        for target in range(SHORT, len(window)):
            start = (target - SHORT) // STRIDE * STRIDE
            logits = model(window[None, start:target])[0, -1]
            losses[row, target - 1] = F.cross_entropy(logits[None], window[None, target])
    return losses


@pytest.mark.parametrize("length", [WINDOW, WINDOW + 1, SHORT + 1])
def test_short_losses_are_those_of_a_plain_loop(length):
    model, windows = Case("rope").model().double(), tokens(length, batch=3)
    expected = slow_short_losses(model, windows)
    torch.testing.assert_close(
        short_losses(model, windows, SHORT, STRIDE).double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True
    )
    assert expected.isnan().sum() == 3 * (SHORT - 1)


def test_the_gradient_is_that_of_losses_with_fixed_weights():
    model, windows = Case("rope").model().double(), tokens(WINDOW + 1, batch=3)
    module = LanguageModel(
        model, None, 1, torch.ones(VOCABULARY), {}, longce=LongCE(short=SHORT, stride=STRIDE, limit=1.1)
    )
    weighted = torch.autograd.grad(module.training_step(windows, 0), list(model.parameters()))
    own = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten(), reduction="none").view(3, -1)
    with torch.no_grad():
        ratio = (slow_short_losses(model, windows) - own).exp()
    weights = torch.where(ratio.isnan(), 1.0, ratio.clamp(max=1.1))
    assert (weights == 1.1).any() and (weights < 1).any()
    expected = torch.autograd.grad((weights * own).mean(), list(model.parameters()))
    for a, b in zip(weighted, expected, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_weights_hold_in_pieces_and_where_a_ratio_overflows(monkeypatch):
    monkeypatch.setitem(loss.LOGITS_AT_ONCE, "cpu", 7 * 11)
    monkeypatch.setattr(loss, "STATES_AT_ONCE", 1)
    random = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 4, generator=random, requires_grad=True) for n in (20, 11))
    targets = torch.randint(11, (20,), generator=random)
    short = torch.randn(20, generator=random)
    short[3], short[9] = torch.nan, 1e4
    mean, nll = next_token_loss(hidden, weight, targets, short, 5.0)
    own = F.cross_entropy(F.linear(hidden, weight), targets, reduction="none")
    counts = torch.where(short.isnan(), 1.0, (short - own.detach()).exp().clamp(max=5.0))
    assert counts[9] == 5 and torch.allclose(nll, own, atol=1e-6)
    torch.testing.assert_close(mean, (counts * own).mean())
    for a, b in zip(
        *(torch.autograd.grad(item, (hidden, weight)) for item in (mean, (counts * own).mean())), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_off_is_the_same_run_to_the_bit_and_on_is_another(tmp_path):
    def weights(*overrides):
        result = train(compose(tiny(tmp_path, "steps=2", *overrides)))
        return torch.load(result.checkpoint, weights_only=True)["state_dict"]["gpt.embedding.weight"]

    plain = weights("name=plain")
    assert torch.equal(plain, weights("name=off", "longce.limit=3"))
    assert not torch.equal(plain, weights("name=on", "longce.short=8"))
    assert "longce" not in compose(tiny(tmp_path)).model_dump()  # as in runs from before it


def test_off_computes_nothing_more(monkeypatch):
    model, windows = Case("rope").model(), tokens(WINDOW + 1, batch=2)
    forward, passes = type(model).forward, []
    monkeypatch.setattr(type(model), "forward", lambda self, *a, **b: (passes.append(b), forward(self, *a, **b))[1])
    for settings, count in (
        (LongCE(), 1),
        (LongCE(short=SHORT, stride=STRIDE), 1 + math.ceil((WINDOW + 1 - SHORT) / STRIDE)),
    ):
        passes.clear()
        LanguageModel(model, None, 1, torch.ones(VOCABULARY), {}, longce=settings).training_step(windows, 0)
        assert len(passes) == count


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["longce.short=32"], "longce.short=32 must be below window=32"),
        (["longce.stride=4"], "longce.stride=4 needs longce.short"),
        (["longce.short=8", "seen=skipwise", "seen.longest=64"], "set seen=contiguous"),
        (["longce.limit=0"], "longce.limit=0"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, words, sentence):
    with pytest.raises(BadInput, match=sentence):
        compose(tiny(tmp_path, *words))
