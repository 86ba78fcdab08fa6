"""What a question hands out to other questions, imported when it is asked for, so that its --help stays quick."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def hand_out(package: str, **names: str) -> Callable[[str], Any]:
    """The `__getattr__` of a question's package.

    Args:
        names: by what is handed out, the file of the package it stands in, as Workbench="workbench".
    """

    def get(name: str) -> Any:
        if name in names:
            return getattr(import_module(f"{package}.{names[name]}"), name)
        raise AttributeError(f"module {package} has no attribute {name}")

    return get
