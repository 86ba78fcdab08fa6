"""What a study found, as tables in the layout of the Position Interpolation paper, and in sentences.

Every comparison is paired over documents: all readings of a study score the same targets. `extrapolation` at a longer
window is the base model before fine-tuning, and after it the base model fine-tuned there directly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from experiments.extend.arms import CONTROL, DECODED, PLAIN, Study, named
from experiments.lab.statistics import Estimate, paired_ratio


@dataclass(frozen=True)
class Reading:
    """An arm measured once: scheme, method, factor (1: none of its own), steps of fine-tuning, and what was measured.

    arm: the method, with DECODED after it where it depends on the length of the text and was read as decoded.
    rows: one per context length, as measure_checkpoint gives them; passkey: one per length, as measure_passkey does.
    """

    position: str
    arm: str
    factor: int
    steps: int
    rows: list[dict]
    passkey: list[dict] = field(default_factory=list)

    def at(self, context: int) -> dict:
        return next(row for row in self.rows if row["context"] == context)

    def k_max(self, length: int) -> dict | None:
        """PI's k_max at this length, {"value", "low", "high"}; None if it was not measured there."""
        return next((row["k_max_20%"] for row in self.passkey if row["length"] == length), None)


@dataclass(frozen=True)
class Findings:
    """All readings of a study of models trained on `window` tokens."""

    window: int
    study: Study
    readings: list[Reading]

    @cached_property
    def _index(self) -> dict[tuple, Reading]:
        return {(r.position, r.arm, r.factor, r.steps): r for r in self.readings}

    def get(self, position: str, method: str, factor: int, steps: int) -> Reading | None:
        """A method at a factor after these steps; one without a factor of its own reads any window as it is."""
        found = self._index.get((position, method, factor, steps))
        return found or self._index.get((position, method, 1, steps))

    def base(self, position: str) -> Reading:
        """The base model, as it was trained."""
        return self._index[position, PLAIN, 1, 0]

    @property
    def steps(self) -> tuple[int, ...]:
        return (0, *self.study.finetune_steps)

    def methods(self, position: str) -> list[str]:
        """The methods of a scheme in the order they were asked for, the control last."""
        found = dict.fromkeys(reading.arm for reading in self.readings if reading.position == position)
        return sorted(found, key=CONTROL.__eq__)

    @cached_property
    def ordered(self) -> list[Reading]:
        """All readings, those of a scheme by window, then method, then steps."""
        methods = {position: self.methods(position) for position in self.study.positions}
        positions = list(self.study.positions)
        return sorted(
            self.readings,
            key=lambda r: (positions.index(r.position), r.factor, methods[r.position].index(r.arm), r.steps),
        )

    def against_plain(self, position: str, method: str, factor: int, steps: int) -> Estimate | None:
        """Perplexity at the longer window over that of extrapolation after as many steps; None if one is missing."""
        ours, theirs = (self.get(position, each, factor, steps) for each in (method, PLAIN))
        if ours is None or theirs is None or ours is theirs:
            return None
        return paired_ratio(ours.at(self.window * factor), theirs.at(self.window * factor))

    @cached_property
    def twice(self) -> set[str]:
        """The methods that depend on the length of the text, and were read whole and as decoded."""
        return {reading.arm.removesuffix(DECODED) for reading in self.readings if reading.arm.endswith(DECODED)}

    def name(self, method: str) -> str:
        """A method as tables name it, with a mark where losses of whole windows are not those of decoding."""
        return named(method) + "*" * (method in self.twice)

    @property
    def widest(self) -> int:
        """Characters of the longest name."""
        return max(14, *(len(self.name(reading.arm)) for reading in self.readings))

    def by_steps(self) -> list[tuple[str, str, int]]:
        """The rows of a table by steps: scheme, method, factor."""
        return [(position, method, factor) for position in self.study.positions for factor in sorted(self.study.factors)
                for method in self.methods(position)]  # fmt: skip


def _row(found: Findings, position: str, method: str, window, cells: list, widths: Sequence[int]) -> str:
    told = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{position:<12} {found.name(method):<{found.widest}} {window:>6} {told}".rstrip()


def perplexity_table(found: Findings) -> str:
    """Perplexity by scheme, arm, window it was extended or tuned to, and steps (rows), and context (columns)."""
    contexts = [row["context"] for row in found.readings[0].rows]
    widths = (5, *(8 for _ in contexts))
    lines = [_row(found, "position", "arm", "window", ["steps", *contexts], widths)]
    for reading in found.ordered:
        cells = [str(reading.steps), *(_short(row["perplexity"]) for row in reading.rows)]
        lines.append(_row(found, reading.position, reading.arm, found.window * reading.factor, cells, widths))
    return "\n".join(lines)


def steps_table(found: Findings) -> str:
    """Perplexity at the longer window by steps of fine-tuning, marked where it differs from extrapolation's."""
    widths = [11] * len(found.steps)
    lines = [_row(found, "position", "arm", "window", [f"{steps} steps " for steps in found.steps], widths)]
    for position, method, factor in found.by_steps():
        cells = []
        for steps in found.steps:
            reading = found.get(position, method, factor, steps)
            ratio = found.against_plain(position, method, factor, steps)
            mark = " " if ratio is None else "<" if ratio.high < 1 else ">" if ratio.low > 1 else "="
            cells.append("" if reading is None else _short(reading.at(found.window * factor)["perplexity"]) + mark)
        lines.append(_row(found, position, method, found.window * factor, cells, widths))
    return "\n".join(lines)


def k_max_table(found: Findings) -> str:
    """k_max by PI's rule, with its interval, by steps of fine-tuning; asked at the window of the row."""
    widths = [16] * len(found.steps)
    lines = [_row(found, "position", "arm", "window", [f"{steps} steps" for steps in found.steps], widths)]
    trained = [(position, method, 1) for position in found.study.positions for method in (PLAIN, CONTROL)]
    for position, method, factor in sorted([*trained, *found.by_steps()], key=lambda row: (row[0], row[2])):
        readings = [found.get(position, method, factor, steps) for steps in found.steps]
        values = [reading and reading.k_max(found.window * factor) for reading in readings]
        cells = ["" if each is None else f"{each['value']} [{each['low']}, {each['high']}]" for each in values]
        lines.append(_row(found, position, method, found.window * factor, cells, widths))
    return "\n".join(lines)


def cost_table(found: Findings) -> str:
    """Perplexity within the trained window over the base model's there, before fine-tuning and after all of it."""
    inside = [row["context"] for row in found.readings[0].rows if row["context"] <= found.window]
    widths = (5, 9, *(21 for _ in inside))
    head = ["steps", f"at {found.window}", *(f"ratio at {context}" for context in inside)]
    lines = [_row(found, "position", "arm", "window", head, widths)]
    for reading in found.ordered:
        base = found.base(reading.position)
        if reading is base or reading.steps not in (0, found.steps[-1]):
            continue
        ratios = [str(paired_ratio(reading.at(context), base.at(context))) for context in inside]
        cells = [str(reading.steps), _short(reading.at(found.window)["perplexity"]), *ratios]
        lines.append(_row(found, reading.position, reading.arm, found.window * reading.factor, cells, widths))
    return "\n".join(lines)


def _short(perplexity: float) -> str:
    return f"{perplexity:.2f}" if perplexity < 1000 else f"{perplexity:.0f}" if perplexity < 1e5 else ">1e5"


def tables(found: Findings) -> str:
    """All tables, each under a sentence that says what it shows."""
    split, window = found.study.split, found.window
    parts = [
        f"Perplexity of the same {split} targets, by tokens of context (trained on {window}; window: what an arm was "
        "extended to, or fine-tuned at):",
        perplexity_table(found),
        "Perplexity at that window by fine-tuning steps (< better, > worse, = no different from extrapolation after as "
        "many, by the paired 95 % interval):",
        steps_table(found),
        f"Cost within the trained window: perplexity at up to {window} tokens over the base model's, with 95 % "
        "intervals over documents:",
        cost_table(found),
    ]
    if found.study.passkey:
        parts += [
            "k_max, the largest distance such that at it and below at least 20 % of the keys are found (Chen et al. "
            "2023), by fine-tuning steps:",
            k_max_table(found),
        ]
    if found.twice:
        parts.append(
            "* depends on the length of the text, and reads a whole window as its last token needs. "
            f"{DECODED}: the same targets as decoding sees them, each from a pass that ends with the token before it."
        )
    return "\n\n".join(parts)


def sentences(found: Findings) -> str:
    """What was found, whatever it is: whether context is used, and at each window the best reading after each step."""
    said = []
    for position in found.study.positions:
        base, window = found.base(position), found.window
        quarter, half, whole = (base.at(window // part) for part in (4, 2, 1))
        used = paired_ratio(whole, quarter)
        said.append(
            f"{position}: perplexity {quarter['perplexity']:.2f} with {window // 4} tokens of context, "
            f"{half['perplexity']:.2f} with {window // 2}, {whole['perplexity']:.2f} with the trained {window} "
            f"(whole / quarter {used}: it {'uses' if used.high < 1 else 'shows no use of'} context beyond a quarter)."
        )
        for factor in sorted(found.study.factors):
            parts = [_at(found, position, factor, steps) for steps in found.steps]
            control = found.get(position, CONTROL, factor, found.steps[-1]).at(window * factor)["perplexity"]
            parts.append(f"the control tuned at {window} then stands at {_short(control)}")
            said.append(f"{position} at {window * factor} tokens: {'; '.join(parts)}.")
    return "\n".join(said)


def _at(found: Findings, position: str, factor: int, steps: int) -> str:
    """Extrapolation and the best of the others at a longer window after these steps."""
    window = found.window * factor
    plain = found.get(position, PLAIN, factor, steps).at(window)
    ratios = {}
    for method in found.methods(position):
        if method != CONTROL and (ratio := found.against_plain(position, method, factor, steps)) is not None:
            ratios[method] = ratio
    tuned = f"after {steps} step{'s' * (steps > 1)}" if steps else "untuned"
    text = f"{tuned} extrapolation {_short(plain['perplexity'])}"
    if not ratios:
        return text
    best = min(ratios, key=lambda method: ratios[method].value)
    ratio = ratios[best]
    verdict = "better" if ratio.high < 1 else "worse" if ratio.low > 1 else "no different"
    stands = found.get(position, best, factor, steps).at(window)["perplexity"]
    leading = "" if len(ratios) == 1 else "the best other, "
    return f"{text}, {leading}{best} {_short(stands)} ({verdict}: {ratio})"
