"""Do interpolated positions and a short fine-tune beat fine-tuning on longer windows directly, and for how long?"""

import numpy as np

from experiments.lab.canvas import COLOURS, plot_band, pyplot
from experiments.lab.statistics import MARGIN, Comparison, Estimate, compare, contrast
from experiments.reproduce.arms import nearest
from experiments.reproduce.claim import Claim, Findings, Verdict, adjusted, verdict
from experiments.reproduce.evidence import Rows, effective_context, mean_perplexity
from experiments.reproduce.tuning import CONTROL, DIRECT, STEPS, crossing, tuned

BASE, PI = "rope", "interpolate"
METHODS = (DIRECT, PI, "yarn")
FACTORS = (4, 8)
EARLY = 0.25  # of the base's training, after which models that were trained less are tuned
SHORT, LONG = -2, -1  # of STEPS, those that verdicts are given on
COST = 1.02  # perplexity within the window that the papers put up with


def arm_of(method: str, factor: int, early: bool = False) -> str:
    return f"{'direct' if method == DIRECT else method} {factor}" + (" early" if early else "")


class Finetuning(Claim):
    title = "Interpolation and a short fine-tune beat direct fine-tuning"
    source = "Chen et al. 2023 (Position Interpolation, arXiv 2306.15595), Tables 1-3 and section 3.2"
    statement = (
        "Fine-tuned for as many steps on longer windows, a model reads these better if its positions were interpolated "
        "than if they were not; and within its own window it loses little."
    )
    rule = (
        f"Perplexity of the same targets at 4 and at 8 windows after {STEPS[SHORT]} and after {STEPS[LONG]} steps, "
        "PI's over that of direct fine-tuning, paired by seed and document: reproduced if below 1 at both windows (one "
        f"family with all steps and YaRN, Holm); not, if at either its interval leaves less than {MARGIN:.1%} to gain; "
        "else inconclusive. Within the window, PI's over that of the control, tuned there for as many steps: "
        f"reproduced if below {COST} for both, not if above for either."
    )
    paper = (
        "PG-19, LLaMA 7B at 2048 and 8192: as trained 7.20 and over 1000; PI to 8192 in 1000 steps 7.13 and 6.95; "
        "directly in 10000 steps 7.21 and 7.69. PI by steps 0, 200, 1000 at 8192: 16.10, 7.12, 6.95; at 16384: "
        "112.13, 7.05, 6.83. Proof-pile at 2048: as trained 2.77, PI to 8192 2.79, to 32768 2.82"
    )
    settle = (
        "Models trained on hundreds of times as many tokens: the gain is read here after a quarter of the training and "
        "after all of it, and what it grows to is what is asked."
    )

    def arms(self, window: int) -> dict[str, list[str]]:
        arms = {BASE: [f"position={BASE}"], CONTROL: tuned(BASE, window, DIRECT, 1, STEPS)}
        for factor in FACTORS:
            arms |= {arm_of(method, factor): tuned(BASE, window, method, factor, STEPS) for method in METHODS}
        for method in (DIRECT, PI):
            arms[arm_of(method, FACTORS[0], early=True)] = tuned(f"{BASE}/{EARLY}", window, method, FACTORS[0], STEPS)
        return arms

    def measure(self, evidence) -> Findings:
        rows, crossings, ratios = [], [], {}
        for factor in FACTORS:
            read = {(method, 0): read_at(evidence, BASE, factor, 0, method) for method in METHODS}
            for step in STEPS:
                read |= {
                    (method, step): read_at(evidence, arm_of(method, factor), factor, step, method)
                    for method in METHODS
                }
            control = {step: read_at(evidence, CONTROL, factor, step, DIRECT)[1] for step in STEPS}
            control[0] = read[DIRECT, 0][1]
            for (method, step), (longer, inside) in read.items():
                row = {"windows": factor, "positions": "direct" if method == DIRECT else method, "steps": step}
                row |= {"perplexity": mean_perplexity(longer), **effective_context(longer), "over direct": None}
                if method != DIRECT:
                    row["over direct"] = compare(longer, read[DIRECT, step][0])
                is_base = method == DIRECT and step == 0  # the base, which the control is before it is tuned
                row["in one window"] = mean_perplexity(inside)
                row["in one window, over control"] = None if is_base else compare(inside, control[step])
                rows.append(row)
            for method in METHODS[1:]:
                gains = [compare(read[method, step][0], read[DIRECT, step][0]).ratio for step in (0, *STEPS)]
                crossings.append(
                    {"windows": factor, "curves cross": f"{method} and direct", "steps": crossing_in_words(gains)}
                )
                ratios[arm_of(method, factor)] = gains
        rows = adjusted(sorted(rows, key=lambda row: (row["windows"], row["steps"])), "over direct")
        growth, ratios[f"{PI} {FACTORS[0]} early"] = self.growth(evidence)
        curves = {arm: [[gain.value, gain.low, gain.high] for gain in gains] for arm, gains in ratios.items()}
        return Findings([*rows, *crossings, *growth], {"ratios": curves, "window": evidence.window})

    def growth(self, evidence) -> tuple[list[dict], list[Estimate]]:
        """PI over direct for a model that was trained less, and the gain of all its training; by steps."""
        factor, rows, ratios = FACTORS[0], [], []
        start = nearest(evidence.config, EARLY)
        for step in (0, *STEPS):
            late, early = (
                [
                    read_at(evidence, arm_of(method, factor, less) if step else BASE, factor, step, method, snapshot)[0]
                    for method in (PI, DIRECT)
                ]
                for less, snapshot in ((False, None), (True, start))
            )
            row = {"windows": factor, "base trained for": start, "of": evidence.config.steps, "steps": step}
            row |= {"PI over direct": compare(*early), "all training over it": more(late, early)}
            rows.append(row)
            ratios.append(row["PI over direct"].ratio)
        return rows, ratios

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        verdicts = {}
        for steps in (STEPS[SHORT], STEPS[LONG]):
            rows = [findings.row(windows=factor, positions=PI, steps=steps) for factor in FACTORS]
            gains = [row["over direct"].ratio for row in rows]
            reason = "; ".join(f"at {row['windows']} windows {row['over direct'].ratio}" for row in rows)
            verdicts[f"after {steps} steps PI is better than direct fine-tuning"] = verdict(
                all(row["over direct is"] == "lower" for row in rows),
                any(gain.low > 1 - MARGIN for gain in gains),
                f"PI's perplexity over that of direct fine-tuning is {reason}; {crosses(findings)}",
            )
        costs = [findings.row(windows=factor, positions=PI, steps=STEPS[LONG]) for factor in FACTORS]
        inside = [row["in one window, over control"].ratio for row in costs]
        verdicts["within the window PI costs little"] = verdict(
            all(ratio.high < COST for ratio in inside),
            any(ratio.low > COST for ratio in inside),
            "of the control's perplexity there: "
            + "; ".join(f"tuned at {row['windows']} windows {ratio}" for row, ratio in zip(costs, inside, strict=True)),
        )
        return verdicts

    def plot(self, findings: Findings):
        window, steps = findings.curves["window"], (0, *STEPS)
        figure, panels = pyplot().subplots(1, 3, figsize=(15, 5), layout="constrained")
        for factor, panel in zip(FACTORS, panels, strict=False):
            for method, colour in zip(("direct", *METHODS[1:]), COLOURS, strict=False):
                read = [findings.row(windows=factor, positions=method, steps=step) for step in steps]
                panel.plot(range(len(steps)), [row["perplexity"] for row in read], color=colour, marker="o",
                           label=f"{method}, {factor * window} tokens")  # fmt: skip
                panel.plot(range(len(steps)), [row["in one window"] for row in read], color=colour, marker=".",
                           linestyle=":", label=f"{method}, {window} tokens")  # fmt: skip
            panel.set(title=f"tuned on {factor} windows", ylabel="perplexity")
        gains = panels[-1]
        for (arm, ratio), colour in zip(findings.curves["ratios"].items(), COLOURS, strict=False):
            plot_band(gains, range(len(steps)), ratio, colour, arm, "--" if arm.endswith("early") else "-")
        gains.axhline(1, color="black", linewidth=0.8)
        gains.set(title="over direct fine-tuning", ylabel="perplexity over that of direct")
        for panel in panels:
            panel.set_xticks(range(len(steps)), [f"{step}" for step in steps])
            panel.set_xlabel("steps of fine-tuning")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
        caption = (
            f"Trained on windows of {window}; same targets, seeds paired; 95 % over seeds and documents; early: "
            f"tuned after {EARLY:.0%} of the base's training."
        )
        return figure, caption


def read_at(evidence, arm: str, factor: int, step: int, method: str, start: int | None = None) -> tuple[Rows, Rows]:
    """The same targets with so many windows of context, and with one.

    step: of fine-tuning, read as it was tuned; at 0 the base is read by the method, at its end or at a snapshot.
    """
    contexts = evidence.window, factor * evidence.window
    if step:
        read = evidence.perplexity(arm, step=step, contexts=contexts)
    else:
        read = evidence.perplexity(arm, method, 1 if method == DIRECT else factor, start, contexts)
    return read[contexts[1]], read[contexts[0]]


def more(late: list[Rows], early: list[Rows]) -> Comparison:
    """PI over direct after all training, over the same after a part of it."""
    nats = [np.array([row["document_nll"] for row in rows]) for rows in (*late, *early)]
    tokens = np.array([row["document_tokens"] for row in late[0]], dtype=np.float64)
    return contrast((1, nats[0] - nats[1] - nats[2] + nats[3], tokens))


def crossing_in_words(gains: list[Estimate]) -> str:
    """Where a ratio passes one, in words."""
    place = crossing((0, *STEPS), gains)
    if place is None:
        return f"never: {'below' if gains[0].value < 1 else 'above'} at every reading"
    return f"at {place.value:.0f} [{place.low:.0f}, {place.high:.0f}]".replace("inf", f"beyond {STEPS[LONG]}")


def crosses(findings: Findings) -> str:
    rows = [findings.row(windows=factor, **{"curves cross": f"{PI} and direct"}) for factor in FACTORS]
    return "the curves cross " + "; ".join(f"({row['windows']} windows) {row['steps']}" for row in rows)
