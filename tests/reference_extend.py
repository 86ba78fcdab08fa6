"""Slow twins of the extensions: the papers' formulas, pair by pair, in float64.

Nothing here imports the code it checks. A twin sees the frequencies a scheme was trained with, the settings of the
extension, the window L and the length l of the text.
"""

import math
from collections.abc import Callable

import numpy as np

TWINS: dict[str, Callable[[list[float], dict, int, float], list[float]]] = {}
TEMPERATURES: dict[str, Callable[[dict, int], float]] = {}  # where the published one is not 1


def of(name: str):
    """Enter a function as the twin of the extension of that name."""

    def enter(function):
        TWINS[name] = function
        return function

    return enter


def frequencies(extend: dict, trained: list[float], window: int, length: float) -> list[float]:
    """What the pairs turn by; an extension without a twin here leaves the frequencies alone."""
    return TWINS[extend["name"]](trained, extend, window, length) if extend["name"] in TWINS else trained


def positions(extend: dict, given: np.ndarray, window: int) -> np.ndarray:
    """Where tokens stand: Chen et al. 2023, eq. 4, divides by s; Shimizu et al. 2026 by n/L, for longer texts."""
    if extend["name"] == "switch":
        return positions(extend["over"], given, window) if given.max() >= window else given
    if extend["name"] == "dynamic_interpolate":
        return given / max(1, (math.floor(given.max()) + 1) / window)
    return given / extend["factor"] if extend["name"] == "interpolate" else given


def sharpness(extend: dict, position: float, window: int) -> float:
    """What a query at a position is multiplied by: Llama 4 and Ministral 3 as in `transformers`, Su, Nakanishi 2025."""
    rows = extend.get("rows")
    if rows is None:
        return 1.0
    if rows["name"] == "llama4":
        return math.log1p(math.floor((position + 1) / rows["every"])) * rows["beta"] + 1
    if rows["name"] == "ministral":
        return 1 + rows["beta"] * math.log(1 + math.floor(position / window))
    if rows["name"] == "su":
        return max(1.0, math.log(position + 1, window))
    return math.log(position + 1)


def sharpen(setting, outputs, now: bool) -> None:
    """Multiply queries of `Outputs` by what their row is sharpened by, and by what is learned with it."""
    for h in range(setting.heads if now and setting.extend.get("rows") else 0):
        scale = setting.parameters.get("row_scale", np.ones((setting.layer + 1, setting.heads)))[setting.layer, h]
        for t, p in enumerate(setting.places):
            outputs.queries[h, t] *= scale * sharpness(setting.extend, p, setting.window)


def temperature(extend: dict, window: int, length: float) -> float:
    """t: set, or published."""
    if extend["name"] == "switch":
        return temperature(extend["over"], window, length) if length > window else 1.0
    if extend.get("temperature") is not None:
        return extend["temperature"]
    return TEMPERATURES[extend["name"]](extend, window) if extend["name"] in TEMPERATURES else 1.0


def changed_base(trained: list[float], exponent: float) -> list[float]:
    """base' = base^exponent where the fastest pair turns at its own rate: logarithms of ω_i/ω_0 grow by it."""
    fastest = max(trained)
    return [fastest * (w / fastest) ** exponent for w in trained]


def base_of(trained: list[float]) -> float:
    """b, of which the K frequencies are ω_0 · b^(-i/K), i = 0 … K - 1, in the mean."""
    return (max(trained) / min(trained)) ** (len(trained) / (len(trained) - 1))


def classic(trained: list[float], s: float) -> list[float]:
    """bloc97; Peng et al. 2023, 3.1: b' = b · s^(d/(d-2)), d = 2K channels."""
    d, b = 2 * len(trained), base_of(trained)
    return changed_base(trained, math.log(b * s ** (d / (d - 2))) / math.log(b))


@of("ntk")
def ntk(trained, extend, window, length):
    """Or Liu et al. 2023 as restated in LongRoPE2: b' = b^(log_{L/2π}(L'/2π)), for a fastest pair of ω_0 = 1."""
    s = extend["factor"]
    if extend["form"] == "classic":
        return classic(trained, s)
    if extend["form"] in ("fixed", "mixed"):
        return mixed_radix(trained, s, 1 if extend["form"] == "fixed" else 0.625)
    turns = max(trained) * window / (2 * math.pi)
    return changed_base(trained, math.log(s * turns) / math.log(turns))


def mixed_radix(trained: list[float], s: float, b: float) -> list[float]:
    """Su 2023, kexue.fm/archives/9706: the m-th digit, n/β^(m-1), is over λ_1…λ_m = exp(a·m^b) too, s for the last."""
    radix, a = base_of(trained) ** (1 / len(trained)), math.log(s) / len(trained) ** b
    digits = [1 + math.log(max(trained) / w, radix) for w in trained]
    return [w / math.exp(a * m**b) for w, m in zip(trained, digits, strict=True)]


@of("dynamic_ntk")
def dynamic_ntk(trained, extend, window, length):
    """s = max(1, l/L); in `transformers`, factor·l/L - (factor - 1) with l at least L."""
    needed = max(length, window) / window
    if extend["variant"] == "transformers":
        needed = extend["factor"] * needed - (extend["factor"] - 1)
    return classic(trained, needed)


def ramped(w: float, s: float, gamma: float) -> float:
    gamma = min(max(gamma, 0), 1)
    return (1 - gamma) * w / s + gamma * w


@of("yarn")
def yarn(trained, extend, window, length):
    """Peng et al. 2023, eq. 17, 18: γ over r = L/wavelength; or, in its code, over the index of the pair."""
    s, alpha, beta = extend["factor"], extend["beta_slow"], extend["beta_fast"]
    if beta is None:
        beta = max(min(32, window / (8 * math.pi)), 2 * alpha)
    if extend["ramp"] == "rotations":
        return [ramped(w, s, (window * w / (2 * math.pi) - alpha) / (beta - alpha)) for w in trained]
    fastest, d, b = max(trained), 2 * len(trained), base_of(trained)

    def index(turns: float) -> float:  # of the pair that makes so many
        return d * math.log(window * fastest / (turns * 2 * math.pi)) / (2 * math.log(b))

    low, high = max(math.floor(index(beta)), 0), min(math.ceil(index(alpha)), d - 1)
    high += 0.001 * (low == high)
    order = sorted(trained, reverse=True)
    return [ramped(w, s, 1 - (order.index(w) - low) / (high - low)) for w in trained]


TEMPERATURES["yarn"] = lambda extend, window: 1 / (0.1 * math.log(extend["factor"]) + 1) ** 2


@of("llama3")
def llama3(trained, extend, window, length):
    """Meta's code, by wavelength: kept, divided by s, or smoothed between."""
    s, low, high = extend["factor"], extend["low_freq_factor"], extend["high_freq_factor"]
    out = []
    for w in trained:
        wavelength = 2 * math.pi / w
        if wavelength < window / high:
            out.append(w)
        elif wavelength > window / low:
            out.append(w / s)
        else:
            smooth = (window / wavelength - low) / (high - low)
            out.append((1 - smooth) * w / s + smooth * w)
    return out


@of("base")
def base(trained, extend, window, length):
    """Another base, and nothing else."""
    return changed_base(trained, math.log(extend["theta"]) / math.log(base_of(trained)))


@of("longrope")
def longrope(trained, extend, window, length):
    """Ding et al. 2024, without first tokens: ω_i/λ_i, λ those of the text's length; NTK's where none are."""
    factors = extend["short"] if extend["short"] is not None and length <= window else extend["long"]
    if factors is None:
        return classic(trained, extend["factor"])
    order = sorted(trained, reverse=True)
    return [w / factors[order.index(w)] for w in trained]


TEMPERATURES["longrope"] = lambda extend, window: 1 / (1 + math.log(extend["factor"]) / math.log(window))


@of("resonance")
def resonance(trained, extend, window, length):
    """Wang et al. 2024: wavelengths to the nearest whole number, after another method."""
    inner = {"none": {}, "ntk": {"form": "classic"}, "yarn": {"ramp": "rotations", "beta_fast": None, "beta_slow": 1}}
    over = {"name": extend["over"], "factor": extend["factor"], **inner[extend["over"]]}
    return [2 * math.pi / max(round(2 * math.pi / w), 1) for w in frequencies(over, trained, window, length)]


TEMPERATURES["resonance"] = lambda extend, window: temperature(
    {"name": extend["over"], "factor": extend["factor"]}, window, math.inf
)


@of("switch")
def switch(trained, extend, window, length):
    """Shang et al. 2025, LongRoPE2: the original RoPE for what fits the original window."""
    return frequencies(extend["over"], trained, window, length) if length > window else trained


@of("drop")
def drop(trained, extend, window, length):
    """Nothing turns."""
    return [0.0 for _ in trained]


def moved(extend: dict, positions: np.ndarray, window: int) -> list[tuple[Callable, np.ndarray, np.ndarray]]:
    """Which pairs (i, j) of positions stand elsewhere, and where their query and their key then stand, (T,) each."""
    if extend["name"] == "switch":
        return moved(extend["over"], positions, window) if positions.max() >= window else []
    return MOVES[extend["name"]](extend, positions, window) if extend["name"] in MOVES else []


def rerope(extend: dict, p: np.ndarray, window: int) -> list:
    """Su 2023: distances from w on are w."""
    w = extend["near"] or window // 2
    return [(lambda i, j: i - j >= w, np.full_like(p, w), np.zeros_like(p))]


def leaky_rerope(extend: dict, p: np.ndarray, window: int) -> list:
    """Su 2023: positions over k, those of queries w - w/k further on; the ends of s·L tokens are L - 1 apart."""
    w = extend["near"] or window // 2
    k = (extend["factor"] * window - 1 - w) / (window - 1 - w)
    return [(lambda i, j: i - j >= w, p / k + w - w / k, p / k)]


def self_extend(extend: dict, positions: np.ndarray, window: int) -> list:
    """Jin et al. 2024: the smallest groups that fit."""
    w = extend["near"] or window // 4

    def stand(group: int, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return p // group + w - w // group, p // group

    text = np.arange(int(extend["factor"] * window))
    group = 1
    while max(stand(group, text)[0]) - min(stand(group, text)[1]) >= window:
        group += 1
    return [(lambda i, j: i - j >= w, *stand(group, positions))]


def dca(extend: dict, p: np.ndarray, window: int) -> list:
    """An et al. 2024: intra-chunk scores are those of the distance; then the successive chunk, and all others."""
    s, c = extend["chunk"] or 3 * window // 4, window
    return [
        (lambda i, j: i // s == j // s + 1, np.array([min(i % s + s, c - 1) for i in p]), p % s),
        (lambda i, j: i // s > j // s + 1, np.full_like(p, c - 1), p % s),
    ]


MOVES = {"rerope": rerope, "leaky_rerope": leaky_rerope, "self_extend": self_extend, "dca": dca}
