"""How few positions does a model need: some pairs that stand still, none that turn, or none any more?"""

from experiments.lab.canvas import COLOURS, plot_interval, pyplot
from experiments.lab.statistics import MARGIN, compare
from experiments.reproduce.claim import Claim, Findings, Verdict, adjusted, verdict
from experiments.reproduce.evidence import effective_context, mean_perplexity
from experiments.reproduce.tuning import CONTROL, DIRECT, STEPS, tuned

BASE, NOPE, DROPPED = "rope", "none", "dropped"
SHARES = (0.75, 0.5, 0.25)  # of the pairs that turn
COST = 1.02  # perplexity that counts as recovered, over the control's


def partial(share: float) -> str:
    return f"p-RoPE {share:g}"


class PositionFree(Claim):
    title = "Positions that are dropped after training reach farther than YaRN's"
    source = (
        "Gelberg et al. 2025 (DroPE, arXiv 2512.12167); Barbero et al. 2025 (p-RoPE, arXiv 2410.06205), Table 2; "
        "Kazemnejad et al. 2023 (NoPE, arXiv 2305.19466)"
    )
    statement = (
        "A model whose rotation is taken away after training, and that is tuned briefly at its own window, reads that "
        "as well as before and longer ones better than YaRN reads them; slow pairs that never turn cost nothing; and "
        "without any positions from the start a model reads the window worse and longer ones better."
    )
    rule = (
        f"Perplexity of the same targets, paired by seed and document. Dropped: reproduced if below the control, "
        f"tuned at its window for the same {STEPS[-1]} steps and read by YaRN, at two and at four windows (Holm); not, "
        f"if at either its interval leaves less than {MARGIN:.1%} to gain. Recovered: in the window below {COST} of "
        f"the control; not, if above. p-RoPE, {SHARES[0]} of the pairs: in the window under {1 + MARGIN} of RoPE; not, "
        "if above 1. NoPE: above RoPE in the window and below it at four windows, both read as trained; not, if the "
        "opposite holds of either. Else inconclusive."
    )
    paper = (
        "DroPE, 494 M: in the window 21.73 against RoPE's 21.72 (NoPE from the start 23.77); keys found at two "
        "windows, three kinds: 28, 41.6, 23.3 against NTK's 21, 19, 16.5 and PI's 0. p-RoPE, Gemma 2B: RoPE 4.4627, "
        ".75 4.4414, .25 4.5302, NoPE 4.8594"
    )
    settle = "Models that retrieve, for perplexity hides what longer contexts are for; and thousands of tokens."

    def arms(self, window: int) -> dict[str, list[str]]:
        arms = {BASE: [f"position={BASE}"]}
        arms |= {partial(share): ["position=p_rope", f"position.p={share}"] for share in SHARES}
        arms |= {NOPE: [f"position={NOPE}"], CONTROL: tuned(BASE, window, DIRECT, 1, STEPS)}
        return arms | {DROPPED: tuned(BASE, window, "drop", 1, STEPS)}

    def measure(self, evidence) -> Findings:
        one, two, four = (count * evidence.window for count in (1, 2, 4))
        inside = {arm: evidence.in_window(arm) for arm in evidence.runs}
        plain = {arm: evidence.perplexity(arm) for arm in evidence.runs}
        yarn = {arm: {length: evidence.perplexity(arm, "yarn", length // one)[length] for length in (two, four)}
                for arm in (BASE, CONTROL)}  # fmt: skip
        rows, beyond = [], []
        for arm in evidence.runs:
            rival = CONTROL if arm in (CONTROL, DROPPED) else BASE
            row = {"arm": arm, "rival": rival, "in the window": mean_perplexity(inside[arm])}
            row |= effective_context(inside[arm])
            row["over the rival"] = None if arm == rival else compare(inside[arm], inside[rival])
            row |= {f"at {length}": mean_perplexity(plain[arm][length]) for length in (one, two, four)}
            for length in (two, four):
                row[f"YaRN at {length}"] = mean_perplexity(yarn[arm][length]) if arm == rival else None
            rows.append(row)
            for length in (two, four):
                row = {"arm": arm, "tokens": length, **effective_context(plain[arm][length]), "rival there": rival}
                row["over it there"] = None if arm == rival else compare(plain[arm][length], plain[rival][length])
                row |= effective_context(yarn[rival][length], "effective context by its YaRN")
                beyond.append(row | {"over its YaRN": compare(plain[arm][length], yarn[rival][length])})
        rows = adjusted(rows, "over the rival") + adjusted(beyond, "over it there", "over its YaRN")
        recovery = []
        for step in (0, *STEPS):
            dropped = evidence.in_window(DROPPED, step=step) if step else evidence.in_window(BASE, "drop")
            control = evidence.in_window(CONTROL, step=step) if step else inside[BASE]
            row = {"steps without positions": step}
            row |= {"perplexity": mean_perplexity(dropped), **effective_context(dropped)}
            row |= {"control": mean_perplexity(control), **effective_context(control, "effective context of control")}
            recovery.append(row | {"over control": compare(dropped, control)})
        return Findings([*rows, *recovery], {"window": one})

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        two, four = (count * findings.curves["window"] for count in (2, 4))
        farther = [findings.row(arm=DROPPED, tokens=length) for length in (two, four)]
        ratios = [row["over its YaRN"].ratio for row in farther]
        recovered, spared, cost = (
            findings.row(arm=arm, rival=rival)["over the rival"].ratio
            for arm, rival in ((DROPPED, CONTROL), (partial(SHARES[0]), BASE), (NOPE, BASE))
        )
        none = findings.row(arm=NOPE, tokens=four)
        beyond = none["over it there"].ratio
        return {
            "dropped positions read longer windows better than YaRN": verdict(
                all(row["over its YaRN is"] == "lower" for row in farther),
                any(ratio.low > 1 - MARGIN for ratio in ratios),
                f"of the control read by YaRN at two windows {ratios[0]}, at four {ratios[1]}; of the control as it is "
                f"at four {farther[1]['over it there'].ratio}",
            ),
            "and the window as well as before": verdict(
                recovered.high < COST, recovered.low > COST, f"{recovered} of the control after {STEPS[-1]} steps"
            ),
            f"turning {SHARES[0]} of the pairs costs nothing in the window": verdict(
                spared.high < 1 + MARGIN, spared.low > 1, f"{spared} of RoPE"
            ),
            "without positions from the start: worse in the window, better beyond": verdict(
                cost.low > 1 and beyond.high < 1,
                cost.high < 1 or beyond.low > 1,
                f"of RoPE in the window {cost}, at four windows {beyond}, of RoPE read by YaRN "
                f"{none['over its YaRN'].ratio}",
            ),
        }

    def plot(self, findings: Findings):
        window = findings.curves["window"]
        figure, (inside, beyond, recovery) = pyplot().subplots(1, 3, figsize=(15, 5), layout="constrained")
        rows = [row for row in findings.rows if "rival" in row]
        for place, row in enumerate(rows):
            if row["over the rival"] is not None:
                plot_interval(inside, place, row["over the rival"].ratio, COLOURS[0])
        inside.set_yticks(range(len(rows)), [row["arm"] for row in rows])
        inside.invert_yaxis()
        inside.locator_params(axis="x", nbins=6)
        inside.set(title="in the window", xlabel="perplexity over RoPE's (dropped: over control's)")
        for row, colour in zip(rows, (*COLOURS, "black"), strict=True):
            read = [row[f"at {count * window}"] for count in (1, 2, 4)]
            beyond.plot(range(3), read, color=colour, marker="o", label=f"{row['arm']}, as trained")
            if row["arm"] == row["rival"]:
                longer = [row[f"YaRN at {count * window}"] for count in (2, 4)]
                beyond.plot((1, 2), longer, ":", color=colour, marker=".", label=f"{row['arm']}, YaRN")
        beyond.set_xticks(range(3), [f"{window}", f"{2 * window}", f"{4 * window}"])
        beyond.set(title="same targets, more context", xlabel="tokens of context", ylabel="perplexity")
        steps = [row for row in findings.rows if "steps without positions" in row]
        for key, colour in (("perplexity", COLOURS[3]), ("control", COLOURS[0])):
            name = "dropped" if key == "perplexity" else key
            recovery.plot(range(len(steps)), [row[key] for row in steps], color=colour, marker="o", label=name)
        recovery.set_xticks(range(len(steps)), [f"{row['steps without positions']}" for row in steps])
        recovery.set(title="taking the rotation away, and tuning", xlabel="steps of fine-tuning",
                     ylabel=f"perplexity within {window} tokens")  # fmt: skip
        for panel in (beyond, recovery):
            panel.legend(fontsize=7)
        for panel in (inside, beyond, recovery):
            panel.grid(alpha=0.3)
        inside.axvline(1, color="black", linewidth=0.8)
        return figure, f"Trained on windows of {window}; seeds paired; 95 % over seeds and documents."
