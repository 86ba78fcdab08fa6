"""The loss in pieces: what the whole logits would have said, forward and backward, and never the whole logits."""

import pytest
import torch
import torch.nn.functional as F

import models.loss as loss
from experiments.benchmark.memory import peak_bytes
from models.loss import next_token_loss
from tests.runs import tiny
from train import build_model, compose

TOKENS, WIDTH, VOCABULARY = 50, 16, 97


@pytest.fixture
def pieces(monkeypatch):
    """Seven tokens at a time, so that the last piece is shorter."""
    monkeypatch.setitem(loss.LOGITS_AT_ONCE, "cpu", 7 * VOCABULARY)
    monkeypatch.setattr(loss, "STATES_AT_ONCE", 1)


def drawn():
    random = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, WIDTH, generator=random, requires_grad=True) for n in (TOKENS, VOCABULARY))
    return hidden, weight, torch.randint(VOCABULARY, (TOKENS,), generator=random)


def whole(hidden, weight, targets):
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")


@pytest.mark.parametrize("autocast, near", [(False, 1e-6), (True, 0.01)])
def test_values_and_gradients_are_those_of_the_whole_logits(pieces, autocast, near):
    hidden, weight, targets = drawn()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mean, nll = next_token_loss(hidden, weight, targets)
        expected = whole(hidden, weight, targets)
    assert torch.allclose(nll, expected, atol=1e-5) and mean == nll.mean() and not nll.requires_grad
    result = torch.autograd.grad(3 * mean, (hidden, weight))
    for own_result, theirs in zip(result, torch.autograd.grad(3 * expected.mean(), (hidden, weight)), strict=True):
        assert own_result.dtype == torch.float32
        assert (own_result - theirs).abs().max() <= near * theirs.abs().max()


def test_logits_of_any_size_neither_overflow_nor_vanish(pieces):
    """Of a thousand and more, whose exponentials no float32 holds."""
    hidden, weight, targets = drawn()
    mean, nll = next_token_loss(300 * hidden, weight, targets)
    assert torch.allclose(nll, whole(300 * hidden, weight, targets), rtol=1e-5) and nll.max() > 1000
    assert all(item.isfinite().all() for item in torch.autograd.grad(mean, (hidden, weight)))


def test_the_embedding_learns_as_input_and_as_head(tmp_path):
    """Through the model, whose head is its embedding, with and without the whole logits."""
    gpt = build_model(compose(tiny(tmp_path)))
    tokens = torch.randint(257, (3, 17), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    mean, nll = gpt(inputs, targets=targets)
    expected = F.cross_entropy(gpt(inputs).flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    assert torch.allclose(nll, expected, atol=1e-5)
    weights = list(gpt.parameters())
    for own_result, theirs in zip(
        torch.autograd.grad(mean, weights), torch.autograd.grad(expected.mean(), weights), strict=True
    ):
        assert torch.allclose(own_result, theirs, atol=1e-6)


def test_without_gradients_there_are_none(pieces):
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            mean, nll = next_token_loss(*drawn())
        assert not mean.requires_grad and torch.allclose(nll, whole(*drawn()), atol=1e-5)


@pytest.mark.parametrize("learning", [True, False])
def test_the_logits_are_never_whole(monkeypatch, learning):
    """Neither forward nor backward; all at once is the proof that the measure would have seen them."""
    hidden = torch.randn(512, 8, requires_grad=learning)
    weight, targets = torch.randn(1024, 8, requires_grad=learning), torch.randint(1024, (512,))
    logits, peaks = 512 * 1024 * 4, []

    def work():
        mean, _ = next_token_loss(hidden, weight, targets)
        if learning:
            mean.backward()

    for at_once in (16 * 1024, 512 * 1024):
        monkeypatch.setitem(loss.LOGITS_AT_ONCE, "cpu", at_once)
        monkeypatch.setattr(loss, "STATES_AT_ONCE", 1)
        peaks.append(peak_bytes(work, torch.device("cpu")))
    assert peaks[0] < logits / 4 < logits <= peaks[1]


@pytest.mark.slow
def test_it_can_be_compiled_whole():
    """No break in the graph, or a compiled model would leave the compiler for its loss."""
    hidden, weight, targets = drawn()
    compiled = torch.compile(next_token_loss, backend="aot_eager", fullgraph=True)
    mean, nll = compiled(hidden, weight, targets)
    assert torch.allclose(nll, whole(hidden, weight, targets), atol=1e-5)
    expected = torch.autograd.grad(whole(hidden, weight, targets).mean(), (hidden, weight))
    for own_result, theirs in zip(torch.autograd.grad(mean, (hidden, weight)), expected, strict=True):
        assert torch.allclose(own_result, theirs, atol=1e-6)


def test_losses_are_float32_whatever_the_default_type(pieces):
    """Under trainer.precision=bf16-true Lightning makes bfloat16 the default, in which 6.810 and 6.8125 are one."""
    hidden, weight, targets = (item.detach().bfloat16() if item.is_floating_point() else item for item in drawn())
    torch.set_default_dtype(torch.bfloat16)
    try:
        mean, nll = next_token_loss(hidden, weight, targets)
    finally:
        torch.set_default_dtype(torch.float32)
    expected = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
    assert mean.dtype == nll.dtype == torch.float32
    assert torch.allclose(nll, expected, rtol=1e-6, atol=1e-6)
    assert float(mean) == pytest.approx(float(expected.double().mean()), rel=1e-6)
