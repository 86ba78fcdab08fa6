"""Does LongRoPE's search find better factors than those known, and is it better to extend a window in two steps?"""

import warnings

import numpy as np

from experiments.lab.canvas import COLOURS, plot_interval, pyplot
from experiments.lab.statistics import MARGIN, compare, compare_seeds
from experiments.reproduce.claim import Claim, Findings, Verdict, adjusted, verdict
from experiments.reproduce.evidence import effective_context, mean_perplexity
from experiments.reproduce.tuning import tuned

BASE = "rope"
FACTORS = (4, 8)
KNOWN = ("interpolate", "ntk", "yarn")
SEARCHED = {"dims": (0,), "dims and start": None}  # n̂ that are tried: none at all, and the paper's
STEPS = 128  # of fine-tuning in all: half of them on 2 windows first, or all at once
HALF, WHOLE = 2, 8  # windows
TUNED = ("interpolate", "yarn")
# A search of some seconds: 32 and then 12 generations of 24, each scored on 8192 tokens of validation text.
BUDGET = {"population": 32, "parents": 16, "mutations": 12, "crossovers": 12, "generations": 12, "probability": 0.3}
TOKENS, HELD_OUT = 8192, 256  # validation tokens that are searched on; stretches of test text


class SearchClaim(Claim):
    title = "Searched factors beat PI, NTK and YaRN without fine-tuning"
    source = "Ding et al. 2024 (LongRoPE, arXiv 2402.13753), Tables 1-3, 11 and 12"
    statement = (
        "Factors found by evolutionary search read four and eight windows better, untuned, than PI, NTK and YaRN; "
        "better still if the first positions are left alone; and a window is better extended in two steps than in one."
    )
    rule = (
        "Perplexity of test text, paired by seed and document. Searched (dims and start) over the best of PI, NTK and "
        "YaRN, chosen by seed on the text that was searched on: reproduced if below 1 at both factors (Holm); not, if "
        f"at either its interval leaves less than {MARGIN:.1%} to gain; else inconclusive. So for dims and start over "
        f"dims alone, and for {STEPS} steps of fine-tuning in two steps of the window over as many in one, PI and YaRN."
    )
    paper = (
        "LLaMA2 7B, PG-19, 8k and 16k untuned: PI 10.65 and 20.49, dynamic NTK 10.21 and 23.29, YaRN 32.64 and 87.89, "
        "searched 9.37 and 11.34. Proof-pile at 64k: PI 72.54, YaRN 4.15, searched 3.22. Table 11, 16k and 32k: PI "
        "14.88 and 136.30, dims 7.28 and 13.00, dims and start 7.22 and 11.51"
    )
    settle = "Large models, whose windows hold hundreds of times as many turns, and searches of the paper's size."

    def arms(self, window: int) -> dict[str, list[str]]:
        arms, half = {BASE: [f"position={BASE}"]}, (STEPS // 2,)
        for method in TUNED:
            arms[f"{method} {HALF}"] = tuned(BASE, window, method, HALF, half)
            arms[f"{method} {HALF} {WHOLE}"] = tuned(f"{method} {HALF}", window, method, WHOLE, half)
            arms[f"{method} {WHOLE}"] = tuned(BASE, window, method, WHOLE, (STEPS,))
        return arms

    def measure(self, evidence) -> Findings:
        tables, gains, factors = [], [], {}
        for factor in FACTORS:
            results = {name: searched(evidence, factor, n_hats) for name, n_hats in SEARCHED.items()}
            dims = results["dims"]
            read = {method: rows(dims, method, "held out") for method in ("extrapolation", *KNOWN)}
            read |= {name: rows(seeds, "found", "held out") for name, seeds in results.items()}
            row = {"windows": factor}
            for name, seeds in read.items():
                row |= {name: mean_perplexity(seeds), **effective_context(seeds, f"effective context, {name}")}
            tables.append(row)
            for name, seeds in results.items():
                gains.append({"factor": factor, "searched": name, **self.gain(seeds, results["dims"], name)})
                factors[f"{name} {factor}"] = [result["vectors"]["found"] for result in seeds]
            factors |= {f"{method} {factor}": [one["vectors"][method] for one in dims] for method in dims[0]["vectors"]
                        if method != "found"}  # fmt: skip
        gains = adjusted(gains, "over the best rival", "over dims")
        steps, length = [], WHOLE * evidence.window
        for method in TUNED:
            two, one = (
                evidence.perplexity(arm, contexts=(evidence.window, length))[length]
                for arm in (f"{method} {HALF} {WHOLE}", f"{method} {WHOLE}")
            )
            row = {"tuned": method, "windows": f"{HALF}, then {WHOLE}"}
            row |= {"perplexity": mean_perplexity(two), **effective_context(two)}
            row |= {"at once": mean_perplexity(one), **effective_context(one, "effective context at once")}
            steps.append(row | {"over at once": compare(two, one)})
        return Findings([*tables, *gains, *adjusted(steps, "over at once")], {"factors": factors})

    def gain(self, results: list[dict], dims: list[dict], name: str) -> dict:
        """Compare the found factors with their rivals, on the text searched on and on held-out text."""
        from experiments.longrope import best_rival

        pairs, best = {}, [best_rival(result) for result in results]  # by seed
        for part in ("search", "held out"):
            rivals = [result["methods"][rival][part] for result, rival in zip(results, best, strict=True)]
            pairs[part] = rows(results, "found", part), rivals
        logs = {part: np.subtract(*(np.log([row["perplexity"] for row in side]) for side in pair))
                for part, pair in pairs.items()}  # fmt: skip
        return {
            "best rival": " ".join(sorted(set(best))),
            "there": compare(*pairs["search"]),
            "over the best rival": compare(*pairs["held out"]),
            "overfit gap": compare_seeds(logs["held out"] - logs["search"]),
            "over extrapolation": compare(pairs["held out"][0], rows(results, "extrapolation", "held out")),
            "over dims": None if name == "dims" else compare(pairs["held out"][0], rows(dims, "found", "held out")),
        }

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        whole = [findings.row(factor=factor, searched="dims and start") for factor in FACTORS]
        gaps = ", ".join(f"{row['overfit gap'].ratio}" for row in whole)
        steps = [row for row in findings.rows if "over at once" in row]
        gained = [
            f"at {row['factor']} windows {row['over the best rival'].ratio} of {row['best rival']}, "
            f"{row['over extrapolation'].ratio} of plain extrapolation"
            for row in whole
        ]
        return {
            "searched factors beat PI, NTK and YaRN": below(
                whole, "over the best rival", f"{'; '.join(gained)}; overfit gaps {gaps}"
            ),
            "leaving the first positions alone is better still": below(
                whole,
                "over dims",
                "; ".join(f"at {row['factor']} windows {row['over dims'].ratio} of dims alone" for row in whole),
            ),
            "two steps of the window are better than one": below(
                steps,
                "over at once",
                "; ".join(f"{row['tuned']} {row['over at once'].ratio} of all at once" for row in steps),
            ),
        }

    def plot(self, findings: Findings):
        figure, (ratios, *panels) = pyplot().subplots(1, 3, figsize=(15, 5), layout="constrained")
        lines = [(f"{row['searched']}, {row['factor']} windows", row[column].ratio, column)
                 for row in findings.rows if "searched" in row
                 for column in ("there", "over the best rival", "over extrapolation")]  # fmt: skip
        names = list(dict.fromkeys(name for name, *_ in lines))
        labels = {"there": "best rival, text searched on", "over the best rival": "best rival, held out",
                 "over extrapolation": "extrapolation, held out"}  # fmt: skip
        for (column, label), colour, shift in zip(labels.items(), COLOURS, (-0.2, 0, 0.2), strict=False):
            for name, ratio, rival in lines:
                if rival == column:
                    entry = f"over {label}" if name == names[0] else None
                    plot_interval(ratios, names.index(name) + shift, ratio, colour, entry)
        ratios.axvline(1, color="black", linewidth=0.8)
        ratios.set_yticks(range(len(names)), names)
        ratios.set(xlabel="perplexity of searched over another's", title="untuned")
        for factor, panel in zip(FACTORS, panels, strict=True):
            for method, colour in zip((*KNOWN, *SEARCHED), COLOURS, strict=False):
                for seed, values in enumerate(findings.curves["factors"][f"{method} {factor}"]):
                    same = method in KNOWN  # of every seed
                    if seed == 0 or not same:
                        panel.plot(range(1, len(values) + 1), values, color=colour, linewidth=2 if same else 0.9,
                                   linestyle=":" if same else "-", label=method if seed == 0 else None)  # fmt: skip
            panel.set(title=f"factors for {factor} windows", xlabel="pair, fastest first", ylabel="λ, by seed")
        ratios.set_ylim(-0.5, len(names) + 0.3)  # room for the legend
        ratios.legend(fontsize=8, loc="upper right")
        for panel in panels:
            panel.legend(fontsize=8)
        for panel in (ratios, *panels):
            panel.grid(alpha=0.3)
        return figure, "95 % over seeds and documents; seeds paired; rivals chosen on the text searched on."


def below(rows: list[dict], column: str, reason: str) -> Verdict:
    """Reproduced where every row is below one; not, where one cannot be by more than the margin."""
    return verdict(
        all(row[f"{column} is"] == "lower" for row in rows),
        any(row[column].ratio.low > 1 - MARGIN for row in rows),
        reason,
    )


def searched(evidence, factor: int, n_hats: tuple[int, ...] | None) -> list[dict]:
    """Run LongRoPE's search on the base model of every seed."""
    from experiments.longrope import Search, impossible, search_factors, search_progress

    settings = Search(
        **BUDGET, seed=0, factor=factor, n_hats=n_hats, tokens=TOKENS, segments=min(HELD_OUT, evidence.segments)
    )
    results = []
    for run, checkpoint in zip(evidence.runs[BASE], evidence.checkpoints(BASE), strict=True):
        with search_progress(f"{run.folder.name} x{factor}", settings) as progress:
            results.append(search_factors(checkpoint, settings, evidence.config.cache, progress)[0])
        for sentence in impossible(results[-1]):
            warnings.warn(f"{checkpoint}: {sentence}", stacklevel=2)
    return results


def rows(results: list[dict], method: str, part: str) -> list[dict]:
    """The row of a method on one part of the text, by seed."""
    return [result["methods"][method][part] for result in results]
