"""Is sin(t / 10000^(2k/d)) optimal? Other spacings of the frequencies, within the window and beyond it."""

import torch

from experiments.lab.canvas import COLOURS, plot_interval, pyplot
from experiments.lab.statistics import MARGIN, compare
from experiments.reproduce.claim import Claim, Findings, Verdict, adjusted, verdict
from experiments.reproduce.evidence import effective_context, mean_perplexity
from models.positions.diagnostics import participation_rank

USUAL, MATCHED, LEARNED = "rope", "geometric", "learned"
SAME_ENDS = ("cosh", "power", "linear", "cosine")  # as the geometric ones from one radian per token to one per window


class Spacing(Claim):
    title = "Frequencies spaced as 10000^(-2k/d) are not the best"
    source = "A question to Vaswani et al. 2017 (section 3.5) and Su et al. 2021: dense where slow, sparse where fast"
    statement = (
        "Another spectrum reads the window better than 10000^(-2k/d); and with the same ends, one radian per token "
        "and one per window, another spacing is better than the geometric."
    )
    rule = (
        "Test perplexity within the window, paired by seed and document, over that of RoPE as usual (then: of the "
        f"{len(SAME_ENDS)} other spacings that have its ends over the geometric, one radian per token and one per "
        "window). Reproduced if some spectrum is below 1, all of them one family (Holm); "
        "not, if none can be more than half a per cent below (every interval above 0.995); else inconclusive."
    )
    rewritten = (
        "After the runs, which were judged anew: harmonic and log-uniform spectra stood among those of the same ends, "
        "and have others."
    )
    paper = "LeRoPE (arXiv 2607.10134), 217 M parameters: RoPE 18.238, learned frequencies 18.134; 0.6 % in the window"
    settle = "Effects of half a per cent take many seeds, and a longer window a model that uses it."

    def arms(self, window: int) -> dict[str, list[str]]:
        knobs = {name: f"slowest={1 / window}" for name in (MATCHED, *SAME_ENDS, "log_uniform")}
        knobs["harmonic"] = f"length={window}"
        arms = {USUAL: ["position=rope"], LEARNED: ["position=learned_rope"]}
        return arms | {
            name: ["position=rope", f"frequencies={name}", f"frequencies.{knob}"] for name, knob in knobs.items()
        }

    def measure(self, evidence) -> Findings:
        inside = {arm: evidence.in_window(arm) for arm in evidence.runs}
        beyond = {arm: evidence.perplexity(arm) for arm in evidence.runs}
        tables = {arm: frequencies(evidence, arm) for arm in evidence.runs}
        one, four, rows = evidence.window, 4 * evidence.window, []
        for arm in evidence.runs:
            row = {
                "spectrum": arm,
                "rank": participation_rank(torch.tensor(tables[arm]), one),
                "ppl": mean_perplexity(inside[arm]),
                **effective_context(inside[arm]),
            }
            row["over usual"] = None if arm == USUAL else compare(inside[arm], inside[USUAL])
            row["over matched"] = compare(inside[arm], inside[MATCHED]) if arm in SAME_ENDS else None
            row["at four windows"] = mean_perplexity(beyond[arm][four])
            row |= effective_context(beyond[arm][four], "effective context there")
            row["over usual there"] = None if arm == USUAL else compare(beyond[arm][four], beyond[USUAL][four])
            rows.append(row)
        rows = adjusted(rows, "over usual", "over matched", "over usual there")
        return Findings(rows, {"frequencies": tables})

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        return {
            "another spectrum is better than 10000^(-2k/d)": best(findings, "over usual"),
            "with the same ends, another spacing is better than the geometric": best(findings, "over matched"),
        }

    def plot(self, findings: Findings):
        figure, panels = pyplot().subplots(1, 3, figsize=(14, 5), layout="constrained")
        table, inside, beyond = panels
        arms = [row["spectrum"] for row in findings.rows]
        for place, arm in enumerate(arms):
            values = findings.curves["frequencies"][arm]
            table.plot(values, [place] * len(values), "|", color=COLOURS[place % len(COLOURS)], markersize=12)
        table.set(xscale="log", xlabel="radians per token", title="the spectra (learned: mean over seeds)")
        table.set_xlim(left=1e-4)
        for panel, column, title in (
            (inside, "over usual", "perplexity within the window"),
            (beyond, "over usual there", "perplexity at four windows"),
        ):
            for place, row in enumerate(findings.rows):
                if row[column] is not None:
                    plot_interval(panel, place, row[column].ratio, COLOURS[0])
            panel.axvline(1, color="black", linewidth=0.8)
            panel.set(title=title, xlabel="over RoPE as usual")
        for panel in panels:
            panel.set_yticks(range(len(arms)), arms)
            panel.grid(alpha=0.3)
        return figure, "Same targets, seeds paired; 95 % over seeds and documents."


def best(findings: Findings, column: str) -> Verdict:
    """Whether some spectrum is below 1 in a column, or none can be by more than the margin."""
    rows = [row for row in findings.rows if row[column] is not None]
    lowest = min(rows, key=lambda row: row[column].ratio.value)
    better = [row["spectrum"] for row in rows if row[f"{column} is"] == "lower"]
    reason = f"the lowest is {lowest['spectrum']} with {lowest[column].ratio}; better: {', '.join(better) or 'none'}"
    return verdict(bool(better), all(row[column].ratio.low > 1 - MARGIN for row in rows), reason)


def frequencies(evidence, arm: str) -> list[float]:
    """What the pairs of an arm turn by per token after training, fastest first; learned ones averaged over seeds."""
    from conf.load import load_model

    tables = [load_model(run.checkpoint)[0].position.frequencies("cpu").detach() for run in evidence.runs[arm]]
    logs = torch.stack(tables).log().mean(0)  # (K,)
    return logs.exp().sort(descending=True).values.tolist()
