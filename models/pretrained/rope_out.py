"""A rotary scheme with its spectrum and its extension → rope settings of a config.json.

What `transformers` has a type for leaves as that type. Any other spectrum or extension of frequencies leaves as
longrope with the same factors, short and long, and the attention factor that its temperature is: λ_k = θ^(-2k/R)/ω_k,
where ω_k is what pair k turns by per token.
"""

import math

import torch

from conf.base import BadInput
from models.positions import Position
from models.positions.frequencies import Geometric
from models.positions.layers import Planned
from models.positions.mixture import Mixture
from models.positions.rotate import Rotary


def write_rope(position: Position, partial: bool) -> dict:
    """rope_parameters and max_position_embeddings, the window times the factor (dynamic: the window).

    Args:
        partial: whether the architecture lets a share of each head rotate.

    Raises:
        BadInput: the scheme or the extension cannot be said in these words.
    """
    window = position.geometry.window
    if isinstance(position, Mixture):
        position = position.first
    if isinstance(position, Planned):  # whose layers differ in their windows alone
        position = position.parts["own"]
    if position.knobs.name == "none":
        return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}, "max_position_embeddings": window}
    assert isinstance(position, Rotary)  # no other has an architecture
    extend, scheme, spectrum = position.extension.knobs, position.knobs.name, position.spectrum
    geometric = isinstance(spectrum, Geometric) and spectrum.slowest is None
    theta = spectrum.base if geometric else 10_000.0
    settings = _native(position) if geometric and scheme in ("rope", "p_rope") else None
    if settings is None and scheme == "p_rope":
        raise BadInput(
            f"position=p_rope with frequencies={spectrum.name} and extend={extend.name} is no rope_type of transformers"
        )
    settings = {"rope_theta": theta} | (settings or _as_longrope(position, theta))
    if scheme == "p_rope":
        settings["partial_rotary_factor"] = position.knobs.p
    elif partial:
        settings["partial_rotary_factor"] = _share(position)
    elif position.rotated < position.geometry.head_width:
        raise BadInput(f"position.fraction={position.knobs.fraction:g} is an option of gpt_neox alone (norm=layer)")
    if settings["rope_type"] in ("yarn", "llama3", "longrope"):
        settings["original_max_position_embeddings"] = window
    longest = window if settings["rope_type"] == "dynamic" else round(window * settings.get("factor", 1.0))
    if settings["rope_type"] in ("linear", "proportional") and round(longest / settings["factor"]) != window:
        settings["original_max_position_embeddings"] = window  # the quotient would not be it
    return {"rope_parameters": settings, "max_position_embeddings": longest}


def _share(position: Rotary) -> float:
    """The share of channels that rotate, such that times the width of a head, rounded down, it is their number."""
    width, rotated = position.geometry.head_width, position.rotated
    if rotated < width and position.extension.temperature != 1:
        raise BadInput(
            f"extend={position.extension.knobs.name} sharpens whole scores, and transformers those of the rotated "
            f"channels alone: position.fraction={position.knobs.fraction:g} can leave with extend.temperature=1 only"
        )
    share = rotated / width
    return share if int(width * share) == rotated else math.nextafter(share, 1)


def _native(position: Position) -> dict | None:
    """The settings of the type that transformers has for the extension, or None."""
    extend, neutral = position.extension.knobs, position.extension.temperature == 1
    if position.knobs.name == "p_rope":
        if extend.name not in ("none", "interpolate"):
            return None
        return {"rope_type": "proportional", "factor": getattr(extend, "factor", 1.0)}
    if extend.name == "none":
        return {"rope_type": "default"}
    if extend.name == "interpolate":
        return {"rope_type": "linear", "factor": extend.factor}
    if extend.name == "dynamic_ntk" and neutral:
        # The paper's growth is the other's with a factor of one.
        return {"rope_type": "dynamic", "factor": extend.factor if extend.variant == "transformers" else 1.0}
    if extend.name == "llama3" and neutral:
        keys = ("factor", "low_freq_factor", "high_freq_factor")
        return {"rope_type": "llama3"} | {key: getattr(extend, key) for key in keys}
    attention = {} if getattr(extend, "temperature", None) is None else {"attention_factor": _root(extend.temperature)}
    if extend.name == "yarn" and extend.ramp == "index" and extend.beta_fast is not None:
        turns = {"beta_fast": extend.beta_fast, "beta_slow": extend.beta_slow, "truncate": extend.truncate}
        return {"rope_type": "yarn", "factor": extend.factor} | turns | attention
    if extend.name == "longrope" and extend.long is not None and not extend.n_hat:
        lists = {"long_factor": list(extend.long), "short_factor": list(extend.short or extend.long)}
        return {"rope_type": "longrope", "factor": extend.factor} | lists | attention
    return None


def _root(temperature: float) -> float:
    """The attention factor 1/√t, of those near it the shortest that is t again when read back."""
    root = temperature**-0.5
    return next((short for digits in range(1, 17) if (short := round(root, digits)) ** -2 == temperature), root)


def _as_longrope(position: Rotary, theta: float) -> dict:
    """Fixed frequencies of any kind, as factors of a geometric spectrum of this base."""
    extension, name = position.extension, position.extension.knobs.name
    one = torch.ones(1, dtype=torch.float64)
    if extension.depends_on_length or extension.moved(one) or not extension.relative:
        raise BadInput(
            f"extend={name} changes more than frequencies, which no architecture of transformers can express"
        )
    with torch.no_grad():
        turned = position.phase(extension.positions(one))[0]  # (K,), per token
    if (turned <= 0).any():
        raise BadInput(f"extend={name} stops pairs from turning, which no rope_type of transformers can express")
    factors = (Geometric(base=theta).table(position.rotated) / turned).tolist()
    settings = {"factor": getattr(extension.knobs, "factor", 1.0), "attention_factor": _root(extension.temperature)}
    return {"rope_type": "longrope", "long_factor": factors, "short_factor": factors} | settings
