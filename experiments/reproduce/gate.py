"""Whether the models of a claim use their window; what longer contexts do to one that does not tells of no method.

The gate of lab/measure/context.py, for every arm of a claim.
"""

from collections.abc import Sequence

from experiments.lab.measure.context import gate
from experiments.lab.plan import Arms
from experiments.lab.statistics import Estimate
from experiments.reproduce.evidence import Evidence


def measure_gate(evidence: Evidence, arms: Arms, snapshots: Sequence[int] = ()) -> dict | None:
    """The gate of every arm that is trained from scratch; None if there is none.

    Args:
        snapshots: steps after which other arms start from these, measured as well.

    Returns:
        {"passed": whether it holds for all of them, "arms": [{"arm", and what context.gate gives}]}.
    """
    rows = []
    for arm, (run, *_) in arms.items():
        if run.checkpoint is None:
            half, whole = run.window // 2, run.window
            for step in (*snapshots, None):
                read = evidence.perplexity(arm, step=step, contexts=(half, whole))
                name = arm if step is None else f"{arm} after {step * run.batch * run.window / 1e6:.3g} M tokens"
                rows.append({"arm": name, **gate(list(zip(*read.values(), strict=True)), whole)})
    return {"passed": all(row["passed"] for row in rows), "arms": rows} if rows else None


def describe_gate(gate: dict | None) -> str:
    """The gate in a sentence; empty where nothing was trained or it was not measured."""
    if gate is None:
        return ""
    rows, failing = gate["arms"], [row["arm"] for row in gate["arms"] if not row["passed"]]
    if "learned" in rows[0]:  # of a task
        if not failing:
            return "The gate holds: on every task most seeds have learned the range of training."
        return f"THE GATE FAILS for {', '.join(failing)}: most seeds have not learned the range of training."
    least = min([row for row in rows if not row["passed"]] or rows, key=lambda row: row["value"])
    spans = sorted({(row["from"], row["to"]) for row in rows})
    span = " and ".join(f"from {half} to {whole}" for half, whole in spans)
    gain = f"{span} tokens of context they gain {Estimate.of(least)} nats a token or more"
    if not failing:
        return f"The gate holds: all models use their whole window, {gain}."
    if len(failing) == len(rows):
        return (
            f"THE GATE FAILS: no model shows use of the second half of its window ({span} tokens, {least['arm']}: "
            f"{Estimate.of(least)} nats a token), so what longer contexts do to them says little."
        )
    return (
        f"THE GATE FAILS for {'; '.join(failing)}: no use of the second half of the window shows ({span} tokens, "
        f"{least['arm']}: {Estimate.of(least)} nats a token). "
        f"It holds for the other {len(rows) - len(failing)}."
    )
