"""Does a model with rotary positions learn faster than one with the absolute sinusoid?"""

import numpy as np

from experiments.lab.canvas import COLOURS, pyplot
from experiments.lab.statistics import compare, compare_seeds, first_crossing
from experiments.reproduce.claim import Claim, Findings, Verdict, adjusted, verdict
from experiments.reproduce.evidence import effective_context, mean_perplexity

SINUSOID = "sinusoidal"


class Convergence(Claim):
    title = "RoPE converges faster than the absolute sinusoid"
    source = "Su et al. 2021 (RoFormer, arXiv 2104.09864), section 4.2 and Figure 3"
    statement = "Trained the same way, a model with rotary positions reaches the loss of one with the sinusoid sooner."
    rule = (
        "Share of steps: steps until RoPE's validation loss is the sinusoid's last one, over all steps (or, where it "
        "never is, all steps over those until the sinusoid has RoPE's last one), paired by seed. Reproduced if its "
        "interval is below 1; not, if it is above 0.95, so that less than a twentieth is saved; else inconclusive."
    )
    paper = "Figure 3 only: BERT's masked loss falls faster and ends near 2 for both; Performer's lower over 100k steps"
    settle = "The paper's model, 110 M parameters for 100k steps, with seeds; it has one run of each."

    def arms(self, window: int) -> dict[str, list[str]]:
        schemes = (SINUSOID, "rope", "learned", "none", "alibi", "t5", "fire", "pope")
        return {scheme: [f"position={scheme}"] for scheme in schemes}

    def measure(self, evidence) -> Findings:
        curves = {arm: evidence.curve(arm) for arm in evidence.runs}
        read = {arm: evidence.in_window(arm) for arm in evidence.runs}
        rows = []
        for arm, (steps, losses) in curves.items():
            row = {"position": arm, "validation loss": float(losses[:, -1].mean())}
            row |= {"test perplexity": mean_perplexity(read[arm])}
            row |= effective_context(read[arm]) | {"share of steps": None, "perplexity ratio": None}
            if arm != SINUSOID:
                sinusoid = curves[SINUSOID][1]
                row["share of steps"] = compare_seeds(
                    [log_share(steps, a, b) for a, b in zip(losses, sinusoid, strict=True)]
                )
                row["perplexity ratio"] = compare(read[arm], read[SINUSOID])
            rows.append(row)
        rows = adjusted(rows, "share of steps", "perplexity ratio")
        return Findings(rows, {arm: {"steps": x.tolist(), "loss": y.tolist()} for arm, (x, y) in curves.items()})

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        row = findings.row(position="rope")
        share, ratio = row["share of steps"].ratio, row["perplexity ratio"].ratio
        reason = f"RoPE takes {share} of the sinusoid's steps; in the end its test perplexity is {ratio} of it"
        return {"RoPE takes fewer steps than the sinusoid": verdict(share.high < 1, share.low > 0.95, reason)}

    def plot(self, findings: Findings):
        figure, (losses, gaps) = pyplot().subplots(1, 2, figsize=(12, 5), layout="constrained")
        sinusoid = np.array(findings.curves[SINUSOID]["loss"])
        colours = dict(zip(findings.curves, (*COLOURS, "black", "#da8bc3"), strict=False))
        for arm, curve in findings.curves.items():
            steps, loss = curve["steps"], np.array(curve["loss"])  # (n,), (S, n)
            losses.plot(steps, loss.mean(axis=0), color=colours[arm], label=arm)
            gap = loss - sinusoid
            gaps.plot(steps, gap.mean(axis=0), color=colours[arm], label=arm)
            gaps.fill_between(steps, gap.min(axis=0), gap.max(axis=0), color=colours[arm], alpha=0.15, linewidth=0)
        losses.set(title="validation loss", xlabel="steps", ylabel="nats per token")
        gaps.set(title="less that of the sinusoid, same seed", xlabel="steps", ylabel="nats per token")
        for panel in (losses, gaps):
            panel.grid(alpha=0.3)
        losses.legend(fontsize=8)
        return figure, f"Mean of {len(sinusoid)} seeds; shaded: from the lowest seed to the highest."


def log_share(steps: np.ndarray, losses: np.ndarray, reference: np.ndarray) -> float:
    """ln of the share of all steps until `losses` reach the last of `reference`; antisymmetric in the two."""
    if losses[-1] > reference[-1]:
        return -log_share(steps, reference, losses)
    return float(np.log(first_crossing(steps, losses, reference[-1]) / steps[-1]))
