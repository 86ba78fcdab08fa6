"""Plain values become typed settings; what is wrong with them is one sentence in the words of a configuration."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

from conf.base import BadInput, Settings, nearest

AnySettings = TypeVar("AnySettings", bound=Settings)


def validate(schema: type[AnySettings], values: dict) -> AnySettings:
    """Turn plain values into frozen settings.

    Raises:
        BadInput: one sentence for the first fault, naming the key, its value and what is allowed.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise BadInput(_sentence(error.errors(), values)) from None


# What pydantic calls things, in the words of a configuration.
WORDS = {
    "model_type": "should be a group of settings",
    "model_attributes_type": "should be a group of settings",
    "dict_type": "should be a group of settings",
    "tuple_type": "should be a list",
    "string_type": "should be text",
    "string_too_short": "should not be empty",
    "string_pattern_mismatch": "may have letters, digits, dots, hyphens and underscores alone",
}


def _sentence(faults: Sequence[Mapping], values: dict) -> str:
    """The first of pydantic's faults, in words: key = value, and what is allowed there."""
    located = [(*_locate(fault, values), fault) for fault in faults]
    key, siblings, fault = located[0]
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = [name for name in siblings if name != key.rpartition(".")[2]]
        return (
            f"{key}={plainly(fault['input'])} is not a setting; allowed beside it: {', '.join(allowed) or 'none'}"
            + nearest(key.rpartition(".")[2], allowed)
        )
    if kind == "missing":
        return f"{key} is not set, and it has no default"
    if kind == "union_tag_invalid":
        return f"{key}={context['tag']} is not known; allowed: {context['expected_tags']}".replace("'", "")
    if kind == "union_tag_not_found":
        return f"{key}={plainly(fault['input'])} should be a group of settings with a {context['discriminator']}"
    if kind == "value_error":
        return (f"{key}: " if key else "") + str(context["error"])
    if kind == "too_short":
        return f"{key}={plainly(fault['input'])} needs at least {context['min_length']} value(s)"
    # A value that may be of several kinds has a fault for each of them.
    alternatives = [other for place, _, other in located if place == key and other["type"] != "value_error"]
    messages = [WORDS.get(other["type"], re.sub("^(Input|String) ", "", other["msg"])) for other in alternatives]
    return f"{key}={plainly(fault['input'])} {' or '.join(dict.fromkeys(messages))}"


def _locate(fault: Mapping, values: dict) -> tuple[str, list[str]]:
    """The dotted key of a fault, and the keys that stand beside it.

    pydantic's path also has the tag by which the members of a union are told apart, and names of its own functions.
    """
    value, keys, tag = values, [], None
    for index, part in enumerate(fault["loc"]):
        if isinstance(value, dict) and tag is None and part in (value.get("name"), value.get("source")) and keys:
            tag = part
        elif (part in value) if isinstance(value, dict) else isinstance(part, int) and isinstance(value, list | tuple):
            value, tag = value[part], None
            keys.append(str(part))
        elif fault["type"] == "missing" and index == len(fault["loc"]) - 1:
            keys.append(str(part))
    parent = values
    for key in keys[:-1]:
        parent = parent[int(key) if isinstance(parent, list | tuple) else key]
    return ".".join(keys), list(parent) if isinstance(parent, dict) else []


def plainly(value) -> str:
    """A value as it is written in YAML, cut where it is long."""
    value = list(value) if isinstance(value, tuple) else value
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
