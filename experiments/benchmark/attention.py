"""The cost of RoPE with windows, sinks and sharper rows, relative to RoPE alone: forward pass, training step, memory.

A sliding window costs less the longer the window of the model is; scores that sharpen with the row cost a product.
"""

from collections.abc import Iterator

from experiments.benchmark import schemes
from experiments.benchmark.workbench import Workbench

REFERENCE = "alone"
CHANGES = {
    REFERENCE: (),
    "sliding 64": ("layers=sliding",),
    "LLLG of 64": ("layers=local_global",),
    "sink": ("model.sink=true",),
    "rows=su": ("extend.rows=su",),
    "rows=ssmax": ("extend.rows=ssmax",),
}
table = schemes.table


def run(bench: Workbench) -> Iterator[list[dict]]:
    """A row per model, window and change, as in schemes.py."""
    for model, window in bench.settings.schemes_at:
        configs = {name: bench.config(model, "rope", window, *words) for name, words in CHANGES.items()}
        yield schemes.compare_configs(bench, configs)
