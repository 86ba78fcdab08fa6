"""Every positional scheme relative to RoPE: a forward pass, a training step, and the peak memory of that step."""

from dataclasses import asdict

from experiments.benchmark.timing import Outcome, ratio, shown
from experiments.benchmark.workbench import Workbench

REFERENCE = "rope"


def run(bench: Workbench) -> list[dict]:
    """A row per model, window and scheme; ratios are those of seconds or bytes, so above one is dearer than RoPE."""
    rows = []
    for model in bench.settings.models:
        for window in bench.settings.windows:
            rows += _cell(bench, model, window)
    return rows


def _cell(bench: Workbench, model: str, window: int) -> list[dict]:
    names = dict.fromkeys((REFERENCE, *bench.settings.schemes))
    configs = {name: bench.config(model, name, window) for name in names}
    tokens = bench.tokens(bench.sequences(window), window)

    def reads(name: str):
        gpt = bench.module(configs[name]).gpt
        if bench.compiled:
            gpt.compile()
        return bench.read(gpt, gpt, tokens)

    label = f"{model} {window}"
    forward = bench.compare(f"forward {label}", {name: lambda name=name: reads(name) for name in names})
    step = bench.compare(f"step {label}", {name: lambda name=name: bench.ours(configs[name]) for name in names})
    same = {"model": model, "window": window, "batch": bench.sequences(window)}
    return [
        {**same, "scheme": name}
        | {"forward": _against(forward[name], forward[REFERENCE]), "step": _against(step[name], step[REFERENCE])}
        for name in names
    ]


def _against(mine: Outcome, reference: Outcome) -> dict:
    """A scheme's outcome with its ratios to RoPE, where both have one."""
    row = asdict(mine)
    if mine.failure is None and reference.failure is None:
        row["seconds_over_rope"] = asdict(ratio(mine, reference))
        row["peak_over_rope"] = mine.peak / reference.peak
    return row


def table(rows: list[dict]) -> str:
    """Ratios to RoPE, medians with quartiles, and the peak of a training step."""
    head = f"{'model':<6} {'window':>6} {'batch':>5}  {'scheme':<12} {'forward / RoPE':<20} {'step / RoPE':<20}"
    lines = [f"{head} {'peak / RoPE':>11} {'peak MB':>9}"]
    for row in rows:
        said = f"{row['model']:<6} {row['window']:>6} {row['batch']:>5}  {row['scheme']:<12}"
        for part in ("forward", "step"):
            said += f" {shown(row[part].get('seconds_over_rope')):<20}"
        if "peak_over_rope" in row["step"]:
            said += f" {row['step']['peak_over_rope']:>11.2f} {row['step']['peak'] / 1e6:>9,.1f}"
        lines.append(said + (row["forward"]["failure"] or row["step"]["failure"] or ""))
    return "\n".join(lines)
