"""Shares of exact answers over samples and seeds, with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.lab.statistics import Estimate, contrast, wilson

FIT = 0.99  # share of exact answers in the range of training from which a model counts as having learned the task


@dataclass(frozen=True)
class Accuracy:
    """Exact answers of an arm in one range of lengths: exact (S, D) by seed and sample, 1 or 0."""

    low: int
    high: int
    lengths: np.ndarray  # (D,)
    exact: np.ndarray

    @property
    def by_seed(self) -> list[float]:
        return self.exact.mean(axis=1).tolist()

    @property
    def pooled(self) -> Estimate:
        """The share over all samples and seeds, with Wilson's interval of the samples: that of these models.

        Seeds answer the same samples and may fail at the same ones, so they count as one.
        """
        return wilson(self.exact.mean(axis=0).sum(), self.exact.shape[1])

    @property
    def over_seeds(self) -> Estimate:
        """The share with an interval over seeds and samples, at least as wide as Wilson's: that of such models."""
        share = contrast((1.0, self.exact.astype(np.float64), np.ones(self.exact.shape))).difference
        pooled = self.pooled
        if len(self.exact) == 1:  # one seed has no spread
            return pooled
        return Estimate(pooled.value, max(0.0, min(share.low, pooled.low)), min(1.0, max(share.high, pooled.high)))

    def bins(self, width: int = 10) -> list[tuple[float, Estimate]]:
        """The pooled share by length of the question, in bins of this width: (middle, share)."""
        bins = []
        for start in range(self.low - (self.low - 1) % width, self.high + 1, width):
            some = self.exact[:, (self.lengths >= start) & (self.lengths < start + width)]
            if some.size:
                bins.append((start + (width - 1) / 2, wilson(some.mean(axis=0).sum(), some.shape[1])))
        return bins

    def of(self, seeds: Sequence[int]) -> "Accuracy":
        """Those of some seeds, by their place."""
        return Accuracy(self.low, self.high, self.lengths, self.exact[list(seeds)])


Measured = dict[str, dict[str, list[Accuracy]]]  # by task, scheme and range


def accuracies(readings: Sequence[dict]) -> list[Accuracy]:
    """The accuracies of an arm by range, from its readings (`measure_exact`), one for each seed."""
    return [
        Accuracy(
            same[0]["low"], same[0]["high"], np.array(same[0]["lengths"]), np.array([rows["exact"] for rows in same])
        )
        for same in zip(*(reading["ranges"] for reading in readings), strict=True)
    ]


def fitted(accuracy: Accuracy) -> list[int]:
    """The places of the seeds that have learned the task, by their accuracy in the range of training."""
    return [place for place, share in enumerate(accuracy.by_seed) if share >= FIT]
