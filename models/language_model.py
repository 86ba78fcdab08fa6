"""The LightningModule that trains a GPT: next-token loss, optimizer, schedule, and the sums of validation."""

import math
import zlib
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conf.base import Diverged
from models.gpt import GPT
from models.lightning import L
from models.longce import LongCE
from models.optimizers import Muon, Optimizer, Together, learning_rate_scale
from models.positions.seen import Contiguous, Seen


class LanguageModel(L.LightningModule):
    """Trains a GPT on windows of tokens; each batch is (B, T + 1), inputs and targets overlapping.

    Of samples of a task the answers alone are targets.

    Nothing in a step waits for the device: the loss and the gradient norm stay tensors until somebody reads them.
    """

    def __init__(
        self,
        gpt: GPT,
        optimizer: Optimizer,
        steps: int,
        bytes_per_token: Tensor | np.ndarray | None,
        record: dict,
        seen: Seen | None = None,
        seed: int = 0,
        ranks: int = 1,
        answered: Callable[[Tensor], Tensor] | None = None,
        longce: LongCE | None = None,
    ):
        """Wrap a GPT.

        Args:
            seen: which positions the tokens of a training window stand at (models/positions/seen.py), drawn from
                the seed and the number of the batch, or which windows are cut; None for 0 … T - 1. Validation is
                always contiguous.
            ranks: processes that share every batch.
            longce: how targets weigh by what far context gives them; None for all alike.
            steps: optimizer steps of the whole run, the length of the schedule.
            bytes_per_token: (V,), the UTF-8 length of every token, for bits per byte; None where tokens are no text.
            record: plain values that travel in every checkpoint under "lab", enough to rebuild the model.
            answered: tokens (B, T + 1) → which of the targets are learned, (B, T) bool; None for all.
        """
        super().__init__()
        self.gpt, self.optimizer_settings, self.steps, self.record = gpt, optimizer, steps, record
        self.seen, self.seed, self.ranks, self.answered = seen or Contiguous(), seed, ranks, answered
        self.longce = longce or LongCE()
        self.bytes_per_token = None if bytes_per_token is None else torch.as_tensor(bytes_per_token).double()
        self.loss = self.gradient_norm = torch.tensor(float("nan"), dtype=torch.float32)
        self.learning_rate = float("nan")
        self.finite = ""  # the last loss that was seen to be finite, in words

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        first = (batch_index * self.ranks + self.global_rank) * len(batch)  # number of the first window
        parts = self.seen.cut(batch, first, self.gpt.position.geometry.window)
        if self.device_mesh is None:  # sharded weights take all processes, also one that has no such window
            parts = [part for part in parts if len(part)]
        positions, targets = self._positions(batch, batch_index), batch[:, 1:].numel()
        means = [
            (part[:, 1:].numel(), self._read(part, positions, **self.longce.weighted(self.gpt, part))[0])
            for part in parts
        ]
        loss = torch.stack([count / targets * mean for count, mean in means]).sum()
        self.loss = loss.detach()
        return loss

    def _read(self, tokens: Tensor, positions: Tensor | None = None, **weighted) -> tuple[Tensor, Tensor]:
        """Tokens (B, T + 1) → the mean loss of what is learned, and the losses of all targets, (B, T)."""
        answers = self.answered(tokens) if self.answered else None
        return self.gpt(tokens[:, :-1], positions, targets=tokens[:, 1:], counted=answers, **weighted)

    def _positions(self, batch: Tensor, batch_index: int) -> Tensor | None:
        """The positions of this batch, (B, T), a function of the seed and the number of the step; None for 0 … T - 1.

        They are drawn for all windows of a step, of which every process and every pass takes its share: a run resumes,
        and neither processes nor passes change what it sees.
        """
        passes = self.trainer.accumulate_grad_batches if self._trainer is not None else 1
        step, turn = divmod(batch_index, passes)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{step}".encode()))
        parts = self.ranks * passes
        positions = self.seen.positions(batch.shape[1] - 1, len(batch) * parts, generator, step / self.steps)
        if positions is None:
            return None
        return positions.chunk(parts)[turn * self.ranks + self.global_rank].to(batch.device)

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # strategy fsdp
            from models.sharding import shard

            shard(self.gpt, self.device_mesh["data_parallel"])

    def configure_optimizers(self):
        settings, rates = self.optimizer_settings, self.gpt.position.learning_rates
        matrices: list = []  # what Muon takes, if it is asked for
        groups: dict[tuple[float, float], list] = {}  # (learning rate, weight decay) → what AdamW takes
        for name, parameter in self.gpt.named_parameters():
            if settings.name == "muon" and name.startswith("blocks.") and parameter.dim() == 2:
                matrices.append(parameter)
                continue
            positional = name.startswith("position.")  # no decay: a table of positions is no matrix, nor is a norm
            decay = settings.weight_decay if parameter.dim() >= 2 and not positional else 0.0
            rate = settings.lr * (rates.get(name.removeprefix("position."), 1.0) if positional else 1.0)
            groups.setdefault((rate, decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()],
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )
        if matrices:
            optimizer = Together(Muon(matrices, settings.lr, settings.weight_decay), optimizer)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_scale(step, self.steps, settings)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.optimizer_settings.clip)
        self.gradient_norm = norm if self.device_mesh is None else norm.full_tensor()
        self.learning_rate = optimizer.param_groups[0]["lr"]  # of this step, after which the schedule moves on

    def check_finite(self) -> None:
        """Wait for the device, and refuse to go on from a step whose loss or gradient is not finite.

        Raises:
            Diverged: one of them is not, nor will any later one be.
        """
        step, loss = self.trainer.global_step, float(self.trainer.strategy.reduce(self.loss.clone()))
        norm = float(self.gradient_norm)
        if not math.isfinite(loss + norm):
            fault = f"the norm of the gradient is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
            raise Diverged(f"diverged: {fault} at step {step}" + self.finite)
        self.finite = f", after a loss of {loss:.3f} at step {step}"

    def score(self, batch: Tensor) -> Tensor:
        """Sums over the targets of windows (B, T + 1), (5,) float64: nats, tokens and bytes (0 if no text); and where
        answers are learned alone, over these, and how many rows have no wrong token, of how many (0 else).

        Separators are no targets, here as in readings, where they open a document: that one ends is not text.
        """
        if self.answered is not None:
            return self._score_answers(batch, self.answered(batch))
        targets = batch[:, 1:]
        scored = targets != self.record.get("separator", -1)
        nats = (self._read(batch)[1].double() * scored).sum()
        width = rows = nats.new_zeros(())
        if self.bytes_per_token is not None:
            width = self.bytes_per_token.to(targets.device)[targets].sum()
        return torch.stack((nats, scored.sum().double(), width, rows, rows))

    def _score_answers(self, batch: Tensor, answers: Tensor) -> Tensor:
        logits, targets = self.gpt(batch[:, :-1]), batch[:, 1:]
        nats = F.cross_entropy(logits[answers].float(), targets[answers], reduction="sum")
        exact, rows = exact_rows(logits, targets, answers).sum(), torch.full_like(nats, len(batch))
        return torch.stack((nats, answers.sum(), torch.zeros_like(nats), exact, rows)).double()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["lab"] = self.record


def exact_rows(logits: Tensor, targets: Tensor, answers: Tensor) -> Tensor:
    """Which rows have the right token in front at every answer, (B,) bool; greedy decoding then gives the answer.

    Args:
        logits: (B, T, V); targets, answers: (B, T), of which bool.
    """
    return ((logits.argmax(-1) == targets) | ~answers).all(1)


def summarise(nats: float, tokens: float, width: float, exact: float = 0, rows: float = 0) -> dict[str, float]:
    """Metrics from sums over targets: nll (nats per token) and perplexity, bits per byte if there are bytes, and the
    share of exact answers if there are rows with answers.
    """
    nll = nats / tokens
    values = {"nll": nll, "perplexity": math.exp(min(nll, 700.0))}
    values |= {"exact": exact / rows} if rows else {}
    return values | {"bits_per_byte": nats / math.log(2) / width} if width else values
