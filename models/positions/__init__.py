"""Schemes and extensions by name. Adding one is a class, its row in tables.py, and a file in conf/."""

from typing import Any

from models.positions.base import Geometry, Position
from models.positions.extensions import Extension
from models.positions.frequencies import SPECTRA
from models.positions.mixture import Mixture
from models.positions.seen import SEEN
from models.positions.switch import Switch
from models.positions.tables import SINGLE_EXTENSIONS, SINGLE_SCHEMES, NoPE

__all__ = ["EXTENSIONS", "SCHEMES", "SEEN", "SPECTRA", "Extension", "Geometry", "NoPE", "Position", "build_position"]

SCHEMES: dict[str, type[Position]] = {**SINGLE_SCHEMES, "mixture": Mixture}
EXTENSIONS: dict[str, type[Extension]] = {**SINGLE_EXTENSIONS, "switch": Switch}


def build_position(position: Any, frequencies: Any, extend: Any, geometry: Geometry) -> Position:
    """Build the scheme the position settings name, turning at these frequencies, read with this extension.

    Raises:
        BadInput: the scheme cannot take the frequencies or the extension, or does not fit the model's sizes.
    """
    extension = EXTENSIONS[extend.name](extend, geometry.window)
    return SCHEMES[position.name](position, geometry, frequencies, extension)
