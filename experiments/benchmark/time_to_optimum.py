"""Time to optimum: tokens and seconds until a model predicts its window nearly as well as the best possible reader.

On data=chains the loss of the best reader is known (lab/measure/optimum.py), so the target is no other run's loss: it
is `within` above that of the best reader on the validation windows. train.py trains with every optimizer, learning rate
and length; peers of the same shape are trained in a bare loop on the same batches in the same order, with the cosine of
conf/optimizer/adamw.yaml. The best run of each is compared with that of the first optimizer, as in time_to_loss.py.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from conf.base import BadInput
from conf.schema import Config
from data.corpus import prepare
from data.windows import Windows, fixed_windows
from experiments.benchmark import time_to_loss
from experiments.benchmark.peers import PEERS
from experiments.benchmark.time_to_loss import arm_config, arms, compare_optimizers, train_curve
from experiments.benchmark.workbench import CLIP, Workbench
from experiments.lab.measure.optimum import optimal_losses
from models.optimizers import learning_rate_scale
from train import open_data


def run(bench: Workbench) -> Iterator[list[dict]]:
    """As time_to_loss.run, with peers among the optimizers; every row also has "optimum", nats per token."""
    settings = bench.settings.time_to_optimum
    configs = [arm_config(settings, bench.settings.cache, *arm) for arm in arms(settings.rates, settings.steps)]
    best = best_loss(configs[0])
    runs = [train_curve(config) for config in tqdm(configs, desc="time to optimum", leave=False)]
    for name, rate, steps in tqdm(arms(settings.peers, settings.steps), desc="peers", leave=False):
        config = arm_config(settings, bench.settings.cache, "adamw", rate, steps)
        runs.append(peer_curve(bench, config, name, settings.every))
    yield [{**row, "optimum": best} for row in compare_optimizers(runs, (1 + settings.within) * best)]


def best_loss(config: Config) -> float:
    """The loss of the best reader on the validation windows of a run, nats per token.

    It counts anew behind a separator, and separators are no targets, as in LanguageModel.score.

    Raises:
        BadInput: the corpus has no known optimum.
    """
    corpus = open_data(config)
    if corpus.language is None:
        raise BadInput(f"time_to_optimum.run: data={corpus.name} has no optimum that is known; take data=chains")
    windows = fixed_windows(corpus.split("validation").tokens, config.window, config.validation_windows).numpy()
    losses = []
    for window in windows:
        for part in np.split(window, np.flatnonzero(window[1:] == corpus.separator) + 1):
            seen = np.arange(1, len(part))
            losses.append(optimal_losses(corpus.language, part[None], seen, seen)[0])
    return float(np.concatenate(losses).mean())


def peer_curve(bench: Workbench, config: Config, name: str, every: int) -> dict:
    """Train a peer in a bare loop on the batches of train.py; returns what train_curve does."""
    corpus = prepare(config.data, Path(config.cache), progress=False)
    torch.manual_seed(config.seed)
    model, logits = PEERS[name](config.model, corpus.vocabulary, config.window)
    model.to(bench.device)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.lr, betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay,
        fused=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_scale(step, config.steps, settings)
    )
    windows = Windows(corpus.split("train").tokens, config.window, config.batch, config.seed)
    held_out = fixed_windows(corpus.split("validation").tokens, config.window, config.validation_windows)
    scored = int((held_out[:, 1:] != corpus.separator).sum())

    def loss(batch: Tensor, **options) -> Tensor:
        batch = batch.to(bench.device)
        with bench.autocast():
            return F.cross_entropy(logits(batch[:, :-1]).float().flatten(0, 1), batch[:, 1:].flatten(), **options)

    tokens, losses, seconds, start = [], [], [], time.perf_counter()
    for step in range(config.steps):
        loss(windows.batch(step)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % every == 0:
            _wait(bench.device)
            seconds.append((time.perf_counter() - start) / every)
            model.eval()
            with torch.inference_mode():
                options = {"ignore_index": corpus.separator, "reduction": "sum"}
                nats = sum(loss(part, **options).item() for part in held_out.split(config.batch))
            model.train()
            held_out_loss = nats / scored
            if not math.isfinite(held_out_loss):
                break
            losses.append(held_out_loss)
            tokens.append((step + 1) * config.batch * config.window)
            start = time.perf_counter()
    return {
        "kind": "run",
        "optimizer": name,
        "lr": settings.lr,
        "steps": config.steps,
        "diverged": len(losses) < config.steps // every,
        "tokens_per_step": config.batch * config.window,
        "tokens": tokens,
        "nll": losses,
        "seconds_per_step": seconds[1:],
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(rows: list[dict]) -> str:
    """The loss of the best reader, then as time_to_loss.table."""
    return f"the best reader: {rows[0]['optimum']:.4f} nats a token\n{time_to_loss.table(rows)}"
