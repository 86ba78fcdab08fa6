"""Extensions: how a model trained on windows of L tokens reads longer ones.

phase = position × frequency, and an extension changes one of the two factors; the scheme asks for both. Factors are
always relative to the original window, the one the model was trained on before any extension.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from conf.base import Settings


class Extension:
    """Plain extrapolation: positions and frequencies are what they were in training."""

    class Knobs(Settings):
        name: Literal["none"] = "none"

        @property
        def label(self) -> str:
            """How the extension is named in run names and tables."""
            return self.name

    changes: ClassVar[str | None] = None  # the factor of the phase this extension changes, or None
    temperature: float = 1.0  # t of the scores q·k/(t√D), of all channels and beside any bias

    def __init__(self, knobs: Settings, window: int):
        """Bind the extension to the original window, in tokens."""
        self.knobs, self.window = knobs, window

    def positions(self, positions: Tensor) -> Tensor:
        """The positions the scheme sees for tokens at these positions, same shape and dtype."""
        return positions

    def frequencies(self, frequencies: Tensor) -> Tensor:
        """The frequencies the scheme turns at in place of these, (K,) → (K,)."""
        return frequencies


class Interpolate(Extension):
    """Position Interpolation: positions divided by the factor s = L'/L (Chen et al. 2023, eq. 4).

    A division, not a product with 1/s: s·p then comes back as p to the last bit.
    """

    class Knobs(Settings):
        name: Literal["interpolate"] = "interpolate"
        factor: float = Field(ge=1)

        @property
        def label(self) -> str:
            return f"interpolate{self.factor:g}"

    changes = "positions"

    def positions(self, positions: Tensor) -> Tensor:
        return positions / self.knobs.factor


EXTENSIONS: dict[str, type[Extension]] = {
    "none": Extension,
    "interpolate": Interpolate,
}
