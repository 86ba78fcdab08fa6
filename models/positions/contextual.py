"""CoPE, a bias: positions counted by content."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from conf.base import Count
from models.positions.base import Layer, Position, Settings


class CoPE(Position):
    """Contextual positions: a key stands as many tokens back as gates open between it and the query.

    g_ij = sigmoid(q_i·k_j/√D), p_ij = Σ_{m=j…i} g_im, at most reach - 1, and the bias is q_i·e[p_ij], not divided by
    √D, with e interpolated linearly between whole positions (Golovneva et al. 2024, arXiv 2405.18719, section 4 and
    appendix B). One table e of (reach, D) per layer, shared by its heads; it starts at zero.

    Positions given from outside are never read. All is float32 whatever the model's precision: the scores are
    computed here once more, at twice the cost, and hold several (B, H, T, T) at once.
    """

    class Knobs(Settings):
        name: Literal["cope"] = "cope"
        reach: Count = 64  # the paper's npos_max

    exempt: ClassVar = {"reads_positions": "it counts tokens by content and never reads the positions given"}

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        self.table = nn.Parameter(torch.zeros(geometry.layers, knobs.reach, geometry.head_width))

    def layer(self, index: int) -> Layer:
        return Layer(self, index)

    def prepare(self, positions: Tensor) -> tuple[Tensor, ...]:
        """The table of every layer, (reach, D) each, in the dtype of the positions."""
        return tuple(self.table.to(positions.dtype))

    def bias(self, q: Tensor, k: Tensor, prepared: Tensor, first: int = 0) -> Tensor:
        """The bias (B, H, Q, N) of queries (B, H, Q, D) from row `first` on keys (B, H, N, D), by the layer's table."""
        with torch.autocast(q.device.type, enabled=False):
            q, k = q.to(prepared.dtype), k.to(prepared.dtype)
            gates = torch.sigmoid(q @ k.mT * q.shape[-1] ** -0.5)
            seen = torch.ones(gates.shape[-2:], dtype=torch.bool, device=q.device).tril(k.shape[-2] - q.shape[-2])
            counted = gates.where(seen, 0).flip(-1).cumsum(-1).flip(-1)  # gates from the key up to the query
            counted = counted.clamp(max=len(prepared) - 1)
            meaning = q @ prepared.mT  # (B, H, Q, reach): every whole position, as this query reads it
            below = counted.detach().floor()
            low, high = (meaning.gather(-1, place.long()) for place in (below, counted.detach().ceil()))
            return torch.lerp(low, high, counted - below)
