"""Extensions: how a model trained on windows of L tokens reads longer ones. The contract, and the two simplest.

phase = position × frequency, and an extension changes one of the two factors; the scheme asks it for their product.
Factors are always relative to the original window, the one the model was trained on before any extension.

Letters in shape comments are those of models/__init__.py.
"""

from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from models.positions.frequencies import phases
from models.positions.rows import Sharpened


def length_of(positions: Tensor) -> Tensor:
    """The length of the text that each token stands in, its last position + 1: (…, T) → (…, T, 1).

    A row may hold several texts, documents kept apart: one begins wherever positions fall. (One of a
    single token counts with the next: it has no distances, so its length changes nothing.)
    """
    count = positions.shape[-1]
    index = torch.arange(count, device=positions.device)
    goes_on = F.pad(positions[..., 1:] >= positions[..., :-1], (0, 1))  # (…, T), False at the last token of a text
    last = torch.where(goes_on, count, index).flip(-1).cummin(-1).values.flip(-1)
    return positions.gather(-1, last)[..., None] + 1


class Moved(NamedTuple):
    """Where tokens stand for each other from so many units apart on."""

    first: int
    queries: Tensor  # positions, (…, T)
    keys: Tensor


class Extension:
    """Plain extrapolation: positions and frequencies are what they were in training."""

    class Knobs(Sharpened):
        name: Literal["none"] = "none"

    # What it changes, which the scheme must have: "positions", "frequencies", or "plain rotation", the scores of a
    # scheme that turns queries and keys by the phase and does nothing else.
    changes: str | None = None
    exempt: ClassVar[dict[str, str]] = {}  # laws of tests/laws.py a scheme cannot obey when read so, with the reason
    depends_on_length: bool = False  # the logits of a text change when more text follows it
    relative: bool = True  # what a relative scheme says still depends on distances alone
    temperature: float = 1.0  # t of the scores q·k/(t√D), of all channels and beside any bias, where it stretches
    unit: int = 1  # tokens; what `moved` counts

    def __init__(self, knobs: Any, window: int):
        """Bind the extension to the original window, in tokens."""
        self.knobs, self.window = knobs, window

    def fits(self, frequencies: Tensor) -> None:
        """Refuse, when a model is built, the frequencies (K,) that this extension cannot read.

        Raises:
            BadInput: one sentence that says what it needs.
        """

    def positions(self, positions: Tensor) -> Tensor:
        """The positions the scheme sees for tokens at these positions, same shape and dtype."""
        return positions

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        """The frequencies to turn at in place of these, (K,) in float64 → (K,), or (…, T, K) where length matters.

        length: (…, T, 1), that of the text each token stands in (`length_of`).
        """
        return frequencies

    def temperature_at(self, length: Tensor) -> float | Tensor:
        """The temperature in texts of these lengths, (…, T, 1): one number, or one for every token, (…, T, 1)."""
        return self.temperature

    def sharpness(self, positions: Tensor) -> Tensor | None:
        """What queries at these positions, (…, T) before any extension, are multiplied by, (…, T); None: by nothing."""
        rows = self.knobs.rows
        return None if rows is None else rows.sharpness(positions, self.window)

    def phases(self, positions: Tensor, frequencies: Tensor) -> Tensor:
        """phase = position × frequency, extended: (…, T) and (K,) → (…, T, K) in the dtype of the positions."""
        return phases(positions, self.frequencies(frequencies, length_of(positions)))

    def moved(self, positions: Tensor) -> list[Moved]:
        """Where tokens at positions (…, T) stand for those far from them, the nearest first; nearer ones stay.

        Distances are those of the positions, or of the units of several tokens that they fall in. Each holds up to
        where the next begins, and all but the last for one distance.
        """
        return []


class Stretch(Sharpened):
    """Settings of an extension by a factor s = L'/L: how many times its window a model shall read."""

    factor: float = Field(ge=1)

    @property
    def stem(self) -> str:
        return f"{self.name}{self.factor:g}"  # type: ignore[attr-defined] # each that is used has a name


class Interpolate(Extension):
    """Position Interpolation: positions divided by the factor s = L'/L (Chen et al. 2023, eq. 4).

    A division, not a product with 1/s: s·p then comes back as p to the last bit.
    """

    class Knobs(Stretch):
        name: Literal["interpolate"] = "interpolate"

    changes = "positions"

    def positions(self, positions: Tensor) -> Tensor:
        return positions / self.knobs.factor


class DynamicInterpolate(Extension):
    """Position Interpolation by what the text read needs: the positions of n tokens divided by max(1, n/L).

    So a model reads that was trained by Random Float Sampling (seen=random_floats; Shimizu et al. 2026, arXiv
    2602.14050): token i = 1 … n at (2i - 1)/(2 max(L, n)) of the range it was trained on. Here it stands half a spacing
    earlier, as in plain counting within the window, which schemes that see distances alone cannot tell.
    """

    class Knobs(Sharpened):
        name: Literal["dynamic_interpolate"] = "dynamic_interpolate"

    changes = "positions"
    depends_on_length = True
    relative = False  # later positions mean a longer text

    def positions(self, positions: Tensor) -> Tensor:
        length = length_of(positions)[..., 0].floor()  # of random floats below L, at most L
        return positions / (length / self.window).clamp(min=1)


class Drop(Extension):
    """DroPE: the rotation a model was trained with is taken away, and then it is fine-tuned briefly (2512.12167).

    Every frequency is zero, so the logits are those of position=none with the same weights. Beyond the window the
    paper multiplies scores by 1 + c·ln s with c fitted to the model; in these words, temperature = 1/(1 + c·ln s).
    """

    class Knobs(Sharpened):
        name: Literal["drop"] = "drop"
        temperature: float = Field(1.0, gt=0)

    changes = "plain rotation"
    exempt: ClassVar = {
        "tells_order": "without positions, a single layer sees its prefix as a set, as with position=none",
        "reads_positions": "the positions given turn nothing any more",
    }

    @property
    def temperature(self) -> float:
        return self.knobs.temperature

    def frequencies(self, frequencies: Tensor, length: Tensor) -> Tensor:
        return 0 * frequencies  # not fresh zeros: learned ones keep their gradient, which is zero
