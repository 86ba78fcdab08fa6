"""The same as step.py with all models compiled, those of peers too, and how long that takes."""

from collections.abc import Iterator
from dataclasses import replace

from experiments.benchmark import step
from experiments.benchmark.workbench import Workbench


def run(bench: Workbench) -> Iterator[list[dict]]:
    """A row per model, window and contestant, as in step.py."""
    bench = replace(bench, settings=bench.settings.model_copy(update={"compile": True}))
    for model, window in bench.settings.compiled_at:
        yield step.compare_contestants(bench, bench.config(model, "rope", window))


def table(rows: list[dict]) -> str:
    """As in step.py, with the seconds of building, compiling and the first steps."""
    return step.table(rows, **{"s until ready": "{until_ready:.0f}"})
