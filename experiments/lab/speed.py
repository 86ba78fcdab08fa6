"""Estimates of the time that runs and measurements take: tokens over measured tokens per second, plus a start-up.

The speed of training is the median in metrics.jsonl of runs of the same size, if there are any; otherwise a few steps
are timed. The speed of reading is that of a few forward passes of short texts; longer ones take longer as their
operations do.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from conf.run_folder import RunFolder
from experiments.lab.launch import tokens
from experiments.lab.measure.request import AutoPrecision
from experiments.lab.measure.subject import device_and_precision

if TYPE_CHECKING:
    from conf.schema import Config

PER_RUN = 2.0  # seconds to start and end a training run, on two CPU cores
TIMED_TOKENS, TIMED_SECONDS = 2048, 1.0  # at least: tokens of a pass that is timed, and seconds of passes


def duration(seconds: float) -> str:
    """A duration as text, in minutes, or in hours from 90 minutes on."""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def training_seconds(runs: Sequence["Config"], siblings: Sequence["Config"]) -> tuple[float, bool]:
    """Estimated seconds of training runs one after another, and whether a speed had to be timed.

    Args:
        siblings: runs that may be done already; their speed is used for the same model and window.
    """

    def size(run: "Config") -> tuple:
        return run.model, run.window

    sizes, measured, timed = set(map(size, runs)), {}, {}
    for run in siblings:
        if size(run) in sizes and (speed := _measured_speed(run)):
            measured.setdefault(size(run), []).append(speed)
    seconds = 0.0
    for run in runs:
        if size(run) not in measured and size(run) not in timed:
            timed[size(run)] = _timed_speed(run)
        speed = median(measured[size(run)]) if size(run) in measured else timed[size(run)]
        read = run.window * run.validation_windows * (run.steps // run.validate_every)
        seconds += (tokens(run) + read / 3) / speed + PER_RUN  # a pass without its gradient is a third of a step
    return seconds, bool(timed)


def _measured_speed(run: "Config") -> float | None:
    """Tokens per second as far as a run came, or None."""
    from models.progress import Metrics

    rows = Metrics(RunFolder.of(run).metrics).rows()
    speeds = [row["speed/tokens_per_second"] for row in rows if "speed/tokens_per_second" in row]
    return median(speeds) if speeds else None


def _timed_speed(run: "Config") -> float:
    """Tokens per second of a few steps forward and backward."""
    import torch

    from train import build_model

    device = device_and_precision()["device"] if run.trainer.accelerator != "cpu" else "cpu"
    precision = run.trainer.precision
    mixed = device == "cuda" if precision == "auto" else precision.startswith("bf16")
    model = build_model(run).to(device)
    model.recompute = run.trainer.activation_checkpointing
    rows = min(run.batch // run.trainer.accumulate, -(-TIMED_TOKENS // run.window))
    batch = torch.randint(0, model.embedding.num_embeddings, (rows, run.window), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss, _ = model(batch, targets=batch)
        loss.backward()

    return batch.numel() * _passes_per_second(step)


def reading_seconds(run: "Config", tokens: Mapping[int, int], precision: AutoPrecision = "auto") -> float:
    """Estimated seconds of reading texts with the model of a run; tokens: of texts of each length."""
    import torch

    from models.compute import flops_per_token
    from train import build_model

    if not tokens:
        return 0.0
    computed, length = device_and_precision(precision), min(max(tokens), TIMED_TOKENS)
    device = computed["device"]
    model = build_model(run).to(device).eval()
    texts = torch.randint(0, model.embedding.num_embeddings, (-(-TIMED_TOKENS // length), length), device=device)

    @torch.inference_mode()
    def read() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=computed["precision"] == "bfloat16"):
            model.hidden(texts)

    timed = texts.numel() * _passes_per_second(read)  # tokens per second
    work = sum(count * flops_per_token(model, its) for its, count in tokens.items())
    return work / flops_per_token(model, length) / timed


def _passes_per_second(run: Callable[[], None]) -> float:
    """Calls per second, after a first one that does not count."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    run()
    wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < TIMED_SECONDS:
        run()
        wait()
        count += 1
    return count / (time.perf_counter() - start)
