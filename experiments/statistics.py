"""Paired comparisons: the document is the unit, and both arms scored the same targets of it."""

from dataclasses import dataclass

import numpy as np

DRAWS = 10_000


@dataclass(frozen=True)
class Ratio:
    """A ratio of perplexities with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def paired_ratio(ours: dict, theirs: dict, draws: int = DRAWS, seed: int = 0) -> Ratio:
    """Perplexity of one row over another's, with a percentile interval from resampling documents.

    Args:
        ours, theirs: rows with documents, document_nll (nats) and document_tokens, over the same targets.

    Raises:
        ValueError: the rows scored different targets, so that nothing is paired.
    """
    if ours["token_set"] != theirs["token_set"]:
        raise ValueError("a paired comparison needs rows that scored the same targets")
    difference = np.subtract(ours["document_nll"], theirs["document_nll"])  # (D,) nats
    tokens = np.asarray(ours["document_tokens"], dtype=np.float64)  # (D,)
    picks = np.random.default_rng(seed).integers(0, len(tokens), size=(draws, len(tokens)))
    resampled = difference[picks].sum(1) / tokens[picks].sum(1)
    low, high = np.exp(np.percentile(resampled, (2.5, 97.5)))
    return Ratio(float(np.exp(difference.sum() / tokens.sum())), float(low), float(high))
