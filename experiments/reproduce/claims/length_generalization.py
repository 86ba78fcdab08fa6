"""Which tasks absolute positions, and none, can carry on to lengths that they were not trained at."""

from experiments.lab.canvas import COLOURS, pyplot
from experiments.lab.plan import Arms
from experiments.reproduce.claim import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    Claim,
    Findings,
    Verdict,
    verdict,
)
from experiments.tasks import LENGTHS, PUBLISHED, arm_overrides, fitted

TASKS = ("bin_majority", "majority", "sort", "unique_copy", "repeat_copy")  # of those that pico models can learn
SCHEMES = {"learned+offset": "absolute", "none": "none"}
LINE = 0.75  # share of exact answers above which a model generalises; every published share is far from it
LAYERS = {("unique_copy", "none"): 4}  # in the authors' sweep no smaller model without positions learned to copy


def name(task: str, scheme: str) -> str:
    """The name of an arm."""
    return f"{task}, {SCHEMES[scheme]}"


class LengthGeneralization(Claim):
    title = "What absolute positions, and none, generalise on is as the paper's table has it"
    source = "Huang et al. 2024 (arXiv 2410.02140), appendix E, and its code, lacoco-lab/length_generalization"
    statement = (
        "Trained on questions of up to 50 tokens until all answers are exact, a small transformer with learned "
        "positions at random offsets answers questions of 101 to 150 tokens exactly in binary majority, majority, "
        "sorting and copying different tokens, and not in copying repeated ones; one without positions does so in the "
        "first three alone."
    )
    rule = (
        "For each task and each of the two ways, of the seeds that have learned the range of training (99 % of its "
        "test samples exact, as the paper counts runs that reached 100 %): exact answers at 101 to 150 tokens, with "
        "the wider of Wilson's interval over the samples and a bootstrap over seeds and samples. A way generalises on "
        f"a task if the interval is above {LINE}, and does not if it is below. Reproduced: on the paper's side of "
        f"{LINE}; not, if on the other; inconclusive, if the interval holds {LINE}, or if half of the seeds or fewer "
        "have learned the range of training. The claim: reproduced if all are, not if any is not, else inconclusive."
    )
    rewritten = (
        "After these runs, with no verdict another: Wilson's interval took the answers of all seeds to a sample for "
        "samples of their own."
    )
    paper = "; ".join(
        f"{task}: " + ", ".join(f"{SCHEMES[scheme]} {PUBLISHED[task][scheme].exact[2]:.3f}" for scheme in SCHEMES)
        for task in TASKS
    )
    settle = "The paper's sizes (a width of 256), 30,000 steps and the tasks that take them: parity, addition."
    needs = "tasks"
    not_at = ("pico",)  # it can be settled there, but takes two cores as long as all other claims together

    def arms(self, window: int) -> dict[str, list[str]]:
        def overrides(task: str, scheme: str) -> list[str]:
            layers = [f"model.layers={LAYERS[task, scheme]}"] if (task, scheme) in LAYERS else []
            return [*arm_overrides(task, scheme), *layers]

        return {name(task, scheme): overrides(task, scheme) for task in TASKS for scheme in SCHEMES}

    def measure_gate(self, evidence, arms: Arms) -> dict:
        rows = []
        for arm in arms:
            inside = evidence.exact(arm)[0]
            learned = len(fitted(inside))
            rows.append({"arm": arm, "learned": learned, "seeds": len(inside.exact), "exact": inside.pooled.value,
                         "passed": 2 * learned > len(inside.exact)})  # fmt: skip
        return {"passed": all(row["passed"] for row in rows), "arms": rows}

    def measure(self, evidence) -> Findings:
        rows = []
        for task in TASKS:
            for scheme in SCHEMES:
                ranges = evidence.exact(name(task, scheme))
                seeds = fitted(ranges[0])
                row = {"task": task, "positions": SCHEMES[scheme], "seeds": len(ranges[0].exact)}
                row |= {"that learned it": len(seeds), f"to {LENGTHS[0]}": ranges[0].pooled.value}
                published = PUBLISHED[task][scheme].exact
                for one, share in zip(ranges[1:], published[1:], strict=True):
                    estimate = one.of(seeds).over_seeds if seeds else None
                    for end in ("value", "low", "high"):
                        title = f"to {one.high}" + ("" if end == "value" else f", {end}")
                        row[title] = getattr(estimate, end) if estimate else None
                    row[f"paper to {one.high}"] = share
                rows.append(row)
        return Findings(rows)

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        parts = {}
        for row in findings.rows:
            last = f"to {LENGTHS[-1]}"
            share, low, high, paper = row[last], row[f"{last}, low"], row[f"{last}, high"], row[f"paper {last}"]
            enough = 2 * row["that learned it"] > row["seeds"]
            above, below = enough and low > LINE, enough and high < LINE
            learned = f"{row['that learned it']} of {row['seeds']} seeds learned the range of training"
            found = f"{share:.3f} [{low:.3f}, {high:.3f}], published {paper:.3f}; " if share is not None else ""
            parts[f"{row['task']}, {row['positions']}: {'generalises' if paper > LINE else 'does not'}"] = verdict(
                above if paper > LINE else below, below if paper > LINE else above, found + learned
            )
        words = [part.word for part in parts.values()]
        counts = ", ".join(f"{words.count(word)} {word}" for word in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE))
        whole = verdict(
            all(word == REPRODUCED for word in words), NOT_REPRODUCED in words, f"of {len(words)} parts {counts}"
        )
        return {"the table as a whole": whole} | parts

    def plot(self, findings: Findings):
        figure, axes = pyplot().subplots(figsize=(9.5, 5), layout="constrained")
        last = f"to {LENGTHS[-1]}"
        for place, row in enumerate(findings.rows):
            colour = COLOURS[0] if row["positions"] == "absolute" else COLOURS[1]
            if row[last] is not None:
                axes.plot([row[f"{last}, low"], row[f"{last}, high"]], [place, place], color=colour)
                axes.plot(row[last], place, "o", color=colour)
            axes.plot(row[f"paper {last}"], place, "x", color="black")
        axes.set_yticks(range(len(findings.rows)), [f"{row['task']}, {row['positions']}" for row in findings.rows])
        axes.invert_yaxis()
        axes.axvline(LINE, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlim=(-0.03, 1.03), xlabel=f"exact answers at {LENGTHS[1] + 1} to {LENGTHS[2]} tokens (x: published)")
        axes.grid(alpha=0.3)
        return figure, "Trained at up to 50 tokens; seeds that learned these; 95 % over seeds and samples."
