"""Extensions that regroup distances: near tokens as always, far ones as if they stood closer, one pair at a time."""

import cmath
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import pytest
import torch

from models import attention
from models.positions import EXTENSIONS, Plan, base
from models.positions.extensions import Extension
from tests.cases import HEADS, WIDTH, WINDOW, Case, readings, tokens, vectors
from tests.lawbook import moved, same

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 3 * WINDOW
READ = {"self_extend": {"factor": 3.0, "near": 5}, "rerope": {}, "leaky_rerope": {"factor": 3.0}, "dca": {"chunk": 11}}
NEAR = {"self_extend": 5, "rerope": WINDOW // 2, "leaky_rerope": WINDOW // 2, "dca": 11}


def stand(extend: str, i: int, j: int) -> float:
    """The distance at which a key j stands from its query i."""
    if extend == "dca":  # seen from the chunk after it, a key is where it is as long as its query is 15 at most
        own, apart = i % 11, i // 11 - j // 11
        return i - j if apart == 0 else min(own + 11, 15) - j % 11 if apart == 1 else 15 - j % 11
    if i - j < NEAR[extend]:
        return i - j
    if extend == "rerope":
        return 8
    if extend == "leaky_rerope":  # the last of 48 tokens is 47 from the first, and 15 are known
        return 8 + (i - j - 8) * 7 / 39
    group = 4  # of 48 tokens in 16, 5 of them near: 47 // 4 + 5 - 1 = 15, where groups of 3 would reach 19
    return i // group + 5 - 5 // group - j // group


def score(q, k, distance: float) -> float:
    """RoPE's score of one query and one key so far apart, divided by √D: Re Σ q_i k_i* e^(i·distance·θ_i)."""
    pairs = len(q) // 2
    total = 0.0
    for i in range(pairs):
        a, b = complex(q[i], q[i + pairs]), complex(k[i], k[i + pairs])
        total += (a * b.conjugate() * cmath.exp(1j * distance * 10_000 ** (-i / pairs))).real
    return total / len(q) ** 0.5


@pytest.mark.parametrize("extend", READ)
def test_scores_are_those_of_a_double_loop(extend):
    position = Case("rope").position(extend=extend, **READ[extend]).double()
    q, k = vectors(2, 1, HEADS, LENGTH, WIDTH // HEADS)
    prepared = position.prepare(torch.arange(LENGTH, dtype=torch.float64))
    a, b = position.rotate(q, k, prepared)
    ours = a @ b.mT * (WIDTH // HEADS) ** -0.5 + position.bias(a, b, prepared)
    for i in range(LENGTH):
        for j in range(i + 1):
            distance = stand(extend, i, j)
            assert 0 <= distance <= WINDOW - 1
            theirs = score(q[0, 1, i].tolist(), k[0, 1, j].tolist(), distance)
            assert ours[0, 1, i, j].item() == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("extend", READ)
def test_a_text_within_the_near_tokens_is_read_as_always(extend):
    case, near = Case("rope"), NEAR[extend]
    extended, plain = case.model(extend=extend, **READ[extend]), case.model()
    same(extended(tokens(near)), plain(tokens(near)), 1e-5)
    shifted = torch.arange(near) + 11 * 91
    same(extended(tokens(near), shifted), plain(tokens(near)))
    moved(extended(tokens(LENGTH)), plain(tokens(LENGTH)))


@pytest.mark.parametrize("extend", READ)
@pytest.mark.parametrize("isolated", [False, True])
def test_a_few_queries_at_a_time_read_as_all_at_once(extend, isolated):
    model, text = Case("rope").model(extend=extend, **READ[extend]), tokens(LENGTH, batch=2)
    model.separator = 3 if isolated else None
    whole = model(text)
    with patch.object(base, "SCORES_AT_ONCE", 7 * LENGTH), torch.no_grad():
        assert base.rows_at_once(LENGTH, text.device) == 7
        same(model(text), whole, 1e-5)


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 4.0, 8.0, 16.0])
@pytest.mark.parametrize("window", [8, 16, 100, 128])
def test_the_groups_of_self_extend_are_the_smallest_that_fit(factor, window):
    extension = EXTENSIONS["self_extend"](EXTENSIONS["self_extend"].Knobs(factor=factor), window)
    positions = torch.arange(int(factor * window), dtype=torch.float64)
    if not extension.moved(positions):
        assert factor == 1
        return

    def furthest() -> float:
        moved = extension.moved(positions)  # nothing, in groups of one
        return (moved[0].queries.max() - moved[0].keys.min()).item() if moved else len(positions) - 1

    assert furthest() < window
    extension.group -= 1
    assert furthest() >= window


def test_only_a_regrouping_extension_costs_a_bias():
    for extend, kind in EXTENSIONS.items():
        if kind.changes in ("positions", "frequencies", None) or kind.moved is Extension.moved:
            knobs = {"factor": 3.0} if "factor" in kind.Knobs.model_fields else {}
            position = Case("rope").position(extend=extend, **knobs)
            q, k = vectors(2, 1, HEADS, 9, WIDTH // HEADS, dtype=torch.float32)
            assert position.bias(q, k, position.prepare(torch.arange(9.0))) is None


SETTINGS = [*READ.items(), ("self_extend", {"factor": 9.0}), ("rerope", {"near": 1}),
            ("rerope", {"near": 15, "rows": "su"}),
            ("dca", {}), ("dca", {"chunk": 1}), ("switch", {"factor": 3.0, "over": "self_extend"}),
            ("switch", {"factor": 1.0, "over": "dca"})]  # fmt: skip


@contextmanager
def fused_alone():
    """Reading, with no other attention than that of fused kernels in parts."""
    with torch.no_grad(), patch.object(attention, "attend", side_effect=AssertionError("left the fused kernels")):
        yield


@pytest.mark.parametrize(("extend", "knobs"), SETTINGS, ids=str)
def test_read_in_parts_the_logits_are_those_of_dense_scores(extend, knobs):
    """At lengths around the ends of chunks, windows and groups, for several texts, from any row on, with a sink."""
    case = Case("rope", {"fraction": 0.5})
    model = case.model(extend=extend, **knobs).double()
    position, sink = model.position, torch.tensor([-0.7, 1.3], dtype=torch.float64)
    for length in (1, 2, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 24, 25, 40, 51):
        text = tokens(length, batch=3)
        with fused_alone():
            logits = model(text)
        same(logits, model(text), 1e-12)
        q, k, v = vectors(3, 2, HEADS, length, WIDTH // HEADS).unbind(0)
        places = torch.arange(length, dtype=torch.float64) + torch.tensor([[0.0], [11 * 12]]).double()
        result = []
        for context in (nullcontext(), fused_alone()):
            with context:
                prepared = position.prepare(places)
                turned = position.rotate(q, k, prepared)
                result.append(attention.causal_attention(*turned, v, position, prepared, 1.0, None, sink))
        same(*result, 1e-12)


def test_what_no_kernel_can_read_in_parts_is_read_as_ever():
    """Positions with gaps, chunks that have begun before the text, documents apart and sliding windows."""
    model, text = Case("rope").model(extend="dca", chunk=7).double(), tokens(24, batch=2)
    slots = torch.arange(24)
    for positions in (slots * 2, slots + 3, slots.flip(0), torch.stack((slots, slots + 1))):
        expected = model(text, positions)
        with torch.no_grad():
            same(model(text, positions), expected, 1e-12)
            with pytest.raises(AssertionError, match="left the fused"), fused_alone():
                model(text, positions)
    plan = Plan(pattern="LG", kinds={"L": {"window": 9}, "G": {}})
    model = Case("rope", plan=plan).model(extend="rerope").double()
    for model.separator in (None, 3):
        expected = model(text)
        with torch.no_grad():
            same(model(text), expected, 1e-12)


@pytest.mark.parametrize(("extend", "knobs"), READ.items(), ids=str)
def test_in_bfloat16_parts_are_as_close_as_dense_scores(extend, knobs):
    """To the same attention in float64, with scores to which rounding matters."""
    position = Case("rope").position(extend=extend, **knobs)
    q, k, v = (3 * vectors(3, 2, HEADS, LENGTH, WIDTH // HEADS)).unbind(0)
    q, k, v = (x.bfloat16() for x in (q, k, v))
    places, result = torch.arange(LENGTH, dtype=torch.float32), []
    for context, kind in ((nullcontext(), torch.float64), (nullcontext(), q.dtype), (fused_alone(), q.dtype)):
        with context:
            prepared = position.prepare(places)
            turned = position.rotate(q.to(kind), k.to(kind), prepared)
            result.append(attention.causal_attention(*turned, v.to(kind), position, prepared, 1.0, None, None))
    exact, dense, fused = result
    assert fused.dtype == torch.bfloat16
    assert (fused - exact).norm() < 1.5 * (dense - exact).norm() < 0.05 * exact.norm()


def test_what_regroups_distances_has_no_temperature():
    """Which parts do not know, and dense scores would apply to near tokens alone."""
    for extend, knobs in readings():
        extension = EXTENSIONS[extend](EXTENSIONS[extend].Knobs(**knobs), WINDOW)
        assert not extension.moved(torch.arange(3.0)) or extension.temperature == 1


def test_the_slope_of_leaky_rerope_brings_the_last_token_to_the_edge():
    for factor, near in ((1.0, 3), (2.5, 1), (8.0, 8), (4.0, 15)):
        extension = EXTENSIONS["leaky_rerope"](EXTENSIONS["leaky_rerope"].Knobs(factor=factor, near=near), WINDOW)
        positions = torch.arange(int(factor * WINDOW), dtype=torch.float64)
        (moved,) = extension.moved(positions) or [None]
        assert (moved is None) == (factor == 1)
        if moved:
            assert (moved.queries[-1] - moved.keys[0]).item() == pytest.approx(WINDOW - 1)
            same(moved.queries[near] - moved.keys[0], positions[near], 1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("extend", "knobs"), READ.items(), ids=str)
def test_parts_on_a_gpu_are_those_on_a_cpu(extend, knobs, kind):
    model, text = Case("rope").model(extend=extend, **knobs), tokens(LENGTH, batch=2)
    with fused_alone():
        expected = model.double()(text)
        result = model.to("cuda", kind)(text.cuda()).cpu()
    assert (result - expected).norm() < (1e-4 if kind == torch.float32 else 0.05) * expected.norm()
