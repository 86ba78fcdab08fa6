"""A table of every arm of a study over its seeds.

Every arm is compared with extrapolation after as many steps at the arm's window, and with the base model within the
trained window. Intervals are over seeds and documents (statistics.compare); the p values of each of the two columns
are adjusted together (Holm 1979).
"""

from dataclasses import asdict
from statistics import median

from experiments.extend.arms import PLAIN
from experiments.extend.findings import Findings, Reading
from experiments.lab.statistics import Comparison, compare, holm


def seeds_table(findings: Findings) -> tuple[str, list[dict]]:
    """The table of all arms under a sentence that explains it, and its rows as plain values."""
    rows = []
    for reading in findings.ordered:
        base = findings.base(reading.position)
        every = [*[1] * (reading is base), *sorted(findings.study.factors)]  # an arm without a factor reads all windows
        cost = _compare(reading, base, findings.reach(1))
        factors = [reading.factor] if reading.factor > 1 else every
        rows += [_arm(findings, reading, factor) | {"cost": cost} for factor in factors]
    for column in ("over extrapolation", "cost"):
        # What stands in several rows, as one cost for all windows, is one test.
        tests = {id(row[column]): row[column] for row in rows if row[column] is not None}
        adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
        for row in rows:
            if (test := row[column]) is not None:
                p = adjusted[id(test)]
                row[column] = {**asdict(test.ratio), "p": p, "word": test.word(p)}
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
    """One arm at one window, without its cost."""
    position, window, context = reading.position, findings.window * factor, findings.reach(factor)
    plain = findings.get(position, PLAIN, factor, reading.steps)
    return {
        "position": position,
        "arm": reading.arm,
        "window": window,
        "steps": reading.steps,
        "perplexity": reading.perplexity(context),
        "by seed": [row["perplexity"] for row in reading.at(context)],
        "over extrapolation": _compare(reading, plain, context),
        "k_max": [seed["value"] for seed in reading.k_max_by_seed(context)],
    }


def _compare(reading: Reading, reference: Reading | None, context: int) -> Comparison | None:
    """Compare a reading with a reference; None if they are the same or the reference is missing."""
    return None if reference is None or reading is reference else compare(reading.at(context), reference.at(context))


def _line(findings: Findings, row: dict) -> str:
    text = f"{row['position']:<12} {findings.name(row['arm']):<{findings.widest}} {row['window']:>6} {row['steps']:>5}"
    text += f" {row['perplexity']:>10.2f}"
    for r in (row["over extrapolation"], row["cost"]):
        cell = "" if r is None else f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}] {r['word']:<6}"
        text += f" {cell:>29}"
    if row["k_max"]:
        text += f"  {median(row['k_max']):g} ({', '.join(map(str, row['k_max']))})"
    return text.rstrip()
