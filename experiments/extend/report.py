"""The results of a study as tables in the layout of the Position Interpolation paper, and as sentences."""

import math
from collections.abc import Callable, Sequence

from experiments.extend.arms import CONTROL, DECODED, PLAIN
from experiments.extend.findings import Findings, Reading
from experiments.lab.measure.context import format_length, gate_verdict
from experiments.lab.statistics import Estimate, compare, holm


def _row(findings: Findings, position: str, method: str, window, cells: list, widths: Sequence[int]) -> str:
    columns = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{position:<12} {findings.name(method):<{findings.widest}} {window:>6} {columns}".rstrip()


def perplexity_table(findings: Findings) -> str:
    """Perplexity by scheme, arm, window it was extended or tuned to, and steps (rows), and context (columns)."""
    return _by_context(findings, lambda reading, context: _short(reading.perplexity(context)))


def effective_table(findings: Findings) -> str:
    """Effective context by scheme, arm, window and steps (rows), and context (columns), where the optimum is known."""

    def cell(reading: Reading, context: int) -> str:
        return format_length(Estimate(reading.effective_context(context), -math.inf, math.inf), context)

    return _by_context(findings, cell)


def _by_context(findings: Findings, cell: Callable[[Reading, int], str]) -> str:
    """A row for every reading, a column for every context."""
    contexts = findings.contexts
    widths = (5, *(8 for _ in contexts))
    lines = [_row(findings, "position", "arm", "window", ["steps", *contexts], widths)]
    for reading in findings.ordered:
        cells = [str(reading.steps), *(cell(reading, context) for context in contexts)]
        lines.append(_row(findings, reading.position, reading.arm, findings.window * reading.factor, cells, widths))
    return "\n".join(lines)


def steps_table(findings: Findings) -> str:
    """Perplexity at the longer window by steps of fine-tuning, marked where it differs from extrapolation's."""
    widths = [11] * len(findings.steps)
    lines = [_row(findings, "position", "arm", "window", [f"{steps} steps " for steps in findings.steps], widths)]
    for position, method, factor in findings.by_steps():
        cells = []
        for steps in findings.steps:
            reading = findings.get(position, method, factor, steps)
            compared = findings.against_plain(position, method, factor, steps)
            mark = " " if compared is None else {"lower": "<", "higher": ">"}.get(compared.word(), "=")
            cells.append("" if reading is None else _short(reading.perplexity(findings.reach(factor))) + mark)
        lines.append(_row(findings, position, method, findings.window * factor, cells, widths))
    return "\n".join(lines)


def k_max_table(findings: Findings) -> str:
    """k_max by PI's rule, with its interval, by steps of fine-tuning; asked at the window of the row."""
    widths = [16] * len(findings.steps)
    lines = [_row(findings, "position", "arm", "window", [f"{steps} steps" for steps in findings.steps], widths)]
    trained = [(position, method, 1) for position in findings.study.positions for method in (PLAIN, CONTROL)]
    for position, method, factor in sorted([*trained, *findings.by_steps()], key=lambda row: (row[0], row[2])):
        readings = [findings.get(position, method, factor, steps) for steps in findings.steps]
        values = [reading and reading.k_max(findings.reach(factor)) for reading in readings]
        cells = ["" if value is None else f"{value['value']:g} [{value['low']}, {value['high']}]" for value in values]
        lines.append(_row(findings, position, method, findings.window * factor, cells, widths))
    return "\n".join(lines)


def cost_table(findings: Findings) -> str:
    """Perplexity within the trained window over the base model's there, before fine-tuning and after all of it."""
    whole = findings.reach(1)
    inside = [context for context in findings.contexts if context <= whole]
    widths = (5, 9, *(21 for _ in inside))
    head = ["steps", f"at {whole}", *(f"ratio at {context}" for context in inside)]
    lines = [_row(findings, "position", "arm", "window", head, widths)]
    for reading in findings.ordered:
        base = findings.base(reading.position)
        if reading is base or reading.steps not in (0, findings.steps[-1]):
            continue
        ratios = [str(compare(reading.at(context), base.at(context)).ratio) for context in inside]
        cells = [str(reading.steps), _short(reading.perplexity(whole)), *ratios]
        lines.append(_row(findings, reading.position, reading.arm, findings.window * reading.factor, cells, widths))
    return "\n".join(lines)


def _short(perplexity: float) -> str:
    return f"{perplexity:.2f}" if perplexity < 1000 else f"{perplexity:.0f}" if perplexity < 1e5 else ">1e5"


def tables(findings: Findings) -> str:
    """All tables, each under a sentence that says what it shows."""
    split, window, whole = findings.study.split, findings.window, findings.reach(1)
    windows = {window * factor: findings.reach(factor) for factor in findings.study.factors}
    there = "that window" if windows.keys() == set(windows.values()) else "the longest context within that window"
    several = len(findings.seeds) > 1
    seeds = f" (geometric mean over seeds {', '.join(map(str, findings.seeds))})" * several
    parts = [
        f"Perplexity{seeds} of the same {split} targets, by tokens of context (trained on {window}; window: what an "
        "arm was extended to, or fine-tuned at):",
        perplexity_table(findings),
        f"Perplexity at {there} by fine-tuning steps (< better, > worse, = no different from extrapolation after as "
        "many, by the paired 95 % interval):",
        steps_table(findings),
        f"Cost within the trained window: perplexity at up to {whole} tokens over the base model's, with 95 % "
        f"intervals over {'seeds and ' * several}documents:",
        cost_table(findings),
    ]
    if findings.readings[0].effective_context(whole) is not None:
        parts += [
            "Effective context: the tokens with which the best possible reader has the loss of the model, by tokens of "
            "context:",
            effective_table(findings),
        ]
    if findings.study.passkey:
        parts += [
            "k_max, the largest distance such that at it and below at least 20 % of the keys are found (Chen et al. "
            "2023), by fine-tuning steps:",
            k_max_table(findings),
        ]
    if findings.twice:
        parts.append(
            "* depends on the length of the text, and reads a whole window as its last token needs. "
            f"{DECODED}: the same targets as decoding sees them, each from a pass that ends with the token before it."
        )
    return "\n\n".join(parts)


def sentences(findings: Findings) -> str:
    """Summarise a study: whether context is used, and the best method at each window after each step."""
    lines = []
    if len(findings.readings[0].models) == 1 and len(findings.readings[0].models[0].rows[0]["document_nll"]) == 1:
        lines.append("All of one model and a single document: there are no intervals, and no two arms are told apart.")
    for position in findings.study.positions:
        base, whole = findings.base(position), findings.reach(1)
        inside = [context for context in findings.contexts if context <= whole]
        curve = ", ".join(f"{base.perplexity(context):.2f} with {context}" for context in inside)
        lines.append(
            f"{position}: perplexity {curve} tokens of context, of the trained {findings.window}. "
            f"Asked of more targets, the model {gate_verdict(findings.gate(position))}."
        )
        for factor in sorted(findings.study.factors):
            parts = [_at(findings, position, factor, steps) for steps in findings.steps]
            if findings.study.steps:
                control = findings.get(position, CONTROL, factor, findings.steps[-1]).perplexity(findings.reach(factor))
                parts.append(f"the control tuned at {findings.window} then stands at {_short(control)}")
            lines.append(f"{position} at {findings.reach(factor)} tokens: {'; '.join(parts)}.")
    return "\n".join(lines)


def _at(findings: Findings, position: str, factor: int, steps: int) -> str:
    """Extrapolation and the best of the others at a longer window after these steps.

    The best is chosen on the targets it is judged on, so its p value is adjusted for all it was chosen from.
    """
    context = findings.reach(factor)
    methods = [method for method in findings.methods(position) if method != CONTROL]
    compared = {method: findings.against_plain(position, method, factor, steps) for method in methods}
    others = {method: over for method, over in compared.items() if over is not None}
    tuned = f"after {steps} step{'s' * (steps > 1)}" if steps else "untuned"
    text = f"{tuned} extrapolation {_short(findings.get(position, PLAIN, factor, steps).perplexity(context))}"
    if not others:
        return text
    adjusted = dict(zip(others, holm([over.p for over in others.values()]), strict=True))
    best = min(others, key=lambda method: others[method].difference.value)
    over, stands = others[best], findings.get(position, best, factor, steps).perplexity(context)
    verdict = {"lower": "better", "higher": "worse"}.get(over.word(adjusted[best]), "no different")
    leading = "" if len(others) == 1 else "the best other, "
    return f"{text}, {leading}{best} {_short(stands)} ({verdict}: {over.ratio})"
