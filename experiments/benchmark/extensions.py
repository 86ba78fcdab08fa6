"""The cost of each extension of RoPE relative to none: a forward pass, a training step and its memory.

The window measured is the extended one, four times the trained window. The model is untrained, which changes no cost.
"""

from collections.abc import Iterator

from conf.schema import Config
from experiments.benchmark import schemes
from experiments.benchmark.workbench import Workbench

REFERENCE, FACTOR = "none", 4
table = schemes.table


def run(bench: Workbench) -> Iterator[list[dict]]:
    """A row per model, window and extension, as in schemes.py."""
    names = dict.fromkeys((REFERENCE, *bench.settings.extensions))
    for model, window in bench.settings.schemes_at:
        yield schemes.compare_configs(bench, {name: extended(bench, model, name, window) for name in names})


def extended(bench: Workbench, model: str, name: str, window: int) -> Config:
    """RoPE at this window, with an extension from a quarter of it."""
    config = bench.config(model, "rope", window, f"extend={name}")
    return config.model_copy(update={"original_window": window // FACTOR})
