"""Slow twins of the schemes that add a bias to the scores: one float64 number at a time, from the papers.

Nothing here imports the code it checks. Only scores with the key at or before the query are filled in; the causal
mask hides the rest.
"""

import cmath
import math
from collections.abc import Callable

from tests.reference import Outputs, Setting, of


def fill(setting: Setting, outputs: Outputs, score: Callable[[int, float, float], float]) -> None:
    """Set bias[h, t, s] = score(head, position of the query, position of the key) for s ≤ t."""
    for h in range(setting.heads):
        for t, i in enumerate(setting.positions):
            for s in range(t + 1):
                outputs.bias[h, t, s] = score(h, i, setting.positions[s])


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
def alibi(setting: Setting, outputs: Outputs) -> None:
    """Press et al. 2022, section 3: -m_h · (i - j)."""
    slopes = alibi_slopes(setting.heads)
    fill(setting, outputs, lambda h, i, j: -slopes[h] * (i - j))


def t5_bucket(distance: float, buckets: int, furthest: int) -> int:
    """Raffel et al. 2020, 2.1 and its code, one-directional: half the buckets exact, the rest logarithmic.

    A key after the query counts as distance 0; a distance that a division left just under a whole number is that
    number, so that equal distances share a bucket wherever they are measured.
    """
    distance = max(round(distance, 9), 0)
    exact = buckets // 2
    if distance < exact:
        return math.floor(distance)
    steps = math.log(distance / exact) / math.log(furthest / exact) * (buckets - exact)
    return min(exact + math.floor(steps), buckets - 1)


@of("t5")
def t5(setting: Setting, outputs: Outputs) -> None:
    """A learned number per bucket and head."""
    buckets, furthest = setting.knobs["buckets"], setting.knobs["furthest"]
    table = setting.parameters["table"]  # (buckets, H)
    fill(setting, outputs, lambda h, i, j: table[t5_bucket(i - j, buckets, furthest), h])


@of("kerple")
def kerple(setting: Setting, outputs: Outputs) -> None:
    """Chi et al. 2022, 4: -p·log(1 + a·r) or -a·r^p, with p and a at least 0.01, and p at most 2 in the power."""
    power = setting.knobs["kind"] == "power"
    p = [min(max(value, 0.01), 2 if power else math.inf) for value in setting.parameters["p"]]
    a = [max(value, 0.01) for value in setting.parameters["a"]]
    if power:
        fill(setting, outputs, lambda h, i, j: -a[h] * (i - j) ** p[h])
    else:
        fill(setting, outputs, lambda h, i, j: -p[h] * math.log(1 + a[h] * (i - j)))


@of("fire")
def fire(setting: Setting, outputs: Outputs) -> None:
    """Li et al. 2024, eq. 4: f(ψ(i - j) / ψ(max(i, L))) with ψ(x) = log(|c|·x + 1) and f a ReLU network.

    A bias of f's last layer would be the same for every key, which softmax does not see.
    """
    learned = setting.parameters
    c = abs(learned["c"][0])
    threshold = abs(learned["multiplier"][0]) * setting.knobs["threshold"] * setting.window

    def score(h: int, i: float, j: float) -> float:
        share = math.log(c * (i - j) + 1) / math.log(c * max(i, threshold) + 1)
        total = 0.0
        for unit in range(setting.knobs["hidden"]):
            inner = learned["inner_weight"][unit, 0] * share + learned["inner_bias"][unit]
            total += learned["outer_weight"][h, unit] * max(inner, 0)
        return total

    fill(setting, outputs, score)


@of("cope")
def cope(setting: Setting, outputs: Outputs) -> None:
    """Golovneva et al. 2024, 4: q_i·e[p_ij], p_ij = Σ_{m=j…i} sigmoid(q_i·k_m/√D), e interpolated between its rows."""
    table = setting.parameters["table"][setting.layer]  # (reach, D)
    for h in range(setting.heads):
        for i in range(len(setting.positions)):
            q, counted = outputs.queries[h, i], 0.0
            for j in range(i, -1, -1):
                counted += 1 / (1 + math.exp(-(q @ outputs.keys[h, j]) / math.sqrt(setting.head_width)))
                place = min(counted, len(table) - 1)
                low, high = table[math.floor(place)], table[math.ceil(place)]
                outputs.bias[h, i, j] = q @ (low + (place - math.floor(place)) * (high - low))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@of("fox")
def fox(setting: Setting, outputs: Outputs) -> None:
    """Lin et al. 2025, 3: Σ_{l=j+1…i} log σ(w_h·x_l + b_h)."""
    weight, offset = (setting.parameters[name][setting.layer] for name in ("weight", "offset"))  # (H, C), (H,)
    for h in range(setting.heads):
        for i in range(len(setting.positions)):
            for j in range(i + 1):
                gates = (log_sigmoid(weight[h] @ setting.input[m] + offset[h]) for m in range(j + 1, i + 1))
                outputs.bias[h, i, j] = sum(gates)


@of("grape_ap")
def grape_ap(setting: Setting, outputs: Outputs) -> None:
    """Zhang et al. 2025: slope_h · Σ_{l=j+1…i} log σ(p_iᵀ R_{i-l} p_l / d), p of RMS 1, R by a radian per token."""
    weight, slopes = setting.parameters["weight"][setting.layer], alibi_slopes(setting.heads)  # (H, P, C)
    half = setting.knobs["channels"] // 2
    for h in range(setting.heads):
        content = [weight[h] @ x for x in setting.input]
        content = [p / math.sqrt((p @ p) / len(p) + 2**-52) for p in content]

        def edge(i: int, m: int, content=content) -> float:
            angle, total = setting.positions[i] - setting.positions[m], 0.0
            for c in range(half):
                query = complex(content[i][c], content[i][c + half])
                key = complex(content[m][c], content[m][c + half])
                total += (query * key.conjugate() * cmath.exp(1j * angle)).real
            return log_sigmoid(total / (2 * half))

        for i in range(len(setting.positions)):
            for j in range(i + 1):
                outputs.bias[h, i, j] = slopes[h] * sum(edge(i, m) for m in range(j + 1, i + 1))
