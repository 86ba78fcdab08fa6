"""Which pairs may be slowed down without tuning? Does interpolation do its damage in those that turn fast?"""

import math
from collections.abc import Sequence

import numpy as np

from experiments.lab.canvas import COLOURS, log_ticks, plot_interval, pyplot
from experiments.lab.statistics import compare
from experiments.reproduce.claim import Claim, Findings, Verdict, adjusted, verdict
from experiments.reproduce.evidence import effective_context, mean_perplexity
from experiments.reproduce.tuning import DIRECT

BASE, FACTOR, BANDS = "rope", 4, 4
PLAIN, PI, FAST, SLOW = "extrapolation", "interpolate", "fast pairs alone", "slow pairs alone"
COST = 1.02  # perplexity within the window that counts as none
BY_DISTANCE = (PLAIN, PI, FAST, SLOW)


def readings(frequencies: Sequence[float], window: int) -> dict[str, dict]:
    """The extensions by name: all pairs divided by FACTOR, none, those of one kind, and each quarter of them alone.

    A pair is fast if it turns at least once within the window; frequencies: of the pairs, radians per token.
    """
    fast = [omega * window >= 2 * math.pi for omega in frequencies]
    band = [BANDS * pair // len(fast) for pair in range(len(fast))]

    def dividing(divided: list[bool]) -> dict:
        factors = [float(FACTOR) if of else 1.0 for of in divided]
        return {"name": "longrope", "factor": float(FACTOR), "long": factors, "temperature": 1.0}

    extensions = {PLAIN: {"name": DIRECT}, PI: {"name": "interpolate", "factor": float(FACTOR)}}
    extensions |= {FAST: dividing(fast), SLOW: dividing([not turns for turns in fast])}
    extensions |= {name: {"name": name, "factor": float(FACTOR)} for name in ("ntk", "yarn")}
    return extensions | {f"quarter {n + 1} alone": dividing([at == n for at in band]) for n in range(BANDS)}


class Locality(Claim):
    title = "Interpolation does its damage in the fast pairs, which tell neighbours apart"
    source = "Su 2023 (kexue.fm/archives/9708); bloc97 2023 (NTK-aware scaling); Peng et al. 2023 (arXiv 2309.00071)"
    statement = (
        "Prediction leans on near tokens, whose distances interpolation squeezes: divided alone and untuned, the "
        "fast pairs cost perplexity within the window and the slow ones none; and the slow ones alone are enough for "
        "longer windows."
    )
    rule = (
        f"Perplexity of the same targets, untuned, paired by seed and document; pairs divided by {FACTOR}, fast ones "
        "those that turn at least once in the window. Within it: reproduced if the fast pairs alone are above the slow "
        f"ones alone, and these under {COST} of the model as trained; not, if the fast are below the slow. At "
        f"{FACTOR} windows: reproduced if the slow pairs alone are below plain extrapolation and below all pairs "
        "(interpolation); not, if above either. Else inconclusive."
    )
    paper = (
        "A model of characters with 100 M parameters, trained at 512 and read at 4096, accuracy on repeated and plain "
        "text: as trained 24.17 and 23.16 %; interpolation 15.04 and 13.54; NTK 51.28 and 39.27"
    )
    settle = "Windows that hold many turns of many pairs, and tasks that lean on far tokens."

    def arms(self, window: int) -> dict[str, list[str]]:
        return {BASE: [f"position={BASE}"]}

    def measure(self, evidence) -> Findings:
        config, one, far = evidence.config, evidence.window, FACTOR * evidence.window
        extensions = readings(config.frequencies.table(config.model.channels // config.model.heads).tolist(), one)
        read = {
            name: evidence.perplexity(BASE, extension, contexts=(one, far)) for name, extension in extensions.items()
        }
        rows = []
        for name, extension in extensions.items():
            row = {"divided": name, "pairs": sum(factor > 1 for factor in extension.get("long", ())) or None}
            for context, span in ((one, "in the window"), (far, f"at {FACTOR} windows")):
                row |= {f"perplexity {span}": mean_perplexity(read[name][context])}
                row |= effective_context(read[name][context], f"effective context {span}")
                plain = None if name == PLAIN else compare(read[name][context], read[PLAIN][context])
                row[f"over as trained {span}"] = plain
            row["over interpolation"] = None if name == PI else compare(read[name][far], read[PI][far])
            row["over slow alone"] = compare(read[name][one], read[SLOW][one]) if name == FAST else None
            rows.append(row)
        rows = adjusted(rows, "over as trained in the window", f"over as trained at {FACTOR} windows")
        distance = {name: evidence.by_position(BASE, extensions[name], context=far) for name in BY_DISTANCE}
        for place, about in enumerate(distance[PLAIN][0]["rows"]):
            row = {"tokens seen, from": about["low"], "to": about["high"]}
            for name, seeds in distance.items():
                read = [seed["rows"][place] for seed in seeds]
                row |= {f"{name}, nats": float(np.mean([one["nll"] for one in read]))}
                row |= effective_context(read, f"{name}, effective context")
            rows.append(row)
        return Findings(rows, {"window": one})

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        fast, slow = (findings.row(divided=name) for name in (FAST, SLOW))
        damage, cost = fast["over slow alone"].ratio, slow["over as trained in the window"].ratio
        plain, whole = slow[f"over as trained at {FACTOR} windows"].ratio, slow["over interpolation"].ratio
        return {
            "within the window the damage is done in the fast pairs": verdict(
                damage.low > 1 and cost.high < COST,
                damage.high < 1,
                f"the fast pairs alone are {damage} of the slow ones alone; of the model as trained the fast ones are "
                f"{fast['over as trained in the window'].ratio}, the slow ones {cost}",
            ),
            "the slow pairs alone are enough beyond it": verdict(
                plain.high < 1 and whole.high < 1,
                plain.low > 1 or whole.low > 1,
                f"at {FACTOR} windows they are {plain} of plain extrapolation and {whole} of interpolation",
            ),
        }

    def plot(self, findings: Findings):
        figure, (inside, beyond, distance) = pyplot().subplots(1, 3, figsize=(15, 5), layout="constrained")
        rows = [row for row in findings.rows if row.get("divided", PLAIN) != PLAIN]
        for panel, span in ((inside, "in the window"), (beyond, f"at {FACTOR} windows")):
            for place, row in enumerate(rows):
                plot_interval(panel, place, row[f"over as trained {span}"].ratio, COLOURS[0])
            panel.axvline(1, color="black", linewidth=0.8)
            panel.set_yticks(range(len(rows)), [row["divided"] for row in rows])
            panel.invert_yaxis()
            panel.set(title=span, xlabel="perplexity over that of the model as trained")
        places = [row for row in findings.rows if "to" in row]
        bins = [row["to"] for row in places]
        for name, colour in zip(BY_DISTANCE, COLOURS, strict=False):
            losses = [row[f"{name}, nats"] for row in places]
            distance.plot(bins, losses, color=colour, marker="o", markersize=3, label=name)
        distance.axvline(findings.curves["window"], color="black", linewidth=0.8, linestyle=":", label="trained window")
        distance.set(title="by place in the text", xlabel="tokens of context seen, up to", ylabel="nats per token")
        log_ticks(distance, bins)
        distance.legend(fontsize=8)
        for panel in (inside, beyond, distance):
            panel.grid(alpha=0.3)
        window = findings.curves["window"]
        caption = (
            f"Trained on windows of {window}, untuned, pairs divided by {FACTOR}; seeds paired; 95 %. "
            "Right, every place has targets of its own: compare curves, not points of one."
        )
        return figure, caption
