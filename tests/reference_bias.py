"""Slow twins of the schemes that add a bias to the scores: one float64 number at a time, from the papers.

Nothing here imports the code it checks. Only scores with the key at or before the query are filled in; the causal
mask hides the rest.
"""

import math
from collections.abc import Callable

import numpy as np

from tests.reference import Doors, Setting, of


def fill(setting: Setting, doors: Doors, score: Callable[[int, float, float], float]) -> None:
    """Set bias[h, t, s] = score(head, position of the query, position of the key) for s ≤ t."""
    for h in range(setting.heads):
        for t, i in enumerate(setting.positions):
            for s in range(t + 1):
                doors.bias[h, t, s] = score(h, i, setting.positions[s])


def alibi_slopes(heads: int) -> list[float]:
    """Press et al. 2022: 2^(-8/n), 2^(-16/n), …, 2^-8 for n heads, n a power of two.

    Otherwise, as in the authors' code: those of the power of two below, then every other one, from the first, of
    twice as many heads.
    """
    if math.log2(heads).is_integer():
        return [2 ** (-8 * (h + 1) / heads) for h in range(heads)]
    below = 2 ** math.floor(math.log2(heads))
    return alibi_slopes(below) + alibi_slopes(2 * below)[0::2][: heads - below]


@of("alibi")
def alibi(setting: Setting, doors: Doors) -> None:
    """Press et al. 2022, section 3: -m_h · (i - j)."""
    slopes = alibi_slopes(setting.heads)
    fill(setting, doors, lambda h, i, j: -slopes[h] * (i - j))


def t5_bucket(distance: float, buckets: int, furthest: int) -> int:
    """Raffel et al. 2020, 2.1 and its code, one-directional: half the buckets exact, the rest logarithmic.

    A key after the query counts as distance 0.
    """
    distance = max(distance, 0)
    exact = buckets // 2
    if distance < exact:
        return math.floor(distance)
    steps = math.log(distance / exact) / math.log(furthest / exact) * (buckets - exact)
    return min(exact + math.floor(steps), buckets - 1)


def kerple_log(r: float, p: float, a: float) -> float:
    """Chi et al. 2022, eq. 5: -p · log(1 + a·r), p and a positive."""
    return -p * math.log1p(a * r)


def kerple_power(r: float, p: float, a: float) -> float:
    """Chi et al. 2022, eq. 4: -a · r^p, a positive and 0 < p ≤ 2."""
    return -a * r**p


def fire_input(i: float, j: float, c: float, threshold: float) -> float:
    """Li et al. 2024, eq. 4: ψ(i - j) / ψ(max(i, L)), ψ(x) = log(c·x + 1)."""
    return math.log(c * (i - j) + 1) / math.log(c * max(i, threshold) + 1)


def perceptron(x: float, layers: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """A ReLU network on one number; layers of (weight (out, in), bias (out,)). Returns one number per head."""
    values = np.array([x])
    for depth, (weight, bias) in enumerate(layers):
        values = weight @ values + bias
        if depth < len(layers) - 1:
            values = np.maximum(values, 0)
    return values
