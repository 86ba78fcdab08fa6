"""Retrieval scores: trials put to a model, cells of a grid of length x depth, and the papers' rules over the grid.

Length counts tokens read, depth is the place of the needle from 0 (the start of the prompt) to 1 (its end), k its
distance, counted in tokens from the end of the prompt (data/retrieval.py). Of N trials in a cell:

- exact: the share of trials in which greedy decoding gives every digit of the key. Given the digits before it, each
  digit must be the likeliest token, which one forward pass over prompt and key tells. Chance is 10^-digits, and
  1 / keys for a reader that finds keys but does not heed their labels.
- needle perplexity: exp of the mean loss of the key's tokens, and of nothing else (LongRoPE2, Shang et al. 2025).
- gap: loss of a wrong key in the same place less that of the right one, nats per key; preferred: the share of trials
  where it is above zero. Chance is one half: it is a far weaker test than exact, and not comparable with it. The wrong
  key is one of the other keys of the prompt where there are several, else one that occurs nowhere.

A method whose frequencies depend on the total length already has that of the whole answer when it reads the prompt in
this one pass. Read as decoded, every digit has a pass of its own, over prompt and the digits before it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from conf.base import BadInput
from experiments.lab.statistics import DRAWS, wilson

if TYPE_CHECKING:
    from data.corpus import Documents
    from data.retrieval import Task, Trial
    from models.gpt import GPT

PI_RATE, YARN_RATE = 0.2, 0.8  # shares of success that the two papers ask for


@dataclass(frozen=True)
class Answers:
    """The results of N trials, (N,) each: whether greedy decoding gives the key, nats of the right and a wrong key."""

    exact: np.ndarray
    nll: np.ndarray
    other_nll: np.ndarray


@dataclass(frozen=True)
class Cell:
    """One length and depth: trials by trial ("1" where exact), and what is made of them; plain values."""

    length: int
    depth: float
    k: int
    outcomes: str
    exact: float
    low: float
    high: float
    needle_perplexity: float
    gap: float
    preferred: float


def score_trials(model: "GPT", trials: "Sequence[Trial]", **options) -> Answers:
    """Put trials of one length to a model; options are those of token_losses (as_decoded, batch_tokens, device …)."""
    right, top = _key_losses(model, trials, [trial.key for trial in trials], options)
    wrong, _ = _key_losses(model, trials, [trial.other for trial in trials], options)
    return Answers(np.asarray(top.all(axis=1)), right.sum(axis=1), wrong.sum(axis=1))


def _key_losses(model, trials, keys, options) -> tuple[np.ndarray, np.ndarray]:
    """Nats of every key token after its prompt, float64, and whether it was the likeliest; both (N, digits)."""
    from experiments.lab.measure.protocols import token_losses

    texts = np.stack([np.concatenate((trial.prompt, key)) for trial, key in zip(trials, keys, strict=True)])
    read = texts.shape[1] - 1
    (losses,) = token_losses(model, list(texts), [read], "fixed_targets", len(keys[0]), **options)
    return losses.nll.astype(np.float64), losses.top


def make_trials(task: "Task", documents: "Documents", length: int, k: int, count: int, seed: int) -> "list[Trial]":
    """Trials of one cell, a function of (seed, length, k): each its own keys and its own stretch of held-out text.

    Raises:
        BadInput: the template does not fit the length, or no document the text.
    """
    needed = task.text_needed(length)
    fitting = documents.at_least(needed + 1)
    if not fitting:
        longest = max((len(documents[i]) for i in range(len(documents))), default=0)
        raise BadInput(f"lengths={length} needs documents of {needed + 1} tokens, and the longest has {longest}")
    trials = []
    for number in range(count):
        random = np.random.default_rng([seed, length, k, number])
        document = documents[fitting[random.integers(len(fitting))]]
        start = int(random.integers(1, len(document) - needed, endpoint=True))  # the separator stays out
        trials.append(task.trial(np.asarray(document[start : start + needed]), length, k, random, measured=True))
    return trials


def summarise_cell(length: int, depth: float, k: int, answers: Answers, digits: int) -> Cell:
    """Answers → shares with Wilson's interval, needle perplexity and gap."""
    share = wilson(int(answers.exact.sum()), len(answers.exact))
    gaps = answers.other_nll - answers.nll
    return Cell(
        length,
        depth,
        k,
        "".join("01"[int(right)] for right in answers.exact),
        share.value,
        share.low,
        share.high,
        _exp(answers.nll.mean() / digits),
        float(gaps.mean()),
        float((gaps > 0).mean()),
    )


def _exp(nats: float) -> float:
    return math.exp(min(float(nats), 700.0))


def k_max(cells: Sequence[Cell], rate: float = PI_RATE) -> int:
    """The largest k such that at it, and at every smaller k tried, at least `rate` of the trials are exact; else 0.

    Chen et al. (2023), Position Interpolation, section 3.3, with rate = 0.2. The cells are those of one length.
    """
    reached = 0
    for cell in sorted(cells, key=lambda cell: cell.k):
        if cell.exact < rate:
            break
        reached = cell.k
    return reached


def k_max_interval(cells: Sequence[Cell], rate: float = PI_RATE) -> tuple[int, int]:
    """The 95 % percentile interval of k_max when the trials of every cell are drawn again from those it had."""
    ordered = sorted(cells, key=lambda cell: cell.k)
    trials = np.array([len(cell.outcomes) for cell in ordered])
    drawn = np.random.default_rng(0).binomial(trials, [cell.exact for cell in ordered], size=(DRAWS, len(ordered)))
    unbroken = (drawn / trials >= rate).cumprod(axis=1).sum(axis=1)  # cells before the first failure
    low, high = np.percentile(np.array([0, *(cell.k for cell in ordered)])[unbroken], (2.5, 97.5), method="nearest")
    return int(low), int(high)


def passkey_context(cells: Sequence[Cell]) -> tuple[int, float]:
    """The longest length at which at least 80 % of all trials are exact, and the mean share up to it; else (0, 0).

    Peng et al. (2024), YaRN: "passkey context" and "passkey accuracy".
    """
    shares = {length: float(np.mean([c.exact for c in cells if c.length == length])) for length in _lengths(cells)}
    reached = max((length for length, share in shares.items() if share >= YARN_RATE), default=0)
    return reached, float(np.mean([share for length, share in shares.items() if length <= reached])) if reached else 0.0


def _lengths(cells: Sequence[Cell]) -> list[int]:
    return sorted({cell.length for cell in cells})


def summarise(cells: Sequence[Cell]) -> dict:
    """By length all depths together and k_max under both rules; over all lengths the passkey context and accuracy."""
    by_length = []
    for length in _lengths(cells):
        alike = [cell for cell in cells if cell.length == length]
        outcomes = "".join(cell.outcomes for cell in alike)
        row = {"length": length, "exact": asdict(wilson(outcomes.count("1"), len(outcomes)))}
        row["needle_perplexity"] = _exp(float(np.mean([math.log(cell.needle_perplexity) for cell in alike])))
        row |= {name: float(np.mean([getattr(cell, name) for cell in alike])) for name in ("gap", "preferred")}
        for rate in (PI_RATE, YARN_RATE):
            low, high = k_max_interval(alike, rate)
            row[f"k_max_{rate:.0%}"] = {"value": k_max(alike, rate), "low": low, "high": high}
        by_length.append(row)
    context, accuracy = passkey_context(cells)
    return {"lengths": by_length, "passkey_context": context, "passkey_accuracy": accuracy}
