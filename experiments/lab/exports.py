"""Lazy exports of a question's package to other questions, so that its --help stays quick."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_exports(package: str, **files: tuple[str, ...]) -> Callable[[str], Any]:
    """The `__getattr__` of a question's package.

    Args:
        files: exported names by the file of the package that defines them, as workbench=("Workbench",).
    """
    places = {name: file for file, names in files.items() for name in names}

    def get(name: str) -> Any:
        if name in places:
            return getattr(import_module(f"{package}.{places[name]}"), name)
        raise AttributeError(f"module {package} has no attribute {name}")

    return get
