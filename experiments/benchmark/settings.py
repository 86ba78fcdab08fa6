"""The settings of a benchmark, as in conf/benchmark.yaml: its sections and the settings of each."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from conf.base import Count, Counts, Different, Listed, Names, PathText, Settings
from conf.overrides import choices
from data.settings import DataSettings

SECTIONS = ("ceiling", "step", "schemes", "extensions", "attention", "levers", "profile", "evaluation")
SECTIONS += ("compiled", "seeds", "search_speed", "time_to_loss", "time_to_optimum", "sweep")


def _known(group: str) -> AfterValidator:
    """Refuse names that are no choices of a group of the configuration."""

    def check(names):
        allowed = choices(group)
        if unknown := [name for name in ([names] if isinstance(names, str) else names) if name not in allowed]:
            raise ValueError(f"{', '.join(unknown)} is not known; allowed: {', '.join(allowed)}")
        return names

    return AfterValidator(check)


def _cell(value):
    """ "micro/1024" → ("micro", 1024)."""
    model, _, tokens = str(value).partition("/")
    if model not in choices("model") or not tokens.isdigit() or int(tokens) < 1:
        raise ValueError(f"{value} must be a model and tokens, such as nano/256; models: {', '.join(choices('model'))}")
    return model, int(tokens)


Cell = Annotated[tuple[str, int], BeforeValidator(_cell)]
Cells = Annotated[tuple[Cell, ...], Listed, Different, Field(min_length=1)]
Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Listed, Different, Field(min_length=1)]


class TimeToLoss(Settings):
    """The runs of the time_to_loss section and their target."""

    run: Names  # overrides of train.py
    rates: Annotated[
        dict[str, Rates], Field(min_length=1), _known("optimizer")
    ]  # optimizer → learning rates; the first is the reference
    steps: Annotated[Counts, Field(min_length=1)]
    every: Count
    target: float | None

    @model_validator(mode="after")
    def _fits(self):
        if 2 * self.every > min(self.steps):
            raise ValueError(f"every={self.every} must be at most half of every run's steps, here {min(self.steps)}")
        return self


class TimeToOptimum(TimeToLoss):
    """The runs of the time_to_optimum section; the target is `within` above the loss of the best reader."""

    within: float = Field(gt=0)
    peers: dict[Literal["transformers Llama", "transformers GPT-2", "x-transformers", "litgpt"], Rates]
    target: None = None


class Sweep(Settings):
    """The jobs of the sweep section and how many run at once."""

    run: Names  # overrides of train.py
    at_once: Annotated[Counts, Field(min_length=1)] | None
    rounds: int = Field(ge=2)
    alone: Count


class SearchSpeed(Settings):
    """The model, texts and batch sizes of the search_speed section."""

    model: Annotated[str, _known("model")]
    window: Count
    factor: float = Field(gt=1)
    candidates: Count
    texts: Annotated[Counts, Field(min_length=1)]
    batch_tokens: Annotated[Counts, Field(min_length=1)]


class Rounds(Settings):
    """The settings of alternating timings, of the text, and the folder of results."""

    tokens: Count | None
    compile: bool | None
    repeats: Count
    seconds: float = Field(gt=0, le=3600)
    budget: float = Field(gt=0)
    folder: PathText | None
    cache: PathText
    data: DataSettings


class Benchmark(Rounds):
    """The settings of the benchmark, as in conf/benchmark.yaml."""

    sections: Annotated[tuple[Literal[SECTIONS], ...], Listed, Different, Field(min_length=1)]
    step_at: Cells
    compiled_at: Cells
    seeds_at: Cells
    schemes_at: Cells
    schemes: Annotated[Names, _known("position")]
    extensions: Annotated[Names, _known("extend")]
    levers_at: Cells
    read_at: Cells
    readers: Annotated[Names, _known("position")]
    bounded: Count
    search_speed: SearchSpeed
    time_to_loss: TimeToLoss
    time_to_optimum: TimeToOptimum
    sweep: Sweep
