"""Schemes and extensions by name. Adding one is a class, its row in tables.py, and a file in conf/."""

from typing import Any

from models.positions.base import Geometry, Position
from models.positions.extensions import Extension
from models.positions.frequencies import SPECTRA
from models.positions.layers import Plan, Planned
from models.positions.mixture import Mixture
from models.positions.seen import SEEN
from models.positions.switch import EXTENSIONS
from models.positions.tables import SINGLE_SCHEMES, NoPE

__all__ = [
    "EXTENSIONS",
    "SCHEMES",
    "SEEN",
    "SPECTRA",
    "Extension",
    "Geometry",
    "NoPE",
    "Plan",
    "Position",
    "build_position",
]

SCHEMES: dict[str, type[Position]] = {**SINGLE_SCHEMES, "mixture": Mixture}


def build_position(
    position: Any, frequencies: Any, extend: Any, geometry: Geometry, layers: Plan | None = None
) -> Position:
    """Build the scheme the position settings name, turning at these frequencies, read with this extension.

    Args:
        layers: the plan by which layers differ; None if they do not.

    Raises:
        BadInput: the scheme cannot take the frequencies, the extension or the plan, or does not fit the model's sizes.
    """
    scheme, extension = SCHEMES[position.name], EXTENSIONS[extend.name](extend, geometry.window)
    if layers is None or layers.alike:
        return scheme(position, geometry, frequencies, extension)
    return Planned(layers, scheme, position, geometry, frequencies, extension)
