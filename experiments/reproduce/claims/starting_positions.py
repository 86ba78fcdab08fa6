"""Does too large a base cost accuracy at the starting positions, where few of its frequencies have moved?"""

import numpy as np

from experiments.lab.canvas import COLOURS, plot_band, pyplot
from experiments.lab.statistics import MARGIN, Comparison, contrast
from experiments.reproduce.claim import Claim, Findings, Verdict, adjusted, verdict
from experiments.reproduce.evidence import Rows, effective_context
from models.positions.frequencies import Geometric

BASES = (10, 100, 10_000, 1_000_000)
FITTING, LARGE = 100, 1_000_000  # with the one, all pairs of a small model move within a window; the other is too large
SCHEMES = ("sinusoidal", "rope")
EARLY, LATE = -3, -1  # the last bin of context seen that is early, and the one that is late
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
    rewritten = (
        "Windows of half the length stood beside the verdict and decided nothing; they would be shorter than 64 tokens "
        "now, and are gone."
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

    def measure(self, evidence) -> Findings:
        rows, shape = [], evidence.config.model
        channels = {
            scheme: shape.width if scheme == "sinusoidal" else shape.channels // shape.heads for scheme in SCHEMES
        }
        read = {
            arm_of(scheme, base): evidence.by_position(arm_of(scheme, base)) for scheme in SCHEMES for base in BASES
        }
        bins = [(row["low"], row["high"]) for row in next(iter(read.values()))[0]["rows"]]
        early, late = (2, bins[EARLY][1]), bins[LATE]
        for scheme in SCHEMES:
            for base in BASES:
                large, fitting = read[arm_of(scheme, base)], read[arm_of(scheme, FITTING)]
                row = {
                    "position": scheme,
                    "base": base,
                    f"pairs moved at {early[1]}": moved(channels[scheme], base, early[1]),
                }
                row |= {"of": channels[scheme] // 2}
                for place in (EARLY, LATE):
                    title = "effective context after {} to {}".format(*bins[place])
                    row |= effective_context([seed["rows"][place] for seed in large], title)
                spans = {"early": [(1, *early)], "late": [(1, *late)], "whole": [(1, 1, late[1])]}
                spans |= {"early over late": [(1, *early), (-1, *late)]}
                row |= {
                    name: None if base == FITTING else difference(large, fitting, *parts)
                    for name, parts in spans.items()
                }
                rows.append(row)
        curves = {"bins": bins, "early": early, "window": evidence.window}
        for scheme in SCHEMES:
            curves[f"{scheme} moved"] = {
                f"{base}": [moved(channels[scheme], base, last) for _, last in bins] for base in (FITTING, LARGE)
            }
            for base in set(BASES) - {FITTING}:
                curves[arm_of(scheme, base)] = by_bin(read[arm_of(scheme, base)], read[arm_of(scheme, FITTING)])
        return Findings(adjusted(rows, "early", "early over late"), curves)

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        verdicts = {}
        for scheme in SCHEMES:
            row = findings.row(position=scheme, base=LARGE)
            early, over_late = row["early"].ratio, row["early over late"].ratio
            verdicts[f"{scheme}: base {LARGE} against {FITTING}"] = verdict(
                early.low > 1 and over_late.low > 1,
                early.high < 1 + MARGIN or over_late.high < 1,
                f"early perplexity is {early} of that with base {FITTING}, {over_late} of the late ratio",
            )
        return verdicts

    def plot(self, findings: Findings):
        bins = findings.curves["bins"]
        figure, panels = pyplot().subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
        words = [f"{a}-{b}" if a < b else f"{a}" for a, b in bins]
        for scheme, panel in zip(SCHEMES, panels, strict=True):
            for base, colour in zip([base for base in BASES if base != FITTING], COLOURS, strict=False):
                plot_band(panel, range(len(bins)), findings.curves[arm_of(scheme, base)], colour, f"base {base:,}")
            counts = findings.curves[f"{scheme} moved"]
            moved_by = zip(words, *(counts[f"{base}"] for base in (FITTING, LARGE)), strict=True)
            panel.set_xticks(range(len(bins)), [f"{word}\n{few} | {fewer}" for word, few, fewer in moved_by])
            panel.set(
                title=f"{scheme}, window {findings.curves['window']}",
                xlabel=f"tokens of context; pairs that have moved by then, base {FITTING:,} | {LARGE:,}",
            )
            panel.axhline(0, color="black", linewidth=0.8)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=8)
        panels[0].set_ylabel(f"loss less that with base {FITTING}, nats per token")
        return figure, "Same targets, seeds paired; 95 % over seeds and documents."


def by_bin(rows: Rows, reference: Rows) -> list[list[float]]:
    """The loss minus the reference's in every bin, with its interval."""
    spans = [(row["low"], row["high"]) for row in rows[0]["rows"]]
    differences = [difference(rows, reference, (1, *span)).difference for span in spans]
    return [[estimate.value, estimate.low, estimate.high] for estimate in differences]


def difference(losses: Rows, other: Rows, *spans: tuple[float, int, int]) -> Comparison:
    """Σ weight · (mean loss - the reference's) over targets that saw low … high tokens; spans: (weight, low, high)."""
    parts = []
    for weight, low, high in spans:
        nats, targets = (
            [summed(rows, key, low, high) for rows in (losses, other)] for key in ("document_nll", "document_targets")
        )
        parts.append((weight, nats[0] - nats[1], targets[0]))
    return contrast(*parts)


def summed(rows: Rows, key: str, low: int, high: int) -> np.ndarray:
    """Sums over the bins within low … high, by seed and document, (S, D)."""
    inside = [[row[key] for row in seed["rows"] if low <= row["low"] and row["high"] <= high] for seed in rows]
    return np.array(inside, dtype=np.float64).sum(axis=1)
