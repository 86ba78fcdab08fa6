"""Positions seen in training: which of a longer range's positions the T tokens of a window stand at.

A model that trains on windows of T tokens can still meet every position up to `longest`, and so every distance,
without the cost of a longer window; and one that is fine-tuned on longer windows can go on meeting those it was first
trained on. Evaluation is always contiguous. Each way is its own settings and a pure function of a generator on the CPU,
or of the number of a window; positions rise, in float32, exact up to 2^24 where they are whole numbers.

Letters in shape comments are those of models/__init__.py; L: tokens of the window first trained on.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from conf.base import BadInput, Settings
from models.positions.extensions import Extension

# Counts that float32 holds exactly.
Longest = Annotated[int, Field(ge=1, le=2**24)]


class Seen(Settings):
    """What a way of seeing may say of a window; here nothing."""

    cuts: ClassVar[bool] = False  # some windows are read as several texts

    def fits(self, window: int, extension: Extension) -> None:
        """Refuse windows of T tokens, read with this extension, that cannot be seen in this way.

        Raises:
            BadInput: one sentence that says what it needs.
        """

    def cut(self, windows: Tensor, first: int, original: int) -> tuple[Tensor, ...]:
        """Windows (B, T + 1) with the numbers first … first + B - 1 in training → the sequences to read, by length."""
        return (windows,)

    def positions(self, length: int, batch: int, generator: torch.Generator, done: float = 0.0) -> Tensor | None:
        """Positions of a batch of windows, (B, T) in float32; None where the model counts for itself.

        done: the share of the run's steps that is over, below 1.
        """
        return None


class Contiguous(Seen):
    """0 … T - 1: every position of the window and no other."""

    name: Literal["contiguous"] = "contiguous"


class Randomized(Seen):
    """A sorted sample without replacement of T of `longest` positions (Ruoss et al. 2023, randomized encodings).

    Fresh for every batch, and shared by its sequences as in the paper.
    """

    name: Literal["randomized"] = "randomized"
    longest: Longest = 2048

    def positions(self, length: int, batch: int, generator: torch.Generator, done: float = 0.0) -> Tensor:
        _fits(self, length)
        return _sample(self.longest, length, generator).expand(batch, length)


class Curriculum(Seen):
    """Randomized positions whose range grows over the run, from the window itself to `longest`, in equal steps.

    The curriculum of Randomized YaRN (Mehta et al. 2026, arXiv 2606.23687, 2.2), which draws T of the first L_t
    positions with L_t growing by epoch (8K, 16K, 24K, …), the texts being as short as ever; with extend=yarn. Here
    every stage has as many steps as the others, whatever epochs they come to.
    """

    name: Literal["curriculum"] = "curriculum"
    longest: Longest = 2048
    stages: int = Field(4, ge=2, le=2**24)

    def positions(self, length: int, batch: int, generator: torch.Generator, done: float = 0.0) -> Tensor:
        _fits(self, length)
        stage = int(done * self.stages)
        reached = length + (self.longest - length) * stage // (self.stages - 1)
        return _sample(reached, length, generator).expand(batch, length)


class RandomFloats(Seen):
    """T uniform draws from [0, longest), in order: any spacing, and no position that is only met beyond the window.

    Random Float Sampling (Shimizu et al. 2026, arXiv 2602.14050), which draws them from [0, 1); fresh for every
    sequence. Trained at longest = window and read with extend=dynamic_interpolate, texts of any length stand there.
    """

    name: Literal["random_floats"] = "random_floats"
    longest: Longest = 2048

    def positions(self, length: int, batch: int, generator: torch.Generator, done: float = 0.0) -> Tensor:
        draws = torch.rand(batch, length, generator=generator, dtype=torch.float32)
        return draws.mul(self.longest).sort(dim=-1).values


class Skipwise(Seen):
    """PoSE: the window in two chunks, the second moved on by a random gap (Zhu et al. 2024, section 3.2).

    Per sequence: the first chunk has 1 … T - 1 tokens and starts at 0; the gap is 0 … longest - T tokens, both
    uniform, so the last token reaches every position from T - 1 to longest - 1. The text itself stays contiguous, and
    the first chunk is not moved (in the authors' code the first skip is zero).
    """

    name: Literal["skipwise"] = "skipwise"
    longest: Longest = 2048

    def positions(self, length: int, batch: int, generator: torch.Generator, done: float = 0.0) -> Tensor:
        _fits(self, length)
        cut = torch.randint(1, max(length, 2), (batch, 1), generator=generator)
        gap = torch.randint(self.longest - length + 1, (batch, 1), generator=generator)
        slots = torch.arange(length)
        return (slots + gap * (slots >= cut)).to(torch.float32)


class Offset(Seen):
    """The window moved on by a random offset, so that it stands anywhere below `longest` (Huang et al. 2024).

    Per sequence, uniform over 0 … longest - T. What absolute positions are read at beyond the window, they were trained
    at: with samples of at most T tokens and longest = T + S, every position below S is one that samples start at.
    """

    name: Literal["offset"] = "offset"
    longest: Longest = 2048

    def positions(self, length: int, batch: int, generator: torch.Generator, done: float = 0.0) -> Tensor:
        _fits(self, length)
        offset = torch.randint(self.longest - length + 1, (batch, 1), generator=generator)
        return (torch.arange(length) + offset).to(torch.float32)


class Mixed(Seen):
    """A share of the windows cut into chunks of L tokens that are read as first trained, the others whole.

    Mixed context window training (LongRoPE2: Shang et al. 2025, arXiv 2502.20082): a chunk is a text of its own, at
    positions 0 … L - 1, so an extension that switches by length leaves it alone, while windows of s·L tokens are read
    stretched. A step trains as many tokens as ever, and every target counts alike; the first token of a chunk is the
    last target of the one before it. Which windows are cut is a matter of their number, evenly spread, so that every
    batch has its share, however many processes or passes divide it.
    """

    name: Literal["mixed"] = "mixed"
    share: float = Field(0.5, ge=0, le=1)
    cuts: ClassVar = True

    def fits(self, window: int, extension: Extension) -> None:
        if window % extension.window or window == extension.window:
            raise BadInput(
                f"seen=mixed cuts windows into chunks of the original window of {extension.window} tokens, "
                f"so window={window} must be two or more of them"
            )
        if not extension.depends_on_length:
            raise BadInput(
                f"seen=mixed needs an extension that reads texts by their length, such as extend=switch, "
                f"and extend={extension.knobs.name} reads short and long ones alike"
            )

    def cut(self, windows: Tensor, first: int, original: int) -> tuple[Tensor, ...]:
        """The chunks (n·s, L + 1) of n windows, then the other windows (B - n, T + 1); either may be none."""
        numbers = range(first, first + len(windows))
        short = torch.tensor([int((n + 1) * self.share) > int(n * self.share) for n in numbers], device=windows.device)
        chunks = windows[short].unfold(1, original + 1, original)  # (n, s, L + 1)
        return chunks.flatten(0, 1), windows[~short]


def _sample(reached: int, length: int, generator: torch.Generator) -> Tensor:
    """T of the positions 0 … reached - 1, in order, (T,) in float32."""
    return torch.randperm(reached, generator=generator)[:length].sort().values.to(torch.float32)


def _fits(settings: Any, length: int) -> None:
    if settings.longest < length:
        raise BadInput(f"seen.longest={settings.longest} is shorter than a window of {length} tokens")


SEEN: dict[str, type[Settings]] = {
    "contiguous": Contiguous,
    "randomized": Randomized,
    "curriculum": Curriculum,
    "random_floats": RandomFloats,
    "skipwise": Skipwise,
    "offset": Offset,
    "mixed": Mixed,
}
# They see positions of a longer range than their windows.
STRETCHED = ("skipwise", "randomized", "curriculum", "random_floats")
