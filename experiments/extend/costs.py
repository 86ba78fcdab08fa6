"""The cost of fine-tuning every arm of a study: tokens a second and the peak of memory, as its runs recorded them."""

from statistics import median
from typing import TYPE_CHECKING

from conf.run_folder import RunFolder

if TYPE_CHECKING:
    from experiments.extend.plan import StudyPlan

HEAD = f"{'run':<60} {'windows':>13} {'steps':>6} {'tokens/s':>9} {'peak, GB':>9}"


def tuning_costs(plan: "StudyPlan") -> list[dict]:
    """A row for every fine-tuning run: its windows and steps, median tokens per second, and peak memory in 10^9 bytes.

    The peak is None of a run from before it was recorded. It is that of the whole process on a CPU, of torch on a GPU.
    """
    from models.progress import Metrics

    rows = []
    for (_, method, factor), run in plan.tuned.items():
        recorded = Metrics(RunFolder.of(run).metrics).rows()
        speeds, peaks = (
            [row[key] for row in recorded if key in row] for key in ("speed/tokens_per_second", "speed/peak_memory_gb")
        )
        rows.append(
            {
                "run": run.name,
                "arm": method,
                "factor": factor,
                "batch": run.batch,
                "window": run.window,
                "seen": run.seen.name,
                "steps": run.steps,
                "tokens_per_second": median(speeds) if speeds else None,
                "peak_memory_gb": max(peaks, default=None),
            }
        )
    return rows


def cost_of_tuning(rows: list[dict]) -> str:
    """The rows of `tuning_costs` as a table under a sentence that explains it."""
    lines = ["What fine-tuning took: windows of a step, tokens a second, and the most memory held:", "", HEAD]
    for row in rows:
        speed = "" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:,.0f}"
        peak = "" if row["peak_memory_gb"] is None else f"{row['peak_memory_gb']:.2f}"
        windows = f"{row['batch']} x {row['window']}"
        lines.append(f"{row['run']:<60} {windows:>13} {row['steps']:>6} {speed:>9} {peak:>9}")
    return "\n".join(lines)
