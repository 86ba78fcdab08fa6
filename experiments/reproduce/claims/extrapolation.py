"""What happens beyond the window without fine-tuning, by scheme and by the way the longer text is read?"""

import numpy as np

from experiments.lab.canvas import COLOURS, log_ticks, plain_numbers, plot_band, pyplot
from experiments.lab.statistics import Comparison, compare, contrast
from experiments.reproduce.claim import Claim, Findings, Verdict, adjusted, verdict
from experiments.reproduce.evidence import effective_context, mean_perplexity

METHODS = {
    "rope": ("none", "interpolate", "ntk", "yarn"),
    "sinusoidal": ("none", "interpolate", "ntk"),
    "alibi": ("none", "interpolate"),
    "t5": ("none", "interpolate"),
    "fire": ("none", "interpolate"),
    "none": ("none",),
}
GROWING = ("rope", "sinusoidal")  # also read at the snapshots of their training


class Extrapolation(Claim):
    title = "Without fine-tuning, extrapolation fails and interpolation does not"
    source = (
        "Chen et al. 2023 (Position Interpolation, arXiv 2306.15595), Tables 1-3; "
        "Press et al. 2022 (ALiBi, arXiv 2108.12409), Table 2"
    )
    statement = (
        "Read at four times its window as trained, a RoPE model fails, and with interpolated positions it is better "
        "off; the sinusoid fails sooner than RoPE, and ALiBi does not fail."
    )
    rule = (
        "Perplexity of the same targets. RoPE: reproduced if at four windows extrapolation at least doubles the "
        "perplexity of one window (interval above 2) and interpolation is below extrapolation; not, if extrapolation "
        "stays under twice, or interpolation is above it. Sinusoid and ALiBi: reproduced if at two windows the "
        "sinusoid's ratio to one window is above RoPE's and ALiBi's at four is under 1.05; not, if it is below RoPE's, "
        "or ALiBi's above 1.05. Else inconclusive."
    )
    paper = (
        "PG-19, LLaMA 7B: 7.20 at 2048, over 1000 from 4096 on; interpolated, untuned: 16.10 at 8192, 112.13 at 16384. "
        "WikiText-103 at 512, 712, 1012, 2512: sinusoid 20.05, 24.86, 43.54, 132.4; rotary 20.07, 19.79, 21.37, 31.58; "
        "T5 19.65, 19.10, 18.79, 20.41; ALiBi 19.73, 19.14, 18.73, 18.41"
    )
    settle = "Models that were trained long enough to read thousands of tokens: the failure grows with training."

    def arms(self, window: int) -> dict[str, list[str]]:
        return {scheme: [f"position={scheme}"] for scheme in METHODS}

    def measure(self, evidence) -> Findings:
        one, two, four = evidence.window, 2 * evidence.window, 4 * evidence.window
        rows, growth, as_trained = [], {}, {}
        for arm, methods in METHODS.items():
            plain = as_trained[arm] = evidence.perplexity(arm)
            for method in methods:
                for factor, context in ((2, two), (4, four)):
                    read = plain if method == "none" else evidence.perplexity(arm, method, factor)
                    row = {"position": arm, "read by": method, "tokens": context}
                    row |= {"at one window": mean_perplexity(plain[one])}
                    row |= {"perplexity": mean_perplexity(read[context]), **effective_context(read[context])}
                    row |= {"over one window": compare(read[context], plain[one])}
                    row |= {"over extrapolation": None}
                    if method != "none":
                        row["over extrapolation"] = compare(read[context], plain[context])
                    rows.append(row)
        rows = adjusted(rows, "over one window", "over extrapolation")
        rows.append(
            {
                "contrast": "sinusoid's ratio over RoPE's",
                "tokens": two,
                "over": growth_of(as_trained, "sinusoidal", two, one),
            }
        )
        for arm in GROWING:
            steps = [*evidence.config.snapshots, None]
            read = [evidence.perplexity(arm, step=step) for step in steps]
            ratios = [compare(snapshot[four], snapshot[one]).ratio for snapshot in read]
            tokens = [step or evidence.config.steps for step in steps]
            tokens = [step * evidence.config.batch * evidence.config.window for step in tokens]
            growth[arm] = {"tokens": tokens, "ratio": [[r.value, r.low, r.high] for r in ratios]}
        return Findings(rows, {"growth": growth, "window": evidence.window})

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        four = 4 * findings.curves["window"]
        raw = findings.row(position="rope", tokens=four, **{"read by": "none"})["over one window"].ratio
        better = findings.row(position="rope", tokens=four, **{"read by": "interpolate"})["over extrapolation"]
        sooner = findings.row(contrast="sinusoid's ratio over RoPE's")["over"].ratio
        alibi = findings.row(position="alibi", tokens=four, **{"read by": "none"})["over one window"].ratio
        return {
            "RoPE at four windows: extrapolation fails, interpolation is better": verdict(
                raw.low > 2 and better.ratio.high < 1,
                raw.high < 2 or better.ratio.low > 1,
                f"extrapolation is {raw} of one window, interpolation {better.ratio} of extrapolation",
            ),
            "the sinusoid fails sooner than RoPE, ALiBi not at all": verdict(
                sooner.low > 1 and alibi.high < 1.05,
                sooner.high < 1 or alibi.low > 1.05,
                f"at two windows the sinusoid's ratio is {sooner} of RoPE's; ALiBi at four is {alibi} of one window",
            ),
        }

    def plot(self, findings: Findings):
        window = findings.curves["window"]
        figure, (reading, growing) = pyplot().subplots(1, 2, figsize=(12, 5), layout="constrained")
        colours = dict(zip(METHODS, COLOURS, strict=True))
        lines = {"none": "-", "interpolate": "--", "ntk": ":", "yarn": "-."}
        for arm, methods in METHODS.items():
            for method in methods:
                points = [row for row in findings.rows if row.get("position") == arm and row.get("read by") == method]
                ratios = [row["over one window"].ratio for row in points]
                bars = [[r.value - r.low for r in ratios], [r.high - r.value for r in ratios]]
                reading.errorbar(
                    [row["tokens"] for row in points], [r.value for r in ratios], np.nan_to_num(bars, posinf=0),
                    color=colours[arm], linestyle=lines[method], marker="o", markersize=3,
                    label=arm if method == "none" else f"{arm}, {method}",
                )  # fmt: skip
        reading.set(yscale="log", xlabel="tokens of context", ylabel="perplexity over that of one window")
        log_ticks(reading, [2 * window, 4 * window])
        reading.set_title("read beyond the window, untuned")
        for arm, curve in findings.curves["growth"].items():
            plot_band(growing, curve["tokens"], curve["ratio"], colours[arm], arm)
        growing.set(yscale="log", xlabel="tokens of training", ylabel="perplexity over that of one window")
        log_ticks(growing, findings.curves["growth"]["rope"]["tokens"])
        growing.set_title(f"how the failure at {4 * window} tokens grows with training")
        reading.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))  # beside the lines, not over them
        growing.legend(fontsize=7)
        for panel in (reading, growing):
            plain_numbers(panel)
            panel.axhline(1, color="black", linewidth=0.8)
            panel.grid(alpha=0.3)
        return figure, f"Trained on windows of {window}; same targets; 95 % over seeds and documents."


def growth_of(read: dict, arm: str, context: int, window: int) -> Comparison:
    """How much more an arm's loss rises from one window to this context than RoPE's does."""

    def rise(rows: dict) -> np.ndarray:
        far, near = ([row["document_nll"] for row in rows[length]] for length in (context, window))
        return np.subtract(far, near)  # (S, D), over the same targets

    tokens = np.array([row["document_tokens"] for row in read[arm][window]], dtype=np.float64)
    return contrast((1, rise(read[arm]) - rise(read["rope"]), tokens))
