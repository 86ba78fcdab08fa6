"""Where the time of a training step goes, operation by operation: what stands between it and the ceiling.

The share of the ceiling that matrix products alone would reach, if nothing else took time, is the most any model of
this shape can: the rest is attention, and what goes over memory once for every number.
"""

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.benchmark.step import BARE
from experiments.benchmark.workbench import Workbench

STEPS, WARM = 5, 3
SHOWN = 12  # operations with a line of their own


def run(bench: Workbench) -> list[dict]:
    """A row per model, window and operation, the dearest first, then one for all others: its share of the time."""
    rows = []
    for model, window in bench.settings.levers_at:
        config = bench.config(model, "rope", window)
        step = bench.ours(config)
        step(WARM)
        activity = ProfilerActivity.CUDA if bench.device.type == "cuda" else ProfilerActivity.CPU
        with profile(activities=[activity]) as recorded:
            step(STEPS - 1)  # after the one that no clock counts
            if bench.device.type == "cuda":
                torch.cuda.synchronize()
        took = [(each.key, _seconds(each, bench), each.count) for each in recorded.key_averages()]
        took.sort(key=lambda each: -each[1])
        total = sum(seconds for _, seconds, _ in took)
        others = ("others", *(sum(each[i] for each in took[SHOWN:]) for i in (1, 2)))
        rows += [
            {"model": model, "window": window, "batch": config.batch, "contestant": BARE, "operation": name}
            | {"seconds": seconds / STEPS, "share": seconds / total, "calls": calls / STEPS}
            for name, seconds, calls in (*took[:SHOWN], others)
        ]
    return rows


def _seconds(event, bench: Workbench) -> float:
    """Its own time, without that of what it calls."""
    own = event.self_device_time_total if bench.device.type == "cuda" else event.self_cpu_time_total
    return own / 1e6


def table(rows: list[dict]) -> str:
    """Milliseconds a step, and the share of all."""
    lines = [f"{'model':<6} {'window':>6} {'batch':>5}  {'operation':<52} {'calls':>6} {'ms a step':>10}  share"]
    for row in rows:
        start = f"{row['model']:<6} {row['window']:>6} {row['batch']:>5}  {row['operation'][:52]:<52} "
        lines.append(f"{start}{row['calls']:>6.0f} {1000 * row['seconds']:>10.1f}  {row['share']:.3f}")
    return "\n".join(lines)
