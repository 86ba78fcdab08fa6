"""Overrides of the command line: checked before Hydra composes them, and its errors explained in one sentence."""

import re
import shlex
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from conf.base import BadInput, nearest

FOLDER = Path(__file__).resolve().parent


def key_of(override: str) -> str:
    """The key of an override: "+data.name=books" → data.name."""
    return override.lstrip("+~").partition("=")[0]


def value_at(values: dict, key: str, otherwise: Any = None) -> Any:
    """The value under a dotted key in nested values, or otherwise."""
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return otherwise
        values = values[part]
    return values


@lru_cache(maxsize=4096)
def parse(override: str):
    """An override as Hydra reads it; the arms of a plan share most of theirs.

    Raises:
        HydraException: it does not parse.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override)


def check(overrides: Sequence[str], config_name: str) -> list[str]:
    """The overrides that Hydra can take, those left out that only repeat that a group has no choice.

    Raises:
        BadInput: an override that does not parse or changes nothing, or a group that is given something other than a
            name.
    """
    from hydra.errors import HydraException

    allowed = []
    for override in overrides:
        key, _, home = override.partition("=~/")  # which a shell leaves as it is behind a key, and Hydra cannot read
        override = f"{key}={quoted('~/' + home)}" if home else override
        try:
            parsed = parse(override)
        except HydraException as error:
            raise BadInput(_unparsed(override, str(error))) from None
        group, value = parsed.key_or_group, parsed.value()
        if not group:
            raise BadInput(_unparsed(override, ""))
        if value == {} and not parsed.is_add():  # Hydra lays it over what is there, which it leaves as it is
            raise BadInput(f"{group}={{}} would change nothing: leave it out, or name what is to be in it")
        if not (FOLDER / group).is_dir() or parsed.is_sweep_override() or parsed.is_delete() or isinstance(value, str):
            allowed.append(override)
        elif value is not None or not _optional(group, config_name):
            raise BadInput(f"{group}={override.partition('=')[2]} is not known; allowed: {list_choices(group)}")
    return over_checkpoint(allowed) if config_name == "config" else allowed


def over_checkpoint(overrides: Sequence[str]) -> list[str]:
    """Single settings inside a group that a fine-tuned run takes from its checkpoint, as extend.factor=8, so that Hydra
    takes them whatever they are: it composes the defaults, and the group that they go over is in the checkpoint.
    """
    keys = list(map(key_of, overrides))
    if "checkpoint" not in keys or "checkpoint=null" in overrides:
        return list(overrides)
    inside = [key.split(".")[0] in {"layers", "extend", "data"} - set(keys) and "." in key for key in keys]
    return [
        f"++{override.lstrip('+')}" if within and not override.startswith("~") else override
        for override, within in zip(overrides, inside, strict=True)
    ]


def given_keys(overrides: Sequence[str]) -> set[str]:
    """The keys, and groups, that overrides set, and that the file of an experiment sets where one is chosen."""
    from omegaconf import OmegaConf

    keys = set(map(key_of, overrides))
    for override in overrides:
        key, _, choice = override.lstrip("+").partition("=")
        if key == "experiment" and choice != "null":
            values: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / key / f"{choice}.yaml"), resolve=False)
            keys |= {word.removeprefix("override /") for entry in values.pop("defaults", []) for word in entry}
            keys |= set(_flat(values))
    return keys


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """The keys that a multirun is over, as seed of seed=1,2."""
    return [override.key_or_group for override in map(parse, overrides) if override.is_sweep_override()]


def _optional(group: str, config_name: str) -> bool:
    """Whether the defaults of a program say that this group may have no choice."""
    return (
        re.search(rf"^  - {re.escape(group)}: null\b", (FOLDER / f"{config_name}.yaml").read_text(), re.M) is not None
    )


def _unparsed(override: str, reason: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override!r} is no setting: settings are given as key=value"
    if not re.fullmatch(r"[+~]*[A-Za-z_][\w./@-]*", key):
        return f"{override!r} is no setting: {key!r} cannot be a key"
    if match := re.search(r"Unknown function '([^']+)'", reason):
        return (
            f"{override}: {match[1]} is no function of Hydra's; a value with parentheses is quoted: {typed(key, value)}"
        )
    return f"{override!r} cannot be read: a value with such letters is quoted: {typed(key, value)}"


def quoted(value: str) -> str:
    """A value as Hydra takes it whatever letters it has."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    return f'"{escaped}{chr(92) * (len(escaped) - len(escaped.rstrip(chr(92))))}"'


def typed(key: str, value: str) -> str:
    """An override as it is typed into a shell when its value has letters that mean something to Hydra."""
    return shlex.quote(f"{key}={quoted(value)}")


def explain(error: Exception, defaults: dict) -> str:
    """Hydra's complaint as one sentence that names the key and what is allowed there; defaults: of the program."""
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1].partition("@")[0]
        if (FOLDER / key.replace(".", "/")).is_dir():
            return f"{match[1]} is no choice of this command; allowed: {', '.join(defaults)}"
        return unknown(key, defaults)
    if match := re.search(r"looks like a config group override, but config group '([^']+)'", text):
        return unknown(match[1], defaults)
    if match := re.search(r"(?:Could not find|Could not load) '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        if not choices(group):
            return f"{group}={choice} is not known"
        return f"{group}={choice} is not known; allowed: {list_choices(group)}{nearest(choice, choices(group))}"
    if match := re.search(r"Ambiguous value for argument '([^=]+)=([^']*)'", text):
        key, value = match.groups()
        return (
            f"{key}={value} is several values: {key}=[{value}] is a list of them, -m makes a run of each, "
            f"{typed(key, value)} is one word"
        )
    if match := re.search(r"Sweep parameters '([^']+)'", text):
        return f"{match[1]} is several values: -m makes a run of each"
    if match := re.search(r"Sweeping over Hydra's configuration is not supported *: *'([^']+)'", text):
        return f"{match[1]} is several values, and Hydra's own settings take one"
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{match[1]} is a setting already: leave the + in front of it out"
    if match := re.search(r"Could not delete (?:from config\. The value of )?'([^']+)'", text):
        return f"~{match[1]} cannot be left out: there is no such choice"
    if match := re.search(r"Could not delete from config\. '([^']+)'", text):
        return unknown(match[1], defaults)
    if match := re.search(r"^([\w/@]+) appears more than once in the final defaults list", text):
        return f"{match[1]} is chosen already: leave the + in front of it out"
    if match := re.search(r"Error merging override (\S+)", text):
        return f"{match[1]} does not go with the settings it stands among"
    return " ".join(re.sub(r"See https?://\S+( for details)?", "", text).split())


def unknown(key: str, defaults: dict) -> str:
    """That a key is no setting, what the deepest level of it that there is allows, and the one that was meant."""
    *levels, last = key.lstrip("+~").split(".")
    values, path = defaults, []
    for level in levels:
        if not isinstance(values.get(level), dict):
            break
        values, path = values[level], [*path, level]
    meant = nearest(last, values) if len(path) == len(levels) else ""
    if not meant:
        flat = _flat(defaults)
        meant = nearest(key, flat) or _by_last(last, flat)
    there = f"allowed there: {', '.join(values)}" if path or not levels else "there is no such group of settings"
    return f"{key.lstrip('+~')} is not a setting; {there}{meant}"


def _by_last(last: str, keys: Sequence[str]) -> str:
    """'; did you mean …?' for a key whose last part is meant, as factor for extend.factor."""
    matching = [key for key in keys if key.rpartition(".")[2] == last]
    return f"; did you mean {matching[0]}?" if matching else ""


def _flat(values: dict, prefix: str = "") -> list[str]:
    return [
        flat
        for key, value in values.items()
        for flat in (_flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key])
    ]


@cache
def known_settings() -> list[str]:
    """The dotted keys that the settings of a run may have, whatever is chosen."""
    from omegaconf import OmegaConf

    keys = {"seed", "name", "group", "original_window"}
    for path in FOLDER.glob("*/*.yaml"):
        choice = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        keys |= {f"{path.parent.name}.{key}" for key in _flat(choice)} if isinstance(choice, dict) else set()
    values: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / "config.yaml"), resolve=False)
    values = {key: value for key, value in values.items() if key not in ("defaults", "hydra")}
    return sorted({*keys, *_flat(values)})


def choices(group: str) -> list[str]:
    """The choices of a group of the configuration, in alphabetical order."""
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))


def list_choices(group: str) -> str:
    """The choices of a group in one line."""
    return ", ".join(choices(group)) or "nothing"
