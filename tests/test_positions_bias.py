"""What is particular to single schemes with a bias or a relation to another: published slopes, buckets, limits."""

import pytest
import torch

from conf.base import BadInput
from models.positions.bias import alibi_slopes
from models.positions.pairs import _opaque_waves, waves
from tests.cases import HEADS, WIDTH, WINDOW, Case, layer_of, tokens, vectors
from tests.lawbook import same
from tests.laws import LAWS
from tests.reference_bias import t5_bucket

pytestmark = pytest.mark.usefixtures("one_thread")

# Press et al. 2022, section 3, for 8 heads; and what the authors' `get_slopes(12)` returns.
EIGHT = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
TWELVE = [*EIGHT, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]


def table(case: Case, length: int = 12, **choices) -> torch.Tensor:
    """The bias of the first layer as the causal mask leaves it, (H, T, T) in float64."""
    position = case.position(**choices).double()
    prepared = position.prepare(position.extension.positions(torch.arange(length, dtype=torch.float64)))
    q, k = vectors(2, 1, HEADS, length, WIDTH // HEADS)
    return layer_of(position, 0).bias(q, k, prepared).reshape(HEADS, length, length).tril()


@pytest.mark.parametrize(("heads", "published"), [(8, EIGHT), (12, TWELVE)])
def test_alibi_has_the_published_slopes(heads, published):
    assert alibi_slopes(heads) == pytest.approx(published, abs=1e-15)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 6, 7, 16, 20, 31])
def test_alibi_has_a_slope_between_zero_and_one_for_any_number_of_heads(heads):
    slopes = alibi_slopes(heads)
    assert len(set(slopes)) == heads
    assert all(0 < slope < 1 for slope in slopes)


def falls_with_distance(case: Case) -> None:
    """No bias is above zero, none of a token on itself is below, and the further a key the lower its bias."""
    bias = table(case)
    assert (bias <= 0).all()
    assert (bias.diagonal(0, -2, -1) == 0).all()
    for t in range(1, bias.shape[-1]):
        assert (bias[:, t, :t] < bias[:, t, 1 : t + 1]).all()


@pytest.mark.parametrize("case", [Case("alibi"), Case("kerple"), Case("kerple", {"kind": "power"})], ids=str)
def test_bias_falls_with_distance_from_zero(case):
    falls_with_distance(case)


@pytest.mark.parametrize("wrong", [-1, 0], ids=["sign flipped", "forgotten"])
def test_that_test_sees_a_flipped_sign(wrong):
    class Flipped(Case("alibi").kind):
        def scores(self, queries, keys):
            return wrong * super().scores(queries, keys)

    with pytest.raises(AssertionError):
        falls_with_distance(Case("alibi", scheme=Flipped))


def test_interpolation_divides_alibis_distances():
    same(table(Case("alibi"), extend="interpolate", factor=4.0), table(Case("alibi")) / 4, 1e-15)


def test_kerple_power_at_one_has_the_form_of_alibi():
    position = Case("kerple", {"kind": "power"}).position().double()
    with torch.no_grad():
        position.p.fill_(1)
        position.a.copy_(4 * torch.tensor(alibi_slopes(HEADS)))  # above the 0.01 that Kerple counts at least
    at = torch.arange(12.0).double()
    same(position.scores(at, at).tril(), 4 * table(Case("alibi")), 1e-14)


def test_t5_buckets_are_exact_up_to_half_and_then_logarithmic():
    golden = {0: 0, 1: 1, 15: 15, 16: 16, 18: 16, 19: 17, 20: 17, 31: 21, 32: 21, 40: 23, 64: 26, 100: 30, 112: 30}
    golden |= {113: 31, 127: 31, 128: 31, 10_000: 31, -3: 0}
    assert {distance: t5_bucket(distance, 32, 128) for distance in golden} == golden


def test_t5_scores_every_distance_by_its_bucket():
    position = Case("t5").position()
    at = torch.arange(300.0)
    scores = position.scores(at, at)[:, -1].flip(-1)  # (H, distance)
    buckets = [t5_bucket(distance, 32, 128) for distance in range(300)]
    assert torch.equal(scores, position.table[buckets].T)


def test_p_rope_is_rope_at_one_and_none_at_zero():
    text = tokens(WINDOW)
    assert torch.equal(Case("p_rope", {"p": 1.0}).model()(text), Case("rope").model()(text))
    assert torch.equal(Case("p_rope", {"p": 0.0}).model()(text), Case("none").model()(text))


def test_learned_rope_starts_as_rope_and_fope_without_noise_nearly_is():
    rope, learned = Case("rope").position(), Case("learned_rope").position()
    with torch.no_grad():
        learned.log_factor.zero_()
    positions = torch.arange(WINDOW, dtype=torch.float64)
    for a, b in zip(rope.prepare(positions), learned.prepare(positions), strict=True):
        same(a, b, 1e-15)
    cos, sin = Case("fope", {"sigma": 0.0}).position().prepare(positions)  # whose slow pairs stand still
    turns = len(Case("fope").position().turning)
    assert 0 < turns < WIDTH // HEADS // 2
    same(cos[0][:, :turns], rope.prepare(positions)[0][:, :turns], 1e-12)
    assert (cos[..., turns:] == 1).all()
    assert (sin[..., turns:] == 0).all()


@pytest.mark.slow
def test_waves_are_cosine_and_sine_in_value_and_gradient():
    phase = torch.linspace(-9, 9, 12, dtype=torch.float64, requires_grad=True)
    for function in (waves, _opaque_waves):
        same(function(phase)[0], phase.cos(), 0)
        same(function(phase)[1], phase.sin(), 0)
        assert torch.autograd.gradcheck(function, phase)
    torch.library.opcheck(_opaque_waves, (phase,))


def test_xpos_scores_are_ropes_times_a_decay():
    """One pair of channels at a time, so that its own ζ shows: the score is RoPE's times ζ^(offset/s)."""
    positions, width = torch.arange(WINDOW, dtype=torch.float64), WIDTH // HEADS
    for pair in range(width // 2):
        q = torch.zeros(1, HEADS, WINDOW, width, dtype=torch.float64)
        q[..., pair], q[..., pair + width // 2] = 0.8, -0.3
        scores = {}
        for name in ("rope", "xpos"):
            position = Case(name).position()
            a, b = position.rotate(q, q, position.prepare(positions))
            scores[name] = (a @ b.mT).tril()
        zeta = (2 * pair / width + 0.4) / 1.4
        decay = zeta ** ((positions[:, None] - positions) / 512)
        same(scores["xpos"], scores["rope"] * decay.tril(), 1e-12)


def test_cope_with_every_gate_open_counts_tokens():
    position = Case("cope", {"reach": 32}).position()
    q = torch.full((1, HEADS, 12, WIDTH // HEADS), 10.0)  # every gate is open: q·k/√D = 400
    bias = layer_of(position, 1).bias(q, q, position.prepare(torch.arange(12.0)))
    meaning = position.table[1] @ q[0, 0, 0]  # (reach,)
    for t in range(12):
        same(bias[0, 0, t, : t + 1], meaning[1 : t + 2].flip(0))  # a token is itself one step away


def test_learned_positions_end_in_a_sentence_and_interpolation_reaches_further():
    with pytest.raises(BadInput, match=f"learned positions end at {WINDOW}.*extend=interpolate") as refusal:
        Case("learned").model()(tokens(WINDOW + 1))
    assert "\n" not in str(refusal.value)
    logits = Case("learned").model(extend="interpolate", factor=3.0)(tokens(3 * WINDOW))
    assert logits.isfinite().all()


def test_binary_is_the_bits_of_the_position():
    code = Case("binary", {"bits": 4}).position().prepare(torch.arange(16.0))[:, :4]
    assert ((code + 1) / 2 @ torch.tensor([1.0, 2, 4, 8])).tolist() == list(range(16))


def test_fires_lines_are_its_network_in_value_and_gradient():
    """Of units that turn within reach, out of it, at its ends, at the same share twice, and never."""
    position = Case("fire").position().double()
    units = [(1, -0.51), (-1, 0.51), (2, -1.1), (0.7, -0.1), (1, 3), (-1, -2), (1, 1e-4), (-1, 1.001), (0, 1), (0, -1)]
    with torch.no_grad():
        position.inner_weight.fill_(-1)
        position.inner_bias.fill_(-1)  # the other units are never on
        for unit, (weight, bias) in enumerate(units):
            position.inner_weight[unit], position.inner_bias[unit] = weight, bias
        position.outer_weight.normal_(generator=torch.Generator().manual_seed(1))
    share = torch.linspace(0, 1, 1000, dtype=torch.float64, requires_grad=True)
    weights = (share, position.inner_weight, position.inner_bias, position.outer_weight)
    network = torch.relu(share[:, None] @ position.inner_weight.T + position.inner_bias) @ position.outer_weight.T
    lines = position._network(share)
    assert lines.std() > 0.1
    same(lines, network, 1e-12)
    direction = torch.randn(network.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours, theirs = (torch.autograd.grad(f, weights, direction) for f in (lines, network))
    for own_result, other in zip(ours, theirs, strict=True):
        assert other.abs().sum() > 0
        same(own_result, other, 1e-10)


def test_fire_reads_distances_as_a_share_of_the_way_behind():
    """Past the threshold, a text twice as long gives the middle of its past the bias of the middle."""
    position = Case("fire").position().double()
    with torch.no_grad():
        position.c.fill_(1e-5)  # ψ is then the identity, up to a factor
    at = torch.arange(65, dtype=torch.float64)
    bias = position.scores(at, at)
    same(bias[:, 64, 32], bias[:, 32, 16], 1e-3)
    assert not torch.allclose(bias[:, 64, 32], bias[:, 64, 16], atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("second", ["alibi", "cope", "pope", "none"])
def test_a_mixture_uses_its_second_scheme_every_nth_layer(second):
    case = Case("mixture", {"first": "pope", "second": second, "every": 2})
    LAWS["attention_is_what_the_twin_says"](case)
    LAWS["equals_its_twin"](case)
