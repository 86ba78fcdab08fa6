"""The LightningModule: next-token loss, optimizer, schedule, and what validation is made of."""

import math
from typing import Literal

import lightning as L
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from conf.base import CountOrZero, Settings
from models.gpt import GPT


class Optimizer(Settings):
    """AdamW and its schedule, as in conf/optimizer; steps are optimizer steps."""

    name: Literal["adamw"] = "adamw"
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


class LanguageModel(L.LightningModule):
    """Trains a GPT on windows of tokens; each batch is (B, T + 1), inputs and targets overlapping.

    Nothing in a step waits for the device: the loss and the gradient norm stay tensors until somebody reads them.
    """

    def __init__(self, gpt: GPT, optimizer: Optimizer, steps: int, bytes_per_token: Tensor, record: dict):
        """Wrap a GPT.

        Args:
            steps: optimizer steps of the whole run, the length of the schedule.
            bytes_per_token: (V,), the UTF-8 length of every token, for bits per byte.
            record: plain values that travel in every checkpoint under "lab", enough to rebuild the model.
        """
        super().__init__()
        self.gpt, self.optimizer_settings, self.steps, self.record = gpt, optimizer, steps, record
        self.bytes_per_token = bytes_per_token.double()
        self.loss = self.gradient_norm = torch.tensor(float("nan"))

    def nll(self, batch: Tensor) -> Tensor:
        """Windows (B, T + 1) → negative log-likelihood of every target, (B, T), nats, float32."""
        logits = self.gpt(batch[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none").view(
            len(batch), -1
        )

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        loss = self.nll(batch).mean()
        self.loss = loss.detach()
        return loss

    def configure_optimizers(self):
        matrices = [p for p in self.parameters() if p.dim() >= 2]
        vectors = [p for p in self.parameters() if p.dim() < 2]  # norms: decay would pull them towards silence
        settings = self.optimizer_settings
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_scale(step, self.steps, settings)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.optimizer_settings.clip)

    def score(self, batch: Tensor) -> Tensor:
        """Windows (B, T + 1) → sums over all targets of nats, tokens and bytes, (3,) float64."""
        nll, targets = self.nll(batch), batch[:, 1:]
        width = self.bytes_per_token.to(targets.device)[targets].sum()
        return torch.stack((nll.double().sum(), width.new_tensor(targets.numel()), width))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["lab"] = self.record


def summarise(nats: float, tokens: float, width: float) -> dict[str, float]:
    """Sums over targets → nll (nats per token), perplexity, and bits per byte of the text they encode."""
    nll = nats / tokens
    return {"nll": nll, "perplexity": math.exp(min(nll, 700.0)), "bits_per_byte": nats / math.log(2) / width}
