"""An extension of long texts alone: those within the window are read as the model was first trained."""

from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo
from torch import Tensor

from conf.base import BadInput, Settings, settings_of
from models.positions.extensions import Extension, Moved, Stretch, length_of
from models.positions.frequencies import phases
from models.positions.tables import SINGLE_EXTENSIONS


def _over(value, info: ValidationInfo) -> Settings:
    """The settings of the other extension, from its name or from its name and settings, at the factor given."""
    if isinstance(value, Settings):
        return value
    given = dict(value) if isinstance(value, dict) else {"name": value}
    name, factor = given.get("name"), info.data.get("factor", 1.0)  # absent where it is refused itself
    if not isinstance(name, str) or name not in SINGLE_EXTENSIONS:
        raise ValueError(f"{name} is not known; allowed: {', '.join(SINGLE_EXTENSIONS)}")
    knobs = SINGLE_EXTENSIONS[name].Knobs
    if "factor" in knobs.model_fields and given.setdefault("factor", factor) != factor:
        raise ValueError(f"{name} has factor={given['factor']}, and the switch has factor={factor:g}: leave one out")
    if given.get("rows") is not None:
        raise ValueError(f"{name} has rows={given['rows']}, which is for the switch to have: extend.rows")
    return settings_of(SINGLE_EXTENSIONS, given)


class Switch(Extension):
    """Texts of up to L tokens as first trained, temperature 1 included, longer ones with another extension.

    How a model is read that was fine-tuned on mixed windows (LongRoPE2: Shang et al. 2025, arXiv 2502.20082): short
    texts lose nothing to the extension. The switch is a text's own, so that a batch may hold both kinds.
    """

    class Knobs(Stretch):
        name: Literal["switch"] = "switch"
        over: Annotated[SerializeAsAny[Settings], BeforeValidator(_over)] = Field("yarn", validate_default=True)

        @property
        def stem(self) -> str:
            return f"{self.over.label}-switch"  # type: ignore[attr-defined] # every extension has one

    depends_on_length = True
    relative = False  # later positions mean a longer text

    def __init__(self, knobs: Any, window: int):
        super().__init__(knobs, window)
        self.over = SINGLE_EXTENSIONS[knobs.over.name](knobs.over, window)
        self.changes, self.unit, self.temperature = self.over.changes, self.over.unit, self.over.temperature
        if self.changes is None:
            raise BadInput(f"extend.over={knobs.over.name} has nothing to switch: it reads all as first trained")
        if self.over.depends_on_length:
            raise BadInput(f"extend.over={knobs.over.name} reads texts by their length itself and needs no switch")

    def fits(self, frequencies: Tensor) -> None:
        self.over.fits(frequencies)

    def positions(self, positions: Tensor) -> Tensor:
        return torch.where(self._long(positions)[..., 0], self.over.positions(positions), positions)

    def phases(self, positions: Tensor, frequencies: Tensor) -> Tensor:
        # Positions that were divided look like a shorter text's, but then the frequencies are the same for both.
        extended = self.over.phases(positions, frequencies)
        return torch.where(self._long(positions), extended, phases(positions, frequencies))

    def temperature_at(self, length: Tensor) -> float | Tensor:
        if self.temperature == 1:
            return 1.0
        return torch.ones_like(length).masked_fill(length > self.window, self.temperature)  # in the dtype of the length

    def moved(self, positions: Tensor) -> list[Moved]:
        """In a short text far tokens stand where they are."""
        long = self._long(positions)[..., 0]
        return [
            Moved(first, torch.where(long, queries, positions), torch.where(long, keys, positions))
            for first, queries, keys in self.over.moved(positions)
        ]

    def _long(self, positions: Tensor) -> Tensor:
        """Which tokens stand in a text that is read with the extension, (…, T) → (…, T, 1)."""
        return length_of(positions) > self.window


EXTENSIONS: dict[str, type[Extension]] = {**SINGLE_EXTENSIONS, "switch": Switch}
