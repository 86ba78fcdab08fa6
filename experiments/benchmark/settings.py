"""The settings of a benchmark, as in conf/benchmark.yaml: its sections and the settings of each."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from conf.base import Count, Counts, Listed, PathText, Settings
from conf.compose import FOLDER
from data.settings import DataSettings

SECTIONS = ("ceiling", "step", "schemes", "extensions", "levers", "profile")
SECTIONS += ("evaluation", "search_speed", "time_to_loss", "sweep")


def choices(group: str) -> list[str]:
    """The names of the choices in a group of the configuration."""
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
    """The runs of the time_to_loss section and their target."""

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
    """The jobs of the sweep section and how many run at once."""

    run: Names  # overrides of train.py
    at_once: Annotated[Counts, Field(min_length=1)] | None
    rounds: int = Field(ge=2)


class SearchSpeed(Settings):
    """The model, texts and batch sizes of the search_speed section."""

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
    """The settings of the benchmark, as in conf/benchmark.yaml."""

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
    folder: PathText | None
    cache: PathText
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
