"""Schemes that bias attention: a number per head, query and key is added to q·k/√D in every layer.

The same numbers serve all layers. They are a pure function of a query's and a key's position, `scores`, so that any
block of them can be made alone: whole while training or on short texts, once per forward pass; a chunk of queries at
a time on long texts that are only read. Nothing here depends on the precision of the model; attention rounds the sum.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from conf.base import Count
from models.positions.base import Position, Settings, bounded, row_chunks, rows_at_once, window_rows


class Pairs(NamedTuple):
    """What a bias is made of: the positions, (T,) or (B, T), and the scores of so many queries at a time on the keys
    up to the last of them, where there is room for all at once."""

    positions: Tensor
    rows: int
    blocks: tuple[Tensor, ...] | None


class Biased(Position):
    """A scheme that is a bias, given by `scores`."""

    stretches = frozenset({"positions"})

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions (Q,) and (N,) → (H, Q, N); with a batch, (B, Q) and (B, N) → (B, H, Q, N).

        A key after its query counts as no distance away; the causal mask hides it.
        """
        raise NotImplementedError

    def prepare(self, positions: Tensor) -> Pairs:
        """Positions (T,) or (B, T) → themselves, and while training or while T is short all their scores, in blocks
        (H, Q, N) or (B, H, Q, N) of Q queries and the N keys up to the last of them, as far back as they reach."""
        length = positions.shape[-1]
        rows = rows_at_once(length, positions.device)
        if rows < length and not torch.is_grad_enabled():
            return Pairs(positions, rows, None)
        if self.reach is not None:
            rows = window_rows(rows, self.reach)
        blocks = []
        for first, last in row_chunks(length, rows):
            start = 0 if self.reach is None else max(0, first + 1 - self.reach)
            blocks.append(self.scores(positions[..., first:last], positions[..., start:last]))
        return Pairs(positions, rows, tuple(blocks))

    def bias(self, q: Tensor, k: Tensor, prepared: Pairs, first: int = 0) -> Tensor:
        """As the contract has it, for the chunks of `rows_at_once` where scores were made in advance."""
        last, keys, row = first + q.shape[-2], k.shape[-2], first % prepared.rows
        if prepared.blocks is None or row + q.shape[-2] > prepared.rows:  # layers with several windows
            with torch.autocast(q.device.type, enabled=False):
                return self.scores(prepared.positions[..., first:last], prepared.positions[..., last - keys : last])
        block = prepared.blocks[first // prepared.rows]
        if block.shape[-2:] == (q.shape[-2], keys):
            return block
        stop = block.shape[-1] - (block.shape[-2] - row - q.shape[-2])  # it ends with the keys of its last row
        return block[..., row : row + q.shape[-2], stop - keys : stop]


def distances(queries: Tensor, keys: Tensor) -> Tensor:
    """How far before its query a key is, in tokens: (…, Q) and (…, N) → (…, 1, Q, N), never below zero."""
    return (queries[..., :, None] - keys[..., None, :]).clamp(min=0).unsqueeze(-3)


def alibi_slopes(heads: int) -> list[float]:
    """2^(-8h/n) for heads h = 1 … n, where n is a power of two.

    Otherwise those of the power of two below, then every other one of its double's, from the first: the authors'
    code, where the paper gives no formula.
    """
    below = 2 ** (heads.bit_length() - 1)
    slopes = [2 ** (-8 * head / below) for head in range(1, below + 1)]
    return slopes + [2 ** (-4 * head / below) for head in range(1, 2 * (heads - below), 2)]


class ALiBi(Biased):
    """Attention with linear biases: -m_h · distance, slopes fixed (Press et al. 2022, section 3).

    Added to the scores after their division by √D, as published and never divided itself.
    """

    class Knobs(Settings):
        name: Literal["alibi"] = "alibi"

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        slopes = torch.tensor(alibi_slopes(self.geometry.heads), dtype=keys.dtype, device=keys.device)
        return distances(queries, keys) * -slopes[:, None, None]


class T5(Biased):
    """A learned number per head and bucket of distance, causal (Raffel et al. 2020, section 2.1).

    Of n buckets, the first n/2 hold one distance each; the rest grow geometrically up to `furthest`, and the last
    holds all beyond. A fractional distance, to 1/64 of a token, falls into the bucket that the whole part of the
    formula names, so position interpolation widens the buckets. T5 adds this to undivided scores; a learned bias
    absorbs the factor. Starts at zero.
    """

    class Knobs(Settings):
        name: Literal["t5"] = "t5"
        buckets: int = Field(32, ge=2)
        furthest: Count = 128  # tokens

        @model_validator(mode="after")
        def _grows(self):
            if self.furthest <= self.buckets // 2:
                raise ValueError(f"furthest={self.furthest} must be above buckets/2 = {self.buckets // 2}")
            return self

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        self.table = nn.Parameter(torch.zeros(knobs.buckets, geometry.heads))

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        distance = distances(queries, keys).squeeze(-3)  # (…, Q, N)
        distance = (distance * 64).round() / 64  # 10/3 - 1/3 must not fall short of 3, in float32 and far out neither
        exact = self.knobs.buckets // 2
        density = (self.knobs.buckets - exact) / math.log(self.knobs.furthest / exact)
        grown = exact + torch.log(distance.clamp(min=exact) / exact) * density
        bucket = torch.where(distance < exact, distance, grown).long().clamp(max=self.knobs.buckets - 1)
        return F.embedding(bucket, self.table.to(keys.dtype)).movedim(-1, -3)


class Kerple(Biased):
    """Kernelised biases of the distance r, p and a learned per head (Chi et al. 2022, section 4).

    kind log: -p · log(1 + a·r). kind power: -a · r^p with p ≤ 2, which at p = 1 has ALiBi's form. p and a count as
    0.01 when they fall below it, as in the authors' code, and keep their gradient there, so that they can return.
    They start uniform on (0, 2) and (0, 1).
    """

    class Knobs(Settings):
        name: Literal["kerple"] = "kerple"
        kind: Literal["log", "power"] = "log"

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        self.p = nn.Parameter(torch.ones(geometry.heads))
        self.a = nn.Parameter(torch.full((geometry.heads,), 0.5))

    def initialise(self, draw) -> None:
        with torch.no_grad():
            self.p.uniform_(0, 2, generator=draw("p"))
            self.a.uniform_(0, 1, generator=draw("a"))

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        r = distances(queries, keys)
        a = bounded(self.a.to(keys.dtype), 0.01)[:, None, None]
        if self.knobs.kind == "log":
            return -bounded(self.p.to(keys.dtype), 0.01)[:, None, None] * torch.log1p(a * r)
        return -a * r ** bounded(self.p.to(keys.dtype), 0.01, 2)[:, None, None]


class FIRE(Biased):
    """Functional interpolation: b(i, j) = f(ψ(i - j) / ψ(max(i, L))), ψ(x) = log(|c|·x + 1) (Li et al. 2024, eq. 4).

    f is a network 1 → `hidden` (ReLU) → H, the same in every layer and without the authors' constant per head, which
    a softmax never shows. c starts at 0.1. Distances are a share of the query's own position, so any text fills the
    same range; below the threshold L, in tokens, they are a share of L, or short texts would be told apart too
    finely. L = |multiplier| · threshold · window is learned, from a quarter of the window (512 of 2048 in the paper).
    """

    class Knobs(Settings):
        name: Literal["fire"] = "fire"
        hidden: Count = 32
        threshold: float = Field(0.25, gt=0)  # the first L, as a share of the window

    relative = False  # the normaliser is the query's own position

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        self.c = nn.Parameter(torch.tensor([0.1]))
        self.multiplier = nn.Parameter(torch.ones(1))
        self.inner_weight = nn.Parameter(torch.ones(knobs.hidden, 1))
        self.inner_bias = nn.Parameter(torch.zeros(knobs.hidden))
        self.outer_weight = nn.Parameter(torch.zeros(geometry.heads, knobs.hidden))

    def initialise(self, draw) -> None:
        """The network starts as the authors' did: uniform within 1/√inputs, torch's own default."""
        with torch.no_grad():
            for name, inputs in (("inner_weight", 1), ("inner_bias", 1), ("outer_weight", self.knobs.hidden)):
                getattr(self, name).uniform_(-(inputs**-0.5), inputs**-0.5, generator=draw(name))

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        dtype = keys.dtype
        c = self.c.to(dtype).abs()
        threshold = self.multiplier.to(dtype).abs() * (self.knobs.threshold * self.geometry.window)
        normaliser = torch.log1p(c * torch.maximum(queries, threshold)).clamp(min=1e-6)  # (…, Q); c may pass zero
        share = torch.log1p(c * distances(queries, keys)).squeeze(-3) / normaliser[..., None]  # (…, Q, N)
        return self._network(share).movedim(-1, -3)

    def _network(self, share: Tensor) -> Tensor:
        """f of shares in [0, 1], (…) → (…, H).

        f is a line between two knots, where an inner unit turns on or off. To look up the line costs a seventh of
        computing `hidden` units for every pair, and has the same value and gradient.
        """
        weight, bias = self.inner_weight.to(share.dtype).squeeze(-1), self.inner_bias.to(share.dtype)
        with torch.no_grad():
            turns = (-bias / weight).nan_to_num(0).clamp(0, 1).sort().values  # further ones are out of reach
            ends = torch.cat((turns.new_zeros(1), turns, turns.new_ones(1)))
            middle = (ends[:-1] + ends[1:]) / 2  # of every piece, (hidden + 1,)
            on = (middle[:, None] * weight + bias > 0).to(share.dtype)  # (hidden + 1, hidden)
            piece = torch.bucketize(share, turns)
        outer = self.outer_weight.to(share.dtype).T  # (hidden, H)
        lines = torch.cat((on * bias @ outer, on * weight @ outer), dim=-1)  # (hidden + 1, 2H)
        start, slope = F.embedding(piece, lines).chunk(2, dim=-1)  # (…, H)
        return torch.addcmul(start, slope, share[..., None])
