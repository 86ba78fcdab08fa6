"""Would several seeds trained in one step be faster than one after the other?

A step on K times the batch does the arithmetic of K models of one shape and reads the weights of one, so that K models
stacked into one step take at least as long. Seconds are over those of one model, paired by round; K of them one after
the other take K.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial

from experiments.benchmark.timing import ratio, spread_cell
from experiments.benchmark.workbench import Workbench
from experiments.lab.tables import format_rows

SEEDS = (1, 2, 4, 8)


def run(bench: Workbench) -> Iterator[list[dict]]:
    """A row per model, window and number of seeds."""
    for model, window in bench.settings.seeds_at:
        benches = {seeds: with_batch(bench, seeds * bench.sequences(window), window) for seeds in SEEDS}
        configs = {seeds: larger.config(model, "rope", window) for seeds, larger in benches.items()}
        builders = {seeds: partial(benches[seeds].lab_loop, configs[seeds]) for seeds in SEEDS}
        outcomes = bench.compare(f"seeds {model} {window}", builders)
        yield [
            {"model": model, "window": window, "batch": configs[seeds].batch, "seeds": seeds, **asdict(outcome)}
            | ({} if outcome.failure else {"seconds_over_one": asdict(ratio(outcome, outcomes[1]))})
            for seeds, outcome in outcomes.items()
        ]


def with_batch(bench: Workbench, sequences: int, window: int) -> Workbench:
    """The workbench whose steps at this window have so many sequences."""
    return replace(bench, settings=bench.settings.model_copy(update={"tokens": sequences * window}))


def table(rows: list[dict]) -> str:
    """Ratios to one model's step, medians with quartiles."""
    columns = {"model": "{model}", "window": "{window}", "batch": "{batch}", "seeds": "{seeds}"}
    return format_rows(rows, columns | {"seconds over one's, at least": spread_cell("seconds_over_one")})
