"""Alternating timings: every round times each contestant once, so that a disturbance of the machine affects them all.

A ratio is formed within each round and only then summarised, because a slow minute slows both of its sides.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from conf.base import BadInput
from experiments.benchmark.memory import peak_bytes

Run = Callable[[int], float]  # does so many steps and returns the seconds they took


@dataclass(frozen=True)
class Spread:
    """The median of some values and their quartiles."""

    median: float
    low: float
    high: float


def spread(values) -> Spread:
    """Median and quartiles, interpolated linearly between values."""
    low, median, high = np.percentile(np.asarray(values, dtype=np.float64), (25, 50, 75))
    return Spread(float(median), float(low), float(high))


@dataclass
class Outcome:
    """Timings of a contestant: seconds per step in each round, steps per timing, peak bytes; or why it failed.

    `until_ready` is the seconds of building it, of its first steps and of what they compile, while memory was measured.
    """

    seconds: list[float] = field(default_factory=list)
    steps: int = 1
    until_ready: float | None = None
    peak: int | None = None
    failure: str | None = None

    def rate(self, amount: float) -> Spread:
        """Work per second, from the work of one step."""
        return spread(amount / np.asarray(self.seconds))


def ratio(above: Outcome, below: Outcome) -> Spread:
    """Seconds of one contestant over those of another, paired by round."""
    return spread(np.divide(above.seconds, below.seconds))


def format_spread(values: dict | None) -> str:
    """A spread as text, from the plain values of a row; a dash if there is none."""
    return "{median:.2f} [{low:.2f}, {high:.2f}]".format(**values) if values else "-"


def spread_cell(key: str) -> Callable[[Mapping], str]:
    """The cell of a table with the spread under a key of its row."""
    return lambda row: format_spread(row[key])


def peak_cell(row: Mapping) -> str:
    """The cell of a table with the peak memory of its row, in MB."""
    return f"{row['peak'] / 1e6:,.1f}"


def timed_loop(step: Callable[[], object], device: torch.device, before: int = 0) -> Run:
    """A function that times steps one after another, by CUDA events on a GPU and by the wall clock elsewhere.

    `before` steps come first and are not counted: the first of all may compile, and after another contestant the first
    has to fetch its memory.
    """

    def run(steps: int) -> float:
        for _ in range(before):
            step()
        stop = _start(device)
        for _ in range(steps):
            step()
        return stop()

    return run


def _start(device: torch.device) -> Callable[[], float]:
    """Start a clock. The function returned stops it and gives the seconds in between, the device's work included."""
    if device.type != "cuda":
        start = time.perf_counter()
        return lambda: time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()

    def stop() -> float:
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    return stop


def compare(
    title: str,
    builders: dict[str, Callable[[], Run]],
    device: torch.device,
    *,
    repeats: int,
    seconds: float,
    budget: float,
) -> dict[str, Outcome]:
    """Build every contestant, warm it up while its memory is measured, then time all of them in alternating rounds.

    A contestant that cannot be built or runs out of memory records its failure, and the others go on. Every other round
    runs backwards, so that no contestant is always first.

    Args:
        builders: contestants by name; a builder returns the function to time.
        repeats: rounds at most; with 0, only memory is measured.
        seconds: the least duration of one timing, which sets its number of steps.
        budget: seconds after which no further round begins; the first always does.
    """
    outcomes = {name: Outcome() for name in builders}
    runs: dict[str, Run] = {}

    def run_or_fail(name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (ImportError, RuntimeError, BadInput) as error:  # RuntimeError: out of memory, or does not compile
            lines = str(error).strip().splitlines() or [""]
            outcomes[name] = Outcome(failure=f"{type(error).__name__}: {lines[0]}"[:200])
            runs.pop(name, None)

    def warm_up(name: str) -> None:
        def build() -> None:
            runs[name] = builders[name]()
            outcomes[name].steps = max(1, round(seconds / runs[name](1)))
            outcomes[name].until_ready = time.monotonic() - began

        began = time.monotonic()
        outcomes[name].peak = peak_bytes(build, device)

    def time_round(name: str) -> None:
        outcome = outcomes[name]
        outcome.seconds.append(runs[name](outcome.steps) / outcome.steps)

    with tqdm(total=len(builders) * (1 + repeats), desc=title, leave=False) as bar:
        for name in builders:
            run_or_fail(name, lambda name=name: warm_up(name))
            bar.update()
        began = time.perf_counter()
        for number in range(repeats):
            if number and time.perf_counter() - began > budget:
                break
            for name in list(runs)[:: -1 if number % 2 else 1]:
                run_or_fail(name, lambda name=name: time_round(name))
                bar.update()
    return outcomes
