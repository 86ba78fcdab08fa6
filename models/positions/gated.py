"""Schemes that bias attention by content: what a layer reads says how fast the past fades."""

from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from conf.base import BadInput
from models.positions.base import Differences, Layer, Position, Settings
from models.positions.bias import alibi_slopes
from models.positions.pairs import rotate_pairs, waves


class FoX(Position):
    """Forgetting attention: -Σ of forgetting between key and query (Lin et al. 2025, arXiv 2503.02130, section 3).

    f_l = σ(w_h·x_l + b_h) of the input x of the layer, c the cumulated sum of log f, and the bias c_i - c_j: ALiBi
    with slopes from content, and no other position; of the positions given it reads where a text begins, which is where
    they fall, so that c counts from there. w starts normal, 0.02, and b at zero, as in the authors' code. As a
    difference it costs a few channels of queries and keys and stays on the flash path.
    """

    class Knobs(Settings):
        name: Literal["fox"] = "fox"

    exempt: ClassVar = {"reads_positions": "it counts tokens by content and never reads the positions given"}

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        self.weight = nn.Parameter(torch.zeros(geometry.layers, geometry.heads, geometry.width))
        self.offset = nn.Parameter(torch.zeros(geometry.layers, geometry.heads))

    def initialise(self, draw) -> None:
        with torch.no_grad():
            self.weight.normal_(std=0.02, generator=draw("weight"))

    def layer(self, index: int) -> Layer:
        return Layer(self, index)

    def prepare(self, positions: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Per layer, w (H, C) and b (H,) in the dtype of the positions, and the slot where each text begins, (…, T)."""
        dtype, index = positions.dtype, torch.arange(positions.shape[-1], device=positions.device)
        falls = F.pad(positions[..., 1:] < positions[..., :-1], (1, 0))
        start = torch.where(falls, index, 0).cummax(-1).values
        return tuple((*one, start) for one in zip(self.weight.to(dtype), self.offset.to(dtype), strict=True))

    def read_input(self, x: Tensor, prepared: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The cumulated logarithms of the gates, c, (B, H, T): in float64, so that no text hears of those before it."""
        weight, offset, start = prepared
        with torch.autocast(x.device.type, enabled=False):
            gates = F.logsigmoid(x.to(weight.dtype) @ weight.T + offset)  # (B, T, H)
            sums = gates.double().cumsum(dim=1).transpose(1, 2)
            before = F.pad(sums, (1, -1)).gather(-1, start.expand(len(x), -1).unsqueeze(1).expand_as(sums))
            return (sums - before).to(weight.dtype)

    def bias(self, q: Tensor, k: Tensor, prepared: Tensor, first: int = 0) -> Differences:
        last = first + q.shape[-2]
        return Differences(prepared[..., first:last], prepared[..., last - k.shape[-2] : last])


class Edges(NamedTuple):
    """What GRAPE-AP's gates are made of, in a layer: the projection, then what it gives, turned to the positions."""

    weight: Tensor  # (H, P, C)
    cos: Tensor  # (T, P/2) or (B, 1, T, P/2)
    sin: Tensor
    turned: Tensor | None = None  # (B, H, T, P)


class GrapeAP(Position):
    """Path integrals of gates between tokens: m_h·Σ_{l=j+1…i} log σ(p_i·R^(i-l)·p_l/P) (GRAPE-AP, arXiv 2512.07805).

    p is a projection of the layer's input, P channels a head, to RMS 1; R turns every pair of them by one radian per
    token, and m_h are ALiBi's slopes. Both p are turned by their own position, as in the formula of the paper; its code
    turns and norms p_l alone. Each edge depends on its query, so that the bias is of all pairs and off the flash path.
    """

    class Knobs(Settings):
        name: Literal["grape_ap"] = "grape_ap"
        channels: int = Field(8, ge=2)  # P

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        if knobs.channels % 2:
            raise BadInput(f"position.channels={knobs.channels} turn in pairs: it must be even")
        self.weight = nn.Parameter(torch.zeros(geometry.layers, geometry.heads, knobs.channels, geometry.width))

    def initialise(self, draw) -> None:
        with torch.no_grad():
            self.weight.normal_(std=self.geometry.width**-0.5, generator=draw("weight"))

    def layer(self, index: int) -> Layer:
        return Layer(self, index)

    def prepare(self, positions: Tensor) -> tuple[Edges, ...]:
        """Per layer, the projection, and cosines and sines of the positions, in their dtype."""
        phase = positions[..., None].expand(*positions.shape, self.knobs.channels // 2)
        cos, sin = waves((phase.unsqueeze(1) if phase.dim() == 3 else phase).contiguous())
        return tuple(Edges(weight, cos, sin) for weight in self.weight.to(positions.dtype))

    def read_input(self, x: Tensor, prepared: Edges) -> Edges:
        """With p of every token, normed and turned, (B, H, T, P)."""
        weight = prepared.weight
        with torch.autocast(x.device.type, enabled=False):
            p = (x.to(weight.dtype) @ weight.flatten(0, 1).T).unflatten(-1, weight.shape[:2]).transpose(1, 2)
            turned = rotate_pairs(F.rms_norm(p, p.shape[-1:]), prepared.cos, prepared.sin)
        return prepared._replace(turned=turned)

    def bias(self, q: Tensor, k: Tensor, prepared: Edges, first: int = 0) -> Tensor:
        """(B, H, Q, N) in the dtype of the positions."""
        assert prepared.turned is not None
        last, turned = first + q.shape[-2], prepared.turned
        queries, keys = turned[..., first:last, :], turned[..., last - k.shape[-2] : last, :]
        with torch.autocast(q.device.type, enabled=False):
            edges = F.logsigmoid(queries @ keys.mT / queries.shape[-1])
            past = torch.ones(edges.shape[-2:], dtype=torch.bool, device=q.device).tril(
                edges.shape[-1] - edges.shape[-2]
            )
            sums = edges.where(past, 0).flip(-1).cumsum(-1).flip(-1)  # from the key on, up to the query
            slopes = torch.tensor(alibi_slopes(self.geometry.heads), dtype=edges.dtype, device=edges.device)
            return F.pad(sums[..., 1:], (0, 1)) * slopes[:, None, None]
