"""Schemes that rotate queries and keys in every layer; values never are.

Layout. A pair of channels that turns together is (i, i + R/2) of the R rotated channels, the half-split layout of
GPT-NeoX and Llama code; RoFormer writes the pairs interleaved, (2i, 2i + 1). The two differ by one fixed
permutation of channels (`interleaved_to_half_split`), applied alike to q and k, which leaves every score q·k as it
was: models trained from scratch are equivalent, and only foreign weights need their channels permuted.
"""

from functools import reduce
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from conf.base import BadInput
from models.positions.base import Parts, Position, Settings
from models.positions.frequencies import phases, steps
from models.positions.pairs import rotate_pairs, waves
from models.positions.rescaled import ranks


def interleaved_to_half_split(channels: int) -> Tensor:
    """The permutation p, (channels,) int64, with half_split = interleaved[..., p]: even channels first, then odd."""
    return torch.arange(channels).view(-1, 2).T.flatten()


class Rotary(Position):
    """A scheme that turns q and k by position × frequency; the schemes below differ in the frequencies.

    An extension may let tokens far apart stand elsewhere: their scores are then replaced through the hook `bias`, or
    left to fused kernels through the hook `parts`.
    """

    stretches = frozenset({"positions", "frequencies", "plain rotation"})

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        if geometry.head_width % 2:
            raise BadInput(f"position={knobs.name} needs an even model.width / model.heads, not {geometry.head_width}")
        self.rotated = self._channels()  # R of them per head, in R/2 pairs
        extension.fits(spectrum.table(self.rotated))  # both refuse here what they cannot do

    def _channels(self) -> int:
        return self.geometry.head_width

    def frequencies(self, device: torch.device) -> Tensor:
        """What the pairs turned by per token in training, (K,) in float64."""
        return self.spectrum.table(self.rotated, device)

    def phase(self, positions: Tensor) -> Tensor:
        """Positions (T,) or (B, T) → what the pairs have turned by, (T, K) or (B, T, K), extension included."""
        return self.extension.phases(positions, self.frequencies(positions.device))

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (T,) or (B, T) → cosines and sines, each (T, K) or (B, 1, T, K)."""
        phase = self.phase(positions)
        if phase.dim() == 3:  # one set of positions per sequence: leave room for the heads
            phase = phase.unsqueeze(1)
        return waves(phase)

    def prepare(self, positions: Tensor) -> tuple:
        """Positions (T,) or (B, T) → cosines and sines, each (T, K) or (B, 1, T, K), and a `Regrouped` if any."""
        turned, unit = self.rotation(positions), self.extension.unit
        moved = [
            Further(first, self.rotation(queries - positions), self.rotation(keys - positions))
            for first, queries, keys in self.extension.moved(positions)
        ]
        if not moved:
            return turned
        units = positions if unit == 1 else (positions / unit).floor()
        return *turned, Regrouped(unit, units, consecutive(positions, unit), moved)

    def rotate(self, q: Tensor, k: Tensor, prepared: tuple) -> tuple[Tensor, Tensor]:
        return rotate_pairs(q, *prepared[:2]), rotate_pairs(k, *prepared[:2])

    def bias(self, q: Tensor, k: Tensor, prepared: tuple, first: int = 0) -> Tensor | None:
        """What far scores are short of what they would be if the extension's positions were the tokens' own."""
        return prepared[-1].bias(q, k, first) if isinstance(prepared[-1], Regrouped) else None

    def parts(self, q: Tensor, k: Tensor, prepared: tuple) -> Parts | None:
        return prepared[-1].parts(q, k) if isinstance(prepared[-1], Regrouped) else None


def consecutive(positions: Tensor, unit: int) -> bool:
    """Whether a text that is read, (T,) or (B, T), stands at one position after another from the start of a unit on.

    Where there are gradients or a compiler, nobody asks and nothing waits for the device.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return bool((positions.diff(dim=-1) == 1).all() & (positions[..., 0] % unit == 0).all())


class Further(NamedTuple):
    """How much further tokens turn for those from so many units away on, to stand where the extension moves them."""

    first: int
    queries: tuple[Tensor, Tensor]  # cosines and sines, (T, K) or (B, 1, T, K)
    keys: tuple[Tensor, Tensor]


class Regrouped(NamedTuple):
    """Tokens that stand elsewhere for those far from them."""

    unit: int  # tokens
    units: Tensor  # of which distances are differences, (T,) or (B, T)
    consecutive: bool
    moved: list[Further]

    def parts(self, q: Tensor, k: Tensor) -> Parts | None:
        """The parts of fused attention, of q and k (B, H, T, D) that are already rotated; None if they cannot be."""
        if not self.consecutive:
            return None
        groups, length = [(0, q, k)], q.shape[-2]
        for first, queries, keys in self.moved:
            start = min(first * self.unit, length)
            end = -(-(length - start) // self.unit) * self.unit
            moved_q = rotate_pairs(q[..., start:, :], *(part[..., start:, :] for part in queries))
            moved_k = rotate_pairs(k[..., :end, :], *(part[..., :end, :] for part in keys))
            groups.append((first, moved_q, moved_k))
        return Parts(self.unit, groups)

    def bias(self, q: Tensor, k: Tensor, first: int) -> Tensor:
        """(score where they stand - score as they are)/√D, which is 0 for near keys.

        q (B, H, Q, D) from row `first` on and k (B, H, N, D), both already rotated → (B, H, Q, N) in float32.
        """
        last = first + q.shape[-2]
        start, shifts = last - k.shape[-2], []
        distance = (self.units[..., first:last, None] - self.units[..., None, start:last]).unsqueeze(-3)  # (…, 1, Q, N)
        ends = [further.first for further in self.moved[1:]] + [float("inf")]
        with torch.autocast(q.device.type, enabled=False):
            q, k = q.to(self.units.dtype), k.to(self.units.dtype)
            for further, end in zip(self.moved, ends, strict=True):
                moved_q = rotate_pairs(q, *(part[..., first:last, :] for part in further.queries))
                moved_k = rotate_pairs(k, *(part[..., start:last, :] for part in further.keys))
                both = torch.cat((moved_q, -q), dim=-1) * q.shape[-1] ** -0.5  # one product: its size is the cost
                shift = both @ torch.cat((moved_k, k), dim=-1).mT  # (B, H, Q, N)
                shifts.append(shift.masked_fill_((distance < further.first) | (distance >= end), 0))
            return reduce(torch.add, shifts)


class RoPE(Rotary):
    """Rotary positions (Su et al. 2021, RoFormer, eq. 15): q and k turn by position × frequency, θ_i = base^(-2i/R).

    With R = fraction · D rotated channels per head (rounded to whole pairs); the rest of the head is position-free
    (partial rotary, as in GPT-NeoX). Scores depend on the offset between query and key alone.
    """

    class Knobs(Settings):
        name: Literal["rope"] = "rope"
        fraction: float = Field(1.0, gt=0, le=1)

    def _channels(self) -> int:
        width, fraction = self.geometry.head_width, self.knobs.fraction
        rotated = 2 * round(fraction * width / 2)
        if not rotated:
            raise BadInput(
                f"position.fraction={fraction:g} rotates none of the {width} channels of a head; "
                f"it must be above {1 / width:g}"
            )
        return rotated


class PRoPE(Rotary):
    """p-RoPE: the slowest (1 - p) share of the pairs does not turn (Barbero et al. 2025, section 6).

    Those channels carry content alone at any distance. Exponents run over the whole head, so the fast pairs turn as
    in RoPE; p = 1 is RoPE and p = 0 is NoPE. Gemma's "proportional" rotary is the same. The share is rounded down to
    whole pairs, and an extension sees the full table before its slow end is stopped.
    """

    class Knobs(Settings):
        name: Literal["p_rope"] = "p_rope"
        p: float = Field(0.75, ge=0, le=1)

    def phase(self, positions: Tensor) -> Tensor:
        table = self.frequencies(positions.device)
        return super().phase(positions) * (ranks(table) < int(self.knobs.p * len(table)))


class LearnedRoPE(Rotary):
    """LeRoPE: trained frequencies ω_k = ω0_k · exp(a_k), one set for all layers and heads (arXiv 2607.10134).

    a starts at zero, so training starts as RoPE; the exponential keeps frequencies positive, and a step of a is a
    relative change at every wavelength. a learns at its own rate, a multiple of the model's, and as a vector it is
    never decayed.
    """

    class Knobs(Settings):
        name: Literal["learned_rope"] = "learned_rope"
        learning_rate: float = Field(1.0, gt=0)  # times the model's

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        self.log_factor = nn.Parameter(torch.zeros(self.rotated // 2))  # a

    @property
    def learning_rates(self) -> dict[str, float]:
        return {"log_factor": self.knobs.learning_rate}

    def frequencies(self, device: torch.device) -> Tensor:
        return super().frequencies(device) * self.log_factor.double().exp()


class XPos(Rotary):
    """xPos: rotation with a decay per pair, queries × ζ^((p - c)/s), keys × ζ^(-(p - c)/s) (Sun et al. 2022, 3.2).

    ζ_i = (2i/D + γ)/(1 + γ) with γ = 0.4 and s the scale base, so the score of a pair of channels falls as
    ζ_i^(offset/s) and depends on the offset alone. The centre c cancels in every score; a fixed one, never a
    function of the text's length, keeps prefixes consistent.

    Each factor on its own grows without bound, so its logarithm stops at ±41, where the product of two still fits
    float32 (and bfloat16; float16 is out of reach). With c = 16 384 and s = 512 nothing stops before position
    33 000; past c ± 41·s/|ln ζ_i| the pair i keeps its scale and loses its decay, and stays finite.
    """

    class Knobs(Settings):
        name: Literal["xpos"] = "xpos"
        scale_base: float = Field(512.0, gt=0)  # s, tokens
        centre: float = 16_384.0  # c, tokens

    stretches = frozenset({"positions", "frequencies"})
    exempt: ClassVar = {
        "rotation_keeps_norms": "queries and keys are scaled by factors that leave a decay in the score"
    }

    def prepare(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Positions (T,) or (B, T) → cosines and sines of the queries, then of the keys, (T, K) or (B, 1, T, K)."""
        cos, sin = super().prepare(positions)
        count = cos.shape[-1]
        share = steps(count, positions.device) / count  # 2i/D
        decay = torch.log((share + 0.4) / 1.4) / self.knobs.scale_base  # ln ζ per token
        exponent = phases(positions - self.knobs.centre, decay).clamp(-41, 41)
        grow, shrink = exponent.view(cos.shape).exp(), (-exponent).view(cos.shape).exp()
        return cos * grow, sin * grow, cos * shrink, sin * shrink

    def rotate(self, q: Tensor, k: Tensor, prepared: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return rotate_pairs(q, *prepared[:2]), rotate_pairs(k, *prepared[2:])
