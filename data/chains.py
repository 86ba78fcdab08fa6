"""An artificial language whose best reader is known: each document is a Markov chain with its own transitions.

A document's S^order rows of S probabilities are drawn anew, each from a symmetric Dirichlet(alpha), so the only way to
predict a document is to read it. Token t follows the row named by the `order` tokens that end at t - lag; the first
lag + order - 1 tokens, which have no such row, are uniform. The tokens are the states 0 … S - 1; S is the separator.

Rows are not drawn and then used, but integrated out: a token is drawn with weight alpha + (how often it followed this
row so far), the urn of Blackwell and MacQueen (1973), which has the distribution of such a chain exactly. With alpha
a decimal fraction all weights are whole numbers, so no rounding and no mathematics library takes part: the tokens are
a function of the raw 64-bit numbers of PCG64 alone, the same on every machine. A weight is picked by the remainder of
such a number, even to one part in 10^12 at the defaults. Document i of a split is a function of (seed, split, i).

The defaults, conf/data/chains.yaml: S = 16, alpha = 0.1, order 1, lag 1, documents of 8192 tokens and a separator.

| split      | documents | tokens    |
|------------|-----------|-----------|
| train      | 1024      | 8,389,632 |
| validation | 64        | 524,352   |
| test       | 256       | 2,097,408 |

The best reader's perplexity of the last 8 tokens of the test documents falls with its context (lab/measure/optimum.py):

| 16   | 64   | 128  | 256  | 512  | 1024 | 4096 | 8192 |
|------|------|------|------|------|------|------|------|
| 8.99 | 5.54 | 4.55 | 4.07 | 3.71 | 3.52 | 3.31 | 3.28 |

A row drawn has an entropy of digamma(S·alpha + 1) - digamma(alpha + 1) nats on average, exp of which is 3.24.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from data.integrity import SPLITS  # in the order of their streams of random numbers
from data.settings import Chains

# Over the token files of train, validation and test, in this order, for the defaults.
SHA256 = "e01c883cbf4c61e2342ffd9c2aa29f15744e2c3a7a27f3125477b1399dad2ab2"
# Weights held at once: documents are written side by side, as many as this allows.
WEIGHTS = 2**20


def documents(settings: Chains) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (split, tokens) for every document, int64, without its separator."""
    together = max(1, WEIGHTS // settings.states ** (settings.order + 1))
    for stream, split in enumerate(SPLITS):
        count = getattr(settings.documents, split)
        for first in range(0, count, together):
            seeds = [[settings.seed, stream, i] for i in range(first, min(first + together, count))]
            raw = np.stack([np.random.PCG64(seed).random_raw(settings.length) for seed in seeds])
            for tokens in walk(settings, raw):
                yield split, tokens


def walk(settings: Chains, raw: np.ndarray) -> np.ndarray:
    """Raw numbers (D, T), uint64 → the tokens they choose in D documents, (D, T) int64."""
    alpha = Fraction(str(settings.alpha))
    document = np.arange(len(raw))
    weights = np.full((len(raw), settings.states**settings.order, settings.states), alpha.numerator)
    tokens = np.empty(raw.shape, dtype=np.int64)
    tokens[:, : settings.reach] = raw[:, : settings.reach] % np.uint64(settings.states)
    for t in range(settings.reach, raw.shape[1]):
        row = rows(settings, tokens[:, t - settings.reach : t + 1])[:, -1]
        ends = weights[document, row].cumsum(axis=1)  # (D, S): each token has the stretch up to its end
        picked = (raw[:, t] % ends[:, -1].astype(np.uint64)).astype(np.int64)
        tokens[:, t] = (ends <= picked[:, None]).sum(axis=1)
        weights[document, row, tokens[:, t]] += alpha.denominator
    return tokens


def rows(settings: Chains, tokens: np.ndarray) -> np.ndarray:
    """Tokens (…, T), states only → the row that each follows, as a number, (…, T - reach): the first have none."""
    length = tokens.shape[-1]
    row = np.zeros((*tokens.shape[:-1], max(0, length - settings.reach)), dtype=np.int64)
    for back in range(settings.order):
        start = settings.order - 1 - back
        row = row * settings.states + tokens[..., start : length - settings.lag - back]
    return row
