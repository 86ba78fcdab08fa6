"""Optimizers: their settings and schedule; Muon for the matrices inside the blocks and AdamW for the rest, as one."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from conf.base import CountOrZero, Settings


class Optimizer(Settings):
    """The optimizer and its schedule, as in conf/optimizer; steps are optimizer steps."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(gt=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    warmup: CountOrZero
    schedule: Literal["cosine", "constant"]
    final: float = Field(ge=0, le=1)
    clip: float = Field(gt=0)


def learning_rate_scale(step: int, steps: int, settings: Optimizer) -> float:
    """The share of the peak learning rate at this step: linear warmup, then constant or a cosine down to `final`."""
    if step < settings.warmup:
        return (step + 1) / (settings.warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    progress = (step - settings.warmup) / max(1, steps - settings.warmup)
    return settings.final + (1 - settings.final) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class Muon(torch.optim.Muon):
    """Muon (Jordan et al. 2024): the momentum of a matrix, made nearly orthogonal, is its update.

    It is torch's, to rounding, but takes all matrices of one shape in one batch, which makes small ones orthogonal in
    half the time. Updates are scaled to the size of AdamW's, 0.2 per entry and unit of learning rate (Liu
    et al. 2025, "Muon is scalable", eq. 4), so that one learning rate serves both.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, weight_decay: float):
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:  # Together calls closures
        for group in self.param_groups:
            shapes = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    state = self.state[matrix]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                    shapes[matrix.shape].append((matrix, state["momentum_buffer"]))
            for shape, pairs in shapes.items():
                matrices, momenta = zip(*pairs, strict=True)
                gradients = [matrix.grad for matrix in matrices]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                ahead = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))  # Nesterov's
                updates = orthogonal(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"]).unbind()
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, updates, alpha=-0.2 * max(shape) ** 0.5 * group["lr"])


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Matrices (N, R, C) with singular values near 1 instead of theirs (Newton and Schulz, degree 5).

    On a GPU in bfloat16, as torch does it; on a CPU in float32, as processors that know no bfloat16 take 50 times as
    long for its products.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    precision = torch.float32 if matrices.device.type == "cpu" else torch.bfloat16
    found = (matrices.mT if tall else matrices).to(precision).contiguous()
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.mT if tall else found


class Together(torch.optim.Optimizer):
    """Several optimizers of disjoint parameters that step, are scheduled and are saved as one.

    The parts share this optimizer's groups and state, so that its state dict holds all of theirs.
    """

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], defaults={})
        self._share()

    def _share(self) -> None:
        first = 0
        for part in self.parts:
            last = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:last], self.state
            first = last

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._share()  # loading a state dict replaces both groups and state

    def step(self, closure: Callable | None = None):
        """One step of every part; closure, if given, computes the loss and the gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss
