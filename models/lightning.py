"""Lightning as `L`, imported without what it would load for nothing. No module imports it elsewhere on its own."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from lightning_utilities.core.imports import RequirementCache


def _wanted(package: RequirementCache, available=RequirementCache.__bool__) -> bool:
    return not str(package.requirement).startswith(("matplotlib", "rich", "transformers")) and available(package)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is looked for while the block imports what takes a moment, nor later among what it made."""
    if not gc.isenabled():  # at the start of a program (conf/start.py)
        yield
        return
    gc.collect()  # what is garbage now would stay
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


# Where those are installed, Lightning and its metrics import them for nothing: a third of the start of a run.
with uncollected(), patch.object(RequirementCache, "__bool__", _wanted):
    import lightning as L

__all__ = ["L", "uncollected"]
