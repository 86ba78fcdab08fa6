"""How far back does a model that is fine-tuned on longer windows find what it needs, directly and interpolated?"""

from statistics import mean

import numpy as np

from experiments.lab.canvas import COLOURS, pyplot
from experiments.lab.statistics import compare_seeds
from experiments.reproduce.claim import INCONCLUSIVE, Claim, Findings, Verdict, verdict
from experiments.reproduce.tuning import DIRECT, tuned

BASE, PI = "retrieving", "interpolate"
METHODS = (DIRECT, PI)
FACTORS = (2, 4)
STEPS = (8, 32, 128, 256)
DEPTHS, TRIALS = 16, 50  # distances for a length, and trials at each
RECIPE = ("data.retrieval.fraction=0.8", "data.retrieval.digits=3")  # a small model learns to retrieve from such text
STAYS = 1.25  # times the trained window, the farthest that direct fine-tuning comes to in the paper
PI_RULE = "k_max_20%"


def arm_of(method: str, factor: int) -> str:
    return f"{'direct' if method == DIRECT else method} {factor}"


class EffectiveWindow(Claim):
    needs = "text"  # keys are hidden in it
    title = "Direct fine-tuning leaves the effective window as it was, interpolation extends it"
    source = (
        "Chen et al. 2023 (Position Interpolation, arXiv 2306.15595), section 3.3 and Table 4; the 80 % rule: Peng et "
        "al. 2023 (YaRN, arXiv 2309.00071)"
    )
    statement = (
        "Fine-tuned briefly on longer windows with interpolated positions, a model finds keys as far back as these "
        "windows go; fine-tuned directly for as long, hardly farther than it was trained."
    )
    rule = (
        f"k_max, the largest distance such that at it and below 20 % of keys are found, of {TRIALS} trials at each of "
        f"{DEPTHS} distances, by seed; in training no key lies farther back than the original window. Reproduced if "
        f"after {STEPS[-1]} steps, at 2 and at 4 windows, PI's is the farthest distance there is in most seeds, and "
        "above direct's (paired interval of the difference); not, if at either PI's is that in no seed, or no more "
        "than a tenth of the distance above direct's. Direct: reproduced if its k_max stays under "
        f"{STAYS} windows at both (interval); not, if above at either. Inconclusive if the base does not come to the "
        "farthest distance of its own window in every seed, whatever else is found."
    )
    rewritten = (
        "Windows shorter than 32 tokens were made as long here; no scale has such windows any more. The reading after "
        f"{STEPS[-1]} steps was fitted to windows of 32 bytes, on which interpolation found no keys after 64 in a "
        "trial; it stays, as no trial was made on longer ones. YaRN decided nothing and is gone for time."
    )
    paper = (
        "LLaMA 7B, 2048 extended to 8192, k_max after 200, 400, 600, 800, 1000, 10000 steps of direct fine-tuning: "
        "1792, 2048, 2048, 2048, 2304, 2560; with PI 8192 after 200 steps, and 16384 and 32768 where these were asked. "
        "32 distances, 10 trials each"
    )
    settle = "A model trained long enough on windows of thousands of tokens to retrieve without being taught to."

    def arms(self, window: int) -> dict[str, list[str]]:
        arms = {BASE: ["position=rope", *RECIPE]}
        for factor in FACTORS:
            arms |= {arm_of(method, factor): tuned(BASE, window, method, factor, STEPS) for method in METHODS}
        return arms

    def measure(self, evidence) -> Findings:
        window = evidence.window
        base = evidence.passkey(BASE, lengths=[window], depths=DEPTHS, trials=TRIALS)
        rows = [self.row(base, {"tokens": window, "positions": "as trained", "steps": 0}, None)]
        for factor in FACTORS:
            grid = {"lengths": [window, factor * window], "depths": DEPTHS, "trials": TRIALS}
            for step in (0, *STEPS):
                read = {}
                for method in METHODS:
                    if step:
                        read[method] = evidence.passkey(arm_of(method, factor), step=step, **grid)
                    else:
                        read[method] = evidence.passkey(BASE, method, 1 if method == DIRECT else factor, **grid)
                    name, direct = ("direct", None) if method == DIRECT else (method, read[DIRECT])
                    cells = {"tokens": factor * window, "positions": name, "steps": step}
                    rows.append(self.row(read[method], cells, direct))
        return Findings(rows, {"window": window, "farthest in the window": farthest(base[0])})

    def row(self, read: list[dict], cells: dict, direct: list[dict] | None) -> dict:
        """What the seeds find at the longest length they were asked at."""
        reached, end = k_max(read), farthest(read[0])
        row = cells | {"farthest": end, "k_max": mean(reached), "by seed": " ".join(map(str, reached))}
        row["at the end"] = sum(distance == end for distance in reached)
        row["k_max, 80 %"] = mean(k_max(read, "k_max_80%"))
        row["passkey context"] = mean(result["passkey_context"] for result in read)
        row["keys found"] = mean(result["lengths"][-1]["exact"]["value"] for result in read)
        row["seeds"] = len(reached)
        row["mean k_max"] = compare_seeds(reached).difference
        row["over direct, share"] = None
        if direct is not None:
            gained = [(distance - other) / end for distance, other in zip(reached, k_max(direct), strict=True)]
            row["over direct, share"] = compare_seeds(gained).difference
        return row

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        window, base = findings.curves["window"], findings.row(positions="as trained")
        last = {name: [findings.row(tokens=factor * window, positions=name, steps=STEPS[-1]) for factor in FACTORS]
                for name in (PI, "direct")}  # fmt: skip
        pi, direct, gains = last[PI], last["direct"], [row["over direct, share"] for row in last[PI]]
        complete = [row["at the end"] / row["seeds"] for row in pi]
        bounds = [row["mean k_max"] for row in direct]
        verdicts = {
            "with interpolation the effective window is the longer one": verdict(
                all(share > 0.5 for share in complete) and all(gain.low > 0 for gain in gains),
                any(share == 0 for share in complete) or any(gain.high < 0.1 for gain in gains),
                "; ".join(
                    f"at {row['tokens']} tokens k_max is {row['k_max']:.0f} of {row['farthest']} with PI, "
                    f"{plain['k_max']:.0f} directly, {gain} of the distance more"
                    for row, plain, gain in zip(pi, direct, gains, strict=True)
                ),
            ),
            "with direct fine-tuning it stays what it was": verdict(
                all(bound.high < STAYS * window for bound in bounds),
                any(bound.low > STAYS * window for bound in bounds),
                "; ".join(
                    f"tuned on {row['tokens']} tokens k_max is {bound}, against {STAYS} windows or {STAYS * window:g}"
                    for row, bound in zip(direct, bounds, strict=True)
                ),
            ),
        }
        if base["at the end"] == base["seeds"]:
            return verdicts
        gate = (
            f"the base finds keys throughout its own window in {base['at the end']} of {base['seeds']} seeds only "
            f"(k_max {base['by seed']} of {base['farthest']})"
        )
        return {part: Verdict(INCONCLUSIVE, f"{gate}; {result.reason}") for part, result in verdicts.items()}

    def plot(self, findings: Findings):
        window, steps = findings.curves["window"], (0, *STEPS)
        figure, panels = pyplot().subplots(1, len(FACTORS), figsize=(12, 5), layout="constrained")
        for factor, panel in zip(FACTORS, panels, strict=True):
            names = ("direct", *METHODS[1:])
            for place, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
                rows = [findings.row(tokens=factor * window, positions=name, steps=step) for step in steps]
                shifted = np.arange(len(steps)) + 0.08 * (place - 1)
                panel.plot(shifted, [row["k_max"] for row in rows], color=colour, marker="o", label=name)
                for x, row in zip(shifted, rows, strict=True):
                    seeds = [int(value) for value in row["by seed"].split()]
                    panel.plot([x] * len(seeds), seeds, "_", color=colour, alpha=0.6)
            panel.axhline(rows[0]["farthest"], color="black", linewidth=0.8, linestyle=":", label="farthest there is")
            inside = findings.curves["farthest in the window"]
            panel.axhline(inside, color="black", linewidth=0.8, label="farthest in the trained window")
            panel.set_xticks(range(len(steps)), [f"{step}" for step in steps])
            panel.set(title=f"tuned on {factor * window} tokens", xlabel="steps of fine-tuning", ylabel="k_max, tokens")
            panel.set_ylim(bottom=-2)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=8)
        caption = f"Trained on windows of {window}, tuned with keys no farther back. Lines: means; dashes: seeds."
        return figure, caption


def k_max(read: list[dict], rule: str = PI_RULE) -> list[int]:
    """By seed, at the longest length."""
    return [result["lengths"][-1][rule]["value"] for result in read]


def farthest(read: dict) -> int:
    """The largest distance that was asked at the longest length."""
    length = read["lengths"][-1]["length"]
    return max(cell["k"] for cell in read["cells"] if cell["length"] == length)
