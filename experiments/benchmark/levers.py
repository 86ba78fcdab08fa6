"""How single changes affect a training step: each one alone, against the step as it is.

Seconds and peak memory are relative to our bare loop with RoPE, paired by round; above one, the change makes the step
worse. The chunks of queries used with a bias are measured on T5, with all queries at once against T5 as it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from conf.schema import Config
from experiments.benchmark.timing import Outcome, Run, ratio, spread_cell
from experiments.benchmark.workbench import Workbench
from experiments.lab.tables import format_rows
from models.positions import base, pairs

AS_IT_IS, BIASED, WHOLE = "as it is", "T5", "T5 at once, over T5"


def run(bench: Workbench) -> Iterator[list[dict]]:
    """A row per model, window and change."""
    for model, window in bench.settings.levers_at:
        yield _cell(bench, *(bench.config(model, scheme, window) for scheme in ("rope", "t5")))


def _cell(bench: Workbench, rope: Config, t5: Config) -> list[dict]:
    builders = {AS_IT_IS: lambda: bench.lab_loop(rope), **changes(bench, rope), BIASED: lambda: bench.lab_loop(t5)}
    if bench.device.type == "cpu":
        builders[WHOLE] = lambda: with_another(base, "ROWS_IN_TRAINING", 2**62, bench.lab_loop(t5))
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
    """Builders of the step with one change each, by the name of the change."""

    def configured(override: str) -> Run:
        return bench.lab_loop(bench.config(config.model.name, "rope", config.window, override))

    formula = SimpleNamespace(apply=pairs.rotated_by_formula)
    return {
        "eager" if bench.compiled else "compiled": lambda: variant(bench, config, compiled=not bench.compiled),
        "loss read in every step": lambda: variant(bench, config, read_loss=True),
        "logits whole": lambda: variant(bench, config, whole=True),
        "AdamW one tensor at a time": lambda: variant(bench, config, {"fused": False, "foreach": False}),
        "AdamW in lists of tensors": lambda: variant(bench, config, {"fused": False, "foreach": True}),
        "activation checkpointing": lambda: variant(bench, config, recompute=True),
        "rotation left to autograd": lambda: with_another(pairs, "_Rotation", formula, bench.lab_loop(config)),
        "GELU by tanh": lambda: configured("model.network=gelu_tanh"),
        "Muon": lambda: configured("optimizer=muon"),
    }


def variant(
    bench: Workbench,
    config: Config,
    adamw: dict | None = None,
    *,
    compiled: bool | None = None,
    read_loss: bool = False,
    whole: bool = False,
    recompute: bool = False,
) -> Run:
    """Our bare loop with changes.

    Args:
        adamw: options of AdamW in place of fused.
        compiled: whether to compile; None: as the workbench does.
        read_loss: wait for the loss of every step, as a logger would.
        whole: compute all logits at once and their cross-entropy.
        recompute: keep only a block's input and compute the rest again in the backward pass.
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

    return bench.training_loop(gpt, loss, optimizer, config.window, compiled, read_loss)


def with_another(owner: Any, name: str, value: Any, run: Run) -> Run:
    """The run while an attribute of a module has another value."""

    def changed(steps: int) -> float:
        before = getattr(owner, name)
        setattr(owner, name, value)
        try:
            return run(steps)
        finally:
            setattr(owner, name, before)

    return changed


def table(rows: list[dict]) -> str:
    """Ratios to the unchanged step, medians with quartiles."""
    columns = {"model": "{model}", "window": "{window}", "batch": "{batch}", "change": "{change}"}
    columns["seconds / as it is"] = spread_cell("seconds_over")
    return format_rows(rows, columns | {"peak / as it is": "{peak_over:.2f}"})
