"""Positions seen in training: which of a longer range's positions the T tokens of a window stand at.

A model that trains on windows of T tokens can still meet every position up to `longest`, and so every distance,
without the cost of a longer window. Evaluation is always contiguous. Each way is its own settings and a pure function
of a generator on the CPU; positions are whole numbers, strictly increasing, in float32, exact up to 2^24.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from conf.base import BadInput, Settings

# Counts that float32 holds exactly.
Longest = Annotated[int, Field(ge=1, le=2**24)]


class Contiguous(Settings):
    """0 … T - 1: every position of the window and no other."""

    name: Literal["contiguous"] = "contiguous"

    def positions(self, length: int, batch: int, generator: torch.Generator) -> Tensor | None:
        """Positions of a batch of windows, (B, T) in float32; None where the model counts for itself."""
        return None


class Randomized(Settings):
    """A sorted sample without replacement of T of `longest` positions (Ruoss et al. 2023, randomized encodings).

    Fresh for every batch, and shared by its sequences as in the paper.
    """

    name: Literal["randomized"] = "randomized"
    longest: Longest = 2048

    def positions(self, length: int, batch: int, generator: torch.Generator) -> Tensor:
        _fits(self, length)
        sample = torch.randperm(self.longest, generator=generator)[:length].sort().values
        return sample.to(torch.float32).expand(batch, length)


class Skipwise(Settings):
    """PoSE: the window in two chunks, the second moved on by a random gap (Zhu et al. 2024, section 3.2).

    Per sequence: the first chunk has 1 … T - 1 tokens and starts at 0; the gap is 0 … longest - T tokens, both
    uniform, so the last token reaches every position from T - 1 to longest - 1. The text itself stays contiguous, and
    the first chunk is not moved (in the authors' code the first skip is zero).
    """

    name: Literal["skipwise"] = "skipwise"
    longest: Longest = 2048

    def positions(self, length: int, batch: int, generator: torch.Generator) -> Tensor:
        _fits(self, length)
        cut = torch.randint(1, max(length, 2), (batch, 1), generator=generator)
        gap = torch.randint(self.longest - length + 1, (batch, 1), generator=generator)
        slots = torch.arange(length)
        return (slots + gap * (slots >= cut)).to(torch.float32)


def _fits(settings: Settings, length: int) -> None:
    if settings.longest < length:
        raise BadInput(f"seen.longest={settings.longest} is shorter than a window of {length} tokens")


SEEN: dict[str, type[Settings]] = {
    "contiguous": Contiguous,
    "randomized": Randomized,
    "skipwise": Skipwise,
}
