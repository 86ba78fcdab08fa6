"""Schemes at the second door: queries and keys are rotated in every layer; values never are.

Layout. A pair of channels that turns together is (i, i + R/2) of the R rotated channels, the half-split layout of
GPT-NeoX and Llama code; RoFormer writes the pairs interleaved, (2i, 2i + 1). The two differ by one fixed
permutation of channels (`interleaved_to_half_split`), applied alike to q and k, which leaves every score q·k as it
was: models trained from scratch are equivalent, and only foreign weights need their channels permuted.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from conf.base import BadInput
from models.positions.base import Position, Settings
from models.positions.frequencies import phases


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2K channels of x, pair (i, i + K) by its phase; the channels behind them pass unchanged.

    x (B, H, T, D); cos and sin (T, K) or (B, 1, T, K), float32. The products are taken in the wider of the two
    dtypes and rounded back to x's.
    """
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]  # (B, H, T, K) twice, (B, H, T, D - 2K)
    turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def interleaved_to_half_split(channels: int) -> Tensor:
    """The permutation p, (channels,) int64, with half_split = interleaved[..., p]: even channels first, then odd."""
    return torch.arange(channels).view(-1, 2).T.flatten()


class RoPE(Position):
    """Rotary positions (Su et al. 2021, RoFormer, eq. 15): q and k turn by position × frequency, θ_i = base^(-2i/R).

    With R = fraction · D rotated channels per head (rounded to whole pairs); the rest of the head is position-free
    (partial rotary, as in GPT-NeoX). Scores depend on the offset between query and key alone.
    """

    class Knobs(Settings):
        name: Literal["rope"] = "rope"
        fraction: float = Field(1.0, gt=0, le=1)

    stretches = frozenset({"positions", "frequencies"})

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        self.rotated = 2 * round(knobs.fraction * geometry.head_width / 2)
        if geometry.head_width % 2:
            raise BadInput(f"position=rope needs an even model.width / model.heads, not {geometry.head_width}")
        if not self.rotated:
            raise BadInput(
                f"position.fraction={knobs.fraction:g} rotates none of the {geometry.head_width} channels of a head; "
                f"it must be above {1 / geometry.head_width:g}"
            )

    def prepare(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (T,) or (B, T) → cosines and sines, each (T, K) or (B, 1, T, K)."""
        frequencies = self.spectrum.table(self.rotated, positions.device)
        phase = phases(positions, self.extension.frequencies(frequencies))
        if phase.dim() == 3:  # one set of positions per sequence: leave room for the heads
            phase = phase.unsqueeze(1)
        return phase.cos(), phase.sin()

    def rotate(self, q: Tensor, k: Tensor, where: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return rotate_pairs(q, *where), rotate_pairs(k, *where)
