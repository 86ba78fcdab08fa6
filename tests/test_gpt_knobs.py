"""What a GPT can be made of: every knob keeps what holds of the plain model, and the plain model is what it was."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from conf.base import BadInput
from conf.load import load_model
from conf.validation import validate
from models import compute
from models.compute import flops_per_token
from models.gpt import GPT, Shape
from models.positions import EXTENSIONS, SCHEMES, build_position
from models.positions import base as position_base
from models.positions.frequencies import Geometric
from tests.cases import VOCABULARY, WINDOW, tokens
from tests.runs import finish, tiny, torchrun
from tests.test_training import run, weights
from train import compose

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {"name": "tiny", "layers": 2, "heads": 4, "width": 32}
SHAPES = {
    "plain": {},
    "llama": {"norm": "rms", "network": "swiglu", "kv_heads": 2},
    "qwen2": {"norm": "rms", "network": "swiglu", "kv_heads": 1, "biases": "qkv", "embedding_scale": 1.0},
    "qwen3": {"norm": "rms", "network": "swiglu", "kv_heads": 2, "head_width": 12, "qk_norm": "learned", "tied": False},
    "pythia": {"norm_bias": True, "biases": "all", "parallel": True, "tied": False, "embedding_scale": 1.0},
    "gpt2": {"norm_bias": True, "biases": "all", "network": "gelu_tanh", "network_width": 40, "vocabulary": 30},
}
SCHEMES_THAT_SEE_HEADS = ["rope", "alibi", "pope", "cope", "fope", "learned"]


def model(kind: str, scheme: str = "rope", layers: int = 2, **knobs) -> GPT:
    """A GPT of such a shape, everything learned moved off its first values, in float64."""
    shape = Shape(**SIZES | {"layers": layers} | SHAPES[kind] | knobs)
    settings = SCHEMES[scheme].Knobs(), Geometric(), EXTENSIONS["none"].Knobs()
    gpt = GPT(shape, VOCABULARY, build_position(*settings, shape.geometry(4 * WINDOW)), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return gpt.double()


def gradients(gpt: GPT, text: torch.Tensor) -> dict[str, torch.Tensor]:
    gpt.zero_grad()
    F.cross_entropy(gpt(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten()).backward()
    return {name: parameter.grad.clone() for name, parameter in gpt.named_parameters()}


def test_the_plain_model_keeps_names_shapes_and_first_weights():
    """Of checkpoints written before there were knobs."""
    shape = Shape(name="tiny", layers=1, heads=2, width=8)
    settings = SCHEMES["rope"].Knobs(), Geometric(), EXTENSIONS["none"].Knobs()
    gpt = GPT(shape, 5, build_position(*settings, shape.geometry(8)), seed=1)
    assert {name: tuple(value.shape) for name, value in gpt.state_dict().items()} == {
        "embedding.weight": (5, 8),
        "blocks.0.attention_norm.weight": (8,),
        "blocks.0.attention.qkv.weight": (24, 8),
        "blocks.0.attention.out.weight": (8, 8),
        "blocks.0.network_norm.weight": (8,),
        "blocks.0.up.weight": (32, 8),
        "blocks.0.down.weight": (8, 32),
        "norm.weight": (8,),
    }
    first = gpt.blocks[0].attention.qkv.weight[0, :4].tolist()
    assert first == pytest.approx([0.0498711, 0.4582128, -0.0765522, 0.0680997], rel=1e-5)


def test_the_plain_model_computes_what_it_did():
    """Written out: √C, pre-norm without biases, rows of qkv as q, k, v by head, exact GELU, the embedding as head."""
    gpt, text = model("plain", layers=1), tokens(9)
    block, width, heads = gpt.blocks[0], 32, 4

    def norm(x, weight):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * weight

    x = gpt.embedding.weight[text] * math.sqrt(width)
    q, k, v = (norm(x, block.attention_norm.weight) @ block.attention.qkv.weight.T).view(1, 9, 3, heads, 8).unbind(2)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    q, k = gpt.position.rotate(q, k, gpt.position.prepare(torch.arange(9.0, dtype=torch.float64)))
    scores = (q @ k.mT / math.sqrt(8)).masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -math.inf)
    x = x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, 9, width) @ block.attention.out.weight.T
    inner = norm(x, block.network_norm.weight) @ block.up.weight.T
    x = x + (inner * (1 + torch.erf(inner / math.sqrt(2))) / 2) @ block.down.weight.T
    expected = norm(x, gpt.norm.weight) @ gpt.embedding.weight.T
    torch.testing.assert_close(gpt(text), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", SHAPES)
def test_grouped_heads_are_heads_that_share(kind):
    """The same model with keys and values written out for each head gives the same logits."""
    gpt = model(kind, scheme="cope")
    width, groups = gpt.shape.channels // 4, 4 // (gpt.shape.kv_heads or 4)
    whole = model(kind, scheme="cope", kv_heads=None)
    state = gpt.state_dict()
    for name in [name for name in state if ".qkv." in name]:
        rows = state[name].unflatten(0, (-1, width)).split((4, 4 // groups, 4 // groups))
        shared = [part.repeat_interleave(groups, 0) for part in rows[1:]]
        state[name] = torch.cat([rows[0], *shared]).flatten(0, 1)
    whole.load_state_dict(state)
    torch.testing.assert_close(gpt(tokens(12)), whole(tokens(12)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_weight_learns_and_recomputing_changes_no_gradient(kind):
    gpt, text = model(kind), tokens(2 * WINDOW, batch=2)
    plain = gradients(gpt, text)
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    gpt.recompute = True
    for name, gradient in gradients(gpt, text).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-11, atol=1e-13, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHAPES)
def test_compiled_it_is_the_same(kind):
    gpt, text = model(kind), tokens(2 * WINDOW, batch=2)
    eager = gradients(gpt, text)
    torch._dynamo.reset()
    gpt.compile(backend="aot_eager")
    for name, gradient in gradients(gpt, text).items():
        torch.testing.assert_close(gradient, eager[name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("scheme", SCHEMES_THAT_SEE_HEADS)
@pytest.mark.parametrize("kind", SHAPES)
def test_queries_in_chunks_give_the_same(kind, scheme, monkeypatch):
    gpt, text = model(kind, scheme), tokens(20, batch=2)
    with torch.no_grad():
        whole = gpt(text)
        monkeypatch.setattr(position_base, "SCORES_AT_ONCE", 60)
        torch.testing.assert_close(gpt(text), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", SHAPES)
def test_documents_apart_do_not_see_each_other(kind):
    gpt, text = model(kind), tokens(20)
    gpt.separator = VOCABULARY - 1
    text[text == VOCABULARY - 1] = 0
    text[0, 8] = VOCABULARY - 1
    torch.testing.assert_close(gpt(text)[:, 8:], gpt(text[:, 8:]), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", SHAPES)
def test_the_loss_is_that_of_the_logits(kind):
    gpt, text = model(kind), tokens(20, batch=2)
    mean, nll = gpt(text[:, :-1], targets=text[:, 1:])
    expected = F.cross_entropy(gpt(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(nll.flatten().double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean.double(), expected.mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
def test_operations_are_counted_as_they_are_done(kind):
    """A forward pass is a third of a step. Whether attention is counted, and how, depends on its kernel."""
    gpt, length = model(kind, scheme="none"), 16
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        gpt(tokens(length))
    products = sum(count for kind, count in counter.get_flop_counts()["Global"].items() if "attention" not in str(kind))
    pairs = 4 * gpt.shape.layers * length**2 * gpt.shape.channels / 2  # scores and values, the causal half of them
    assert 3 * (products + pairs) / length == pytest.approx(flops_per_token(gpt, length), rel=1e-9)


def test_what_a_scheme_of_positions_adds_is_not_counted():
    assert flops_per_token(model("plain", scheme="learned"), 16) == flops_per_token(model("plain", scheme="rope"), 16)


@pytest.mark.parametrize("size", ["pico", "nano", "micro", "mini", "small"])
def test_a_modern_model_is_as_large_as_the_plain_one(size):
    def block(name: str) -> int:
        shape = compose([f"model={name}"]).model
        width, rows = shape.width, shape.channels * (1 + (shape.kv_heads or shape.heads) / shape.heads)
        return 2 * width * rows + (3 if shape.network == "swiglu" else 2) * width * shape.inner

    assert block(f"{size}_modern") == pytest.approx(block(size), rel=3e-3)


def test_settings_that_are_defaults_are_not_written_down():
    """So that runs from before there were knobs are still the same runs."""
    assert set(compose(["model=nano"]).model.model_dump()) == {"name", "layers", "heads", "width", "qk_norm"}
    chosen = compose(
        ["model=nano_modern", "model.qk_norm=learned", "model.embedding_scale=1", "model.vocabulary=9"]
    ).model
    assert validate(Shape, chosen.model_dump(mode="json")) == chosen


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.kv_heads=3", "heads=4 cannot be shared by kv_heads=3"),
        ("model.norm_bias=true", "norm_bias=true needs norm=layer"),
        ("model.norm=batch", "'layer' or 'rms'"),
        ("model.embedding_scale=0", "greater than 0"),
    ],
)
def test_impossible_shapes_are_refused(override, sentence):
    with pytest.raises(BadInput, match=sentence):
        compose(["model=nano_modern", override])


def test_a_model_with_fewer_rows_than_tokens_is_refused():
    with pytest.raises(BadInput, match=r"model\.vocabulary=10 has no row"):
        model("plain", vocabulary=10)


MODERN = ("model=pico_modern", "model.tied=false", "model.biases=qkv", "model.qk_norm=learned")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_with_every_kind_of_weight_trains_and_is_read_back(tmp_path, optimizer):
    result = run(tmp_path, *MODERN, f"optimizer={optimizer}", "name=a")
    gpt = load_model(result.checkpoint)[0]
    assert all(torch.equal(value, weights(result)[f"gpt.{name}"]) for name, value in gpt.state_dict().items())


@pytest.mark.slow
def test_sharded_over_two_processes_it_is_the_same(tmp_path):
    words = (*MODERN, "name=a", "steps=3", "checkpoint_every=3")
    one = weights(run(tmp_path, *words, "group=one"))
    two = tiny(tmp_path, *words, "group=two", "trainer=fsdp")
    ends = list(map(finish, torchrun(2, *two)))
    assert all(status == 0 for status, _, _ in ends), ends
    (checkpoint,) = (tmp_path / "two" / "a" / "checkpoints").glob("step-*3.ckpt")
    other = load_model(checkpoint)[0].state_dict()
    assert all(torch.allclose(one[f"gpt.{key}"], value, atol=2e-4) for key, value in other.items())


@pytest.mark.parametrize(("seconds", "products"), [(0.01, 6), (2.0, 1)])
def test_the_ceiling_is_not_waited_for_where_a_product_takes_seconds(monkeypatch, seconds, products):
    """As in bfloat16 on a processor without such arithmetic."""
    clock, done = [0.0], []

    def multiply(*matrices):
        clock[0] += seconds
        done.append(matrices)

    monkeypatch.setattr(compute.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.Tensor, "__matmul__", multiply)
    rate = compute._measure_matmul.__wrapped__(torch.device("cpu"), torch.float32, 1)
    assert len(done) == products and rate == pytest.approx(2 * 1024**3 / seconds)
