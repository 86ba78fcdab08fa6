"""Small jobs in a sweep: runs per hour by the number of jobs at once, and the seconds of each part of a single job.

Jobs at once are a multirun of train.py over seeds with the joblib launcher, whose processes share the cores evenly and
import once for all their jobs. A single job is a fresh process, with its files in the system's cache.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from conf.compose import compose_values
from conf.overrides import FOLDER
from conf.resolve import resolve
from conf.schema import Config
from experiments.benchmark.timing import format_spread, spread
from experiments.benchmark.workbench import Workbench
from experiments.lab.tables import format_rows, format_table

START_UP_ENDS = "first step"  # the last part of a job that is start-up


def run(bench: Workbench) -> Iterator[list[dict]]:
    """Rows of kind "rate", one per number of jobs at once; "part", one per part of a job in their order; and "help"."""
    from data.corpus import prepare

    settings = bench.settings.sweep
    config = resolve(compose_values("config", settings.run), settings.run)
    prepare(config.data, Path(bench.settings.cache))  # no job has to
    overrides = [
        *settings.run,
        f"cache={Path(bench.settings.cache).resolve()}",
        "trainer.progress=false",
        "group=sweep",
    ]
    numbers = settings.at_once or ((1, 2, 4, 8) if bench.device.type == "cuda" else (1, 2))
    for number in tqdm(numbers, desc="sweep", leave=False):
        yield [rate(overrides, number, settings.rounds) | {"steps": config.steps}]
    yield parts(overrides, config, settings.alone)
    yield [{"kind": "help", "failure": None, "seconds": [help_seconds() for _ in range(settings.alone)]}]


def rate(overrides: Sequence[str], at_once: int, rounds: int) -> dict:
    """A multirun of at_once × rounds seeds: its seconds, runs per hour, and runs per hour after start-up."""
    jobs = at_once * rounds
    row = {"kind": "rate", "at_once": at_once, "runs": jobs}
    seeds = f"seed={','.join(map(str, range(1, jobs + 1)))}"
    with tempfile.TemporaryDirectory() as folder:
        words = [seeds, f"runs={folder}", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={at_once}"]
        began = time.time()
        done = run_python("-m", "train", "-m", *overrides, *words)
        seconds = time.time() - began
        ends = [json.loads(path.read_text())["time"] for path in Path(folder).glob("sweep/*/status.json")]
    if done.returncode:
        return row | {"failure": error_line(done.stderr)}
    speeds = {"runs_per_hour": 3600 * jobs / seconds, "runs_per_hour_going": steady_rate(ends, at_once)}
    return row | {"failure": None, "seconds": seconds, **speeds}


def steady_rate(ends: Sequence[float], at_once: int) -> float:
    """Runs per hour after every process has finished its first run, from the times at which runs ended."""
    ends = sorted(ends)
    return 3600 * (len(ends) - at_once) / (ends[-1] - ends[at_once - 1])


def parts(overrides: Sequence[str], config: Config, repeats: int) -> list[dict]:
    """The parts of a job with their seconds in every repetition, leaving Python included."""
    packages = ["hydra", *(["wandb"] if config.logger.name == "wandb" else []), "torch", "lightning"]
    seconds: dict[str, list[float]] = {}
    for _ in tqdm(range(repeats), desc="one job alone", leave=False):
        with tempfile.TemporaryDirectory() as folder:
            words = [",".join(packages), *overrides, f"runs={folder}"]
            done = run_python("-m", "experiments.benchmark.job", repr(time.time()), *words)
            left = time.time()
        if done.returncode:
            return [{"kind": "part", "part": "one job", "failure": error_line(done.stderr)}]
        report = json.loads(done.stdout.splitlines()[-1])
        for part, took in {**report["seconds"], "leaving Python": left - report["ended"]}.items():
            seconds.setdefault(part, []).append(took)
    return [{"kind": "part", "part": part, "failure": None, "seconds": values} for part, values in seconds.items()]


def help_seconds() -> float:
    """Seconds from the start of `python -m train --help` to its end."""
    began = time.perf_counter()
    run_python("-m", "train", "--help").check_returncode()
    return time.perf_counter() - began


def start_up(parts: list[dict]) -> list[float]:
    """The seconds until a job's first step is done, in every repetition."""
    first = [row["part"] for row in parts].index(START_UP_ENDS) + 1
    return [sum(repetition) for repetition in zip(*(row["seconds"] for row in parts[:first]), strict=True)]


def run_python(*words: str) -> subprocess.CompletedProcess:
    """Run Python in the project's folder and wait for it."""
    return subprocess.run([sys.executable, *words], cwd=FOLDER.parent, capture_output=True, text=True)


def error_line(errors: str) -> str:
    """The line with the reason: that of the first failing job of a multirun, else the last line."""
    lines = errors.strip().splitlines() or ["no message"]
    return next((line for line in lines if line.startswith("failed: ")), lines[-1])[:200]


def table(rows: list[dict]) -> str:
    """Rates, then parts with their sums."""
    rates, alone, asked = ([row for row in rows if row["kind"] == kind] for kind in ("rate", "part", "help"))
    columns = {"at once": "{at_once}", "runs": "{runs}", "steps": "{steps}", "seconds": "{seconds:.1f}"}
    columns |= {"runs/hour": "{runs_per_hour:,.0f}", "once going": "{runs_per_hour_going:,.0f}"}
    parts = [[row["part"], row["failure"] or format_spread(asdict(spread(row["seconds"])))] for row in alone]
    if not any(row["failure"] for row in alone):
        every = [sum(repetition) for repetition in zip(*(row["seconds"] for row in alone), strict=True)]
        for label, seconds in (("start-up, first step in", start_up(alone)), ("all", every)):
            parts.append([label, format_spread(asdict(spread(seconds)))])
    parts += [["train.py --help", format_spread(asdict(spread(row["seconds"])))] for row in asked]
    return f"{format_rows(rates, columns)}\n\n{format_table(['one job alone', 'seconds'], parts)}"
