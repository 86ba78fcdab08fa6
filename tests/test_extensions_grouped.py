"""Self-Extend and ReRoPE: near tokens as always, far ones as if they stood closer, one pair at a time."""

import cmath
from unittest.mock import patch

import pytest
import torch

from models.positions import EXTENSIONS, base
from models.positions.extensions import Extension
from tests.cases import HEADS, WIDTH, WINDOW, Case, tokens, vectors
from tests.lawbook import moved, same

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 3 * WINDOW
READ = {"self_extend": {"factor": 3.0, "near": 5}, "rerope": {}}
NEAR = {"self_extend": 5, "rerope": WINDOW // 2}


def stand(extend: str, i: int, j: int) -> int:
    """The distance at which a far key j stands from its query i."""
    if extend == "rerope":
        return NEAR[extend]
    group = 4  # of 48 tokens in 16, 5 of them near: 47 // 4 + 5 - 1 = 15, where groups of 3 would reach 19
    return i // group + NEAR[extend] - NEAR[extend] // group - j // group


def score(q, k, distance: int) -> float:
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
            distance = i - j if i - j < NEAR[extend] else stand(extend, i, j)
            assert distance < WINDOW
            theirs = score(q[0, 1, i].tolist(), k[0, 1, j].tolist(), distance)
            assert ours[0, 1, i, j].item() == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("extend", READ)
def test_a_text_within_the_near_tokens_is_read_as_always(extend):
    case, near = Case("rope"), NEAR[extend]
    extended, plain = case.model(extend=extend, **READ[extend]), case.model()
    same(extended(tokens(near)), plain(tokens(near)), 1e-5)
    shifted = torch.arange(near) + 1001
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
    if extension.near is None:
        assert factor == 1
        return

    def furthest() -> float:
        queries, keys = extension.far(positions)
        return (queries.max() - keys.min()).item()

    assert furthest() < window
    extension.group -= 1
    assert furthest() >= window


def test_only_a_regrouping_extension_costs_a_bias():
    for extend, kind in EXTENSIONS.items():
        if kind.changes in ("positions", "frequencies", None) or kind.far is Extension.far:
            knobs = {"factor": 3.0} if "factor" in kind.Knobs.model_fields else {}
            position = Case("rope").position(extend=extend, **knobs)
            q, k = vectors(2, 1, HEADS, 9, WIDTH // HEADS, dtype=torch.float32)
            assert position.bias(q, k, position.prepare(torch.arange(9.0))) is None
