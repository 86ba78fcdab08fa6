"""Every positional scheme relative to RoPE: a forward pass, a training step, and the peak memory of that step."""

from collections.abc import Iterator
from dataclasses import asdict

from conf.schema import Config
from experiments.benchmark.timing import Outcome, format_spread, peak_cell, ratio
from experiments.benchmark.workbench import Workbench
from experiments.lab.tables import format_rows

REFERENCE = "rope"


def run(bench: Workbench) -> Iterator[list[dict]]:
    """A row per model, window and scheme. Ratios are of seconds or bytes: above one costs more than RoPE."""
    names = dict.fromkeys((REFERENCE, *bench.settings.schemes))
    for model, window in bench.settings.schemes_at:
        yield compare_configs(bench, {name: bench.config(model, name, window) for name in names})


def compare_configs(bench: Workbench, configs: dict[str, Config]) -> list[dict]:
    """A row for each configuration with its ratios to the first; they differ in scheme or extension only."""
    reference, *_ = configs
    base = configs[reference]
    tokens = bench.tokens(base.batch, base.window)

    def forward_run(name: str):
        gpt = bench.module(configs[name]).gpt
        if bench.compiled:
            gpt.compile()
        return bench.forward_loop(gpt, gpt, tokens, before=1)

    label = f"{base.model.name} {base.window}"
    forward = bench.compare(f"forward {label}", {name: lambda name=name: forward_run(name) for name in configs})
    step = bench.compare(f"step {label}", {name: lambda name=name: bench.lab_loop(configs[name]) for name in configs})
    rows = []
    for name, config in configs.items():
        row = {
            "model": base.model.name,
            "window": base.window,
            "batch": base.batch,
            "reference": reference,
            "name": name,
        }
        for part, outcomes in (("forward", forward), ("step", step)):
            row[part] = _with_ratios(outcomes[name], outcomes[reference])
            if outcomes[name].failure is None:
                read = part == "forward"
                row[part]["mfu"] = asdict(bench.mfu(config, outcomes[name], tokens.numel(), config.window, read))
        rows.append(row)
    return rows


def _with_ratios(outcome: Outcome, reference: Outcome) -> dict:
    """The values of an outcome, with its ratios to the reference unless one of them failed."""
    row = asdict(outcome)
    if outcome.failure is None and reference.failure is None:
        row["seconds_over_reference"] = asdict(ratio(outcome, reference))
        row["peak_over_reference"] = outcome.peak / reference.peak
    return row


def table(rows: list[dict]) -> str:
    """Ratios to the reference, medians with quartiles, and the MFU and the peak of a training step."""
    over = rows[0]["reference"]
    columns = {"model": "{model}", "window": "{window}", "batch": "{batch}", "": "{name}"}
    for part in ("forward", "step"):
        columns[f"{part} / {over}"] = lambda row, part=part: format_spread(row[part]["seconds_over_reference"])
    columns |= {"MFU": "{step[mfu][median]:.2f}", f"peak / {over}": "{step[peak_over_reference]:.2f}"}
    columns["peak MB"] = lambda row: peak_cell(row["step"])
    failed = ({"failure": row["forward"]["failure"] or row["step"]["failure"]} for row in rows)
    return format_rows(map(dict.__or__, rows, failed), columns)
