"""PoPE, a rotation: content sets the length of a vector, position alone its direction."""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.positions.base import Layer, Position, Settings, bounded


class PoPE(Position):
    """Polar positions: every channel is a complex number μ·e^(iφ) (Gopalakrishnan et al. 2025, arXiv 2509.10534, 3).

    The magnitude μ = softplus(q_c) or softplus(k_c) comes from content, the phase φ = p·θ_c from position, for keys
    plus a learned δ_c in [-2π, 0]. The score is Σ_c μ_qc μ_kc cos((i - j)·θ_c - δ_c): what and where no longer mix.
    θ_c = base^(-c/D): as many frequencies as channels, so q and k leave twice as wide, real parts then imaginary,
    and the score is still divided by √D of the head.

    δ is one number per layer, head and channel and starts at zero, which the paper finds to extrapolate best. Beyond
    its bounds it counts as the bound and keeps its gradient, so that it can return.
    """

    class Knobs(Settings):
        name: Literal["pope"] = "pope"

    stretches = frozenset({"positions", "frequencies"})
    exempt: ClassVar = {"rotation_keeps_norms": "a softplus of content takes the place of the vectors"}

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        extension.fits(spectrum.table(2 * geometry.head_width))  # both refuse here what they cannot do
        self.delta = nn.Parameter(torch.zeros(geometry.layers, geometry.heads, geometry.head_width))

    def layer(self, index: int) -> Layer:
        return Layer(self, index)

    def prepare(self, positions: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """Positions (T,) or (B, T) → per layer: cos, sin of the phases, (T, D) or (B, 1, T, D), and of δ, (H, 1, D)."""
        frequencies = self.spectrum.table(2 * self.geometry.head_width, positions.device)
        phase = self.extension.phases(positions, frequencies)
        if phase.dim() == 3:  # one set of positions per sequence: leave room for the heads
            phase = phase.unsqueeze(1)
        cos, sin = phase.cos(), phase.sin()
        delta = bounded(self.delta.to(positions.dtype), -2 * math.pi, 0).unsqueeze(-2)  # (layers, H, 1, D)
        return tuple((cos, sin, *turn) for turn in zip(delta.cos(), delta.sin(), strict=True))

    def rotate(self, q: Tensor, k: Tensor, prepared: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """(B, H, T, D) twice → (B, H, T, 2D) twice."""
        cos, sin, delta_cos, delta_sin = prepared
        key_cos, key_sin = cos * delta_cos - sin * delta_sin, sin * delta_cos + cos * delta_sin  # of φ + δ, (H, T, D)
        return polar(q, cos, sin), polar(k, key_cos, key_sin)


def polar(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Content (B, H, T, D) at a phase → softplus(x)·(cos | sin), (B, H, T, 2D), in the wider dtype, rounded once."""
    magnitude = F.softplus(x.to(cos.dtype))
    return torch.cat((magnitude * cos, magnitude * sin), dim=-1).to(x.dtype)
