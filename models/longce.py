"""LongCE: in training, a target weighs by what far context gives it (Fang et al. 2025, arXiv 2410.23771).

The weight of a target is min(exp(loss_short - loss_full), limit), without a gradient, where loss_short is the model's
present loss after a short context, K … K + S - 1 tokens (windows moved by S, as in the authors' code); the first K - 1
targets of a window, which have no other context, weigh 1. The mean is over all targets, so the loss is not that of a
run without. A step reads (K + S - 1)/S times its tokens once more, without gradients: it takes 2.3 times the CPU time
at S = K/4, and 1.6 times at S = K (`nano`, 4 windows of 1,024 tokens, K = 64 and 256).
"""

import torch
from pydantic import Field, model_validator
from torch import Tensor

from conf.base import Count, Settings
from models.gpt import GPT


class LongCE(Settings):
    """The settings of the weights, as in conf/config.yaml."""

    short: Count | None = None  # K; None: all targets weigh alike
    stride: Count | None = None  # S; None: a quarter of K, as published
    limit: float = Field(5.0, gt=0)

    @model_validator(mode="after")
    def _fits(self):
        if self.short is None and self.stride is not None:
            raise ValueError(f"longce.stride={self.stride} needs longce.short, the tokens of the short context")
        return self

    def weighted(self, gpt: GPT, batch: Tensor) -> dict:
        """What a GPT's forward pass over windows (B, T + 1) is given beside tokens and targets; nothing if off."""
        if self.short is None:
            return {}
        stride = self.stride or max(1, self.short // 4)
        return {"short": short_losses(gpt, batch, self.short, stride), "limit": self.limit}


@torch.no_grad()
def short_losses(gpt: GPT, batch: Tensor, short: int, stride: int) -> Tensor:
    """The loss of every target of windows (B, T + 1) after `short` to `short + stride - 1` tokens, (B, T) float32 nats.

    NaN for the first `short` - 1, and none is computed for them.
    """
    losses = torch.full((len(batch), batch.shape[1] - 1), torch.nan, dtype=torch.float32, device=batch.device)
    for start in range(0, batch.shape[1] - short, stride):
        part = batch[:, start : start + short + stride]
        nll = gpt(part[:, :-1], targets=part[:, 1:])[1]
        losses[:, start + short - 1 : start + short + stride - 1] = nll[:, short - 1 :]
    return losses
