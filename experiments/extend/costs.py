"""The cost of fine-tuning every arm of a study: tokens a second and the peak of memory, as its runs recorded them."""

from statistics import median
from typing import TYPE_CHECKING

from conf.run_folder import RunFolder
from experiments.lab.tables import format_rows

if TYPE_CHECKING:
    from experiments.extend.plan import StudyPlan

COLUMNS = {"run": "{run}", "tokens a step": "{batch} x {window}", "steps": "{steps}"}
COLUMNS |= {"tokens/s": "{tokens_per_second:,.0f}", "peak, GB": "{peak_memory_gb:.2f}"}


def tuning_costs(plan: "StudyPlan") -> list[dict]:
    """A row for every fine-tuning run: its windows and steps, median tokens per second, and peak memory in 10^9 bytes.

    The peak is that of the whole process on a CPU, of torch on a GPU; runs of before it was recorded lack it.
    """
    from models.progress import Metrics

    rows = []
    for (_, method, factor), run in plan.tuned.items():
        recorded = Metrics(RunFolder.of(run).metrics).rows()
        row = {"run": run.name, "arm": method, "factor": factor, "batch": run.batch, "window": run.window}
        row |= {"seen": run.seen.name, "steps": run.steps}
        for key, combine in {"tokens_per_second": median, "peak_memory_gb": max}.items():
            if values := [line[f"speed/{key}"] for line in recorded if f"speed/{key}" in line]:
                row[key] = combine(values)
        rows.append(row)
    return rows


def cost_of_tuning(rows: list[dict]) -> str:
    """The rows of `tuning_costs` as a table under a sentence that explains it."""
    return f"What fine-tuning took: tokens a second, and the most memory held:\n\n{format_rows(rows, COLUMNS)}"
