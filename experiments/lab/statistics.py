"""Intervals by bootstrap over documents; comparisons are paired over the documents that both sides scored.

`mean` and `bootstrap` resample the documents of a single model. `contrast` and `compare` resample seeds and documents
of arms, so that with several seeds their intervals hold for models of other seeds too.

Letters in shape comments: S seeds, D documents, N draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.05  # significance level of tests; intervals hold 1 - LEVEL
MARGIN = 0.005  # relative difference of perplexity that counts as none
NORMAL = 1.959963984540054  # standard deviations that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; of a single document, which tells nothing of others, the ends are infinite."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: dict) -> "Estimate":
        """An estimate from what `plain` made of it, whatever else is in the row."""
        low, high = row["low"], row["high"]
        return cls(row["value"], -np.inf if low is None else low, np.inf if high is None else high)

    @property
    def known(self) -> bool:
        """Whether it has an interval."""
        return self.low > -np.inf

    def exp(self) -> "Estimate":
        """The estimate of e to the power of this number, as a perplexity or a ratio of two from nats."""
        value, low, high = np.exp(np.minimum((self.value, self.low, self.high), 700.0)).tolist()
        return Estimate(value, low, high) if self.known else Estimate(value, -np.inf, np.inf)

    def plain(self) -> dict:
        """{"value", "low", "high"} for JSON, which has no infinite numbers: ends of no interval are None."""
        low, high = (self.low, self.high) if self.known else (None, None)
        return {"value": self.value, "low": low, "high": high}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.known else f"{self.value:.3f}"


def mean(sums, counts) -> Estimate:
    """Σ sums / Σ counts over the documents of one model, both (D,), with the interval of `contrast`."""
    return contrast((1, np.array([sums], dtype=np.float64), np.array([counts], dtype=np.float64))).difference


def bootstrap(statistic, columns, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """A statistic of columns (D,), reduced along the last axis, and its percentile interval over resampled documents.

    For what is no ratio of sums; of few documents too narrow.
    """
    table = np.asarray(columns, dtype=np.float64)  # (columns, D)
    if table.shape[1] == 1:
        return Estimate(float(statistic(*table)), -np.inf, np.inf)
    picks = np.random.default_rng(seed).integers(0, table.shape[1], size=(draws, table.shape[1]))
    low, high = np.percentile(statistic(*(column[picks] for column in table)), (2.5, 97.5))
    return Estimate(float(statistic(*table)), float(low), float(high))


def wilson(successes: float, trials: int) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927), which is right near 0 and 1 too.

    With p = successes / trials and z = 1.96:  (p + z²/2n ± z √(p (1 - p)/n + z²/4n²)) / (1 + z²/n).
    """
    share, spread = successes / trials, NORMAL**2 / trials
    middle = share + spread / 2
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5
    low, high = ((middle + sign * half) / (1 + spread) for sign in (-1, 1))
    return Estimate(float(share), max(0.0, float(low)), min(1.0, float(high)))  # rounding may lead out of the range


@dataclass(frozen=True)
class Comparison:
    """A paired difference over seeds and documents, with its tests.

    difference: nats per token, below zero where the arm is better than the reference; p: of a difference at least as
    large if there were none, two-sided; p_equivalent: of one as small if the ratio of perplexities were off one by
    MARGIN or more (two one-sided tests, Schuirmann 1987).
    """

    difference: Estimate
    p: float
    p_equivalent: float
    seeds: int
    documents: int

    @property
    def ratio(self) -> Estimate:
        """The arm's perplexity over the reference's."""
        return self.difference.exp()

    def word(self, p: float | None = None) -> str:
        """ "lower" or "higher" if significant, "equal" if equivalence is, else "open"; p: an adjusted p value."""
        if (self.p if p is None else p) < LEVEL:
            return "lower" if self.difference.value < 0 else "higher"
        return "equal" if self.p_equivalent < LEVEL else "open"


def compare(rows: Sequence[dict], reference: Sequence[dict]) -> Comparison:
    """Compare an arm with a reference arm over the same targets, a row per seed in the same order; see `contrast`.

    Args:
        rows, reference: rows with documents, document_nll (nats) and document_tokens.

    Raises:
        ValueError: rows that scored different targets, so that nothing is paired.
    """
    if len({row["token_set"] for row in (*rows, *reference)}) != 1:
        raise ValueError("a paired comparison needs rows that scored the same targets")
    nats, tokens = (
        [np.array([row[key] for row in side], dtype=np.float64) for side in (rows, reference)]
        for key in ("document_nll", "document_tokens")
    )
    return contrast((1, nats[0] - nats[1], tokens[0]))


def contrast(*parts: tuple[float, np.ndarray, np.ndarray], draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Σ weight · (Σ sums / Σ counts), averaged over seeds, with its interval over seeds and documents.

    A two-level bootstrap of crossed levels: every seed's model reads the same documents, so a draw takes seeds with
    replacement, and documents with replacement for all seeds alike; the two deviations add. Resampling few is too
    narrow (of three seeds it covers the truth in three cases of four), so each level's deviation is scaled by
    √(n/(n - 1)) and divided by √(χ²(n - 1)/(n - 1)), as Student's t divides a normal by the doubt about its spread.
    What is peculiar to one seed on one document counts at both levels: where that is all, intervals are up to √2
    wide. One seed has no spread; the interval then speaks of that one model.

    Args:
        parts: (weight, sums, counts), sums and counts (S, D), over the same seeds and documents.
    """
    random = np.random.default_rng(seed)
    seeds, documents = parts[0][1].shape
    picks = [random.integers(0, count, (draws, count)) for count in (seeds, documents)]  # (N, S), (N, D)
    value, deviations = 0.0, [np.zeros(draws), np.zeros(draws)]
    for weight, sums, counts in parts:
        by_seed = sums.sum(axis=1) / counts.sum(axis=1)  # (S,)
        pooled, total = sums.sum(axis=0), counts.sum(axis=0)  # (D,)
        value += weight * by_seed.mean()
        deviations[0] += weight * (by_seed[picks[0]].mean(axis=1) - by_seed.mean())
        resampled = pooled[picks[1]].sum(axis=1) / total[picks[1]].sum(axis=1)
        deviations[1] += weight * (resampled - pooled.sum() / total.sum())
    return _comparison(value, deviations, seeds, documents, random)


def compare_seeds(values: Sequence[float]) -> Comparison:
    """Test a number per seed, such as the logarithm of a ratio, against zero, resampling seeds alone."""
    random, numbers = np.random.default_rng(0), np.asarray(values, dtype=np.float64)
    picked = numbers[random.integers(0, len(numbers), (DRAWS, len(numbers)))].mean(axis=1)
    return _comparison(numbers.mean(), [picked - numbers.mean()], len(numbers), 0, random)


def _comparison(value: float, deviations: list[np.ndarray], seeds: int, documents: int, random) -> Comparison:
    """Combine the deviations (N,) of all levels on Student's scale into an interval and p values."""
    if max(seeds, documents) == 1:  # no spread can be estimated
        return Comparison(Estimate(float(value), -np.inf, np.inf), 1.0, 1.0, seeds, documents)
    spread = np.full(len(deviations[0]), value)
    for deviation, size in zip(deviations, (seeds, documents), strict=False):
        if size > 1:
            scale = random.chisquare(size - 1, len(spread)) / (size - 1)
            spread += deviation * np.sqrt(size / (size - 1) / scale)
    low, high = np.percentile(spread, (50 * LEVEL, 100 - 50 * LEVEL)).tolist()
    margin = np.log1p(MARGIN)
    p = min(1.0, 2 * min(_share(spread <= 0), _share(spread >= 0)))
    p_equivalent = max(_share(spread >= margin), _share(spread <= -margin))
    return Comparison(Estimate(float(value), low, high), p, p_equivalent, seeds, documents)


def _share(event: np.ndarray) -> float:
    """The share of draws in which an event happened, with one added so that it is never zero."""
    return (1 + int(event.sum())) / (1 + len(event))


def first_crossing(x: Sequence[float], y: Sequence[float], level: float) -> float | None:
    """The x at which a curve, straight between its points, first comes down to a level; None if it never does.

    The first point counts as it is, since nothing is known before it.
    """
    place = next((place for place, value in enumerate(y) if value <= level), None)
    if place is None:
        return None
    if place == 0:
        return float(x[0])
    share = (y[place - 1] - level) / (y[place - 1] - y[place])
    return float(x[place - 1] + share * (x[place] - x[place - 1]))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust the p values of one table so that its family-wise error rate is that of a single test (Holm 1979).

    In ascending order the i-th of m is multiplied by m - i + 1, and none falls below the one before it.
    """
    adjusted, running = [0.0] * len(p), 0.0
    for rank, place in enumerate(np.argsort(p, kind="stable")):
        running = max(running, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = running
    return adjusted
