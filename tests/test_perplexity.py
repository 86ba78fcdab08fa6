"""Perplexity: every target once, from exactly the stated context, whatever the batching."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conf.base import BadInput
from experiments.lab.measure.protocols import measure, summarise, token_losses
from experiments.lab.measure.windows import PROTOCOLS
from models.gpt import GPT, Shape
from models.positions import EXTENSIONS, SCHEMES, SPECTRA, Geometry, build_position
from tests.runs import command, finish

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY, SEPARATOR = 17, 0
REGION, STRIDE, CONTEXTS = 23, 3, (3, 7, 8, 23)  # 7 and 8 leave a remainder; 23 is the whole region


def tiny_gpt(position, separator=None, extend="none", **knobs):
    """A hot model in float64: its weights would make of float32's rounding, which differs by processor, an effect."""
    shape = Shape(name="tiny", layers=2, heads=2, width=16)
    settings = SCHEMES[position].Knobs(), SPECTRA["geometric"](), EXTENSIONS[extend].Knobs(**knobs)
    scheme = build_position(*settings, Geometry(width=16, heads=2, layers=2, window=8))
    model = GPT(shape, VOCABULARY, scheme, seed=1, separator=separator)
    with torch.no_grad():  # far from uniform, so that a wrong context or target shows
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(15)
    return model.double()


def assert_near(actual, expected):
    """Equal to rounding: the blocks work in float64, the head and its losses of up to 45 nats in float32."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.max(np.abs(expected)))


def ragged_documents(lengths=(24, 31, 23, 40)):
    """Random documents; with a region of 23 targets the third is too short."""
    generator = np.random.default_rng(0)
    return [np.r_[SEPARATOR, generator.integers(1, VOCABULARY, length - 1)].astype(np.uint16) for length in lengths]


class Stub(nn.Module):
    """A model given by a function from tokens (B, T) to logits (B, T, V)."""

    def __init__(self, function):
        super().__init__()
        self.function, self.anchor = function, nn.Parameter(torch.zeros(1))

    def hidden(self, tokens):
        return self.function(tokens)

    def logits(self, hidden):
        return hidden


def remembering(k):
    """Knows the next token of `recurrent_documents(k)` from the previous k; with fewer it guesses uniformly."""

    def function(tokens):
        logits = torch.zeros(*tokens.shape, VOCABULARY)
        oldest, newest = tokens[:, : max(0, tokens.shape[1] - k + 1)], tokens[:, k - 1 :]
        logits[:, k - 1 :] = 1e4 * F.one_hot((oldest + newest) % VOCABULARY, VOCABULARY)
        return logits

    return Stub(function)


def recurrent_documents(k, lengths=(24, 31)):
    """Each token is the sum of the previous one and the one k before it."""
    documents = []
    for document in ragged_documents(lengths):
        for t in range(k, len(document)):
            document[t] = (int(document[t - 1]) + int(document[t - k])) % VOCABULARY
        documents.append(document)
    return documents


def stated_context(protocol, target, context):
    """The first token that target t may see, from the definitions; None where it is not scored."""
    if protocol == "windows":
        return (target - 1) // context * context
    if protocol == "sliding":
        moves = max(0, math.ceil((target - context) / STRIDE))
        return min(context + moves * STRIDE, REGION) - context
    return REGION - context if target > REGION - STRIDE else None


@torch.no_grad()
def oracle(model, document, protocol, context):
    """Losses by target: one forward pass each, on exactly the tokens the target may see."""
    losses = {}
    for target in range(1, REGION + 1):
        start = stated_context(protocol, target, context)
        if start is not None:
            seen = torch.tensor(document[start:target].astype(np.int64))[None]
            losses[target] = -model(seen)[0, -1].double().log_softmax(-1)[int(document[target])].item()
    return losses


@pytest.mark.parametrize("position", ["rope", "sinusoidal"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equals_the_token_by_token_oracle(protocol, position):
    model, documents = tiny_gpt(position), ragged_documents()
    losses_by_context = token_losses(model, documents, CONTEXTS, protocol, STRIDE)
    results = measure(model, documents, CONTEXTS, protocol, STRIDE)
    for context, losses, result in zip(CONTEXTS, losses_by_context, results, strict=True):
        assert losses.documents.tolist() == [0, 1, 3]
        expected = [oracle(model, documents[index], protocol, context) for index in (0, 1, 3)]
        assert losses.positions.tolist() == list(expected[0])
        assert_near(losses.nll, [list(entry.values()) for entry in expected])
        assert losses.seen.tolist() == [t - stated_context(protocol, t, context) for t in expected[0]]
        sums = [math.fsum(entry.values()) for entry in expected]
        assert result.document_nll == pytest.approx(sums, rel=1e-5)
        assert result.perplexity == pytest.approx(math.exp(sum(sums) / result.tokens), rel=1e-5)
        assert (result.tokens, result.document_tokens) == (3 * len(expected[0]), (len(expected[0]),) * 3)


SWITCH = {"factor": 4.0, "short": (1.0,) * 4, "long": (1.0, 2.0, 4.0, 6.0)}  # from the ninth token on all are long
LENGTH_MATTERS = [("rope", "dynamic_ntk", {}), ("sinusoidal", "dynamic_ntk", {}), ("rope", "longrope", SWITCH)]


@pytest.mark.parametrize(("position", "extend", "knobs"), LENGTH_MATTERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_as_decoded_is_the_oracle_where_the_length_matters_and_a_whole_window_is_not(protocol, position, extend, knobs):
    model, documents = tiny_gpt(position, extend=extend, **knobs), ragged_documents()
    assert model.position.extension.depends_on_length
    whole = token_losses(model, documents, [23], protocol, STRIDE)[0]
    decoded = token_losses(model, documents, [23], protocol, STRIDE, as_decoded=True, batch_tokens=60)[0]
    expected = [list(oracle(model, documents[index], protocol, 23).values()) for index in (0, 1, 3)]
    assert_near(decoded.nll, expected)
    for name in ("positions", "seen", "tokens"):
        np.testing.assert_array_equal(getattr(decoded, name), getattr(whole, name))
    assert summarise(decoded).token_set == summarise(whole).token_set
    apart = np.abs(decoded.nll - whole.nll)
    same = whole.seen > 8 if extend == "longrope" else whole.seen == 23  # passes that end there turn as the window does
    assert_near(decoded.nll[:, same], whole.nll[:, same])
    assert same.all() or apart[:, ~same].max() > 0.02


@pytest.mark.parametrize(("position", "extend"), [("rope", "none"), ("rope", "yarn"), ("sinusoidal", "interpolate"),
                                                  ("alibi", "none"), ("fire", "none")])  # fmt: skip
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_as_decoded_changes_nothing_where_the_length_does_not_matter(protocol, position, extend):
    knobs = {} if extend == "none" else {"factor": 3.0}
    model, documents = tiny_gpt(position, extend=extend, **knobs), ragged_documents()
    whole = token_losses(model, documents, CONTEXTS, protocol, STRIDE)
    for one, other in zip(
        whole, token_losses(model, documents, CONTEXTS, protocol, STRIDE, as_decoded=True), strict=True
    ):
        assert_near(one.nll, other.nll)
        np.testing.assert_array_equal(one.top, other.top)


def test_isolating_model_is_measured_alike():
    model, documents = tiny_gpt("rope", separator=SEPARATOR), ragged_documents()
    (losses,) = token_losses(model, documents, [7], "sliding", STRIDE, region=REGION)
    expected = [list(oracle(model, documents[index], "sliding", 7).values()) for index in (0, 1, 3)]
    assert_near(losses.nll, expected)


@pytest.mark.parametrize("region", [1, 8, 23, 24, 64])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_target_is_scored_once_and_the_separator_never(protocol, region):
    for context in range(1, region + 1):
        for stride in range(1, context + 1):
            layout = PROTOCOLS[protocol](region, context, stride)
            targets = [target for window in layout for target in window.targets]
            assert targets == list(range(region - stride + 1 if protocol == "fixed_targets" else 1, region + 1))
            assert all(0 <= w.start < w.first <= w.stop <= region and w.length <= context for w in layout)


def test_the_head_sees_each_target_once_and_never_more_than_it_may():
    model, sizes = remembering(1), []
    model.logits = lambda hidden: sizes.append(len(hidden)) or hidden
    measure(model, ragged_documents(), [8], "sliding", STRIDE, region=REGION, head_tokens=5)
    assert sum(sizes) == 3 * REGION and max(sizes) == 5


def test_perplexity_weights_tokens_not_windows():
    k = 4
    (result,) = measure(remembering(k), recurrent_documents(k), [8], "windows", region=20)
    windows = [(k - 1) / 8, (k - 1) / 8, (k - 1) / 4]  # share of each window that has to be guessed
    weighted, unweighted = VOCABULARY ** (3 * (k - 1) / 20), VOCABULARY ** (sum(windows) / 3)
    assert result.perplexity == pytest.approx(weighted, rel=1e-5) and weighted < 0.9 * unweighted


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_batching_does_not_matter(protocol):
    model, documents = tiny_gpt("rope"), ragged_documents()
    reference = token_losses(model, documents, CONTEXTS, protocol, STRIDE)
    for options in ({"batch_tokens": 1}, {"batch_tokens": 30, "head_tokens": 1}, {"head_tokens": 7}):
        others = token_losses(model, documents, CONTEXTS, protocol, STRIDE, **options)
        for one, other in zip(reference, others, strict=True):
            assert_near(one.nll, other.nll)


def test_document_order_and_kind_do_not_matter():
    model, documents = tiny_gpt("rope"), ragged_documents()
    straight = measure(model, documents, [8], "sliding", STRIDE, region=REGION)[0]
    tensors = [torch.from_numpy(document.astype(np.int64)) for document in documents]
    backward = measure(model, tensors[::-1], [8], "sliding", STRIDE, region=REGION)[0]
    assert backward.perplexity == pytest.approx(straight.perplexity, rel=1e-5)
    assert backward.document_nll == pytest.approx(straight.document_nll[::-1], rel=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_context_scores_the_same_tokens(protocol):
    model, documents = tiny_gpt("none"), ragged_documents()
    hashes = {result.token_set for result in measure(model, documents, CONTEXTS, protocol, STRIDE)}
    first = REGION - STRIDE + 1 if protocol == "fixed_targets" else 1
    triples = [(i, t, int(documents[i][t])) for i in (0, 1, 3) for t in range(first, REGION + 1)]
    assert hashes == {hashlib.sha256(np.array(triples, dtype="<i8").tobytes()).hexdigest()}
    documents[3][REGION] += 1
    assert hashes.isdisjoint(r.token_set for r in measure(model, documents, CONTEXTS, protocol, STRIDE))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_models_of_known_perplexity(protocol):
    uniform = Stub(lambda tokens: torch.zeros(*tokens.shape, VOCABULARY))
    doubling = np.array([pow(2, t, VOCABULARY) for t in range(REGION + 1)])  # what remembering(1) knows
    for model, documents, expected in ((uniform, ragged_documents(), VOCABULARY), (remembering(1), [doubling], 1)):
        for result in measure(model, documents, CONTEXTS, protocol, STRIDE):
            assert result.perplexity == pytest.approx(expected, rel=1e-6)


def test_fixed_targets_are_flat_beyond_the_memory_of_the_model():
    k, contexts = 6, [3, 4, 5, 6, 7, 8, 9, 16, 23]
    results = measure(remembering(k), recurrent_documents(k), contexts, "fixed_targets", STRIDE)
    guessed = [sum(context - STRIDE + j < k for j in range(1, STRIDE + 1)) for context in contexts]
    assert guessed == [3, 3, 3, 2, 1, 0, 0, 0, 0]
    expected = [VOCABULARY ** (number / STRIDE) for number in guessed]
    assert [result.perplexity for result in results] == pytest.approx(expected, rel=1e-5)


def test_bits_per_byte():
    sizes = np.arange(VOCABULARY)  # token id = its bytes
    uniform, documents = Stub(lambda tokens: torch.zeros(*tokens.shape, VOCABULARY)), ragged_documents()
    (result,) = measure(uniform, documents, [REGION], "windows", bytes_per_token=sizes)
    total = sum(int(documents[i][1 : REGION + 1].sum()) for i in (0, 1, 3))
    assert result.bits_per_byte == pytest.approx(3 * REGION * math.log2(VOCABULARY) / total)


def test_results_are_plain_values():
    (result,) = measure(tiny_gpt("none"), ragged_documents(), [8], "windows")
    assert json.loads(json.dumps(dataclasses.asdict(result)))["perplexity"] == result.perplexity
    assert result.bits_per_byte is None  # without the bytes of a token
    hopeless = Stub(lambda tokens: -1e6 * F.one_hot(torch.full_like(tokens, 1), VOCABULARY).float())
    assert measure(hopeless, [np.ones(9)], [8], "windows")[0].perplexity == math.inf


def test_model_comes_back_as_it_was_and_no_gradient_is_kept():
    model, seen = tiny_gpt("rope"), []
    model.train()
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    model.blocks[0].register_forward_hook(
        lambda module, inputs, output: seen.append((module.training, output.requires_grad))
    )
    measure(model, ragged_documents(), [8], "windows")
    assert set(seen) == {(False, False)}
    assert [module.training for module in model.modules()] == modes


def test_progress_ends_at_all_tokens():
    model, calls = tiny_gpt("none"), []
    options = {"batch_tokens": 16, "progress": lambda *entry: calls.append(entry)}
    measure(model, ragged_documents(), [8, 23], "windows", **options)
    assert {total for _, total in calls} == {3 * 2 * REGION} and calls[-1][0] == 3 * 2 * REGION
    assert calls == sorted(calls) and len(calls) > 4


LONG = """
import numpy as np, torch
from experiments.lab.measure.protocols import measure
from models.gpt import GPT, Shape
from models.positions import EXTENSIONS, SCHEMES, SPECTRA, Geometry, build_position

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

torch.set_num_threads(1)
settings = SCHEMES["rope"].Knobs(), SPECTRA["geometric"](), EXTENSIONS["none"].Knobs()
position = build_position(*settings, Geometry(width=16, heads=1, layers=1, window=128))
model = GPT(Shape(name="thin", layers=1, heads=1, width=16), 2048, position, seed=1)
document = np.random.default_rng(0).integers(1, 2048, 32_769)
measure(model, [document[:1025]], [1024], "windows")
before = peak()
(result,) = measure(model, [document], [32_768], "windows")
print(result.tokens, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_context_of_32k_tokens_never_has_all_its_logits():
    status, out, err = finish(command(code=LONG))
    assert status == 0, err
    tokens, megabytes = out.split()
    assert int(tokens) == 32_768
    assert float(megabytes) < 134  # half of the 268 MB that (32768, 2048) float32 logits would take


@pytest.mark.parametrize(
    ("contexts", "protocol", "options", "sentence"),
    [
        ([8, 64], "windows", {}, r"at least 65 tokens .*the longest of 4 has 40"),
        ([8], "window", {}, r"protocol=window .*windows, sliding, fixed_targets"),
        ([], "windows", {}, r"contexts=\[\]"),
        ([0, 8], "windows", {}, r"contexts=\[0, 8\]"),
        ([8, 16], "fixed_targets", {"stride": 9}, r"stride=9 .*fixed_targets.* 8"),
        ([8, 16], "sliding", {"stride": 9}, r"stride=9 .*sliding.* 8"),
        ([8], "sliding", {}, r"stride=None"),
        ([8], "sliding", {"stride": 0}, r"stride=0"),
        ([8], "windows", {"region": 7}, r"region=7 .*8"),
        ([8], "windows", {"precision": "bf16"}, r"precision=bf16 is not known"),
    ],
)
def test_the_impossible_is_one_sentence(contexts, protocol, options, sentence):
    with pytest.raises(BadInput, match=sentence) as error:
        measure(tiny_gpt("none"), ragged_documents(), contexts, protocol, **options)
    assert "\n" not in str(error.value)


def test_no_documents_is_one_sentence():
    with pytest.raises(BadInput, match="there are no documents"):
        measure(tiny_gpt("none"), [], [8], "windows")
