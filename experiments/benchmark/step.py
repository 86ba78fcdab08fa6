"""A training step at every model and window: through train.py, in a bare loop, with modern blocks, and by peers of the
same shape.

Modern blocks are those of conf/model/<model>_modern: RMS norms, SwiGLU, shared keys and values, as many parameters.
MFU counts 6·N + 6·layers·C·T operations a token (models/compute.py), with N and C of our shape for every contestant.
Its ceiling is a square matrix multiplication timed in the same round.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conf.overrides import choices
from conf.schema import Config
from experiments.benchmark.peers import PEERS
from experiments.benchmark.timing import Run, peak_cell, ratio, spread, spread_cell
from experiments.benchmark.workbench import Workbench
from experiments.lab.tables import format_rows
from models.compute import flops_per_token, matmul_size
from train import train

BARE, TRAINER, MODERN, CEILING = "ours, bare loop", "ours, train.py", "ours, modern blocks", "matrix product"
WARM = 3  # least number of uncounted steps of train.py: the first ones also fetch their memory


def run(bench: Workbench) -> Iterator[list[dict]]:
    """A row per model, window and contestant: tokens per second, MFU, speed over that of our bare loop, peak bytes.

    MFU and speed are paired by round. The ceiling is no contestant and has no row.
    """
    for model, window in bench.settings.step_at:
        yield compare_contestants(bench, bench.config(model, "rope", window))


def compare_contestants(bench: Workbench, config: Config) -> list[dict]:
    """The rows of one model and window."""
    builders = {CEILING: bench.matmul, BARE: lambda: bench.lab_loop(config), TRAINER: lambda: trainer(config)}
    builders |= {name: lambda name=name: peer(bench, config, name) for name in PEERS}
    if (modern := f"{config.model.name}_modern") in choices("model"):
        builders[MODERN] = lambda: bench.lab_loop(bench.config(modern, "rope", config.window))
    outcomes = bench.compare(f"step {config.model.name} {config.window}", builders)
    tokens = config.batch * config.window
    operations = tokens * flops_per_token(bench.module(config).gpt, config.window)
    ceiling, rows = (
        2 * matmul_size(bench.device) ** 3 / np.asarray(outcomes.pop(CEILING).seconds),
        [],
    )  # FLOP/s by round
    for name, outcome in outcomes.items():
        row = {"model": config.model.name, "window": config.window, "batch": config.batch, "contestant": name}
        if outcome.failure is None:
            used = operations / np.asarray(outcome.seconds) / ceiling
            row |= {"tokens_per_second": asdict(outcome.rate(tokens)), "mfu": asdict(spread(used))}
            if not outcomes[BARE].failure:
                row["speed_over_bare"] = asdict(ratio(outcomes[BARE], outcome))
        rows.append(row | asdict(outcome))
    return rows


def trainer(config: Config) -> Run:
    """A run of train.py in a temporary folder, timed by the speed it reports for its last steps."""

    def run(steps: int) -> float:
        total = steps * (1 + -(-WARM // steps))
        with tempfile.TemporaryDirectory() as folder:
            every = {"log_every": steps, "validate_every": total, "checkpoint_every": total}
            changed = {"runs": folder, "steps": total, "validation_windows": 1, **every}
            metrics = train(config.model_copy(update=changed)).metrics
        return steps * config.batch * config.window / metrics["speed/tokens_per_second"]

    return run


def peer(bench: Workbench, config: Config, name: str) -> Run:
    """A peer in our bare loop, with cross-entropy of its logits and one fused AdamW for all parameters."""
    model, logits = PEERS[name](config.model, bench.vocabulary, config.window)
    model.to(bench.device)
    optimizer_settings = config.optimizer
    betas = (optimizer_settings.beta1, optimizer_settings.beta2)
    optimizer = torch.optim.AdamW(
        model.parameters(), optimizer_settings.lr, betas=betas, weight_decay=optimizer_settings.weight_decay, fused=True
    )

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits(inputs).float().flatten(0, 1), targets.flatten())

    return bench.training_loop(model, loss, optimizer, config.window)


def table(rows: list[dict], **more: str) -> str:
    """Medians, with quartiles where they are ratios; `more` are further columns."""
    columns = {"model": "{model}", "window": "{window}", "batch": "{batch}", "contestant": "{contestant}"}
    columns |= {"tokens/s": "{tokens_per_second[median]:,.0f}", "MFU": spread_cell("mfu"), "peak MB": peak_cell}
    return format_rows(rows, columns | {"speed over our bare loop": spread_cell("speed_over_bare")} | more)
