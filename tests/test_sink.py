"""The sink: a learned score in every head that takes its share of the probability and gives nothing."""

from types import SimpleNamespace

import pytest
import torch

from conf.load import load_model
from models import attention
from models.gpt import GPT, Shape
from models.positions import base
from tests.cases import HEADS, LAYERS, VOCABULARY, WIDTH, Case, tokens, vectors
from tests.lawbook import moved, same
from tests.runs import tiny
from tests.test_layers import build
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")
SINK = torch.tensor([-0.7, 1.3], dtype=torch.float64)


def model(scheme: str = "rope", window: int | None = None) -> GPT:
    kinds = {"L": {"window": window}}
    position = build({"pattern": "L", "kinds": kinds}, {"name": scheme})
    gpt = GPT(Shape(name="tiny", layers=LAYERS, heads=HEADS, width=WIDTH, sink=True), VOCABULARY, position, seed=0)
    with torch.no_grad():
        for block in gpt.blocks:
            block.attention.sink.copy_(SINK)
    return gpt.double()


def by_hand(q, k, v, mask, sink, scale):
    """softmax over [scores, s], the column of s dropped."""
    scores = (q @ k.mT * scale).masked_fill(~mask, float("-inf"))
    column = sink[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1] @ v


@pytest.mark.parametrize("window", [None, 5, 40])
@pytest.mark.parametrize("temperature", [1.0, 0.6, torch.linspace(0.5, 2, 40, dtype=torch.float64)[:, None]])
def test_attention_is_a_softmax_with_one_more_score(window, temperature, monkeypatch):
    """Whole and in windows, with its gradient; also where documents are apart."""
    monkeypatch.setattr(base, "ROWS_IN_WINDOW", 8)
    q, k, v = (x.requires_grad_() for x in vectors(3, 2, HEADS, 40, 8).unbind(0))
    sink = SINK.clone().requires_grad_()
    mask = torch.ones(40, 40, dtype=torch.bool).tril().triu(1 - (window or 40))
    layer_view = build({"pattern": "L", "kinds": {"L": {"window": window}}}, {"name": "none"}).layer(0)
    expected = by_hand(q / temperature, k, v, mask, sink, 8**-0.5)
    apart = torch.ones(2, 1, 40, 40, dtype=torch.bool).tril()
    for seen in (None, apart):
        ours = attention.causal_attention(q, k, v, layer_view, (None,) * LAYERS, temperature, seen, sink)
        same(ours, expected, 1e-12)
        inputs, seed = (q, k, v, sink), vectors(*expected.shape)
        for one, other in zip(
            torch.autograd.grad(ours, inputs, seed),
            torch.autograd.grad(expected, inputs, seed, retain_graph=True),
            strict=True,
        ):
            same(one, other, 1e-12)


@pytest.mark.parametrize("window", [None, 7])
def test_it_is_that_of_gpt_oss(window):
    pytest.importorskip("transformers")
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    q, k, v = vectors(3, 2, HEADS, 30, 8).unbind(0)
    mask = torch.ones(30, 30, dtype=torch.bool).tril().triu(1 - (window or 30))
    module = SimpleNamespace(num_key_value_groups=1, sinks=SINK, training=False)
    added = torch.zeros(1, 1, 30, 30, dtype=torch.float64).masked_fill(~mask, float("-inf"))
    theirs, _ = eager_attention_forward(module, q, k, v, added, scaling=8**-0.5)
    layer_view = build({"pattern": "L", "kinds": {"L": {"window": window}}}, {"name": "none"}).layer(0)
    ours = attention.causal_attention(q, k, v, layer_view, (None,) * LAYERS, 1.0, None, SINK)
    same(ours.transpose(1, 2), theirs, 1e-10)


@pytest.mark.parametrize("scheme", ["rope", "pope", "alibi", "cope", "fox", "sinusoidal"])
def test_every_scheme_has_it_and_the_past_hears_nothing_of_the_future(scheme):
    gpt, text = model(scheme), tokens(20)
    plain = model(scheme)
    with torch.no_grad():
        for block in plain.blocks:
            block.attention.sink.fill_(-1e9)  # which takes nothing
    moved(gpt(text), plain(text))
    same(gpt(text)[:, :9], gpt(text[:, :9]), 1e-9)
    without = GPT(gpt.shape.model_copy(update={"sink": False}), VOCABULARY, plain.position, seed=0).double()
    without.load_state_dict({key: value for key, value in plain.state_dict().items() if "sink" not in key})
    same(plain(text), without(text), 1e-9)


@pytest.mark.parametrize("scheme", ["rope", "alibi"])
def test_a_few_queries_at_a_time_are_the_whole(scheme, monkeypatch):
    gpt, text = model(scheme, 9), tokens(40, batch=2)
    gpt.separator = 3
    whole = gpt(text)
    monkeypatch.setattr(base, "SCORES_AT_ONCE", 7 * 40)
    with torch.no_grad():
        same(gpt(text), whole, 1e-9)


def test_it_learns_and_comes_back(tmp_path):
    done = train(compose(tiny(tmp_path, "name=a", "model.sink=true", "steps=3")))
    gpt, config, _ = load_model(done.checkpoint)
    assert config.model.sink and all(block.attention.sink.abs().max() > 0 for block in gpt.blocks)
    assert "sink" not in compose(tiny(tmp_path)).model.model_dump()  # runs from before compare equal


@pytest.mark.slow
def test_it_compiles_whole():
    gpt, text = Case("rope").model(layers=1), tokens(12)
    sunk = GPT(gpt.shape.model_copy(update={"sink": True}), VOCABULARY, gpt.position, seed=0)
    torch._dynamo.reset()
    same(sunk(text), torch.compile(sunk, fullgraph=True, backend="aot_eager")(text), 1e-5)
