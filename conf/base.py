"""What every typed setting is made of, and the one error a user is meant to read."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


class BadInput(ValueError):
    """The user asked for something impossible; the message is one sentence: what, where, what is allowed.

    Command-line programs print it and exit with status 1, without a traceback.
    """


class Settings(BaseModel):
    """Base of every settings class: frozen, strict about types, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def cannot_take(name: str, error: ValidationError) -> str:
    """The first fault of settings that are part of others, in words; name: whose they are."""
    fault = error.errors()[0]
    place, said = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    return f"{name} cannot take {place}={fault['input']}: {said}" if place else said


def _whole(value):
    """Read 1e3 as 1000, as people write step counts; anything else is left for pydantic to judge."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _tuple(value):
    """YAML has lists only; a frozen object wants tuples."""
    return tuple(value) if isinstance(value, list) else value


# Sizes and step counts: at least one; or at least zero.
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
CountOrZero = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(_tuple)]
Words = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
