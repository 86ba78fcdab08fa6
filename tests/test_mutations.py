"""Are the laws awake? Bugs that public code really had are injected, and the laws that exist to see them must fail."""

from contextlib import nullcontext

import pytest
import torch

import models.attention
import models.gpt
from models.positions import EXTENSIONS, NoPE
from models.positions.embed import Sinusoidal
from models.positions.extensions import Interpolate
from models.positions.frequencies import Geometric
from models.positions.pairs import rotate_pairs
from models.positions.rotate import RoPE
from tests.cases import Case
from tests.laws import LAWS

pytestmark = pytest.mark.usefixtures("one_thread")


class Unrotated(RoPE):
    """Computes the rotation and returns its input."""

    def rotate(self, q, k, prepared):
        super().rotate(q, k, prepared)
        return q, k


class KeysOnly(RoPE):
    """Rotates keys but forgets queries."""

    def rotate(self, q, k, prepared):
        return q, super().rotate(q, k, prepared)[1]


class OppositeTurns(RoPE):
    """Turns keys the other way, so that scores know the sum of positions."""

    def rotate(self, q, k, prepared):
        cos, sin = prepared
        return rotate_pairs(q, cos, sin), rotate_pairs(k, cos, -sin)


class HalfPrecisionPositions(RoPE):
    """Counts positions in bf16, where 257 is 256."""

    def prepare(self, positions):
        return super().prepare(positions.bfloat16().to(positions.dtype))


class DefaultDtype(RoPE):
    """Builds its table in the default dtype, which Lightning's bf16-true changes."""

    def prepare(self, positions):
        cos, sin = super().prepare(positions)
        return cos.to(torch.get_default_dtype()), sin.to(torch.get_default_dtype())


class MatrixProduct(RoPE):
    """Multiplies positions and frequencies as matrices, which autocast, left on, rounds to bf16."""

    def prepare(self, positions):
        phase = positions[..., None] @ self.spectrum.table(self.rotated).to(positions.dtype)[None]
        return phase.cos(), phase.sin()


class BufferedTable(RoPE):
    """Keeps its frequencies in a buffer, which is cast and saved with the model."""

    def __init__(self, *given):
        super().__init__(*given)
        self.register_buffer("turns", self.spectrum.table(self.rotated).float())

    def prepare(self, positions):
        phase = positions[..., None] * self.turns
        if phase.dim() == 3:
            phase = phase.unsqueeze(1)
        return phase.cos().to(positions.dtype), phase.sin().to(positions.dtype)


class HiddenBuffer(BufferedTable):
    """The same with a buffer that is not saved; it is still cast."""

    def __init__(self, *given):
        super().__init__(*given)
        self.register_buffer("turns", self.turns, persistent=False)


class RoundedRotation(RoPE):
    """Casts cosines and sines to the dtype of the queries before it multiplies."""

    def rotate(self, q, k, prepared):
        return super().rotate(q, k, tuple(part.to(q.dtype) for part in prepared))


class Cached(RoPE):
    """Caches the table at the trained window and knows nothing beyond."""

    def prepare(self, positions):
        cos, sin = super().prepare(torch.arange(self.geometry.window, dtype=positions.dtype))
        return cos[positions.long()], sin[positions.long()]


class CountsSlots(RoPE):
    """Ignores the positions it is given and counts slots."""

    def prepare(self, positions):
        return super().prepare(torch.arange(positions.shape[-1], dtype=positions.dtype))


class WrongExponent(RoPE):
    """Spreads the exponent over k instead of 2k channels: base^(-k/D)."""

    def prepare(self, positions):
        phase = positions[..., None] * self.spectrum.table(self.rotated).sqrt().to(positions.dtype)
        return phase.cos(), phase.sin()


class Interleaved(RoPE):
    """Computes the table half-split and rotates interleaved pairs."""

    def rotate(self, q, k, prepared):
        cos, sin = (part.repeat_interleave(2, -1) for part in prepared)

        def turn(x):
            partner = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
            return (x * cos + partner * sin).to(x.dtype)

        return turn(q), turn(k)


class CentredByLength(RoPE):
    """Centres positions by the largest one, so that the past changes as text follows (after xPos code)."""

    def rotate(self, q, k, prepared):
        q, k = super().rotate(q, k, prepared)
        scale = 1.02 ** (torch.arange(q.shape[-2]) - q.shape[-2] // 2)[:, None]
        return (q * scale).to(q.dtype), (k * scale).to(q.dtype)


class BreaksTheGraph(RoPE):
    """Asks a tensor for a number, which a compiled graph cannot."""

    def prepare(self, positions):
        return super().prepare(positions if positions.max().item() > 0 else positions + 0)


class IdleParameter(RoPE):
    """Registers a parameter that nothing uses."""

    def __init__(self, *given):
        super().__init__(*given)
        self.idle = torch.nn.Parameter(torch.ones(()))


class ByPositionParity(Sinusoidal):
    """Gives even positions sines and odd ones cosines."""

    def prepare(self, positions):
        phase = positions[..., None] * self.spectrum.table(self.geometry.width).to(positions.dtype)
        wave = torch.where((positions % 2 == 0)[..., None], phase.sin(), phase.cos())
        return wave.repeat_interleave(2, -1)


class AnyPositionBeforeTheFuture(Sinusoidal):
    """Normalises positions by the length of the text, so that later tokens move earlier ones."""

    def prepare(self, positions):
        return super().prepare(positions / positions.shape[-1] * self.geometry.window)


MUTANTS = [
    ("rope", Unrotated, ["tells_order", "reads_positions", "equals_its_twin"]),
    ("rope", KeysOnly, ["shift_invariant", "scores_know_the_offset_alone", "equals_its_twin"]),
    ("rope", OppositeTurns, ["shift_invariant", "scores_know_the_offset_alone", "equals_its_twin"]),
    ("rope", HalfPrecisionPositions, ["scores_know_the_offset_alone"]),
    ("rope", DefaultDtype, ["float32_whatever_the_precision"]),
    ("rope", BufferedTable, ["float32_whatever_the_precision", "keeps_only_what_it_learns"]),
    ("rope", HiddenBuffer, ["float32_whatever_the_precision", "keeps_only_what_it_learns"]),
    ("rope", RoundedRotation, ["float32_whatever_the_precision"]),
    ("rope", CountsSlots, ["reads_positions", "equals_its_twin"]),
    ("rope", WrongExponent, ["equals_its_twin"]),
    ("rope", Interleaved, ["equals_its_twin"]),
    ("rope", CentredByLength, ["prefix_consistent", "rotation_keeps_norms", "scores_know_the_offset_alone"]),
    ("rope", IdleParameter, ["every_parameter_learns"]),
    ("sinusoidal", ByPositionParity, ["equals_its_twin"]),
    ("sinusoidal", AnyPositionBeforeTheFuture, ["prefix_consistent", "equals_its_twin"]),
]


@pytest.mark.parametrize(
    ("name", "mutant", "law"),
    [pytest.param(name, mutant, law, id=f"{mutant.__name__}-{law}") for name, mutant, laws in MUTANTS for law in laws],
)
def test_law_sees_the_bug(name, mutant, law):
    with pytest.raises(AssertionError):
        LAWS[law](Case(name, scheme=mutant))
    LAWS[law](Case(name))  # and it is the bug that it sees


def test_the_length_laws_see_a_cache_that_ends():
    with pytest.raises(IndexError):
        LAWS["past_the_window"](Case("rope", scheme=Cached))


def test_the_compile_law_sees_a_graph_break():
    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        LAWS["compiles_whole"](Case("rope", scheme=BreaksTheGraph))


def test_the_precision_law_sees_autocast_left_on(monkeypatch):
    real = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda *a, enabled=True: real(*a) if enabled else nullcontext())
    LAWS["float32_whatever_the_precision"](Case("rope"))  # whose elementwise product would survive even that
    with pytest.raises(AssertionError):
        LAWS["float32_whatever_the_precision"](Case("rope", scheme=MatrixProduct))


def mutate_attention(monkeypatch, change):
    """Let `change(q, k, v, bias, mask, temperature)` stand before the real attention."""
    real = models.attention.attend
    monkeypatch.setattr(models.attention, "attend", lambda *given: real(*change(*given[:6]), *given[6:]))


def test_the_value_law_sees_rotated_values(monkeypatch):
    def rotate_values(q, k, v, *rest):
        phase = torch.arange(v.shape[-2])[:, None] * 10_000 ** -torch.linspace(0, 0.9, v.shape[-1] // 2)
        return q, k, rotate_pairs(v, phase.cos(), phase.sin()), *rest

    mutate_attention(monkeypatch, rotate_values)
    with pytest.raises(AssertionError):
        LAWS["leaves_values_alone"](Case("rope"))


def test_the_causal_laws_see_a_look_ahead(monkeypatch):
    def unmasked(q, k, v, bias, mask, temperature):
        return q, k, v, bias, torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool), temperature

    mutate_attention(monkeypatch, unmasked)
    for law in ("causal", "prefix_consistent"):
        with pytest.raises(AssertionError):
            LAWS[law](Case("rope"))


def test_the_layer_law_sees_a_scheme_at_work_in_the_first_layer_only(monkeypatch):
    forward = models.gpt.GPT.hidden

    def first_layer_only(self, *given):
        silent = NoPE(NoPE.Knobs(), self.position.geometry, Geometric(), self.position.extension)
        hooks = [
            block.attention.register_forward_pre_hook(lambda module, given: (given[0], silent, *given[2:]))
            for block in self.blocks[1:]
        ]
        try:
            return forward(self, *given)
        finally:
            for hook in hooks:
                hook.remove()

    monkeypatch.setattr(models.gpt.GPT, "hidden", first_layer_only)
    with pytest.raises(AssertionError):
        LAWS["acts_in_every_layer"](Case("rope"))


def test_the_layer_law_sees_an_embedding_added_in_every_layer(monkeypatch):
    forward = models.gpt.Block.forward

    def added_again(self, x, position, prepared, *rest):
        return forward(self, position.embed(x, prepared), position, prepared, *rest)

    monkeypatch.setattr(models.gpt.Block, "forward", added_again)
    with pytest.raises(AssertionError):
        LAWS["acts_in_every_layer"](Case("sinusoidal"))


@pytest.mark.parametrize(
    "wrong", [lambda self, p: p * self.knobs.factor, lambda self, p: p], ids=["multiplying", "doing-nothing"]
)
@pytest.mark.parametrize("name", ["rope", "sinusoidal"])
def test_the_interpolation_law_sees_one_that_does_not_divide(monkeypatch, name, wrong):
    monkeypatch.setitem(EXTENSIONS, "interpolate", type("Wrong", (Interpolate,), {"positions": wrong}))
    with pytest.raises(AssertionError):
        LAWS["interpolation_divides"](Case(name))


def test_the_identity_law_sees_an_extension_that_is_off_by_one(monkeypatch):
    wrong = type("Wrong", (Interpolate,), {"positions": lambda self, p: p / (self.knobs.factor + 1)})
    monkeypatch.setitem(EXTENSIONS, "interpolate", wrong)
    with pytest.raises(AssertionError):
        LAWS["factor_one_changes_nothing"](Case("rope"))
