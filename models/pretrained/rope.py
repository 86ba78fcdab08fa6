"""Rope settings of a config.json → scheme, spectrum, extension and original window.

Both forms are read: `rope_theta` with `rope_scaling`, and `rope_parameters`. The original window, to which every
factor refers, is by this rule:

1. `original_window=` on the command line;
2. `original_max_position_embeddings`, in the rope settings or beside them;
3. `max_position_embeddings` ÷ factor where the type is linear or proportional, whose frequencies do not depend on it;
4. `max_position_embeddings` for the default and dynamic types, whose formula has it as the trained window.

yarn, llama3 and longrope without the second are refused: their frequencies depend on a window that nobody said.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from conf.base import BadInput, cannot_take
from models.positions import EXTENSIONS

# Settings of a type beside rope_type, rope_theta and the original window.
TYPES = {
    "default": {"factor"},
    "linear": {"factor"},
    "dynamic": {"factor"},
    "yarn": {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "longrope": {"factor", "attention_factor", "long_factor", "short_factor"},
    "proportional": {"factor", "partial_rotary_factor"},
}
COMMON = {"rope_type", "rope_theta", "original_max_position_embeddings", "partial_rotary_factor", "finetuned"}
NEEDS_WINDOW = ("yarn", "llama3", "longrope")
# What gpt_neox calls these at the top of a config.json, where it knows no other name, and no other knows these.
NEOX = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}


@dataclass(frozen=True)
class Rope:
    """Plain settings as in conf/, the original window in tokens, and what a reader should be told."""

    position: dict[str, Any]
    frequencies: dict[str, Any]
    extend: dict[str, Any]
    window: int
    remarks: tuple[str, ...] = ()
    layers: dict[str, Any] = field(default_factory=lambda: {"name": "alike"})


def read_rope(
    config: dict,
    name: str,
    head_width: int,
    theta: float = 10_000.0,
    window: int | None = None,
    partial: float | None = None,
) -> Rope:
    """Read the rope settings of a config.json.

    Args:
        name: of the architecture, for sentences.
        theta: the architecture's base where config.json has none.
        window: original window that the user names, tokens.
        partial: the architecture's share of rotated channels where config.json has none; None where it has no such
            option.

    Raises:
        BadInput: a type or an option that is not known, or contradicting or ambiguous settings.
    """
    scaling, parameters = (_renamed(config.get(key) or {}, name) for key in ("rope_scaling", "rope_parameters"))
    given = scaling | parameters
    if any(isinstance(value, dict) for value in given.values()):
        raise BadInput(f"{name}: rope_parameters differ by type of layer, which is not supported")
    if clash := [key for key, value in scaling.items() if given[key] != value]:
        raise BadInput(f"{name}: rope_scaling and rope_parameters contradict each other in {clash[0]}")
    if name == "ministral3" and not given:
        raise BadInput(f"{name} without rope_parameters is not supported: transformers would stretch it by a YaRN")
    beta = None
    if name == "ministral3":  # which has a setting of its own there, and repeats one
        beta, _ = given.pop("llama_4_scaling_beta", None), given.pop("max_position_embeddings", None)
    kind = given.get("rope_type", "default")
    if kind not in TYPES:
        raise BadInput(f"{name}: rope_type={kind} is not supported; supported are {', '.join(TYPES)}")
    if unknown := sorted(key for key, value in given.items() if key not in TYPES[kind] | COMMON and value is not None):
        raise BadInput(f"{name}: {unknown[0]} of rope_type={kind} is not supported")
    base, said = _setting("rope_theta", config, given, name, theta)
    remarks = [] if said else [f"config.json has no rope_theta: {theta:g}, the architecture's own"]
    length, of_window = _window(config, given, kind, name, window)
    share, _ = _setting("partial_rotary_factor", config, given, name, 1.0 if partial is None else partial)
    position = _position(kind, share, head_width, name, partial is not None)
    extend = _extend(kind, given, config, length, name)
    if beta is not None:
        extend |= {"rows": {"name": "ministral", "beta": _number(beta, "llama_4_scaling_beta", name)}}
    temperature = _temperature(extend, length, name)
    if position.get("fraction", 1) != 1 and temperature != 1:
        raise BadInput(
            f"{name}: the attention factor of rope_type={kind} scales the rotated share of a head alone "
            f"({share:g} of it), and the lab scales whole scores"
        )
    frequencies = {"name": "geometric", "base": float(base), "slowest": None}
    return Rope(position, frequencies, extend, length, (*remarks, *of_window))


def _renamed(settings: dict, name: str) -> dict:
    """Rope settings with the type under rope_type, which older files call `type`."""
    settings = dict(settings)
    older = settings.pop("type", None)
    if older is not None and settings.setdefault("rope_type", older) != older:
        raise BadInput(f"{name}: rope_type={settings['rope_type']} and type={older} contradict each other")
    return settings


def _number(value, key: str, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise BadInput(f"{name}: {key}={value} in the rope settings must be a number above zero")
    return float(value)


def _temperature(extend: dict, window: int, name: str) -> float:
    """The temperature of the extension, which divides scores; refuses settings that it cannot take."""
    kind = EXTENSIONS[extend["name"]]
    try:
        return kind(kind.Knobs.model_validate(extend), window).temperature
    except ValidationError as error:
        raise BadInput(f"{name}: {cannot_take(extend['name'], error)}") from None


def _setting(key: str, config: dict, given: dict, name: str, default: float) -> tuple[float, bool]:
    """A number of the rope settings or beside them, or the default, and whether it is said."""
    own, passed_over = (NEOX[key], key) if name == "gpt_neox" else (key, NEOX[key])
    said = {_number(value, key, name) for value in (given.get(key), config.get(own)) if value is not None}
    if len(said) > 1:
        both = " and ".join(f"{number:g}" for number in sorted(said))
        raise BadInput(f"{name}: {key} is {both} in one config.json")
    value = next(iter(said), default)
    if config.get(passed_over) not in (None, value):
        raise BadInput(
            f"{name}: {passed_over}={config[passed_over]} in config.json is passed over by transformers, which has "
            f"{own}={value:g}"
        )
    return value, bool(said)


def _window(config: dict, given: dict, kind: str, name: str, window: int | None) -> tuple[int, list[str]]:
    """The original window by the rule above, and what to say of it."""
    longest = config.get("max_position_embeddings")
    if not isinstance(longest, int) or longest < 1:
        raise BadInput(f"{name}: max_position_embeddings={longest} must be a number of tokens")
    if window is not None:
        return window, []
    originals = {source.get("original_max_position_embeddings") for source in (given, config)} - {None}
    if wrong := [tokens for tokens in originals if not isinstance(tokens, int) or tokens < 1]:
        raise BadInput(f"{name}: original_max_position_embeddings={wrong[0]} must be a number of tokens")
    if len(originals) > 1:
        both = " and ".join(map(str, sorted(originals)))
        raise BadInput(f"{name}: original_max_position_embeddings is {both} in one config.json; name original_window=")
    factor = 1 if given.get("factor") is None else _number(given["factor"], "factor", name)
    if originals:
        original = originals.pop()
        if kind == "dynamic" and original != longest:
            raise BadInput(
                f"{name}: rope_type=dynamic grows from max_position_embeddings={longest}, and "
                f"original_max_position_embeddings={original}; name original_window="
            )
        if kind == "default" or given.get("factor") is None or round(original * factor) == longest:
            return original, []
        known = f"original_max_position_embeddings={original} times factor={factor:g} is not max_position_embeddings="
        return original, [f"{known}{longest}"]
    if kind in NEEDS_WINDOW:
        raise BadInput(
            f"{name}: rope_type={kind} without original_max_position_embeddings: max_position_embeddings={longest} may "
            "be the window before or after stretching; name original_window="
        )
    if kind in ("linear", "proportional") and factor != 1:
        original = max(1, round(longest / factor))
        return original, [f"the original window is {original}: max_position_embeddings={longest} / factor={factor:g}"]
    return longest, []


def _position(kind: str, share: float, head_width: int, name: str, partial: bool) -> dict:
    if kind == "proportional":
        return {"name": "p_rope", "p": float(share)}
    if share == 1:
        return {"name": "rope", "fraction": 1.0}
    if not partial:
        raise BadInput(f"{name}: partial_rotary_factor={share:g} is not an option of this architecture")
    rotated = int(head_width * share)  # as `transformers` rounds
    if rotated % 2 or not rotated:
        raise BadInput(f"{name}: a share of {share:g} rotates {rotated} of {head_width} channels, which are no pairs")
    return {"name": "rope", "fraction": rotated / head_width}


def _extend(kind: str, given: dict, config: dict, window: int, name: str) -> dict:
    """The extension, as in conf/extend."""

    def number(key: str, default=None) -> float:
        return _number(default if given.get(key) is None else given[key], key, name)

    if kind == "default":
        return {"name": "none"}
    if kind == "proportional" and number("factor", 1.0) == 1:
        return {"name": "none"}
    if kind in ("linear", "proportional"):
        return {"name": "interpolate", "factor": number("factor")}
    if kind == "dynamic":
        return {"name": "dynamic_ntk", "factor": number("factor"), "variant": "transformers"}
    if kind == "llama3":
        keys = ("factor", "low_freq_factor", "high_freq_factor")
        return {"name": "llama3"} | {key: number(key) for key in keys}
    factor = number("factor", config["max_position_embeddings"] / window)
    attention = {} if given.get("attention_factor") is None else {"temperature": number("attention_factor") ** -2}
    if kind == "longrope":
        lists = {ours: given.get(f"{ours}_factor") for ours in ("long", "short")}
        return {"name": "longrope", "factor": factor} | lists | attention
    if not attention and given.get("mscale") and given.get("mscale_all_dim"):
        upper, lower = (0.1 * number(key) * math.log(factor) + 1 for key in ("mscale", "mscale_all_dim"))
        attention = {"temperature": (upper / lower) ** -2}
    turns = {"beta_fast": number("beta_fast", 32.0), "beta_slow": number("beta_slow", 1.0)}
    turns["truncate"] = given.get("truncate", True)
    return {"name": "yarn", "factor": factor, "ramp": "index"} | turns | attention
