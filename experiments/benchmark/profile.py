"""Where the time of a training step goes, by operation.

The share of the time that matrix products take bounds the MFU of any model of this shape. The rest is attention and
elementwise operations, which are limited by memory bandwidth.
"""

from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.benchmark.step import BARE
from experiments.benchmark.workbench import Workbench
from experiments.lab.tables import format_rows

STEPS, WARM = 5, 3
LISTED = 12  # operations with a line of their own


def run(bench: Workbench) -> Iterator[list[dict]]:
    """A row per model, window and operation with its share of the time, the slowest first; the last sums the others."""
    for model, window in bench.settings.levers_at:
        config = bench.config(model, "rope", window)
        step = bench.lab_loop(config)
        step(WARM)
        activity = ProfilerActivity.CUDA if bench.device.type == "cuda" else ProfilerActivity.CPU
        with profile(activities=[activity]) as recorded:
            step(STEPS - 1)  # after the one that no clock counts
            if bench.device.type == "cuda":
                torch.cuda.synchronize()
        operations = [(event.key, _seconds(event, bench), event.count) for event in recorded.key_averages()]
        operations.sort(key=lambda row: -row[1])
        total = sum(seconds for _, seconds, _ in operations)
        rest = ("others", *(sum(row[i] for row in operations[LISTED:]) for i in (1, 2)))
        yield [
            {"model": model, "window": window, "batch": config.batch, "contestant": BARE, "operation": name}
            | {"seconds": seconds / STEPS, "share": seconds / total, "calls": calls / STEPS}
            for name, seconds, calls in (*operations[:LISTED], rest)
        ]


def _seconds(event, bench: Workbench) -> float:
    """Seconds in an operation itself, without the operations it calls."""
    microseconds = event.self_device_time_total if bench.device.type == "cuda" else event.self_cpu_time_total
    return microseconds / 1e6


def table(rows: list[dict]) -> str:
    """Milliseconds a step, and the share of all."""
    columns = {"model": "{model}", "window": "{window}", "batch": "{batch}", "operation": "{operation:.52}"}
    columns |= {"calls": "{calls:.0f}", "ms a step": lambda row: f"{1000 * row['seconds']:.1f}"}
    return format_rows(rows, columns | {"share": "{share:.3f}"})
