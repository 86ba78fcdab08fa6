"""Does too large a base cost accuracy at the starting positions, where few of its frequencies have moved?"""

import numpy as np

from experiments.claims.claim import Claim, Found, Verdict, adjusted, verdict
from experiments.claims.evidence import Rows
from experiments.statistics import MARGIN, Comparison, contrast
from models.positions.frequencies import Geometric

BASES = (10, 100, 10_000, 1_000_000)
FITTING, LARGE = 100, 1_000_000  # the base whose slowest waves fit the window a few times over, and the one too large
SCHEMES = ("sinusoidal", "rope")
MOVED = 0.1  # radians by which a pair must have turned to tell a position from the first


def arm_of(scheme: str, base: int) -> str:
    return scheme if base == 10_000 else f"{scheme} {base:g}"


def moved(channels: int, base: float, position: int) -> int:
    """How many pairs have turned by MOVED at a position: those with base^(-2k/channels) · position ≥ MOVED."""
    return int((Geometric(base=base).table(channels) * position >= MOVED).sum())


class StartingPositions(Claim):
    title = "Too large a base costs accuracy at the starting positions"
    source = "A question to Vaswani et al. 2017 (section 3.5) and Su et al. 2021: why 10000?"
    statement = (
        "With base 1000000 instead of 100, so that fewer frequencies have moved, targets with little context "
        "are predicted worse, and worse by more than those at the end of the window."
    )
    rule = (
        "Loss with base 1000000 less that with base 100, paired by seed and document, on targets with 2 tokens to a "
        "quarter of the window of context (early) and with over half of it (late). Reproduced if early is above zero "
        "and above late; not, if early is under half a per cent of perplexity, or below late; else inconclusive. For "
        "the sinusoid, and for RoPE."
    )
    paper = "No numbers: neither paper varies the base"
    settle = (
        "More seeds, and windows of 256 and 1024: the effect is small, and a longer window has a larger right base."
    )

    def arms(self, window: int) -> dict[str, list[str]]:
        return {
            arm_of(scheme, base): [f"position={scheme}", *([] if base == 10_000 else [f"frequencies.base={base}"])]
            for scheme in SCHEMES
            for base in BASES
        }

    def measure(self, evidence) -> Found:
        rows, shape = [], evidence.config.model
        read = {arm: evidence.by_position(arm) for arm in evidence.runs}
        bins = [(row["low"], row["high"]) for row in next(iter(read.values()))[0]["rows"]]
        early, late = (2, bins[-3][1]), bins[-1]
        for scheme in SCHEMES:
            channels = shape.width if scheme == "sinusoidal" else shape.width // shape.heads
            for base in BASES:
                ours, theirs = read[arm_of(scheme, base)], read[arm_of(scheme, FITTING)]
                row = {"position": scheme, "base": base, f"pairs moved at {early[1]}": moved(channels, base, early[1])}
                row |= {"of": channels // 2}
                for name, span in (("early", early), ("late", late), ("whole", (1, late[1]))):
                    row[name] = None if base == FITTING else difference(ours, theirs, (1, *span))
                row["early over late"] = None if base == FITTING else difference(ours, theirs, (1, *early), (-1, *late))
                rows.append(row)
        rows = adjusted(rows, "early", "early over late")
        curves = {"bins": bins, "early": early}
        for scheme in SCHEMES:
            for base in set(BASES) - {FITTING}:
                pair = read[arm_of(scheme, base)], read[arm_of(scheme, FITTING)]
                found = [difference(*pair, (1, *span)).difference for span in bins]
                curves[arm_of(scheme, base)] = [[e.value, e.low, e.high] for e in found]
        return Found(rows, curves)

    def judge(self, found: Found) -> dict[str, Verdict]:
        verdicts = {}
        for scheme in SCHEMES:
            row = found.row(position=scheme, base=LARGE)
            early, more = row["early"].ratio, row["early over late"].ratio
            verdicts[f"{scheme}: base {LARGE} against {FITTING}"] = verdict(
                early.low > 1 and more.low > 1,
                early.high < 1 + MARGIN or more.high < 1,
                f"early perplexity is {early} of that with base {FITTING}, {more} as a multiple of the late ratio",
            )
        return verdicts

    def draw(self, found: Found):
        from experiments.figures.canvas import COLOURS, Drawing, headed, pyplot

        plt, bins = pyplot(), found.curves["bins"]
        figure, panels = plt.subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
        for scheme, panel in zip(SCHEMES, panels, strict=True):
            for base, colour in zip([each for each in BASES if each != FITTING], COLOURS, strict=False):
                value, low, high = np.array(found.curves[arm_of(scheme, base)]).T
                panel.plot(range(len(bins)), value, color=colour, marker="o", label=f"base {base:,}")
                panel.fill_between(range(len(bins)), low, high, color=colour, alpha=0.15, linewidth=0)
            panel.set_xticks(range(len(bins)), [f"{a}-{b}" if a < b else f"{a}" for a, b in bins])
            panel.axhline(0, color="black", linewidth=0.8)
            panel.set(title=scheme, xlabel="tokens of context")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=8)
        panels[0].set_ylabel(f"loss less that with base {FITTING}, nats per token")
        headed(figure, self.title, "Same targets, seeds paired; 95 % over seeds and documents.")
        return Drawing(figure, self.title, self.statement)


def difference(ours: Rows, theirs: Rows, *spans: tuple[float, int, int]) -> Comparison:
    """Σ weight · (our mean loss - theirs) over targets that saw low … high tokens; spans: (weight, low, high)."""
    parts = []
    for weight, low, high in spans:
        nats, targets = (
            [summed(rows, key, low, high) for rows in (ours, theirs)] for key in ("document_nll", "document_targets")
        )
        parts.append((weight, nats[0] - nats[1], targets[0]))
    return contrast(*parts)


def summed(rows: Rows, key: str, low: int, high: int) -> np.ndarray:
    """Sums over the bins within low … high, by seed and document, (S, D)."""
    inside = [[row[key] for row in each["rows"] if low <= row["low"] and row["high"] <= high] for each in rows]
    return np.array(inside, dtype=np.float64).sum(axis=1)
