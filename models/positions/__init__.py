"""Schemes and extensions by name. Adding one is a class, its row here, and a file in conf/position or conf/extend."""

from typing import Any, ClassVar, Literal

from conf.base import Settings
from models.positions.base import Geometry, Position
from models.positions.bias import FIRE, T5, ALiBi, Kerple
from models.positions.contextual import CoPE
from models.positions.embed import Binary, Learned, Sinusoidal
from models.positions.extensions import Drop, Extension, Interpolate
from models.positions.fourier import FoPE
from models.positions.frequencies import SPECTRA
from models.positions.grouped import ReRoPE, SelfExtend
from models.positions.longrope import LongRoPE
from models.positions.mixture import Mixture
from models.positions.polar import PoPE
from models.positions.rescaled import NTK, Base, DynamicNTK, Llama3, Resonance, Yarn
from models.positions.rotate import LearnedRoPE, PRoPE, RoPE, XPos
from models.positions.seen import SEEN
from models.positions.switch import Switch

__all__ = ["EXTENSIONS", "SCHEMES", "SEEN", "SPECTRA", "Extension", "Geometry", "NoPE", "Position", "build_position"]


class NoPE(Position):
    """No positional encoding: the causal mask alone tells order (Kazemnejad et al. 2023)."""

    class Knobs(Settings):
        name: Literal["none"] = "none"

    exempt: ClassVar = {
        "tells_order": "without positions, a single layer sees its prefix as a set, which is the point",
        "reads_positions": "it has no use for the positions given",
    }


SCHEMES: dict[str, type[Position]] = {
    "none": NoPE,
    "sinusoidal": Sinusoidal,
    "learned": Learned,
    "binary": Binary,
    "rope": RoPE,
    "p_rope": PRoPE,
    "xpos": XPos,
    "learned_rope": LearnedRoPE,
    "fope": FoPE,
    "pope": PoPE,
    "alibi": ALiBi,
    "t5": T5,
    "kerple": Kerple,
    "fire": FIRE,
    "cope": CoPE,
    "mixture": Mixture,
}

EXTENSIONS: dict[str, type[Extension]] = {
    "none": Extension,
    "interpolate": Interpolate,
    "ntk": NTK,
    "dynamic_ntk": DynamicNTK,
    "yarn": Yarn,
    "llama3": Llama3,
    "base": Base,
    "longrope": LongRoPE,
    "resonance": Resonance,
    "self_extend": SelfExtend,
    "rerope": ReRoPE,
    "drop": Drop,
    "switch": Switch,
}


def build_position(position: Any, frequencies: Any, extend: Any, geometry: Geometry) -> Position:
    """Build the scheme the position settings name, turning at these frequencies, read with this extension.

    Raises:
        BadInput: the scheme cannot take the frequencies or the extension, or does not fit the model's sizes.
    """
    extension = EXTENSIONS[extend.name](extend, geometry.window)
    return SCHEMES[position.name](position, geometry, frequencies, extension)
