"""The evolutionary search of LongRoPE, over any fitness (Ding et al. 2024, arXiv 2402.13753, section 3.2, algorithm 1).

An individual is a factor λ per pair, fastest pair first, and n̂, the number of first positions that stay unchanged. λ
are whole hundredths, the paper's step, so that individuals can be compared and saved exactly. Random numbers depend
only on the seed and the number of the generation, so that a search resumes from its history alone.

With critical pairs given, the space is that of LongRoPE2 (Shang et al. 2025, arXiv 2502.20082, section 3.2): λ are
searched from a critical pair c on, c itself is searched among those given, and the faster pairs follow from λ_c as
NTK has it, λ_i = λ_c^(ln(ω_0/ω_i) / ln(ω_0/ω_c)). (How λ_c adjusts NTK's base is our reading of the paper.)

Letters: K pairs, P individuals.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pydantic import Field, model_validator

from conf.base import Count, CountOrZero, Settings

STEPS = 100  # of λ, from one whole number to the next
TRIES = 100  # draws for an unseen child, before the generation gets one child less


class Evolution(Settings):
    """Settings of an evolution; the paper: population 64, parents 32, mutations and crossovers 16, generations 40."""

    population: Count  # individuals of the first generation
    parents: Count  # the best of all so far, of which the next generation is made
    mutations: CountOrZero  # children of one parent in every generation
    crossovers: CountOrZero  # children of two
    generations: CountOrZero  # after the first one
    probability: float = Field(gt=0, le=1)  # of each number to mutate
    seed: CountOrZero

    @model_validator(mode="after")
    def _moves(self):
        if self.crossovers and self.parents < 2:
            raise ValueError(f"parents={self.parents} cannot be crossed: crossovers need two at least")
        return self


@dataclass(frozen=True)
class Individual:
    """λ of every pair, (K,) hundredths from the fastest to the slowest, n̂, and the first pair whose λ was searched."""

    factors: tuple[int, ...]
    n_hat: int
    critical: int = 0

    @property
    def long(self) -> list[float]:
        """λ as numbers."""
        return [factor / STEPS for factor in self.factors]


@dataclass(frozen=True)
class Scored:
    """An individual and its fitness: the lower, the better."""

    individual: Individual
    score: float


@dataclass(frozen=True)
class Space:
    """The search space: low ≤ λ_c ≤ … ≤ λ_{K-1} ≤ high (hundredths, both included), n̂ and c from their lists.

    decay: ln(ω_0/ω_i), (K,), never falling; it says how pairs before c follow from λ_c.
    """

    low: int
    high: int
    n_hats: tuple[int, ...]
    decay: tuple[float, ...]
    criticals: tuple[int, ...] = (0,)

    def individual(self, factors: Sequence[float], n_hat: int, critical: int) -> Individual:
        """The nearest individual in this space to factors, in hundredths, that may lie outside it."""
        tail = np.maximum.accumulate(np.clip(np.round(factors[critical:]), self.low, self.high)).astype(int)
        head = (decay / self.decay[critical] for decay in self.decay[:critical])
        first = [round(STEPS * (tail[0] / STEPS) ** share) for share in head]
        return Individual((*first, *tail.tolist()), n_hat, critical)

    def seeds(self, vectors: Sequence[Sequence[float]]) -> list[Individual]:
        """Known vectors λ, as numbers, in this space, each once; n̂ the smallest and c the largest that are allowed."""
        hundredths = [[STEPS * factor for factor in vector] for vector in vectors]
        made = [self.individual(vector, min(self.n_hats), max(self.criticals)) for vector in hundredths]
        return list(dict.fromkeys(made))

    def mutate(self, parent: Individual, probability: float, random: np.random.Generator) -> Individual:
        """Draw each number anew with this probability: λ evenly from all that fit between those that stay."""
        n_hat, critical = (
            choices[random.integers(len(choices))] if random.random() < probability else own
            for choices, own in ((self.n_hats, parent.n_hat), (self.criticals, parent.critical))
        )
        factors = list(self.individual(parent.factors, n_hat, critical).factors)
        stay = [(i, factors[i]) for i in range(critical, len(factors)) if random.random() >= probability]
        for (i, least), (j, most) in pairwise([(critical - 1, self.low), *stay, (len(factors), self.high)]):
            factors[i + 1 : j] = sorted(random.integers(least, most, j - i - 1, endpoint=True).tolist())
        return self.individual(factors, n_hat, critical)

    def cross(self, one: Individual, other: Individual, random: np.random.Generator) -> Individual:
        """Take each number from either parent; a λ that would fall below the one before it is raised to that."""
        factors = np.where(random.random(len(one.factors)) < 0.5, one.factors, other.factors)
        n_hat, critical = (
            first if random.random() < 0.5 else second
            for first, second in ((one.n_hat, other.n_hat), (one.critical, other.critical))
        )
        return self.individual(factors, n_hat, critical)


def best(history: Sequence[Sequence[Scored]], count: int = 1) -> list[Scored]:
    """The best of all generations, best first; of equals the earlier comes first."""
    return sorted((scored for generation in history for scored in generation), key=lambda scored: scored.score)[:count]


def evolve(
    space: Space,
    seeds: Sequence[Individual],
    fitness: Callable[[list[Individual]], Sequence[float]],
    settings: Evolution,
    history: Sequence[Sequence[Scored]] = (),
) -> Iterator[list[Scored]]:
    """Generation after generation: the seeds and their mutants, then children of the best of all so far.

    No individual is scored twice. If TRIES crosses give no unseen child, a mutant takes its place, as in the authors'
    code. Without enough unseen mutants a generation is smaller, and without any the search ends. A score that is not
    finite counts as worst.

    Args:
        fitness: P individuals → P numbers, the lower the better.
        history: earlier generations; the search resumes from them as if never interrupted.
    """
    history = list(history)
    seen = {scored.individual for generation in history for scored in generation}
    for number in range(len(history), settings.generations + 1):
        random = np.random.default_rng([settings.seed, number])
        if number == 0:
            children = _first(space, seeds, settings, random, seen)
        else:
            parents = [scored.individual for scored in best(history, settings.parents)]
            children = _children(space, parents, settings, random, seen)
        if not children:
            return
        scores = (float(score) for score in fitness(children))
        history.append(
            [
                Scored(child, score if math.isfinite(score) else math.inf)
                for child, score in zip(children, scores, strict=True)
            ]
        )
        yield history[-1]


def _first(space, seeds, settings, random, seen) -> list[Individual]:
    """The seeds, and as many mutants of each in turn as the population has room for."""
    seen.update(seeds)

    def mutant(number):
        return space.mutate(seeds[number % len(seeds)], settings.probability, random)

    return list(seeds) + _unseen(mutant, max(0, settings.population - len(seeds)), seen)


def _children(space, parents, settings, random, seen) -> list[Individual]:
    """Crosses of two different parents, and mutants of single ones, also in place of the crosses that fail."""

    def mutant(_):
        return space.mutate(parents[random.integers(len(parents))], settings.probability, random)

    def cross(_):
        one, other = random.choice(len(parents), 2, replace=False)
        return space.cross(parents[one], parents[other], random)

    crossed = _unseen(cross, settings.crossovers if len(parents) > 1 else 0, seen)
    return crossed + _unseen(mutant, settings.mutations + settings.crossovers - len(crossed), seen)


def _unseen(make: Callable[[int], Individual], count: int, seen: set[Individual]) -> list[Individual]:
    """Make up to `count` unseen individuals and mark them as seen; each is given up after TRIES draws."""
    children: list[Individual] = []
    for number in range(count):
        child = next((child for _ in range(TRIES) if (child := make(number)) not in seen), None)
        if child is not None:
            seen.add(child)
            children.append(child)
    return children
