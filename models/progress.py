"""Progress of a training run: a row of metrics every few steps, and a progress bar."""

import csv
import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from conf.base import Diverged
from models.compute import flops_per_token, matmul_rate, peak_memory, reset_peak_memory
from models.language_model import summarise
from models.lightning import L


class Metrics:
    """The metrics of a run as JSON lines in order; rows that a resumed run will write again are dropped."""

    def __init__(self, path: Path):
        self.path = path

    def rows(self) -> list[dict]:
        """Read every complete row; incomplete lines, such as the last one after a kill, are skipped."""
        rows = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else []:
            with suppress(ValueError):
                row = json.loads(line)
                numbers = isinstance(row, dict) and all(isinstance(value, int | float) for value in row.values())
                if numbers and "step" in row:
                    rows.append(row)
        return rows

    def final(self) -> dict[str, float]:
        """The last value of every metric."""
        return {key: value for row in self.rows() for key, value in row.items()}

    def rewind(self, step: int) -> None:
        """Drop the rows after this step."""
        lines = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        partial = self.path.with_suffix(".tmp")
        partial.write_text("".join(lines))
        partial.replace(self.path)

    def write(self, row: dict) -> None:
        """Append a row, without values that are not finite, which JSON cannot hold."""
        row = {key: value for key, value in row.items() if math.isfinite(value)}
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def write_csv(self) -> None:
        """Write metrics.csv beside it: a row per step, a column per metric."""
        steps: dict[int, dict] = {}
        for row in self.rows():
            steps.setdefault(row["step"], {}).update(row)
        columns = list(dict.fromkeys(key for row in steps.values() for key in row))
        with open(self.path.with_suffix(".csv"), "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(steps.values())


class Recorder(L.Callback):
    """Writes every `every` steps mean loss, perplexity, learning rate, gradient norm, tokens per second, MFU and the
    peak of memory (of the first process since training started, in 10^9 bytes); less often, and after the last step,
    the token-weighted loss on a fixed set of validation windows.

    Rows go to `metrics` and to the Trainer's loggers, with the tokens seen as the x axis. MFU refers to the matrix
    multiplication rate of this device in this precision, measured once in a process. The running mean is part of
    the checkpoint, so that a resumed run writes the same rows as an uninterrupted one.
    """

    def __init__(
        self,
        metrics: Metrics,
        every: int,
        batch: int,
        validation: torch.Tensor,
        validate_every: int,
        stopping: Callable[[], bool] = lambda: False,
        stop_at: float | None = None,
    ):
        """Record to `metrics`.

        Args:
            every: steps between rows of training metrics.
            batch: sequences per optimizer step.
            validation: windows (n, T + 1), scored every `validate_every` steps.
            stopping: whether the run is to stop; a validation then ends, and is made up for when the run resumes. Not
                the one after the last step, which no step follows.
            stop_at: the share of exact answers at which training ends, before the last step.
        """
        self.metrics, self.every, self.batch = metrics, every, batch
        self.validation, self.validate_every = validation, validate_every
        self.window = validation.shape[1] - 1
        self.tokens_per_step = batch * self.window
        self.sum, self.count = torch.zeros((), dtype=torch.float64), 0
        self.latest: dict[str, float] = {}
        self.stopping, self.due = stopping, False  # due: the validation of the step at which the run was stopped
        self.stop_at, self.finished = stop_at, False

    def state_dict(self) -> dict:
        return {"sum": float(self._mean(self.sum)), "count": self.count, "due": self.due, "finished": self.finished}

    def load_state_dict(self, state: dict) -> None:
        self.sum, self.count = torch.tensor(state["sum"], dtype=torch.float64), state["count"]
        self.due, self.finished = state.get("due", False), state.get("finished", False)

    def on_train_start(self, trainer, module) -> None:
        if trainer.is_global_zero:
            self.metrics.rewind(trainer.global_step)
        self._mean = lambda value: trainer.strategy.reduce(value.clone())  # over processes, which share every batch
        self.sum = self.sum.to(module.device)
        self.flops = flops_per_token(module.gpt, self.window)
        dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
        self.ceiling = matmul_rate(module.device, dtype) * trainer.world_size
        if self.due:
            self._record_validation(trainer, module)
        trainer.should_stop = self.finished
        reset_peak_memory(module.device)
        self._restart_clock(trainer)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        self.sum += module.loss
        self.count += 1
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # between two optimizer steps
        step = trainer.global_step
        if step % self.every == 0:
            module.check_finite()
            self._log(trainer, self._training(trainer, module))
            self._restart_clock(trainer)
        if step % self.validate_every == 0 or step == trainer.max_steps:
            self._record_validation(trainer, module)
            self._restart_clock(trainer)

    def _record_validation(self, trainer, module) -> None:
        scores = self._validate(trainer, module)
        self.due = scores is None
        if scores is not None:
            if not math.isfinite(scores["nll"]):
                step = trainer.global_step
                raise Diverged(f"diverged: the validation loss is {scores['nll']} at step {step}" + module.finite)
            self._log(trainer, {f"validation/{key}": value for key, value in scores.items()})
            if self.stop_at is not None and scores.get("exact", 0.0) >= self.stop_at:
                trainer.should_stop = self.finished = True

    def _training(self, trainer, module) -> dict[str, float]:
        loss = float(self._mean(self.sum / self.count))
        self.sum.zero_()
        self.count = 0
        speed = (trainer.global_step - self.clock_step) * self.tokens_per_step / (time.perf_counter() - self.clock)
        return {
            "train/loss": loss,
            "train/perplexity": math.exp(min(loss, 700.0)),
            "train/lr": module.learning_rate,
            "train/gradient_norm": float(module.gradient_norm),
            "speed/tokens_per_second": speed,
            "speed/mfu": speed * self.flops / self.ceiling,
            "speed/peak_memory_gb": peak_memory(module.device) / 1e9,
        }

    @torch.no_grad()
    def _validate(self, trainer, module) -> dict[str, float] | None:
        """Score every validation window once, shared among the processes; None if the run is to stop.

        This is done in a callback instead of Lightning's validation loop, so that a checkpoint of the same step comes
        after it and a resumed run neither repeats nor misses it.
        """
        sums = torch.zeros(5, dtype=torch.float64, device=module.device)
        module.eval()
        for windows in self.validation.split(self.batch // trainer.accumulate_grad_batches):  # as many as in training
            if trainer.global_step < trainer.max_steps and self.stopping():
                module.train()
                return None
            share = windows[trainer.global_rank :: trainer.world_size]
            with trainer.precision_plugin.val_step_context():
                # A process without a share computes too: sharded weights take all processes.
                scored = module.score((share if len(share) else windows[:1]).to(module.device))
            sums += scored if len(share) else 0
        module.train()
        return summarise(*trainer.strategy.reduce(sums, reduce_op="sum").tolist())

    def _restart_clock(self, trainer) -> None:
        self.clock, self.clock_step = time.perf_counter(), trainer.global_step

    def _log(self, trainer, values: dict[str, float]) -> None:
        self.latest.update(values)
        if not trainer.is_global_zero:
            return
        self.metrics.write(
            {"step": trainer.global_step, "tokens": trainer.global_step * self.tokens_per_step, **values}
        )
        for logger in trainer.loggers:
            logger.log_metrics({"tokens": trainer.global_step * self.tokens_per_step, **values}, trainer.global_step)


class Bar(L.pytorch.callbacks.TQDMProgressBar):
    """One bar for the whole run: steps, time left, loss and perplexity."""

    def __init__(self, name: str, recorder: Recorder):
        super().__init__(refresh_rate=10)
        self.name, self.recorder = name, recorder

    def init_train_tqdm(self):
        bar = super().init_train_tqdm()
        bar.set_description(self.name)
        bar.total = self.trainer.num_training_batches  # a run that resumes starts no epoch, which would set these
        bar.initial = bar.n = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return bar

    def on_train_epoch_start(self, trainer, *_) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(self.name)

    def get_metrics(self, trainer, module) -> dict[str, str]:
        latest = self.recorder.latest
        labels = {"loss": "train/loss", "ppl": "train/perplexity", "val ppl": "validation/perplexity"}
        return {label: f"{latest[key]:.3f}" for label, key in labels.items() if key in latest}


def describe(metrics: dict[str, float]) -> str:
    """Describe the final metrics of a run."""
    words = f"validation perplexity {metrics['validation/perplexity']:.2f}"
    if "validation/exact" in metrics:
        words += f", {metrics['validation/exact']:.1%} of the answers exact"
    if "validation/bits_per_byte" in metrics:  # tokens that are no text have none
        words += f", {metrics['validation/bits_per_byte']:.3f} bits per byte"
    return f"{words} after {metrics['tokens']:,} tokens"
