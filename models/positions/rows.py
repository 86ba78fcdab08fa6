"""Scores that sharpen with the row: queries are multiplied by a factor that grows with their position.

One setting of every extension, `extend.rows`, in four published forms. A position p counts from 0 and n = p + 1 tokens
are seen; the factor is a function of p alone, so that prefixes are read as they were.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor

from conf.base import Count, Settings, settings_of


class Rows(Settings):
    """What sharpens the scores of a row."""

    learned: ClassVar[bool] = False  # the factor is multiplied by a number that every layer and head learns

    def sharpness(self, positions: Tensor, window: int) -> Tensor:
        """Positions (…, T) → factors of their queries, (…, T); window: the original one, in tokens."""
        raise NotImplementedError


class Llama4(Rows):
    """1 + β·log(1 + ⌊(p + 1)/every⌋), in Llama 4's layers without positions."""

    name: Literal["llama4"] = "llama4"
    beta: float = Field(0.1, gt=0)
    every: Count = 8192  # tokens

    def sharpness(self, positions: Tensor, window: int) -> Tensor:
        return 1 + self.beta * torch.log1p(((positions + 1) / self.every).floor())


class Ministral(Rows):
    """1 + β·log(1 + ⌊p/L⌋) with the original window L, on top of YaRN (Ministral 3)."""

    name: Literal["ministral"] = "ministral"
    beta: float = Field(0.1, gt=0)

    def sharpness(self, positions: Tensor, window: int) -> Tensor:
        return 1 + self.beta * torch.log1p((positions / window).floor())


class SSMax(Rows):
    """s·log n, scalable softmax, with s learned per layer and head (Nakanishi 2025, arXiv 2501.19399).

    s starts at the reciprocal of the mean of log n over the window, so that scores start as large as without it.
    """

    name: Literal["ssmax"] = "ssmax"
    learned: ClassVar[bool] = True

    def sharpness(self, positions: Tensor, window: int) -> Tensor:
        return torch.log(positions.clamp(min=0) + 1)

    def start(self, window: int) -> float:
        """The first s in a model of this window, of two tokens at least."""
        return window / max(math.lgamma(window + 1), math.log(2))


class Su(Rows):
    """max(1, log n/log L) with the original window L: nothing within it (Su, kexue.fm/archives/9708)."""

    name: Literal["su"] = "su"

    def sharpness(self, positions: Tensor, window: int) -> Tensor:
        return (torch.log(positions.clamp(min=0) + 1) / math.log(max(window, 2))).clamp(min=1)


ROWS: dict[str, type[Rows]] = {"llama4": Llama4, "ministral": Ministral, "ssmax": SSMax, "su": Su}


class Sharpened(Settings):
    """What settings of every extension have: how scores sharpen with the row; null: not at all."""

    rows: Annotated[SerializeAsAny[Rows], BeforeValidator(lambda value: settings_of(ROWS, value))] | None = Field(
        None, exclude_if=lambda value: value is None
    )  # younger than the first runs

    @property
    def stem(self) -> str:
        """The label without the way in which scores sharpen with the row."""
        return self.name  # type: ignore[attr-defined] # every extension has one

    @property
    def label(self) -> str:
        """The name of the extension in run names and tables."""
        return self.stem if self.rows is None else f"{self.stem}-{self.rows.name}"  # type: ignore[attr-defined]
