"""The schemes and extensions that stand alone, by name; those made of others are added in __init__.py and switch.py."""

from typing import ClassVar, Literal

from conf.base import Settings
from models.positions.base import Position
from models.positions.bias import FIRE, T5, ALiBi, Kerple
from models.positions.contextual import CoPE
from models.positions.embed import Binary, Learned, Sinusoidal
from models.positions.extensions import Drop, DynamicInterpolate, Extension, Interpolate
from models.positions.fourier import FoPE
from models.positions.gated import FoX, GrapeAP
from models.positions.grouped import DualChunk, LeakyReRoPE, ReRoPE, SelfExtend
from models.positions.longrope import LongRoPE
from models.positions.polar import PoPE
from models.positions.rescaled import NTK, Base, DynamicNTK, Llama3, Resonance, Yarn
from models.positions.rotate import LearnedRoPE, PRoPE, RoPE, XPos


class NoPE(Position):
    """No positional encoding: the causal mask alone tells order (Kazemnejad et al. 2023)."""

    class Knobs(Settings):
        name: Literal["none"] = "none"

    exempt: ClassVar = {
        "tells_order": "without positions, a single layer sees its prefix as a set, which is the point",
        "reads_positions": "it has no use for the positions given",
    }


SINGLE_SCHEMES: dict[str, type[Position]] = {
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
    "fox": FoX,
    "grape_ap": GrapeAP,
}

SINGLE_EXTENSIONS: dict[str, type[Extension]] = {
    "none": Extension,
    "interpolate": Interpolate,
    "dynamic_interpolate": DynamicInterpolate,
    "ntk": NTK,
    "dynamic_ntk": DynamicNTK,
    "yarn": Yarn,
    "llama3": Llama3,
    "base": Base,
    "longrope": LongRoPE,
    "resonance": Resonance,
    "self_extend": SelfExtend,
    "rerope": ReRoPE,
    "leaky_rerope": LeakyReRoPE,
    "dca": DualChunk,
    "drop": Drop,
}
