"""The optimum of data=chains: Bayes' rule, for every target and context of every protocol."""

import itertools
import math

import numpy as np
import pytest

from data.chains import walk
from experiments.lab.measure.optimum import optimal_losses, optimum
from experiments.lab.measure.protocols import TokenLosses
from experiments.lab.measure.windows import PROTOCOLS, decoded
from tests.test_chains import chains

LANGUAGES = [{}, {"order": 2}, {"lag": 2}, {"order": 2, "lag": 3}]
REGION = 30


def drawn(language, documents=3, length=REGION, seed=0):
    """Documents opened by their separator, (D, length + 1)."""
    raw = np.random.PCG64(seed).random_raw((documents, length))
    return np.insert(walk(language, raw), 0, language.states, axis=1)


def counted(language, context, target):
    """The predictive probability from the definition: count what the context holds, one pair after the other."""
    states = [int(token) for token in context if token != language.states]
    past = [*states, int(target)]

    def row(t):
        return tuple(past[t - language.lag - language.order + 1 : t - language.lag + 1])

    if len(states) < language.reach:
        return 1 / language.states
    followed = [past[t] for t in range(language.reach, len(states)) if row(t) == row(len(states))]
    return (followed.count(int(target)) + language.alpha) / (len(followed) + language.states * language.alpha)


def losses_of(protocol, region, context, stride, documents, as_decoded=False):
    layout = PROTOCOLS[protocol](region, context, stride)
    layout = decoded(layout) if as_decoded else layout
    positions = np.concatenate([window.targets for window in layout])
    seen = np.concatenate([window.targets - window.start for window in layout])
    chosen = np.arange(len(documents))
    nothing = np.zeros((len(documents), len(positions)))
    tokens = documents[:, positions]
    return TokenLosses(protocol, context, stride, region, chosen, positions, seen, tokens, nothing, nothing > 0)


@pytest.mark.parametrize("as_decoded", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("knobs", LANGUAGES)
def test_counts_what_the_context_of_every_target_holds(knobs, protocol, as_decoded):
    language = chains(**knobs, alpha=0.3)
    documents = drawn(language, length=REGION + 4)
    documents[1:] = np.roll(documents[1:], -4, axis=1)  # segments that begin inside a document
    documents = documents[:, : REGION + 1]
    for context in (3, 7, 16, REGION):
        losses = losses_of(protocol, REGION, context, 3, documents, as_decoded)
        for limit in (None, 5):
            best = optimum(language, list(documents), losses, limit)
            assert best.dtype == np.float64
            for document, row in zip(documents, best, strict=True):
                for position, seen, loss in zip(losses.positions, losses.seen, row, strict=True):
                    read = document[position - min(seen, limit or seen) : position]
                    assert loss == pytest.approx(-math.log(counted(language, read, document[position])), rel=1e-12)


@pytest.mark.parametrize("knobs", LANGUAGES)
def test_is_bayes_rule_over_the_rows_themselves(knobs):
    """Two states, α = 1/2: every row is a p with density 1/(π√(p(1 - p))), and Gauss-Chebyshev nodes average over it
    exactly, jointly over all rows."""
    language = chains(states=2, alpha=0.5, **knobs)
    length, nodes = 9, (1 + np.polynomial.chebyshev.chebgauss(6)[0]) / 2  # exact up to the 11th power
    every_row = np.array(list(itertools.product(nodes, repeat=2**language.order)))  # (combinations, rows)

    def evidence(tokens):
        """The probability of a text, averaged over all rows there may be."""
        probability = np.full(len(every_row), 0.5 ** min(len(tokens), language.reach))
        for t in range(language.reach, len(tokens)):
            state = tokens[t - language.reach : t - language.lag + 1]
            one = every_row[:, int("".join(map(str, state)), 2)]
            probability = probability * (one if tokens[t] else 1 - one)
        return probability.mean()

    for document in drawn(language, documents=4, length=length, seed=3):
        best = optimal_losses(language, document[None], np.arange(1, length + 1), np.arange(1, length + 1))[0]
        tokens = document[1:].tolist()
        bayes = [-math.log(evidence(tokens[: t + 1]) / evidence(tokens[:t])) for t in range(length)]
        np.testing.assert_allclose(best, bayes, rtol=1e-10)


def test_a_first_target_is_one_of_s():
    for language in (chains(**knobs) for knobs in LANGUAGES):
        seen = np.arange(1, REGION + 1)
        best = optimal_losses(language, drawn(language), seen, seen)
        np.testing.assert_allclose(best[:, : language.reach], math.log(language.states), rtol=1e-15)
        short = optimal_losses(language, drawn(language), seen[10:], np.full(len(seen) - 10, language.reach - 1))
        np.testing.assert_allclose(short, math.log(language.states), rtol=1e-15)


def stationary(rows):
    """The stationary distributions of transition matrices (D, S, S), and their entropy rates, nats."""
    law = np.linalg.matrix_power(rows, 2**14)[:, 0]  # (D, S)
    entropy = -np.where(rows > 0, rows * np.log(np.where(rows > 0, rows, 1)), 0).sum(-1)
    return law, (law * entropy).sum(-1)


@pytest.mark.parametrize("lag", [1, 2])
def test_falls_to_the_entropy_rate(lag):
    """Chains with rows drawn by numpy rather than by the urn: far into a text the best reader pays what they cost."""
    language = chains(states=4, alpha=0.5, lag=lag, length=6000)
    random = np.random.default_rng(0)
    rows = random.dirichlet(np.full(4, language.alpha), size=(200, 4))
    tokens = np.empty((200, language.length), dtype=np.int64)
    tokens[:, :lag] = random.integers(0, 4, (200, lag))
    for t in range(lag, language.length):
        ends = rows[np.arange(200), tokens[:, t - lag]].cumsum(-1)
        tokens[:, t] = np.minimum((random.random((200, 1)) > ends).sum(-1), 3)
    late = np.arange(3000, language.length)
    gap = optimal_losses(language, tokens, late, late).mean(axis=1)
    true = rows[np.arange(200)[:, None], tokens[:, late - lag], tokens[:, late]]
    known = -np.log(true).mean(axis=1)  # what a reader pays who is told the rows
    _, rate = stationary(rows)
    error = (known - rate).std() / 200**0.5
    assert known.mean() == pytest.approx(rate.mean(), abs=5 * error)
    # Estimating S - 1 shares a row from n tokens costs (S - 1)/2n a token, to first order.
    excess = 4 * 3 / 2 * np.mean(1 / late)
    assert 0 < (gap - known).mean() < 2 * excess
    assert (gap - known).mean() == pytest.approx(excess, abs=5 * (gap - known).std() / 200**0.5 + 0.2 * excess)


def test_what_a_first_token_tells_of_the_rows_is_small():
    """The default language: a context that begins inside a document begins in a state by how often the chain is there.
    All it tells of the rows, over all targets together, is ln S less the entropy of the stationary distribution."""
    language = chains(states=16, alpha=0.1)
    rows = np.random.default_rng(0).dirichlet(np.full(16, language.alpha), size=(400, 16))
    law, _ = stationary(rows)
    text = math.log(16) + np.where(law > 0, law * np.log(np.where(law > 0, law, 1)), 0).sum(-1).mean()
    assert 0.2 < text < 0.35
