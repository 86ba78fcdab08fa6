"""The loss of the best possible reader of data=chains, for the very targets and contexts that a model was measured on.

What a context tells of the rows of a chain are counts, and the rows are independent under the Dirichlet prior. So the
posterior predictive probability of token v after a row that was followed n times, n_v times by v, is

    (n_v + alpha) / (n + S·alpha)

counted over what the context holds: every token whose row stands in it too. A target whose row the context does not
hold has 1/S. This is Bayes' rule exactly for a context that begins with its document. One that begins inside takes its
first token as given: that a chain is oftener in some states than in others tells of the rows too, but all targets of a
context together gain less than 0.35 nats from it at the defaults (tests/test_optimum.py), `lag` times that at a lag.

Letters in shape comments: D documents, R region, N targets of a document, S states.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.chains import rows
from data.settings import Chains

if TYPE_CHECKING:
    from experiments.lab.measure.protocols import TokenLosses


def optimal_losses(language: Chains, documents: np.ndarray, positions: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The best reader's loss of each target, (D, N) float64 nats.

    Args:
        documents: tokens (D, R + 1), the separator at most in the first place: it is context, but no state.
        positions: where the targets stand in each document, (N,).
        seen: how many tokens before it each target is predicted from, (N,).
    """
    opened = documents[:, :1] == language.states  # (D, 1)
    tokens = np.where(documents == language.states, 0, documents).astype(np.int64)
    row = rows(language, tokens)  # (D, R + 1 - reach): column t - reach is that of token t
    pair = row * language.states + tokens[:, language.reach :]
    target = np.maximum(positions - language.reach, 0)
    first = np.maximum(positions - seen, opened)  # (D, N), the first token read, and so the first column to count
    target = np.broadcast_to(target, first.shape)
    first = np.minimum(first, target)  # nothing to count where its row was not read
    times = [_times(keys, first, target) for keys in (pair, row)]
    return -np.log((times[0] + language.alpha) / (times[1] + language.states * language.alpha))


def _times(keys: np.ndarray, first: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How often the key in column `target` stands in columns first … target - 1 of its row.

    keys: (D, U); first and target: (D, N), as the result.
    """
    count, width = keys.shape
    if not width:  # documents shorter than what a row is named by
        return np.zeros(target.shape, dtype=np.int64)
    base = (np.arange(count)[:, None] * (keys.max() + 1) + keys) * width  # (D, U), then the column: sorted by key
    places = np.sort((base + np.arange(width)).ravel())
    start = np.take_along_axis(base, target, axis=1)
    return np.searchsorted(places, start + target) - np.searchsorted(places, start + first)


def optimum(language: Chains, documents: Sequence, losses: "TokenLosses", limit: int | None = None) -> np.ndarray:
    """The best reader's losses for what a model was measured on, (D, N) as `losses.nll`.

    Args:
        documents: those that the model was given.
        limit: the most tokens the reader looks back, however many the target saw.
    """
    tokens = np.stack([np.asarray(documents[i][: losses.region + 1]) for i in losses.documents])
    seen = losses.seen if limit is None else np.minimum(losses.seen, limit)
    return optimal_losses(language, tokens, losses.positions, seen)
