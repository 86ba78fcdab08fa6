"""Extensions without training that regroup distances: near tokens stand where they are, far ones stand closer.

What they say is positions alone; the scheme turns queries and keys to them and replaces the scores of far pairs
through its hook `bias` (models/positions/rotate.py). The flash path is lost.
"""

from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor

from conf.base import BadInput, Count
from models.positions.extensions import Extension, Stretch
from models.positions.rows import Sharpened


class Grouped(Extension):
    """An extension that leaves distances below `near` alone; a share of the window unless it is set."""

    changes = "plain rotation"
    share: float

    def __init__(self, knobs: Any, window: int):
        super().__init__(knobs, window)
        self.near = max(1, int(window * self.share)) if knobs.near is None else knobs.near
        if self.near >= window:
            raise BadInput(f"extend.near={self.near} must be below the window of {window} tokens the model knows")


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
        if self.group == 1:
            self.near = None

    def far(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        keys = (positions / self.group).floor()
        return keys + (self.near - self.near // self.group), keys


class ReRoPE(Grouped):
    """ReRoPE: distances are clipped at w tokens (Su 2023, kexue.fm/archives/9708), so any length is one factor.

    Every distance is one the model was trained on if w is below the window; half of it unless it is set. The author's
    optional growth of the scores with the logarithm of the position is rows=su.
    """

    class Knobs(Sharpened):
        name: Literal["rerope"] = "rerope"
        near: Count | None = None  # w, tokens

        @property
        def stem(self) -> str:
            return self.name

    share = 0.5

    def far(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(positions, self.near), torch.zeros_like(positions)
