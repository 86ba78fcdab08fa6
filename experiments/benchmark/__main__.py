"""The benchmark's command line: what is asked, the sections in turn, and what is kept of them.

    python -m experiments.benchmark sections=[step] step_at=[nano/256,micro/1024]

Each section leaves <section>.json and <section>.txt in the folder as soon as it is done, both with the device, the
versions and the command, so that sections may come from several runs.
"""

import shlex
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from conf.base import Count, Counts, Listed, Settings
from conf.compose import FOLDER, command_line
from conf.environment import environment
from conf.files import write_json
from data.settings import DataSettings

if TYPE_CHECKING:
    from experiments.benchmark.workbench import Workbench

SECTIONS = ("ceiling", "step", "schemes", "extensions", "levers", "profile")
SECTIONS += ("evaluation", "search_speed", "time_to_loss", "sweep")
PEER_PACKAGES = ("transformers", "x-transformers", "litgpt")


def choices(group: str) -> list[str]:
    """What a group of the configuration offers."""
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))


Names = Annotated[tuple[str, ...], Listed, Field(min_length=1)]


def _cell(value):
    """ "micro/1024" → ("micro", 1024)."""
    model, _, tokens = str(value).partition("/")
    if model not in choices("model") or not tokens.isdigit() or int(tokens) < 1:
        raise ValueError(f"{value} must be a model and tokens, such as nano/256; models: {', '.join(choices('model'))}")
    return model, int(tokens)


Cell = Annotated[tuple[str, int], BeforeValidator(_cell)]
Cells = Annotated[tuple[Cell, ...], Listed, Field(min_length=1)]
Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Listed, Field(min_length=1)]


class TimeToLoss(Settings):
    """Which runs race to which validation loss."""

    run: Names  # overrides of train.py
    rates: dict[str, Rates] = Field(min_length=1)  # optimizer → learning rates; the first is the reference
    steps: Annotated[Counts, Field(min_length=1)]
    every: Count
    target: float | None

    @model_validator(mode="after")
    def _fits(self):
        allowed = choices("optimizer")
        if unknown := [name for name in self.rates if name not in allowed]:
            raise ValueError(f"rates: {', '.join(unknown)} is not known; allowed: {', '.join(allowed)}")
        if 2 * self.every > min(self.steps):
            raise ValueError(f"every={self.every} must be at most half of every run's steps, here {min(self.steps)}")
        return self


class Sweep(Settings):
    """Which jobs run side by side, and how many."""

    run: Names  # overrides of train.py
    at_once: Annotated[Counts, Field(min_length=1)] | None
    rounds: int = Field(ge=2)


class SearchSpeed(Settings):
    """What candidates of a search for LongRoPE's factors are scored on, and how many at once."""

    model: str
    window: Count
    factor: float = Field(gt=1)
    candidates: Count
    texts: Annotated[Counts, Field(min_length=1)]
    batch_tokens: Annotated[Counts, Field(min_length=1)]

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        if model not in (allowed := choices("model")):
            raise ValueError(f"{model} is not known; allowed: {', '.join(allowed)}")
        return model


class Benchmark(Settings):
    """What is measured, as in conf/benchmark.yaml."""

    sections: Annotated[tuple[Literal[SECTIONS], ...], Listed, Field(min_length=1)]
    step_at: Cells
    schemes_at: Cells
    schemes: Names
    extensions: Names
    levers_at: Cells
    read_at: Cells
    readers: Names
    bounded: Count
    tokens: Count | None
    compile: bool | None
    repeats: Count
    seconds: float = Field(gt=0)
    budget: float = Field(gt=0)
    folder: str | None
    cache: str
    data: DataSettings
    search_speed: SearchSpeed
    time_to_loss: TimeToLoss
    sweep: Sweep

    @model_validator(mode="after")
    def _known(self):
        for key, group in (("schemes", "position"), ("extensions", "extend"), ("readers", "position")):
            allowed = choices(group)
            if unknown := [name for name in getattr(self, key) if name not in allowed]:
                raise ValueError(f"{key}: {', '.join(unknown)} is not known; allowed: {', '.join(allowed)}")
        return self


def run_sections(settings: Benchmark, overrides: list[str]) -> Path:
    """Run every section asked for, print its table, and keep it; returns the folder."""
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
        rows = section.run(bench)
        printed = section.table(rows)
        write_json(folder / f"{name}.json", {**about, "settings": settings.model_dump(mode="json"), "rows": rows})
        (folder / f"{name}.txt").write_text(f"{heading(about)}\n\n{printed}\n")
        print(f"\n{name}\n{printed}", flush=True)
    verdicts = targets.table(folder)
    (folder / "targets.txt").write_text(f"{verdicts}\n")
    print(f"\ntargets\n{verdicts}\n\nTables and numbers: {folder}/")
    return folder


def _about(bench: "Workbench", overrides: list[str]) -> dict:
    """Device, versions, command: what one needs to run it again, and to judge it."""
    import torch

    about = environment(overrides)
    for package in PEER_PACKAGES:
        try:
            about["versions"][package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            about["versions"][package] = None
    return {
        **about,
        "command": shlex.join(["python", "-m", "experiments.benchmark", *sys.argv[1:]]),
        "device": bench.name,
        "threads": torch.get_num_threads(),
        "precision": bench.precision,
        "matmul_flops_per_second": bench.ceiling,
    }


def heading(about: dict) -> str:
    """The circumstances of a table, above it."""
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("torch", "lightning", *PEER_PACKAGES))
    return (
        f"{about['command']}\n{about['device']}, {about['threads']} threads, {about['precision']}, "
        f"{about['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s in a matrix multiplication; {versions}; "
        f"commit {(about['commit'] or 'unknown')[:9]}{' with changes' if about['changed'] else ''}\n"
        "Medians, in brackets quartiles; where rounds alternate, ratios are paired by round."
    )


def _main(values: dict, overrides: list[str]) -> None:
    from conf.schema import validate

    values["schemes"] = values["schemes"] or choices("position")
    values["extensions"] = values["extensions"] or choices("extend")
    run_sections(validate(Benchmark, values), overrides)


def main() -> None:
    """The command line."""
    command_line("benchmark", _main)


if __name__ == "__main__":
    main()
