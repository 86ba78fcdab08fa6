"""Positional schemes by name. Adding one is a class, its row here, and a YAML file in conf/position."""

from typing import Literal

from conf.base import Settings
from models.positions.base import Geometry, Position
from models.positions.embed import Sinusoidal
from models.positions.extensions import EXTENSIONS, Extension
from models.positions.frequencies import SPECTRA
from models.positions.rotate import RoPE

__all__ = ["EXTENSIONS", "SCHEMES", "SPECTRA", "Extension", "Geometry", "NoPE", "Position", "build_position"]


class NoPE(Position):
    """No positional encoding: the causal mask alone tells order (Kazemnejad et al. 2023)."""

    class Knobs(Settings):
        name: Literal["none"] = "none"


SCHEMES: dict[str, type[Position]] = {
    "none": NoPE,
    "sinusoidal": Sinusoidal,
    "rope": RoPE,
}


def build_position(position: Settings, frequencies: Settings, extend: Settings, geometry: Geometry) -> Position:
    """Build the scheme the position settings name, turning at these frequencies, read with this extension.

    Raises:
        BadInput: the scheme cannot take the frequencies or the extension, or does not fit the model's sizes.
    """
    extension = EXTENSIONS[extend.name](extend, geometry.window)
    return SCHEMES[position.name](position, geometry, frequencies, extension)
