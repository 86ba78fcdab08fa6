"""Muon for the matrices inside the blocks, AdamW for the rest, as one optimizer."""

from collections.abc import Callable

import torch
from torch import nn


def muon(matrices: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Muon:
    """torch's Muon (Jordan et al. 2024): the momentum of a matrix, made nearly orthogonal, is its update.

    Its updates are scaled to the size of AdamW's, 0.2 per entry and unit of learning rate (Liu et al. 2025, "Muon is
    scalable", eq. 4), so that one learning rate serves both.
    """
    return torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")


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
