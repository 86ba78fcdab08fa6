"""Every positional scheme relative to RoPE: a forward pass, a training step, and the peak memory of that step."""

from dataclasses import asdict

from conf.schema import Config
from experiments.benchmark.timing import Outcome, format_spread, ratio
from experiments.benchmark.workbench import Workbench

REFERENCE = "rope"


def run(bench: Workbench) -> list[dict]:
    """A row per model, window and scheme; ratios are those of seconds or bytes, so above one is dearer than RoPE."""
    rows, names = [], dict.fromkeys((REFERENCE, *bench.settings.schemes))
    for model, window in bench.settings.schemes_at:
        rows += beside(bench, {name: bench.config(model, name, window) for name in names})
    return rows


def beside(bench: Workbench, configs: dict[str, Config]) -> list[dict]:
    """A row for each of these configurations, which differ in how they read positions, and its ratios to the first."""
    reference, *_ = configs
    some = configs[reference]
    tokens = bench.tokens(some.batch, some.window)

    def reads(name: str):
        gpt = bench.module(configs[name]).gpt
        if bench.compiled:
            gpt.compile()
        return bench.read(gpt, gpt, tokens)

    label = f"{some.model.name} {some.window}"
    forward = bench.compare(f"forward {label}", {name: lambda name=name: reads(name) for name in configs})
    step = bench.compare(f"step {label}", {name: lambda name=name: bench.ours(configs[name]) for name in configs})
    rows = []
    for name, config in configs.items():
        row = {
            "model": some.model.name,
            "window": some.window,
            "batch": some.batch,
            "reference": reference,
            "name": name,
        }
        for part, outcomes in (("forward", forward), ("step", step)):
            row[part] = _against(outcomes[name], outcomes[reference])
            if outcomes[name].failure is None:
                read = part == "forward"
                row[part]["mfu"] = asdict(bench.used(config, outcomes[name], tokens.numel(), config.window, read))
        rows.append(row)
    return rows


def _against(mine: Outcome, reference: Outcome) -> dict:
    """An outcome with its ratios to the reference, where both have one."""
    row = asdict(mine)
    if mine.failure is None and reference.failure is None:
        row["seconds_over_reference"] = asdict(ratio(mine, reference))
        row["peak_over_reference"] = mine.peak / reference.peak
    return row


def table(rows: list[dict]) -> str:
    """Ratios to the reference, medians with quartiles, and the MFU and the peak of a training step."""
    over = rows[0]["reference"]
    head = f"{'model':<6} {'window':>6} {'batch':>5}  {'':<12} {f'forward / {over}':<20} {f'step / {over}':<20}"
    lines = [f"{head} {'MFU':>5} {f'peak / {over}':>11} {'peak MB':>9}"]
    for row in rows:
        line = f"{row['model']:<6} {row['window']:>6} {row['batch']:>5}  {row['name']:<12}"
        for part in ("forward", "step"):
            line += f" {format_spread(row[part].get('seconds_over_reference')):<20}"
        if "peak_over_reference" in row["step"]:
            step = row["step"]
            line += f" {step['mfu']['median']:>5.2f} {step['peak_over_reference']:>11.2f} {step['peak'] / 1e6:>9,.1f}"
        lines.append(line + (row["forward"]["failure"] or row["step"]["failure"] or ""))
    return "\n".join(lines)
