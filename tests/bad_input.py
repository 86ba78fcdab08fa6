"""Mistakes a command line can hold, and a way to make them quickly: every command, in the tests' own process."""

import importlib
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path

from conf.compose import check_logger, compose_values, sentence
from conf.overrides import check

ROOT = Path(__file__).resolve().parent.parent
# By configuration, the command's name and what has to be given; {run}: the folder of a finished run.
GIVEN = {
    "config": ("runs={scratch}",),
    **dict.fromkeys(
        ("perplexity", "by_position", "passkey", "longppl", "longrope", "progressive"), ("checkpoint={run}",)
    ),
    "reproduce": ("claim=bound",),
}


def find_commands() -> dict[str, tuple[str, str]]:
    """By configuration, the module of every command and the name of what it runs."""
    commands = {}
    for path in [ROOT / "train.py", *sorted(ROOT.glob("experiments/**/*.py"))]:
        for config, function in re.findall(r'command_line\("(\w+)", (\w+)\)', path.read_text(encoding="utf-8")):
            commands[config] = (".".join(path.relative_to(ROOT).with_suffix("").parts), function)
    return commands


COMMANDS = find_commands()
INTERNALS = ("\n", "pydantic", "hydra", "omegaconf", "Traceback", "function-", "tuple[", "type=", "https://", "Errno")
PATIENCE = 60  # seconds after which what should have been refused was not


# Settings that take anything, that a command has no use for, or that are those of train.
GROUPS = ("model", "position", "frequencies", "extend", "layers", "seen", "data", "optimizer", "trainer", "logger")
FREE = {
    "extend_study": ("scale.", "launcher.options", "from", *(f"{group}." for group in GROUPS)),
    "reproduce": ("launcher.options",),
    "progressive": ("launcher.options",),
    "tasks": ("launcher.options",),
    "pretrained": ("data.", "from", "name", "otherwise"),
}


class Accepted(BaseException):
    """What should have been refused was begun."""


@cache
def defaults(command: str) -> dict:
    """The composed configuration of a command, with nothing wrong in it."""
    return compose_values(
        command, [word.replace("{run}", "none").replace("{scratch}", "none") for word in GIVEN.get(command, ())]
    )


def leaves(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values, down to what is no group."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def mistyped() -> list[tuple[str, str]]:
    """(command, override): every setting of every command with values of a wrong type, or that are no number."""
    wrong = {bool: ("maybe", "3"), int: ("abc", "inf"), float: ("abc", "nan"), str: ("[[a]]",)}
    wrong[list] = ("{a:1}", "[null]")
    return [
        (command, f"{key}={value}")
        for command in COMMANDS
        for key, default in leaves(defaults(command))
        for value in wrong.get(type(default), ("{a:1}",))
        if not key.startswith(FREE.get(command, ()))
    ]


def refusal(command: str, words: tuple[str, ...], places: dict[str, str]) -> str:
    """The sentence with which a command refuses its overrides; places: what {run} and the like in them stand for.

    What only changes the value of a setting is put into the composed values, since composing takes a tenth of a second.

    Raises:
        Accepted: it began, or ended well.
    """
    module, function = COMMANDS[command]
    given = GIVEN.get(command, ())
    words = [*(word for word in given if word.partition("=")[0] not in {w.partition("=")[0] for w in words}), *words]
    for name, place in places.items():
        words = [word.replace(f"{{{name}}}", place) for word in words]
    with _patience():
        try:
            values = _changed(deepcopy(defaults(command)), words, command) or compose_values(command, words)
            check_logger(values)
            getattr(importlib.import_module(module), function)(values, words)
        except Exception as error:
            if (message := sentence(error)) is None:
                raise
            return message
    raise Accepted(f"{command} {' '.join(words)}")


def _changed(values: dict, words: list[str], config: str) -> dict | None:
    """The composed values with these overrides, if every one of them is of a setting that is there."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    known = dict(leaves(values))
    check(words, config)
    for word in words:
        override = OverridesParser.create().parse_override(word)
        if override.key_or_group not in known or word[0] in "+~" or override.is_sweep_override():
            return None
        if "${" in word or "???" in word:  # for OmegaConf to resolve
            return None
        *levels, last = override.key_or_group.split(".")
        group = values
        for level in levels:
            group = group[level]
        group[last] = _plain(override.value())
    return values


def _plain(value):
    """A parsed value as YAML gives it: no quotes around strings, at whatever depth."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(getattr(value, "text", value))


@contextmanager
def _patience() -> Iterator[None]:
    def give_up(number, frame):
        raise Accepted(f"nothing was refused within {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
