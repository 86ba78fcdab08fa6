"""Gates from content: what they cost, in which precision, and that nobody pays who does not ask."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from models import attention
from models.positions.base import Differences, Layer
from models.positions.gated import FoX
from tests.cases import HEADS, LAYERS, WIDTH, Case, tokens, vectors
from tests.lawbook import same

pytestmark = pytest.mark.usefixtures("one_thread")


def test_forgetting_stays_on_the_flash_path():
    """Whole, long or in training: causal alone, no mask and no bias of pairs."""
    asked, real = [], F.scaled_dot_product_attention

    def spy(q, k, v, **named):
        asked.append((q.shape[-1], named["attn_mask"], named["is_causal"]))
        return real(q, k, v, **named)

    model = Case("fox").model()
    with patch.object(attention.F, "scaled_dot_product_attention", spy):
        loss, _ = model(tokens(300), targets=tokens(300))
        loss.backward()
    assert asked == [(WIDTH // HEADS + 8, None, True)] * LAYERS


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.02)])
def test_differences_are_exact_however_far_the_sums_have_grown(dtype, bound):
    """As far as the precision of the scores goes: in bfloat16 alone a sum of 3,000 would be wrong by 8."""
    q, k, v = (0.3 * x.to(dtype) for x in vectors(3, 1, HEADS, 200, 16).unbind(0))
    sums = -(vectors(1, HEADS, 200).abs() * 0.4).cumsum(-1) - 3000
    bias = Differences(sums, sums) if dtype == torch.float64 else Differences(sums.float(), sums.float())
    ours = attention.attend(q, k, v, bias, None, 1.0)
    scores = q.double() @ k.double().mT / 4 + bias.dense().double()
    past = torch.ones(200, 200, dtype=torch.bool).tril()
    expected = scores.masked_fill(~past, float("-inf")).softmax(-1) @ v.double()
    assert (ours.double() - expected).abs().max() / expected.abs().max() < bound


def test_gradients_of_differences_are_whole():
    """The parts that bfloat16 holds take no share of the gradient away."""
    q, k, v = vectors(3, 1, HEADS, 30, 8).unbind(0)
    first = (vectors(1, HEADS, 30) * 50).requires_grad_()
    past = torch.ones(30, 30, dtype=torch.bool).tril()
    scores = (q @ k.mT * 8**-0.5 + Differences(first, first).dense()).masked_fill(~past, float("-inf"))
    expected = torch.autograd.grad((scores.softmax(-1) @ v).square().sum(), first)[0]
    ours = torch.autograd.grad(attention.attend(q, k, v, Differences(first, first), None, 1.0).square().sum(), first)[0]
    same(ours, expected, 1e-10)


def test_nobody_is_given_the_input_who_does_not_ask():
    """What a scheme without gates prepared is handed on as it is."""
    prepared, x = ("a", "b"), torch.zeros(1, 3, WIDTH)
    assert Case("rope").position().read_input(x, prepared) is prepared
    assert Layer(Case("cope").position(), 1).read_input(x, prepared) is prepared


def test_gates_start_as_published_and_alibi_is_their_constant_case():
    model = Case("fox").model()
    fresh = FoX(model.position.knobs, model.position.geometry, model.position.spectrum, model.position.extension)
    fresh.initialise(lambda name: torch.Generator().manual_seed(0))
    assert (fresh.offset == 0).all() and abs(fresh.weight.std() - 0.02) < 0.005
    with torch.no_grad():  # gates that never hear anything: every token fades alike
        fresh.weight.zero_()
        fresh.offset.copy_(torch.tensor([[5.0, 3.0], [1.0, 0.0]]))
    door = fresh.double().layer(0)
    read = door.read_input(vectors(1, 12, WIDTH), fresh.prepare(torch.arange(12.0).double()))
    back = torch.arange(12.0).double()[:, None] - torch.arange(12.0)
    slopes = -F.logsigmoid(torch.tensor([5.0, 3.0]).double())
    same(
        door.bias(vectors(1, HEADS, 12, 4), vectors(1, HEADS, 12, 4), read).dense()[0],
        -slopes[:, None, None] * back,
        1e-12,
    )
