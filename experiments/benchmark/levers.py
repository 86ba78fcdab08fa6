"""What makes a training step fast: each lever on its own turned back, or tried, against the step as it is.

Seconds and peak memory over those of our bare loop with RoPE, paired by round. Above one, the lab is better off without
the change. A bias needs a scheme that has one: T5, whose queries attend all at once, against T5 as it is.
"""

from collections.abc import Callable
from dataclasses import asdict

import torch
import torch.nn.functional as F

from conf.schema import Config
from experiments.benchmark.timing import Outcome, Run, format_spread, ratio
from experiments.benchmark.workbench import Workbench
from models.positions import base

AS_IT_IS, BIASED, WHOLE = "as it is", "T5", "T5 at once, over T5"


def run(bench: Workbench) -> list[dict]:
    """A row per model, window and change."""
    rows = []
    for model, window in bench.settings.levers_at:
        rows += _cell(bench, *(bench.config(model, scheme, window) for scheme in ("rope", "t5")))
    return rows


def _cell(bench: Workbench, rope: Config, t5: Config) -> list[dict]:
    builders = {AS_IT_IS: lambda: bench.ours(rope), **changes(bench, rope), BIASED: lambda: bench.ours(t5)}
    if bench.device.type == "cpu":
        builders[WHOLE] = lambda: all_at_once(bench.ours(t5))
    outcomes = bench.compare(f"levers {rope.model.name} {rope.window}", builders)
    same = {"model": rope.model.name, "window": rope.window, "batch": rope.batch}
    return [
        {**same, "change": name, **asdict(outcome)} | _over(outcome, outcomes[BIASED if name == WHOLE else AS_IT_IS])
        for name, outcome in outcomes.items()
    ]


def _over(outcome: Outcome, reference: Outcome) -> dict:
    if outcome.failure or reference.failure:
        return {}
    return {"seconds_over": asdict(ratio(outcome, reference)), "peak_over": outcome.peak / reference.peak}


def changes(bench: Workbench, config: Config) -> dict[str, Callable[[], Run]]:
    """The step with one thing changed, by what is changed."""
    return {
        "eager" if bench.compiled else "compiled": lambda: ours(bench, config, compiled=not bench.compiled),
        "loss read in every step": lambda: ours(bench, config, read=True),
        "logits whole": lambda: ours(bench, config, whole=True),
        "AdamW one tensor at a time": lambda: ours(bench, config, {"fused": False, "foreach": False}),
        "AdamW in lists of tensors": lambda: ours(bench, config, {"fused": False, "foreach": True}),
        "activation checkpointing": lambda: ours(bench, config, recompute=True),
        "Muon": lambda: bench.ours(bench.config(config.model.name, "rope", config.window, "optimizer=muon")),
    }


def ours(
    bench: Workbench,
    config: Config,
    adamw: dict | None = None,
    *,
    compiled: bool | None = None,
    read: bool = False,
    whole: bool = False,
    recompute: bool = False,
) -> Run:
    """Our bare loop, changed.

    Args:
        adamw: how AdamW goes over its tensors, in place of fused.
        compiled: instead of what the workbench does.
        read: wait for the loss of every step, as a logger would that wants it at once.
        whole: all logits at once, and cross-entropy of them.
        recompute: keep a block's input and compute the rest again in the backward pass.
    """
    module = bench.module(config)
    gpt, optimizer = module.gpt, module.configure_optimizers()["optimizer"]
    gpt.recompute = recompute
    if adamw is not None:
        betas = (config.optimizer.beta1, config.optimizer.beta2)
        groups = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in optimizer.param_groups]
        optimizer = torch.optim.AdamW(groups, betas=betas, **adamw)

    def loss(inputs, targets):
        if whole:
            return F.cross_entropy(gpt(inputs).float().flatten(0, 1), targets.flatten())
        return gpt(inputs, targets=targets)[0]

    return bench.trained(gpt, loss, optimizer, config.window, compiled, read)


def all_at_once(run: Run) -> Run:
    """Training without the chunks of queries in which a CPU adds a bias to the scores."""

    def whole(steps: int) -> float:
        before, base.ROWS_IN_TRAINING = base.ROWS_IN_TRAINING, 2**62
        try:
            return run(steps)
        finally:
            base.ROWS_IN_TRAINING = before

    return whole


def table(rows: list[dict]) -> str:
    """Ratios to the step as it is, medians with quartiles."""
    lines = [
        f"{'model':<6} {'window':>6} {'batch':>5}  {'change':<27} {'seconds / as it is':<20} {'peak / as it is':>15}"
    ]
    for row in rows:
        start = f"{row['model']:<6} {row['window']:>6} {row['batch']:>5}  {row['change']:<27} "
        over = f"{format_spread(row.get('seconds_over')):<20} {row.get('peak_over', float('nan')):>15.2f}"
        lines.append(start + (row["failure"] or over))
    return "\n".join(lines)
