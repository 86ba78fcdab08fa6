"""Intervals: the document is the unit, and comparisons are paired over the documents that both sides scored."""

from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
NORMAL = 1.959963984540054  # standard deviations that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def paired_ratio(ours: dict, theirs: dict, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Perplexity of one row over another's, with a percentile interval from resampling documents.

    Args:
        ours, theirs: rows with documents, document_nll (nats) and document_tokens, over the same targets.

    Raises:
        ValueError: the rows scored different targets, so that nothing is paired.
    """
    if ours["token_set"] != theirs["token_set"]:
        raise ValueError("a paired comparison needs rows that scored the same targets")
    nats = np.subtract(ours["document_nll"], theirs["document_nll"])  # (D,)
    difference = mean(nats, ours["document_tokens"], draws, seed)
    return Estimate(*np.exp((difference.value, difference.low, difference.high)).tolist())


def mean(sums, counts, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Σ sums / Σ counts over documents, both (D,), with a percentile interval from resampling documents."""
    return _resampled(lambda sums, counts: sums.sum(-1) / counts.sum(-1), (sums, counts), draws, seed)


def mean_difference(ours: tuple, theirs: tuple, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The mean over one set of targets less that over another set in the same documents, paired by document.

    Args:
        ours, theirs: sums and counts by document, (D,) each, over the same documents in the same order.
    """

    def difference(sums, counts, their_sums, their_counts):
        return sums.sum(-1) / counts.sum(-1) - their_sums.sum(-1) / their_counts.sum(-1)

    return _resampled(difference, (*ours, *theirs), draws, seed)


def _resampled(statistic, columns, draws: int, seed: int) -> Estimate:
    """A statistic of columns (D,), reduced along the last axis, and its percentile interval over resampled rows."""
    table = np.asarray(columns, dtype=np.float64)  # (columns, D)
    picks = np.random.default_rng(seed).integers(0, table.shape[1], size=(draws, table.shape[1]))
    low, high = np.percentile(statistic(*(column[picks] for column in table)), (2.5, 97.5))
    return Estimate(float(statistic(*table)), float(low), float(high))


def wilson(successes: int, trials: int) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927), which is right near 0 and 1 too.

    With p = successes / trials and z = 1.96:  (p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n).
    """
    share, spread = successes / trials, NORMAL**2 / trials
    middle = share + spread / 2
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5
    low, high = ((middle + sign * half) / (1 + spread) for sign in (-1, 1))
    return Estimate(share, max(0.0, low), min(1.0, high))  # rounding may lead out of the range
