"""How fast is a training step and a reading, and how much memory do they take, beside peers and the device's ceiling?

    python -m experiments.benchmark sections=[step] step_at=[nano/256,micro/1024]

Each section writes <section>.json and <section>.txt into the folder as soon as it is done, both with the device, the
versions and the command, so that sections may come from several runs. What it has compared until then is in
<section>.part.json.
"""

import shlex
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from conf.compose import command_line
from conf.environment import environment
from conf.files import write_json, write_text
from conf.overrides import choices
from conf.validation import validate
from experiments.benchmark.settings import Benchmark

if TYPE_CHECKING:
    from experiments.benchmark.workbench import Workbench

PEER_PACKAGES = ("transformers", "x-transformers", "litgpt")


def run_sections(settings: Benchmark, overrides: list[str]) -> Path:
    """Run the sections of the settings, print and save their tables; returns the folder."""
    from experiments.benchmark import targets
    from experiments.benchmark.memory import bound_memory
    from experiments.benchmark.workbench import Workbench

    bench = Workbench.set_up(settings)
    if bench.device.type == "cpu":
        bound_memory()
    folder = Path(settings.folder or f"runs/benchmark/{bench.label}")
    folder.mkdir(parents=True, exist_ok=True)
    about = _about(bench, overrides)
    print(heading(about), flush=True)
    for name in settings.sections:
        section = import_module(f"experiments.benchmark.{name}")
        begun, began = folder / f"{name}.part.json", time.monotonic()
        measured = {**about, "settings": settings.model_dump(mode="json"), "rows": []}
        for rows in section.run(bench):
            measured["rows"] += rows
            write_json(begun, measured)
        begun.rename(folder / f"{name}.json")
        printed = section.table(measured["rows"])
        write_text(folder / f"{name}.txt", f"{heading(about)}\n\n{printed}\n")
        print(f"\n{name}, {time.monotonic() - began:.0f} seconds\n{printed}", flush=True)
    verdicts = targets.table(folder)
    write_text(folder / "targets.txt", f"{verdicts}\n")
    print(f"\ntargets\n{verdicts}\n\nTables and numbers: {folder}/")
    return folder


def _about(bench: "Workbench", overrides: list[str]) -> dict:
    """Device, versions and command, as needed to repeat and to judge the measurements."""
    import torch

    about = environment(overrides, PEER_PACKAGES)
    return {
        **about,
        "command": shlex.join(about["command"]),
        "device": bench.name,
        "threads": torch.get_num_threads(),
        "precision": bench.precision,
        "matmul_flops_per_second": bench.ceiling,
    }


def heading(about: dict) -> str:
    """The heading of a table: command, device, precision, versions and commit."""
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("torch", "lightning", *PEER_PACKAGES))
    return (
        f"{about['command']}\n{about['device']}, {about['threads']} threads, {about['precision']}, "
        f"{about['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s in a matrix multiplication; {versions}; "
        f"commit {(about['commit'] or 'unknown')[:9]}{' with changes' if about['changed'] else ''}\n"
        "Medians, in brackets quartiles; where rounds alternate, ratios are paired by round."
    )


def run_command(values: dict, overrides: list[str]) -> None:
    """Run the benchmark; by default with all schemes and extensions."""
    values["schemes"] = values["schemes"] or choices("position")
    values["extensions"] = values["extensions"] or choices("extend")
    run_sections(validate(Benchmark, values), overrides)


if __name__ == "__main__":
    command_line("benchmark", run_command)
