"""Extensions without training that regroup distances: near tokens stand where they are, far ones stand closer.

What they say is positions alone; the scheme turns queries and keys to them (models/positions/rotate.py). Reading, each
group of distances is a part of the attention that fused kernels compute (models/parts.py); training, the scores of far
pairs are replaced through the hook `bias`.
"""

from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor

from conf.base import BadInput, Count
from models.positions.extensions import Extension, Moved, Stretch
from models.positions.rows import Sharpened


class Grouped(Extension):
    """An extension that leaves distances below `near` alone; a share of the window unless it is set."""

    changes = "plain rotation"
    share: float
    knob = "near"  # what sets it

    def __init__(self, knobs: Any, window: int):
        super().__init__(knobs, window)
        near = getattr(knobs, self.knob)
        self.near = max(1, int(window * self.share)) if near is None else near
        if self.near >= window:
            raise BadInput(
                f"extend.{self.knob}={self.near} must be below the window of {window} tokens the model knows"
            )


class SelfExtend(Grouped):
    """Self-Extend: beyond W tokens, positions are floored to groups of G (Jin et al. 2024, arXiv 2401.01325).

    A far query stands at ⌊p/G⌋ + W - ⌊W/G⌋ and a far key at ⌊p/G⌋, so the grouped distances go on where the near ones
    end. G is the smallest size that brings every distance of s·L tokens below L; at G = 1 nothing is regrouped. W is
    a quarter of the window unless it is set (the paper's 1024 of Llama 2's 4096).
    """

    class Knobs(Stretch):
        name: Literal["self_extend"] = "self_extend"
        near: Count | None = None  # W, tokens

    share = 0.25

    def __init__(self, knobs: Any, window: int):
        super().__init__(knobs, window)
        last, near = knobs.factor * window - 1, self.near
        self.group = next(size for size in count(1) if last // size + near - near // size < window)
        self.relative = self.group == 1  # which group a token falls into depends on where the text starts

    def moved(self, positions: Tensor) -> list[Moved]:
        if self.group == 1:
            return []
        keys = (positions / self.group).floor()
        return [Moved(self.near, keys + (self.near - self.near // self.group), keys)]


class ReRoPE(Grouped):
    """ReRoPE: distances are clipped at w tokens (Su 2023, kexue.fm/archives/9708), so any length is one factor.

    Every distance is one the model was trained on if w is below the window; half of it unless it is set. The author's
    optional growth of the scores with the logarithm of the position is rows=su.
    """

    class Knobs(Sharpened):
        name: Literal["rerope"] = "rerope"
        near: Count | None = None  # w, tokens

    share = 0.5
    slope = 0.0  # 1/k, by which distances grow beyond w

    def moved(self, positions: Tensor) -> list[Moved]:
        if self.slope == 1:
            return []
        return [Moved(self.near, self.near + self.slope * (positions - self.near), self.slope * positions)]


class LeakyReRoPE(ReRoPE):
    """Leaky ReRoPE: a distance m beyond w tokens is w + (m - w)/k (Su 2023, kexue.fm/archives/9708).

    k is the one that brings the largest distance of s·L tokens to L - 1; at s = 1 nothing changes.
    """

    class Knobs(Stretch):
        name: Literal["leaky_rerope"] = "leaky_rerope"
        near: Count | None = None  # w, tokens

    def __init__(self, knobs: Any, window: int):
        super().__init__(knobs, window)
        known, last = window - 1 - self.near, knobs.factor * window - 1 - self.near
        self.slope = known / last if knobs.factor > 1 else 1.0


class DualChunk(Grouped):
    """Dual Chunk Attention: positions start anew in every chunk of s tokens (An et al. 2024, arXiv 2402.17463).

    A key stands at j mod s. A query at i stands at i mod s for keys of its own chunk, where scores are as they were;
    at min(i mod s + s, L - 1) for those of the chunk before, so that the last L - s tokens are seen where they are;
    and at L - 1 for all others. s is three quarters of the window L unless it is set. Any length is one factor.
    """

    class Knobs(Sharpened):
        name: Literal["dca"] = "dca"
        chunk: Count | None = None  # s, tokens

        @property
        def stem(self) -> str:
            return f"{self.name}{self.chunk or ''}"

    share, knob = 0.75, "chunk"
    relative = False  # where chunks begin depends on where the text starts

    def __init__(self, knobs: Any, window: int):
        super().__init__(knobs, window)
        self.unit = self.near

    def moved(self, positions: Tensor) -> list[Moved]:
        keys, last = positions % self.unit, self.window - 1
        return [
            Moved(1, (keys + self.unit).clamp(max=last), keys),
            Moved(2, torch.full_like(positions, last), keys),
        ]
