"""Schemes that add something to the token embeddings, once."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from conf.base import BadInput
from models.positions.base import Position, Settings


class Added(Position):
    """A scheme whose `prepare` returns the table to add, (T, C) or (B, T, C)."""

    relative = False  # the sum enters queries, keys and values, where absolute positions survive

    def embed(self, x: Tensor, prepared: Tensor) -> Tensor:
        return (x + prepared).to(x.dtype)


class Sinusoidal(Added):
    """The absolute sinusoid of Vaswani et al. (2017, section 3.5), added once to the embeddings.

    PE(p, 2i) = sin(p · base^(-2i/C)) and PE(p, 2i+1) = cos(p · base^(-2i/C)): sine and cosine alternate by channel.
    The paper multiplies the embeddings by √C first; the model here does so for every scheme, so that arms of a
    comparison differ in the added table alone. PE(p + φ) = M_φ PE(p) with a rotation M_φ that does not depend on p.
    """

    class Knobs(Settings):
        name: Literal["sinusoidal"] = "sinusoidal"

    stretches = frozenset({"positions", "frequencies"})

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        if geometry.width % 2:
            raise BadInput(f"position=sinusoidal needs an even model.width, not {geometry.width}")
        extension.fits(spectrum.table(geometry.width))  # both refuse here what they cannot do

    def prepare(self, positions: Tensor) -> Tensor:
        """Positions (T,) or (B, T) → the table to add, (T, C) or (B, T, C)."""
        frequencies = self.spectrum.table(self.geometry.width, positions.device)
        phase = self.extension.phases(positions, frequencies)  # (…, T, C/2)
        return torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(-2)  # (…, T, C), interleaved


class Learned(Added):
    """One learned vector per position of the window, added to the embeddings (GPT, BERT; Gehring et al. 2017).

    A table of more rows than the window has tokens is for training that moves the window about in it (seen=offset).

    PE(p) = √C · table[p]. The factor is the one token embeddings carry (√C unless model.embedding_scale is set), so
    that the two start alike (normal, 0.02) and learn at the same rate, as in GPT-2. Between two rows the table is
    interpolated linearly, which is how position interpolation stretches it: positions divided by s read rows up to s
    times closer. The last row holds for the fraction of a token after it.
    """

    class Knobs(Settings):
        name: Literal["learned"] = "learned"
        rows: int | None = Field(None, ge=1, le=2**20, exclude_if=lambda value: value is None)

    stretches = frozenset({"positions"})
    exempt: ClassVar = {"past_the_window": "the table ends with the window it was trained on, and the scheme says so"}

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        self.table = nn.Parameter(torch.zeros(knobs.rows or geometry.window, geometry.width))

    def initialise(self, draw) -> None:
        with torch.no_grad():
            self.table.normal_(std=0.02, generator=draw("table"))

    def prepare(self, positions: Tensor) -> Tensor:
        """Positions (T,) or (B, T) → rows of the table, (T, C) or (B, T, C).

        Raises:
            BadInput: a position lies beyond the table. Compiled code cannot look; there the lookup itself fails.
        """
        rows = len(self.table)
        if not torch.compiler.is_compiling() and positions.numel() and positions.max() >= rows:
            raise BadInput(
                f"learned positions end at {rows}, and position {positions.max().item():g} was asked for; "
                "extend=interpolate reaches further"
            )
        table = self.table.to(positions.dtype) * self.geometry.embedding_scale
        before = positions.floor()
        low, high = before.long(), (before.long() + 1).clamp(max=rows - 1)
        return torch.lerp(
            nn.functional.embedding(low, table), nn.functional.embedding(high, table), (positions - before)[..., None]
        )


class Binary(Added):
    """The bits of the position, the discrete ancestor of the sinusoid: bit b turns over every 2^b tokens.

    PE(p, b) = +1 where bit b of p is set, else -1, on the first `bits` channels; the other channels get nothing.
    After 2^bits positions the code repeats. Between two whole positions it is interpolated linearly, so that
    position interpolation has a meaning; where many bits turn over at once (7 to 8), halfway is near silence.
    """

    class Knobs(Settings):
        name: Literal["binary"] = "binary"
        bits: int = Field(16, ge=1, le=24)  # float32 counts whole numbers up to 2^24

    stretches = frozenset({"positions"})

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        if knobs.bits > geometry.width:
            raise BadInput(f"position.bits={knobs.bits} needs as many channels; model.width={geometry.width}")

    def prepare(self, positions: Tensor) -> Tensor:
        """Positions (T,) or (B, T) → their codes, padded with zeros: (T, C) or (B, T, C)."""
        before = positions.floor()
        code = torch.lerp(self._code(before), self._code(before + 1), (positions - before)[..., None])
        return nn.functional.pad(code, (0, self.geometry.width - self.knobs.bits))

    def _code(self, whole: Tensor) -> Tensor:
        """Whole positions (…, T) → ±1, (…, T, bits), the lowest bit first."""
        halves = 2.0 ** -torch.arange(self.knobs.bits, dtype=whole.dtype, device=whole.device)
        return (whole[..., None] * halves).floor() % 2 * 2 - 1
