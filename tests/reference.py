"""Slow twins of the positional schemes: the papers' formulas, term by term, in float64.

Nothing here imports the code it checks. A twin sees positions (after any extension), settings and learned
parameters as plain numbers, and says what each hook returns: the embedded tokens, the rotated queries and keys, and
the bias. Loops are loops on purpose.

Letters in shape comments: T tokens, H heads, D head width, C model width.
"""

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from tests import reference_extend

CONTENT = ("none", "cope", "fox", "grape_ap")  # schemes with nothing that an extension could change


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
    extend: dict = field(default_factory=lambda: {"name": "none"})
    normal: Callable[..., np.ndarray] | None = None  # (seed, shape) → the fixed random numbers of a scheme that has any
    knobs: dict = field(default_factory=dict)
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    sees: int | None = None  # tokens that a query sees, itself included; None: all
    input: np.ndarray | None = None  # (T, C), what the attention of the layer reads
    places: np.ndarray | None = None  # (T,), the positions before any extension

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def temperature(self) -> float:
        """t of q·k/(t√D); 1 of a scheme that has no phases to extend."""
        extended = self.name not in ("none", "alibi", "t5", "kerple", "fire", "cope", "fox", "grape_ap")
        length = self.positions.max() + 1
        return reference_extend.temperature(self.extend, self.window, length) if extended else 1.0

    def trained(self, channels: int) -> list[float]:
        """ω_i = base^(-2i/channels), radians per token."""
        return [self.base ** (-2 * pair / channels) for pair in range(channels // 2)]

    def extended(self, frequencies: list[float]) -> list[float]:
        """What the extension makes of them, for a text as long as this."""
        length = self.positions.max() + 1
        return reference_extend.frequencies(self.extend, frequencies, self.window, length)

    def frequencies(self, channels: int) -> list[float]:
        return self.extended(self.trained(channels))

    @classmethod
    def of(cls, position, layer: int, positions: np.ndarray, normal=None) -> "Setting":
        """Read off a built scheme what its twin may know of a layer; positions: before any extension."""
        whole = cls(
            name=position.knobs.name,
            positions=positions,
            width=position.geometry.width,
            heads=position.geometry.heads,
            window=position.geometry.window,
            layer=layer,
            base=position.spectrum.base,
            extend=position.extension.knobs.model_dump(),
            normal=normal,
            knobs=position.knobs.model_dump(),
            parameters={name: p.detach().double().numpy() for name, p in position.named_parameters()},
        )
        plan = position.plan.model_dump() if hasattr(position, "plan") else None
        whole = whole.planned(plan) if plan else whole
        whole = whole.mixed() if whole.name == "mixture" else whole
        moved = reference_extend.positions(whole.extend, positions, whole.window)
        return replace(whole, positions=moved, places=positions)

    def planned(self, plan: dict) -> "Setting":
        """This layer by its plan: the letters of the pattern, over and over; what a kind leaves open is the run's."""
        letter = plan["pattern"][self.layer % len(plan["pattern"])]
        kind = plan["kinds"][letter]
        scheme, base = kind["position"] or self.knobs, (kind["frequencies"] or {"base": self.base})["base"]
        extend = kind["extend"] or self.extend
        own = any(kind[key] is not None for key in ("position", "frequencies", "extend"))
        layered = replace(self, knobs=scheme, name=scheme["name"], base=base, extend=extend, sees=kind["window"])
        return layered.inside(letter if own else "own")

    def mixed(self) -> "Setting":
        """This layer of a mixture: every n-th, counted from 1, goes through the second scheme, others the first."""
        side = "second" if (self.layer + 1) % self.knobs["every"] == 0 else "first"
        scheme = self.knobs[side]
        return replace(self, knobs=scheme, name=scheme["name"]).inside(side)

    def inside(self, part: str) -> "Setting":
        """With the parameters of one part alone, and of an extension that its scheme has nothing for the rows alone."""
        inner = {n.removeprefix(f"{part}."): p for n, p in self.parameters.items() if n.startswith(f"{part}.")}
        over = self.extend.get("over")
        moves = self.extend["name"] == "interpolate" or (isinstance(over, dict) and over["name"] == "interpolate")
        takes = self.extend["name"] == "none" or self.name not in (*CONTENT, "alibi", "t5", "kerple", "fire")
        takes = takes or (moves and self.name not in CONTENT)
        sharper = {"name": "none", "rows": self.extend.get("rows")}  # queries have rows under every scheme
        return replace(self, parameters=inner, extend=self.extend if takes else sharper)


@dataclass
class Outputs:
    """What the three hooks return."""

    embedded: np.ndarray  # (T, C)
    queries: np.ndarray  # (H, T, D), before and after rotation; PoPE's leave twice as wide
    keys: np.ndarray  # (H, T, D)
    bias: np.ndarray  # (H, T, T)


TWINS: dict[str, Callable[[Setting, Outputs], None]] = {}


def of(name: str):
    """Enter a function as the twin of the scheme of that name."""

    def enter(function):
        TWINS[name] = function
        return function

    return enter


def twin(setting: Setting, x: np.ndarray, q: np.ndarray, k: np.ndarray) -> Outputs:
    """What embeddings x (T, C), queries and keys (H, T, D) become; hooks that the twin does not name do nothing."""
    length = len(setting.positions)
    outputs = Outputs(x.copy(), q.copy(), k.copy(), np.zeros((setting.heads, length, length)))
    reference_extend.sharpen(
        setting, outputs, setting.name != "pope"
    )  # whose lengths are no linear function of its queries
    TWINS[setting.name](setting, outputs)
    reference_extend.sharpen(setting, outputs, setting.name == "pope")
    for applies, *stand in reference_extend.moved(setting.extend, setting.positions, setting.window):
        add_moved(setting, outputs, applies, stand, (x, q, k))
    return outputs


def add_moved(setting: Setting, outputs: Outputs, applies: Callable, stand: list, inputs: tuple) -> None:
    """Some pairs score as if they stood elsewhere; added to the bias, less what they score."""
    moved = [Outputs(*(item.copy() for item in inputs), np.zeros_like(outputs.bias)) for _ in range(2)]
    reference_extend.sharpen(setting, moved[0], True)
    for item, positions in zip(moved, stand, strict=True):
        TWINS[setting.name](replace(setting, positions=positions), item)
    for h in range(setting.heads):
        for t, i in enumerate(setting.positions):
            for s in range(t + 1):
                if applies(i, setting.positions[s]):
                    score = moved[0].queries[h, t] @ moved[1].keys[h, s] - outputs.queries[h, t] @ outputs.keys[h, s]
                    outputs.bias[h, t, s] += score / math.sqrt(setting.head_width)


@of("none")
def none(setting: Setting, outputs: Outputs) -> None:
    """Kazemnejad et al. 2023: nothing at all."""


@of("sinusoidal")
def sinusoidal(setting: Setting, outputs: Outputs) -> None:
    """Vaswani et al. 2017, 3.5: PE(p, 2i) = sin(p / base^(2i/C)), PE(p, 2i+1) = cos(p / base^(2i/C))."""
    for t, p in enumerate(setting.positions):
        for i, frequency in enumerate(setting.frequencies(setting.width)):
            angle = p * frequency
            outputs.embedded[t, 2 * i] += math.sin(angle)
            outputs.embedded[t, 2 * i + 1] += math.cos(angle)


@of("learned")
def learned(setting: Setting, outputs: Outputs) -> None:
    """Row p of the table, on the scale of the token embeddings, √C; between two rows the line that joins them."""
    table = setting.parameters["table"]
    for t, p in enumerate(setting.positions):
        before = math.floor(p)
        after = min(before + 1, len(table) - 1)
        row = (1 - (p - before)) * table[before] + (p - before) * table[after]
        outputs.embedded[t] += math.sqrt(setting.width) * row


@of("binary")
def binary(setting: Setting, outputs: Outputs) -> None:
    """+1 for a set bit of p and -1 for a clear one; between two whole positions the line that joins them."""
    for t, p in enumerate(setting.positions):
        before = math.floor(p)
        for bit in range(setting.knobs["bits"]):
            low, high = (1 if (whole >> bit) & 1 else -1 for whole in (before, before + 1))
            outputs.embedded[t, bit] += low + (p - before) * (high - low)


def turn(x: np.ndarray, channel: int, partner: int, angle: float, scale: float = 1.0) -> None:
    """Multiply the complex number whose real and imaginary parts are two channels of x (D,) by scale·e^(i·angle)."""
    number = complex(x[channel], x[partner]) * cmath.rect(scale, angle)
    x[channel], x[partner] = number.real, number.imag


def rotate(setting: Setting, outputs: Outputs, frequencies: list[float]) -> None:
    """Turn pair (i, i + K) of every query and key by position × frequency, K pairs, half-split."""
    for x in (outputs.queries, outputs.keys):
        for h in range(setting.heads):
            for t, p in enumerate(setting.positions):
                for i, frequency in enumerate(frequencies):
                    turn(x[h, t], i, i + len(frequencies), p * frequency)


@of("rope")
def rope(setting: Setting, outputs: Outputs) -> None:
    """Su et al. 2021, eq. 15: θ_i = base^(-2i/R) over the R rotated channels; the others pass."""
    rotated = 2 * round(setting.knobs["fraction"] * setting.head_width / 2)
    rotate(setting, outputs, setting.frequencies(rotated))


@of("p_rope")
def p_rope(setting: Setting, outputs: Outputs) -> None:
    """Barbero et al. 2025, 6.2: the fastest share p of RoPE's pairs turns as in RoPE, the slowest do not turn."""
    frequencies = setting.frequencies(setting.head_width)
    turning = math.floor(setting.knobs["p"] * len(frequencies))
    rotate(setting, outputs, [frequency if i < turning else 0.0 for i, frequency in enumerate(frequencies)])


@of("learned_rope")
def learned_rope(setting: Setting, outputs: Outputs) -> None:
    """arXiv 2607.10134: ω_i = θ_i · e^(a_i), a learned."""
    factors = setting.parameters["log_factor"]
    trained = setting.trained(setting.head_width)
    learned = [frequency * math.exp(a) for frequency, a in zip(trained, factors, strict=True)]
    rotate(setting, outputs, setting.extended(learned))


@of("xpos")
def xpos(setting: Setting, outputs: Outputs) -> None:
    """Sun et al. 2022, 3.2: RoPE, with pair i of queries times ζ_i^(p/s) and of keys times ζ_i^(-p/s).

    ζ_i = (2i/D + 0.4) / 1.4; p is counted from a fixed centre, which no score sees.
    """
    pairs, frequencies = setting.head_width // 2, setting.frequencies(setting.head_width)
    for x, sign in ((outputs.queries, 1), (outputs.keys, -1)):
        for h in range(setting.heads):
            for t, p in enumerate(setting.positions):
                for i in range(pairs):
                    zeta = (2 * i / setting.head_width + 0.4) / 1.4
                    scale = zeta ** (sign * (p - setting.knobs["centre"]) / setting.knobs["scale_base"])
                    turn(x[h, t], i, i + pairs, p * frequencies[i], scale)


@of("pope")
def pope(setting: Setting, outputs: Outputs) -> None:
    """Gopalakrishnan et al. 2025, 3: channel c is softplus(x_c)·e^(i·p·θ_c), of keys further by δ_c in [-2π, 0].

    θ_c = base^(-c/D). All real parts come first, then all imaginary ones.
    """
    width, frequencies = setting.head_width, setting.frequencies(2 * setting.head_width)
    delta = setting.parameters["delta"][setting.layer]  # (H, D)
    turned = []
    for x, shifted in ((outputs.queries, 0), (outputs.keys, 1)):
        out = np.zeros((*x.shape[:-1], 2 * width))
        for h in range(setting.heads):
            for t, p in enumerate(setting.positions):
                for c in range(width):
                    angle = p * frequencies[c] + shifted * min(max(delta[h, c], -2 * math.pi), 0)
                    number = cmath.rect(math.log1p(math.exp(x[h, t, c])), angle)
                    out[h, t, c], out[h, t, width + c] = number.real, number.imag
        turned.append(out)
    outputs.queries, outputs.keys = turned


@of("fope")
def fope(setting: Setting, outputs: Outputs) -> None:
    """Hua et al. 2024, 4: the cosine of pair m becomes cos(ω_m p) + Σ_n a_nm cos(ω_n p), the sine likewise with b.

    n and m run over the K' pairs that turn once in the window; a pair that does not is left as it is. The a and b
    are σ/√K' times fixed normal numbers, per head.
    """
    pairs, trained = setting.head_width // 2, setting.trained(setting.head_width)
    saved = sum(w * setting.window >= 2 * math.pi for w in trained)  # they fall, so these are the first
    turning = setting.extended(trained)[:saved]
    noise = setting.normal(setting.knobs["seed"], (2, setting.heads, len(turning), len(turning)))
    noise = noise * setting.knobs["sigma"] / math.sqrt(len(turning))
    for x in (outputs.queries, outputs.keys):
        for h in range(setting.heads):
            for t, p in enumerate(setting.positions):
                for m, frequency in enumerate(turning):
                    c, s = math.cos(p * frequency), math.sin(p * frequency)
                    for n, other in enumerate(turning):
                        c += noise[0, h, n, m] * math.cos(p * other)
                        s += noise[1, h, n, m] * math.sin(p * other)
                    a, b = x[h, t, m], x[h, t, m + pairs]
                    x[h, t, m], x[h, t, m + pairs] = a * c - b * s, b * c + a * s
