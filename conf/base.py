"""The base class and types of all settings, and the error whose message is meant for users."""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


class BadInput(ValueError):
    """The user asked for something impossible; the message is one sentence: what, where, what is allowed.

    Command-line programs print it and exit with status 1, without a traceback.
    """


class Diverged(BadInput):
    """The loss or the gradient of a run is not finite; the message says which, at which step, and what it was last."""


class Settings(BaseModel):
    """Base of every settings class: frozen, strict about types, closed to unknown keys, finite throughout."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def cannot_take(name: str, error: ValidationError) -> str:
    """Describe the first fault of settings that are part of others; name: of the settings that contain them."""
    fault = error.errors()[0]
    place, message = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    return f"{name} cannot take {place}={fault['input']}: {message}" if place else message


def settings_of(table: Mapping[str, type], value, otherwise: str = "is not known") -> "Settings":
    """Settings of one of a table's classes, or of its `Knobs`, from a name or from a name and settings.

    Raises:
        ValueError: there is none of that name (otherwise: what is then said of it), or it cannot take the settings.
    """
    if isinstance(value, Settings):
        return value
    given = value if isinstance(value, dict) else {"name": value}
    name = given.get("name")
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"{name} {otherwise}; allowed: {', '.join(table)}")
    try:
        kind: Any = getattr(table[name], "Knobs", table[name])
        return kind.model_validate(given)
    except ValidationError as error:
        raise ValueError(cannot_take(name, error)) from None


def first_line(error: Exception) -> str:
    """The first line of what a library said, or the kind of its error where it said nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def nearest(word: str, allowed: Iterable[str]) -> str:
    """'; did you mean …?' where one of the allowed words is close to this one, else nothing."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _whole(value):
    """Read 1e3 as 1000, as people write step counts; anything else is left for pydantic to judge."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_tuple(value):
    """YAML has lists only; a frozen object wants tuples. One value stands for a list of one."""
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str | int | float) else value


def _different(values: tuple) -> tuple:
    """Refuse a value that a list has twice."""
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"it has {value} twice")
    return values


# Sizes and step counts: at least one, and no more than anything can have; or at least zero.
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=10**15)]
CountOrZero = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=2**63 - 1)]
Listed = BeforeValidator(as_tuple)
Different = AfterValidator(_different)
PathText = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
Counts = Annotated[tuple[Count, ...], Listed, Different]
Words = Annotated[tuple[str, ...], Listed]
Names = Annotated[Words, Different, Field(min_length=1)]


def _project(value: str) -> str:
    if letters := [letter for letter in "/\\#?%:" if letter in value]:
        raise ValueError(f"project={value} has {letters[0]!r}, which W&B does not take in the name of a project")
    return value


# What W&B takes as the name of a project, and as tags.
Project = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_project)]
Tags = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Listed]


def sync(path: Path) -> None:
    """Have the disk keep what was written to a file, or which files a folder holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
