"""When does interpolation pay: for how many steps of fine-tuning is it ahead, by how badly extrapolation had failed?"""

from collections.abc import Sequence
from itertools import product

import numpy as np

from experiments.lab.canvas import COLOURS, plain_numbers, pyplot
from experiments.lab.statistics import compare, compare_seeds
from experiments.reproduce.arms import nearest
from experiments.reproduce.claim import Claim, Findings, Verdict, adjusted, verdict
from experiments.reproduce.evidence import mean_perplexity
from experiments.reproduce.gate import measure_gate
from experiments.reproduce.tuning import DIRECT, tuned

BASE, PI, YARN = "rope", "interpolate", "yarn"
METHODS = (DIRECT, PI, YARN)
SHARES = (1 / 16, 1 / 4, 1)  # of the base's training, after which it is extended: at nano 1, 4 and 16 M tokens
FACTORS = (2, 4, 8)
STEPS = (1, 4, 16, 64)  # of fine-tuning
DECIDING = (1, 4, 64)  # of STEPS: those that the rule asks about
FAILED = 2.0  # times the perplexity of one window, from which on extrapolation has failed
SEGMENTS = 64  # stretches of held-out text a reading takes: there are hundreds of readings


def arm_of(method: str, factor: int, share: float) -> str:
    return f"{'direct' if method == DIRECT else method} {factor}, {share:g} of the training"


class Turn(Claim):
    title = "Interpolation pays once extrapolation fails badly, and until direct fine-tuning has caught up"
    source = "This lab's own question to Chen et al. 2023 (Position Interpolation, arXiv 2306.15595), Tables 1 and 3"
    statement = (
        "Fine-tuned for few steps on longer windows, interpolated positions are ahead of direct fine-tuning if plain "
        "extrapolation had failed; the worse it had failed, the more steps direct fine-tuning takes to catch up."
    )
    rule = (
        "Text. Perplexity of the same targets at the longer window, interpolation's over that of direct fine-tuning "
        f"after 0, {', '.join(map(str, STEPS))} steps, paired by seed and document, for bases of {len(SHARES)} ages "
        f"and {len(FACTORS)} factors; the {len(DECIDING) * len(SHARES) * len(FACTORS)} after "
        f"{', '.join(map(str, DECIDING))} steps are one family (Holm). A case has failed if plain extrapolation is "
        f"above {FAILED:g} times the perplexity of one window (interval). Ahead: reproduced if interpolation is below "
        f"direct after {DECIDING[0]} or {DECIDING[1]} steps in every case that has failed; not, if below in none. "
        f"Caught up: reproduced if in every case where it was ahead it is no longer after {DECIDING[-1]} steps; not, "
        "if in none of these; open where there is none. Moves: Spearman's rank correlation over all cases, by seed, "
        "between how far extrapolation had failed and the steps up to which interpolation is ahead (the curves' last "
        "crossing; 0 where it never is, beyond the last where it stays): reproduced if its mean over seeds is at least "
        "0.5 and its interval above 0, not if that lies below 0.5. Else, or where fewer than two cases have failed, "
        "inconclusive. YaRN stands beside it and decides nothing."
    )
    rewritten = (
        "After three seeds at nano, before those of today's verdict. All 90 comparisons, YaRN's and those after 0 and "
        "16 steps too, were one family, in which three seeds cannot show anything; and the correlation had to be 0.5 "
        "in every single seed, so that each further one made it harder to pass. After the run the words name the last "
        "crossing, as it is computed; before, they left open which. Since then catching up is asked of cases with a "
        "lead alone: one without a lead had counted as caught up."
    )
    paper = (
        "LLaMA 7B to 8192 and 16384: untuned over 1000; PI untuned 16.10 and 112.13, after 200 steps 7.12 and 7.05; "
        "directly after 10000 steps 7.69 at 8192. No curve of direct fine-tuning by steps is published"
    )
    settle = "Models and windows a hundred times as large, whose extrapolation fails by a factor of a hundred."
    needs = "text"
    not_at = ("pico",)  # whose models of text are of bytes, and hardly fail

    def arms(self, window: int) -> dict[str, list[str]]:
        arms = {BASE: [f"position={BASE}"]}
        for share, factor, method in product(SHARES, FACTORS, METHODS):
            start = BASE if share == 1 else f"{BASE}/{share:g}"
            arms[arm_of(method, factor, share)] = tuned(start, window, method, factor, STEPS)
        return arms

    def measure_gate(self, evidence, arms):
        starts = [nearest(evidence.config, share) for share in SHARES if share < 1]
        return measure_gate(evidence, arms, starts)

    def measure(self, evidence) -> Findings:
        rows, cases, curves = [], [], {}
        config = evidence.config
        for share, factor in product(SHARES, FACTORS):
            start = None if share == 1 else nearest(config, share)
            contexts = one, far = evidence.window, factor * evidence.window
            readings = {}
            for step, method in product((0, *STEPS), METHODS):
                if step:
                    arm = arm_of(method, factor, share)
                    readings[method, step] = evidence.perplexity(arm, step=step, contexts=contexts, segments=SEGMENTS)
                else:
                    by = 1 if method == DIRECT else factor
                    readings[method, step] = evidence.perplexity(BASE, method, by, start, contexts, SEGMENTS)
            one_window = readings[DIRECT, 0][one]
            read = {key: reading[far] for key, reading in readings.items()}
            over = {
                (method, step): compare(reading, read[DIRECT, step])
                for (method, step), reading in read.items()
                if method != DIRECT
            }
            age = (start or config.steps) * config.batch * config.window
            for (method, step), reading in read.items():
                row = {"base, M tokens": age / 1e6, "windows": factor, "steps": step}
                row |= {"positions": "direct" if method == DIRECT else method, "perplexity": mean_perplexity(reading)}
                rows.append(row | {"over direct": over.get((method, step))})
            for method in METHODS[1:]:
                ratios = [over[method, step].ratio for step in (0, *STEPS)]
                curves[f"{method} {factor} {age}"] = [[ratio.value, ratio.low, ratio.high] for ratio in ratios]
            untuned = read[DIRECT, 0]
            pairs = [zip(read[PI, step], read[DIRECT, step], strict=True) for step in (0, *STEPS)]
            crossings = [crossing_of(pairs_of_seed) for pairs_of_seed in zip(*pairs, strict=True)]
            lost = [loss(far_row) - loss(one_row) for far_row, one_row in zip(untuned, one_window, strict=True)]
            cases.append(
                {"base, M tokens": age / 1e6, "factor": factor}
                | {"extrapolation over one window": compare(untuned, one_window)}
                | {"by seed": " ".join(f"{steps:.2f}" for steps in crossings)}
                | {"failed by seed": " ".join(f"{nats:.4f}" for nats in lost)}
            )
        families = {
            own: iter(adjusted([row for row in rows if decides(row) == own], "over direct")) for own in (True, False)
        }
        rows = [next(families[decides(row)]) for row in rows]
        return Findings([*rows, *cases], {"ratios": curves, "window": evidence.window})

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        cases = [row for row in findings.rows if "extrapolation over one window" in row]
        failed = [case for case in cases if case["extrapolation over one window"].ratio.low > FAILED]

        def is_lower(case: dict, step: int) -> bool:
            row = findings.row(
                steps=step, positions=PI, windows=case["factor"], **{"base, M tokens": case["base, M tokens"]}
            )
            return row["over direct is"] == "lower"

        ahead = [any(is_lower(case, step) for step in DECIDING[:2]) for case in failed]
        caught = [not is_lower(case, DECIDING[-1]) for case, led in zip(failed, ahead, strict=True) if led]
        enough = len(failed) >= 2
        count = f"extrapolation has failed in {len(failed)} of {len(cases)} cases"
        lost, crossings = (
            np.array([[float(value) for value in case[key].split()] for case in cases]).T
            for key in ("failed by seed", "by seed")
        )  # (S, cases)
        ranks = [rank_correlation(a, b) for a, b in zip(lost, crossings, strict=True)]
        rank = compare_seeds(ranks).difference
        return {
            "where extrapolation fails, interpolation is ahead after a few steps": verdict(
                enough and all(ahead),
                enough and not any(ahead),
                f"{count}; interpolation is ahead in {sum(ahead)} of them",
            ),
            "and direct fine-tuning catches up": verdict(
                enough and len(caught) > 0 and all(caught),
                enough and len(caught) > 0 and not any(caught),
                f"of the cases that fail, interpolation is ahead in {sum(ahead)}; after {DECIDING[-1]} steps no longer "
                f"in {sum(caught)}",
            ),
            "the worse it fails, the later the curves cross": verdict(
                enough and rank.value >= 0.5 and rank.low > 0,
                enough and rank.high < 0.5,
                f"rank correlation over {len(cases)} cases {rank}, by seed {', '.join(f'{one:.2f}' for one in ranks)}",
            ),
        }

    def plot(self, findings: Findings):
        steps, ratios = (0, *STEPS), findings.curves["ratios"]
        figure, panels = pyplot().subplots(1, len(FACTORS) + 1, figsize=(16, 4.8), layout="constrained")
        cases = [row for row in findings.rows if "extrapolation over one window" in row]
        ages = sorted({case["base, M tokens"] for case in cases})
        for factor, panel in zip(FACTORS, panels, strict=False):
            panel.sharey(panels[0])
            for (age, colour), (method, line) in product(zip(ages, COLOURS, strict=False), ((PI, "-"), (YARN, ":"))):
                value, low, high = np.array(ratios[f"{method} {factor} {age * 1e6:.0f}"]).T
                label = f"{method}, {age:.3g} M tokens"
                panel.plot(range(len(steps)), value, line, color=colour, marker="o", markersize=3, label=label)
                if method == PI:
                    panel.fill_between(range(len(steps)), low, high, color=colour, alpha=0.15, linewidth=0)
            panel.axhline(1, color="black", linewidth=0.8)
            panel.set_xticks(range(len(steps)), [f"{step}" for step in steps])
            panel.set(yscale="log", title=f"{factor} windows", xlabel="steps of fine-tuning")
        panels[0].set_ylabel("perplexity over direct fine-tuning")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", title="method, base of", fontsize=8)
        last, markers = panels[-1], dict(zip(FACTORS, "os^", strict=False))
        for factor, marker in markers.items():
            last.plot([], [], marker, color="grey", label=f"{factor} windows")
        for case in cases:
            colour = COLOURS[ages.index(case["base, M tokens"])]
            lost, crossed = ([float(value) for value in case[key].split()] for key in ("failed by seed", "by seed"))
            last.plot(np.exp(lost), np.array(crossed) + 1, markers[case["factor"]], color=colour, markersize=5)
        last.set(xscale="log", yscale="log", title="when direct has caught up, by seed",
                 xlabel="extrapolation over one window", ylabel="steps that interpolation is ahead")  # fmt: skip
        last.set_yticks([1 + step for step in (0, *STEPS, 2 * STEPS[-1])], [*map(str, (0, *STEPS)), "all"])
        last.legend(fontsize=7)
        for panel in panels[:-1]:
            plain_numbers(panel)
        plain_numbers(last, "x")
        last.set_yticks([], minor=True)
        for panel in panels:
            panel.grid(alpha=0.3)
        return figure, f"Text, trained on windows of {findings.curves['window']}; same targets, seeds paired; 95 %."


def decides(row: dict) -> bool:
    """Whether the rule asks about this comparison."""
    return row["positions"] == PI and row["steps"] in DECIDING


def loss(row: dict) -> float:
    """Nats per token of a reading."""
    return row["nll"] / row["tokens"]


def crossing_of(pairs: Sequence[Sequence[dict]]) -> float:
    """The steps up to which interpolation is ahead of direct fine-tuning in one seed, straight in log2(1 + steps).

    pairs: interpolation's and direct's reading at 0 and at each of STEPS. 0 if it never is ahead; twice the last of
    STEPS if it still is at the end.
    """
    places = np.log2(1 + np.array((0, *STEPS), dtype=np.float64))
    gaps = np.array([loss(ours) - loss(direct) for ours, direct in pairs])
    ahead = np.flatnonzero(gaps < 0)
    if not len(ahead):
        return 0.0
    last = int(ahead[-1])
    if last == len(gaps) - 1:
        return 2.0 * STEPS[-1]
    share = gaps[last] / (gaps[last] - gaps[last + 1])
    return float(2 ** (places[last] + share * (places[last + 1] - places[last])) - 1)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's: the correlation of the ranks, ties at their mean; 0 where one of the two does not vary."""

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(np.sum(values < value) + np.sum(values <= value) + 1) / 2 for value in values])

    first, second = ranks(a) - ranks(a).mean(), ranks(b) - ranks(b).mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale else 0.0
