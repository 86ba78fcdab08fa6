"""Spectra: the frequencies at which a sinusoidal or rotary scheme turns, and the phases they give.

    phase[t, k] = position[t] · frequency[k]

A spectrum is its own settings and a pure function of them. Frequencies are computed in float64 and rounded once, so
that a phase far from the start carries the rounding of a single float32 product and nothing more.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from conf.base import Settings


class Geometric(Settings):
    """Frequencies base^(-2k/channels), wavelengths from 2π to almost 2π·base tokens (Vaswani et al. 2017, 3.5)."""

    name: Literal["geometric"] = "geometric"
    base: float = Field(10_000.0, gt=1)

    def table(self, channels: int, device: torch.device | None = None) -> Tensor:
        """The frequencies of a group of channels, (channels/2,) in float64, radians per token."""
        exponents = torch.arange(0, channels, 2, dtype=torch.float64, device=device) / channels
        return self.base**-exponents


SPECTRA: dict[str, type[Settings]] = {
    "geometric": Geometric,
}


def phases(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Every position times every frequency: (…, T) and (K,) → (…, T, K) in the dtype of the positions.

    A plain product, not a matrix multiplication: autocast would run the latter in bfloat16, where positions collide
    from 257 on.
    """
    return positions[..., None] * frequencies.to(positions.dtype)
