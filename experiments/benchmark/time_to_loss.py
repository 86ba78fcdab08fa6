"""Time to loss: tokens and seconds to one validation loss by optimizer, on the same data, seed and initial weights.

train.py runs every optimizer, learning rate and length. The best run of each optimizer is compared with that of the
first optimizer, the reference; without a target, the reference's lowest final loss is the target. The learning rate
follows a cosine over the whole run. At the end of the reference's run the rate has decayed; a faster run passes that
loss midway, at a rate still high, and would reach it sooner on a shorter schedule. Its tokens to the target are
therefore an upper bound, which more lengths make tighter.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import zip_longest

from tqdm import tqdm

from conf.base import BadInput, Diverged
from conf.compose import compose_values
from conf.resolve import resolve
from conf.run_folder import RunFolder
from conf.schema import Config
from experiments.benchmark.settings import TimeToLoss
from experiments.benchmark.timing import format_spread, spread
from experiments.benchmark.workbench import Workbench
from experiments.lab.statistics import first_crossing
from experiments.lab.tables import format_table
from models.progress import Metrics
from train import train


def run(bench: Workbench) -> Iterator[list[dict]]:
    """Rows of kind "run", one per optimizer, learning rate and length, and of kind "best", one per optimizer."""
    settings = bench.settings.time_to_loss
    configs = [arm_config(settings, bench.settings.cache, *arm) for arm in arms(settings.rates, settings.steps)]
    runs = [train_curve(config) for config in tqdm(configs, desc="time to loss", leave=False)]
    yield compare_optimizers(runs, settings.target)


def arms(rates: dict[str, Sequence[float]], lengths: Sequence[int]) -> list[tuple[str, float, int]]:
    """(optimizer, learning rate, steps) of every run. Optimizers take turns, so that a slow minute slows them all."""
    turns = zip_longest(*([(name, rate) for rate in values] for name, values in rates.items()))
    pairs = [pair for turn in turns for pair in turn if pair is not None]
    return [(*pair, steps) for steps in lengths for pair in pairs]


def arm_config(settings: TimeToLoss, cache: str, optimizer: str, rate: float, steps: int) -> Config:
    """The configuration of a run of train.py that validates and times its steps every `every` steps, unlogged."""
    overrides = [*settings.run, f"optimizer={optimizer}", f"optimizer.lr={rate}", f"steps={steps}", "logger=none"]
    overrides += [f"validate_every={settings.every}", f"log_every={settings.every}", f"checkpoint_every={steps}"]
    values = compose_values("config", [*overrides, "trainer.progress=false", "name=benchmark"])
    return resolve({**values, "cache": cache}, overrides)


def train_curve(config: Config) -> dict:
    """Train in a temporary folder; returns validation losses by tokens seen and seconds per step between validations.

    The seconds cover training alone. Those up to the first validation are left out, because they include compiling.
    Of a run that diverges they go as far as it went.
    """
    with tempfile.TemporaryDirectory() as folder:
        config, diverged = config.model_copy(update={"runs": folder}), False
        try:
            train(config)
        except Diverged:
            diverged = True
        rows = Metrics(RunFolder.of(config).path / "metrics.jsonl").rows()
    points = [row for row in rows if "validation/nll" in row]
    speeds = [row["speed/tokens_per_second"] for row in rows if "speed/tokens_per_second" in row]
    return {
        "kind": "run",
        "optimizer": config.optimizer.name,
        "lr": config.optimizer.lr,
        "steps": config.steps,
        "diverged": diverged,
        "tokens_per_step": config.batch * config.window,
        "tokens": [row["tokens"] for row in points],
        "nll": [row["validation/nll"] for row in points],
        "seconds_per_step": [config.batch * config.window / speed for speed in speeds[1:]],
    }


def compare_optimizers(runs: list[dict], target: float | None) -> list[dict]:
    """The runs with their tokens and seconds to the target, then the best run of each optimizer over that of the first.

    Seconds are steps to the target times the median second per step of all the optimizer's runs, which cost the same
    whatever their learning rate.

    Raises:
        BadInput: no target was given, and every run of the first optimizer diverged.
    """
    reference = runs[0]["optimizer"]
    if target is None:
        ends = [run["nll"][-1] for run in runs if run["optimizer"] == reference and not run["diverged"]]
        target = min(ends, default=None)
        if target is None:
            raise BadInput(f"time_to_loss.rates.{reference}: every run diverged; give lower rates, or a target")
    rows, best = [], {}
    for name in dict.fromkeys(run["optimizer"] for run in runs):
        own_runs = [run for run in runs if run["optimizer"] == name]
        seconds_per_step = [second for run in own_runs for second in run["seconds_per_step"]]
        pace = spread(seconds_per_step) if seconds_per_step else None  # all may have diverged before they were timed
        for run in own_runs:
            tokens = None if run["diverged"] else first_crossing(run["tokens"], run["nll"], target)
            seconds = None if tokens is None or pace is None else tokens / run["tokens_per_step"] * pace.median
            rows.append({**run, "target": target, "tokens_to_target": tokens, "seconds_to_target": seconds})
        reached = [row for row in rows if row["optimizer"] == name and row["tokens_to_target"] is not None]
        row = min(reached, key=lambda row: row["tokens_to_target"], default={})
        numbers = {key: row.get(key) for key in ("lr", "steps", "tokens_to_target", "seconds_to_target")}
        best[name] = {"kind": "best", "optimizer": name, "target": target, "pace": pace and asdict(pace), **numbers}
    for row in best.values():
        for unit in ("tokens", "seconds"):
            amount, base = (best[name][f"{unit}_to_target"] for name in (row["optimizer"], reference))
            row[f"{unit}_over_reference"] = amount / base if amount and base else None
    return rows + list(best.values())


def table(rows: list[dict]) -> str:
    """Every run, then the best of each optimizer, and a note on schedules."""
    runs, best = ([row for row in rows if row["kind"] == kind] for kind in ("run", "best"))
    ends = ["diverged" if row["diverged"] else f"{row['nll'][-1]:.4f}" for row in runs]
    every = [
        [row["optimizer"], f"{row['lr']:g}", row["steps"], end, *_reached(row)]
        for row, end in zip(runs, ends, strict=True)
    ]
    shortest = []
    for row in best:
        if row["lr"] is None:
            shortest.append([row["optimizer"], "reaches it at none of its learning rates"])
            continue
        over = [row[f"{unit}_over_reference"] for unit in ("tokens", "seconds")]
        ratios = ", ".join("-" if value is None else f"{value:.2f}" for value in over)
        pace = format_spread(row["pace"] and {key: 1000 * value for key, value in row["pace"].items()})
        shortest.append([row["optimizer"], f"{row['lr']:g}", row["steps"], *_reached(row), ratios, pace])
    reached, over = ["tokens to it", "seconds"], f"both / {best[0]['optimizer']}"
    return (
        f"target: a validation loss of {rows[0]['target']:.4f} nats a token\n\n"
        f"{format_table(['optimizer', 'lr', 'steps', 'final loss', *reached], every)}\n\n"
        f"{format_table(['best of', 'lr', 'steps', *reached, over, 'ms a step'], shortest)}\n\n"
        "Each run's schedule is stretched over its own steps. One that passes the target before its end has its\n"
        "learning rate not yet decayed there, and a shorter run might reach it sooner."
    )


def _reached(row: dict) -> list[str | None]:
    """The cells of the tokens and seconds to the target."""
    if row["tokens_to_target"] is None:
        return [None, None]
    seconds = row["seconds_to_target"]  # None of runs too short to be timed
    return [f"{row['tokens_to_target']:,.0f}", None if seconds is None else f"{seconds:.1f}"]
