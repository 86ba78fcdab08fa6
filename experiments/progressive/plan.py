"""The plan of a progressive extension: its stages, checked settings and description."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from conf.base import BadInput, Count, CountOrZero, Listed, Settings
from experiments.lab.finetuning import Factors, check_batch, existing_base, fine_tuned
from experiments.lab.launch import Launcher, tokens
from experiments.lab.measure.held_out import trained_corpus
from experiments.lab.measure.perplexity import Measurement
from experiments.lab.measure.subject import open_subject
from experiments.lab.speed import duration, training_seconds
from experiments.longrope import Longer, Recovery, Searching

if TYPE_CHECKING:
    from conf.schema import Config

Steps = Annotated[tuple[CountOrZero, ...], Listed]


class Progressive(Settings):
    """The stages, their search and fine-tuning, and the measurement, as in conf/progressive.yaml."""

    factors: Factors
    steps: Steps
    lr: float | None = Field(None, gt=0)
    search: Longer
    segments: Count = 128
    split: Literal["validation", "test"] = "test"

    @model_validator(mode="after")
    def _stages(self):
        if len(self.factors) < 2 or list(self.factors) != sorted(set(self.factors)):
            raise ValueError(f"factors={list(self.factors)} must be two or more, each above the one before it")
        if len(self.steps) != len(self.factors):
            raise ValueError(f"steps={list(self.steps)} must have a number for each of factors={list(self.factors)}")
        if not any(self.steps):
            raise ValueError(f"steps={list(self.steps)} tune nothing: a search at factors[-1] alone is the same")
        return self

    @property
    def recovery(self) -> Recovery:
        """The settings of the recovery at the end, like those of the searches."""
        return Recovery(**{key: value for key, value in self.search if key in Searching.model_fields})


@dataclass(frozen=True)
class Stages:
    """The plan of a progressive extension.

    base: the base model's settings for fine-tuning runs; placeholders: these runs without the factors yet to be
    searched; searched: number of texts a candidate is scored on, by their length.
    """

    checkpoint: Path
    settings: Progressive
    base: "Config"
    reading: Measurement
    searched: dict[int, int]
    placeholders: list["Config"]
    launcher: Launcher
    jobs_on_gpu: int

    @property
    def windows(self) -> list[int]:
        """The windows of the stages, in tokens."""
        return [self.base.window * factor for factor in self.settings.factors]

    @property
    def folder(self) -> Path:
        stages = "-".join(f"x{s}-n{n}" for s, n in zip(self.settings.factors, self.settings.steps, strict=True))
        subject = open_subject(self.checkpoint, None, self.base.cache, None, self.settings.search.precision)
        key = subject.key("progressive", self.settings)
        return subject.folder("progressive") / f"{self.checkpoint.stem}-{stages}-{key}"


def make_stages(checkpoint: Path, settings: Progressive, launcher: Launcher, jobs_on_gpu: int = 1, **changes) -> Stages:
    """Make the plan of a progressive extension and check that it can be carried out.

    Args:
        changes: plain values that replace the base run's in fine-tuning runs, such as {"logger": {…}}.

    Raises:
        BadInput: the model was extended already or has no frequencies, or texts or batches do not fit.
    """
    from conf.load import load_model
    from experiments.lab.measure.segments import cut
    from experiments.longrope import needle_texts

    base = existing_base(checkpoint, **changes)
    longrope = {"name": "longrope", "factor": float(settings.factors[-1])}
    _, config, record = load_model(checkpoint, longrope)
    check_batch(base, "factors", settings.factors)

    corpus, window = trained_corpus(checkpoint, config, record, base.cache), base.window
    if window < 8:
        raise BadInput(f"window={window} of the base model is too short: an eighth of it is scored, at least 8 needed")
    stages = (*zip(settings.factors, settings.steps, strict=True), (settings.factors[-1], sum(settings.steps)))
    placeholders = [  # so that invalid runs are refused before any search
        fine_tuned(base, checkpoint, tuning_changes(base, longrope, factor, steps, settings.lr))
        for factor, steps in stages
        if steps
    ]
    lengths = [window, *(window * factor for factor in settings.factors)]
    doubled = (window * 2**power for power in range(1, settings.factors[-1].bit_length()))
    contexts = sorted({window // 2, *lengths, *doubled})
    split, segments = settings.split, settings.segments
    reading = Measurement(
        contexts=contexts,
        stride=max(1, window // 8),
        segments=segments,
        split=split,
        precision=settings.search.precision,
    )
    counts = {length: max(1, settings.search.tokens // length) for length in lengths}
    cut(corpus.split(split), lengths[-1] + 1, segments)
    if settings.search.fitness == "needle":
        needle_texts(corpus, config.data.retrieval, "validation", window, 1, 0)
    searched = {length: len(cut(corpus.split("validation"), length + 1, counts[length]).tokens) for length in lengths}
    searched = counts if settings.search.fitness == "needle" else searched
    return Stages(checkpoint, settings, base, reading, searched, placeholders, launcher, jobs_on_gpu)


def tuning_changes(base: "Config", extend: dict, factor: int, steps: int, lr: float | None) -> dict:
    """The settings in which a fine-tuning run differs from the base run."""
    changes = {"extend": extend, "window": base.window * factor, "steps": steps, "log_every": 1}
    return changes | ({"optimizer.lr": lr} if lr else {})


def describe(stages: Stages) -> str:
    """Describe the plan: stages, tokens, candidates, and the time of training."""
    settings, base = stages.settings, stages.base
    candidates, per_step, last = settings.search.candidates, base.batch * base.window, stages.windows[-1]

    def searching(length: int) -> str:
        return f"search at {length} tokens, about {candidates} candidates on {stages.searched[length]} texts"

    def tuning(steps: int) -> str:
        return f"fine-tune {steps} steps of {per_step:,} tokens" if steps else "no fine-tuning"

    lines = [f"Progressive extension of {base.name}, trained on {base.window} tokens:"]
    for number, (window, steps) in enumerate(zip(stages.windows, settings.steps, strict=True), 1):
        lines.append(f"  stage {number}: {searching(window)}; {tuning(steps)}")
    lines.append(f"  recovery: {searching(base.window)}")
    lines.append(f"  direct: {searching(last)}, on the base model; {tuning(sum(settings.steps))}")
    read = candidates * sum(stages.searched[length] * length for length in (*stages.windows, base.window, last))
    seconds, _ = training_seconds(stages.placeholders, [base, *stages.placeholders])
    lines.append(
        f"To do, but for what is there already: {read / 1e6:.1f} M tokens to search on, "
        f"{sum(map(tokens, stages.placeholders)) / 1e6:.2f} M to train on in about {duration(seconds)}, and readings "
        f"at {', '.join(map(str, stages.reading.contexts))} tokens."
    )
    return "\n".join(lines)
