"""Slow twins of the positional schemes: the papers' formulas, term by term, in float64.

Nothing here imports the code it checks. A twin sees positions (after any extension), settings and learned
parameters as plain numbers, and says what leaves each door: the embedded tokens, the rotated queries and keys, and
the bias. Loops are loops on purpose.

Letters in shape comments: T tokens, H heads, D head width, C model width.
"""

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Setting:
    """All that a twin may know of a scheme: plain numbers."""

    name: str
    positions: np.ndarray  # (T,)
    width: int
    heads: int
    window: int
    layer: int = 0
    base: float = 10_000.0
    knobs: dict = field(default_factory=dict)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @classmethod
    def of(cls, position, layer: int, positions: np.ndarray) -> "Setting":
        """Read off a built scheme what its twin may know."""
        return cls(
            name=position.knobs.name,
            positions=positions,
            width=position.geometry.width,
            heads=position.geometry.heads,
            window=position.geometry.window,
            layer=layer,
            base=position.spectrum.base,
            knobs=position.knobs.model_dump(),
            parameters={name: p.detach().double().numpy() for name, p in position.named_parameters()},
        )


@dataclass
class Doors:
    """What leaves the three doors."""

    embedded: np.ndarray  # (T, C)
    queries: np.ndarray  # (H, T, D)
    keys: np.ndarray  # (H, T, D)
    bias: np.ndarray  # (H, T, T)


TWINS: dict[str, Callable[[Setting, Doors], None]] = {}


def of(name: str):
    """Enter a function as the twin of the scheme of that name."""

    def enter(function):
        TWINS[name] = function
        return function

    return enter


def twin(setting: Setting, x: np.ndarray, q: np.ndarray, k: np.ndarray) -> Doors:
    """What embeddings x (T, C), queries and keys (H, T, D) become; a door of which the twin says nothing is silent."""
    length = len(setting.positions)
    doors = Doors(x.copy(), q.copy(), k.copy(), np.zeros((setting.heads, length, length)))
    TWINS[setting.name](setting, doors)
    return doors


@of("none")
def none(setting: Setting, doors: Doors) -> None:
    """Kazemnejad et al. 2023: nothing at all."""


@of("sinusoidal")
def sinusoidal(setting: Setting, doors: Doors) -> None:
    """Vaswani et al. 2017, 3.5: PE(p, 2i) = sin(p / base^(2i/C)), PE(p, 2i+1) = cos(p / base^(2i/C))."""
    for t, p in enumerate(setting.positions):
        for i in range(setting.width // 2):
            angle = p / setting.base ** (2 * i / setting.width)
            doors.embedded[t, 2 * i] += math.sin(angle)
            doors.embedded[t, 2 * i + 1] += math.cos(angle)


def turn(x: np.ndarray, channel: int, partner: int, angle: float) -> None:
    """Multiply the complex number whose real and imaginary parts are two channels of a vector (D,) by e^(i·angle)."""
    number = complex(x[channel], x[partner]) * cmath.exp(1j * angle)
    x[channel], x[partner] = number.real, number.imag


@of("rope")
def rope(setting: Setting, doors: Doors) -> None:
    """Su et al. 2021, eq. 15, pairs half-split: θ_i = base^(-2i/R) over the R rotated channels."""
    rotated = 2 * round(setting.knobs["fraction"] * setting.head_width / 2)
    for x in (doors.queries, doors.keys):
        for h in range(setting.heads):
            for t, p in enumerate(setting.positions):
                for i in range(rotated // 2):
                    turn(x[h, t], i, i + rotated // 2, p * setting.base ** (-2 * i / rotated))
