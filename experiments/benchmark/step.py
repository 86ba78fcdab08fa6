"""A training step at every model and window: through train.py, in a bare loop, and by peers of the same shape.

MFU counts 6·N + 6·layers·C·T operations a token (models/compute.py), N and all of our shape, whoever computes it.
"""

import tempfile
from dataclasses import asdict

import torch

from conf.schema import Config
from experiments.benchmark.peers import PEERS
from experiments.benchmark.timing import Run, ratio, shown
from experiments.benchmark.workbench import Workbench
from models.compute import flops_per_token
from train import train

BARE = "ours, bare loop"


def run(bench: Workbench) -> list[dict]:
    """A row per model, window and contestant: tokens per second, MFU, speed over that of our bare loop, peak bytes."""
    rows = []
    for model in bench.settings.models:
        for window in bench.settings.windows:
            rows += _cell(bench, bench.config(model, "rope", window))
    return rows


def _cell(bench: Workbench, config: Config) -> list[dict]:
    builders = {BARE: lambda: bench.ours(config), "ours, train.py": lambda: trainer(config)}
    builders |= {name: lambda name=name: peer(bench, config, name) for name in PEERS}
    outcomes = bench.compare(f"step {config.model.name} {config.window}", builders)
    tokens, flops = config.batch * config.window, flops_per_token(bench.module(config).gpt, config.window)
    rows = []
    for name, outcome in outcomes.items():
        row = {"model": config.model.name, "window": config.window, "batch": config.batch, "contestant": name}
        if outcome.failure is None:
            rate = outcome.rate(tokens)
            row |= {"tokens_per_second": asdict(rate), "mfu": rate.median * flops / bench.ceiling}
            if not outcomes[BARE].failure:
                row["speed_over_bare"] = asdict(ratio(outcomes[BARE], outcome))
        rows.append(row | asdict(outcome))
    return rows


def trainer(config: Config) -> Run:
    """train.py itself, in a folder of its own: the speed it reports for the second half of a run, start-up left out."""

    def run(steps: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            every = {"log_every": steps, "validate_every": 2 * steps, "checkpoint_every": 2 * steps}
            changed = {"runs": folder, "steps": 2 * steps, "validation_windows": 1, **every}
            metrics = train(config.model_copy(update=changed)).metrics
        return steps * config.batch * config.window / metrics["speed/tokens_per_second"]

    return run


def peer(bench: Workbench, config: Config, name: str) -> Run:
    """A peer in our bare loop, by the same fused AdamW without groups of parameters."""
    model, logits = PEERS[name](config.model, bench.vocabulary, config.window)
    model.to(bench.device)
    asked = config.optimizer
    betas = (asked.beta1, asked.beta2)
    optimizer = torch.optim.AdamW(
        model.parameters(), asked.lr, betas=betas, weight_decay=asked.weight_decay, fused=True
    )
    return bench.trained(model, logits, optimizer, config.window)


def table(rows: list[dict]) -> str:
    """Medians, with quartiles where they are ratios."""
    head = f"{'model':<6} {'window':>6} {'batch':>5}  {'contestant':<19} {'tokens/s':>10} {'MFU':>6} {'peak MB':>9}"
    lines = [f"{head}  speed over our bare loop"]
    for row in rows:
        start = f"{row['model']:<6} {row['window']:>6} {row['batch']:>5}  {row['contestant']:<19} "
        if row["failure"]:
            lines.append(f"{start}{row['failure']}")
            continue
        rate, over = row["tokens_per_second"]["median"], shown(row.get("speed_over_bare"))
        lines.append(f"{start}{rate:>10,.0f} {row['mfu']:>6.1%} {row['peak'] / 1e6:>9,.1f}  {over}")
    return "\n".join(lines)
