"""Schemes at the first door: something is added to the token embeddings, once."""

from typing import Literal

import torch
from torch import Tensor

from conf.base import BadInput
from models.positions.base import Position, Settings
from models.positions.frequencies import phases


class Sinusoidal(Position):
    """The absolute sinusoid of Vaswani et al. (2017, section 3.5), added once to the embeddings.

    PE(p, 2i) = sin(p · base^(-2i/C)) and PE(p, 2i+1) = cos(p · base^(-2i/C)): sine and cosine alternate by channel.
    The paper multiplies the embeddings by √C first; the model here does so for every scheme, so that arms of a
    comparison differ in the added table alone. PE(p + φ) = M_φ PE(p) with a rotation M_φ that does not depend on p.
    """

    class Knobs(Settings):
        name: Literal["sinusoidal"] = "sinusoidal"

    relative = False  # the sum enters queries, keys and values, where absolute positions survive
    stretches = frozenset({"positions", "frequencies"})

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        if geometry.width % 2:
            raise BadInput(f"position=sinusoidal needs an even model.width, not {geometry.width}")

    def prepare(self, positions: Tensor) -> Tensor:
        """Positions (T,) or (B, T) → the table to add, (T, C) or (B, T, C)."""
        frequencies = self.spectrum.table(self.geometry.width, positions.device)
        phase = phases(positions, self.extension.frequencies(frequencies))  # (…, T, C/2)
        return torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(-2)  # (…, T, C), interleaved

    def embed(self, x: Tensor, where: Tensor) -> Tensor:
        return (x + where).to(x.dtype)
