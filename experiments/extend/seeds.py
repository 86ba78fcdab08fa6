"""Every arm of a study over its seeds, as one table: does what one model shows hold for another seed's?

Every arm is held to extrapolation after as many steps, at the window of the arm, and to the base model within the
trained window; intervals are over seeds and documents (statistics.compare), and the verdicts of each of the two columns
are adjusted together (Holm 1979).
"""

from dataclasses import asdict
from statistics import median

from experiments.extend.arms import PLAIN
from experiments.extend.findings import Findings, Reading
from experiments.lab.statistics import Comparison, compare, holm


def seeds_table(findings: Findings) -> tuple[str, list[dict]]:
    """All arms in columns under a sentence that explains them, and the same as plain values."""
    rows = []
    for reading in findings.ordered:
        trained = [1] * (reading is findings.base(reading.position))
        every = [*trained, *sorted(findings.study.factors)]  # an arm without a factor of its own reads all windows
        rows += [_arm(findings, reading, factor) for factor in ([reading.factor] if reading.factor > 1 else every)]
    for column in ("over extrapolation", "cost"):
        compared = [row for row in rows if row[column] is not None]
        for row, p in zip(compared, holm([row[column].p for row in compared]), strict=True):
            row[column] = {**asdict(row[column].ratio), "p": p, "word": row[column].word(p)}
    keys = findings.study.passkey
    head = f"{'position':<12} {'arm':<{findings.widest}} {'window':>6} {'steps':>5} {'perplexity':>10}"
    head += f" {'over extrapolation':>29} {'cost in the window':>29}" + "  k_max by seed" * keys
    text = (
        "The same over seeds: ratios with 95 % intervals over seeds and documents, to extrapolation after as many "
        "steps there and to the base model at its own window (lower, higher, equal to within half a per cent, or open, "
        "adjusted for the whole column)" + "; k_max: median (every seed)" * keys
    )
    return "\n".join([f"{text}:\n", head, *(_line(findings, row) for row in rows)]), rows


def _arm(findings: Findings, reading: Reading, factor: int) -> dict:
    """One arm at one window."""
    position, window = reading.position, findings.window * factor
    plain, base = findings.get(position, PLAIN, factor, reading.steps), findings.base(position)
    return {
        "position": position,
        "arm": reading.arm,
        "window": window,
        "steps": reading.steps,
        "perplexity": reading.perplexity(window),
        "by seed": [row["perplexity"] for row in reading.at(window)],
        "over extrapolation": _compared(reading, plain, window),
        "cost": _compared(reading, base, findings.window),
        "k_max": [each["value"] for each in reading.k_max_by_seed(window)],
    }


def _compared(ours: Reading, theirs: Reading | None, context: int) -> Comparison | None:
    """Ours over theirs; None where they are the same, or there are none."""
    return None if theirs is None or ours is theirs else compare(ours.at(context), theirs.at(context))


def _line(findings: Findings, row: dict) -> str:
    text = f"{row['position']:<12} {findings.name(row['arm']):<{findings.widest}} {row['window']:>6} {row['steps']:>5}"
    text += f" {row['perplexity']:>10.2f}"
    for each in (row["over extrapolation"], row["cost"]):
        cell = "" if each is None else f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}] {each['word']:<6}"
        text += f" {cell:>29}"
    if row["k_max"]:
        text += f"  {median(row['k_max']):g} ({', '.join(map(str, row['k_max']))})"
    return text.rstrip()
