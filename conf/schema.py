"""The typed, frozen form of a training run's configuration: what Hydra composes must satisfy it, or is refused."""

from typing import Annotated, Literal, Union

from pydantic import Field, ValidationError, model_validator

from conf.base import BadInput, Count, CountOrZero, Counts, Settings, Words
from data.settings import DataSettings
from models.gpt import Shape
from models.language_model import Optimizer
from models.positions import EXTENSIONS, SCHEMES, SEEN, SPECTRA


def one_of(table: dict) -> object:
    """The type 'settings of one of these classes, told apart by name'."""
    settings = tuple(getattr(entry, "Knobs", entry) for entry in table.values())
    return Annotated[Union[settings], Field(discriminator="name")] if len(settings) > 1 else settings[0]  # noqa: UP007


PositionSettings = one_of(SCHEMES)
ExtendSettings = one_of(EXTENSIONS)
FrequencySettings = one_of(SPECTRA)
SeenSettings = one_of(SEEN)


class Trainer(Settings):
    """Where and how a run is computed, as in conf/trainer."""

    name: str
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Count  # on each node
    nodes: Count = 1
    strategy: Literal["auto", "ddp", "fsdp"]
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"]
    accumulate: Count
    compile: bool
    activation_checkpointing: bool = False
    progress: bool


class Logger(Settings):
    """Where metrics go besides the run's own folder, as in conf/logger.

    mode auto means: WANDB_MODE if it is set, else online when an API key is known, else offline. tags: beside those
    that say what a run is.
    """

    name: Literal["wandb", "csv", "none"]
    project: str = "positions"
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    tags: Words = ()


class Config(Settings):
    """One training run. Every key is a key of the command line; defaults are in conf/config.yaml."""

    seed: CountOrZero
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=120)]
    runs: str
    cache: str
    checkpoint: str | None  # fine-tune from here; None trains from scratch
    original_window: Count  # what the model was first trained on: extension factors refer to it

    model: Shape
    position: PositionSettings
    frequencies: FrequencySettings
    extend: ExtendSettings
    seen: SeenSettings  # positions of the tokens of a training window; measuring is always contiguous
    data: DataSettings
    optimizer: Optimizer
    trainer: Trainer
    logger: Logger

    window: Count
    batch: Count
    steps: Count
    log_every: Count
    validate_every: Count
    validation_windows: Count
    checkpoint_every: Count
    snapshots: Counts

    @model_validator(mode="after")
    def _fits(self):
        share = self.trainer.accumulate * self.trainer.devices * self.trainer.nodes
        if self.batch % share:
            raise ValueError(
                f"batch={self.batch} must be a multiple of trainer.accumulate x devices x nodes, here {share}"
            )
        if self.trainer.strategy == "fsdp" and self.optimizer.name == "muon":
            raise ValueError(
                "optimizer=muon needs whole matrices, and trainer.strategy=fsdp has rows of them: take adamw, or ddp"
            )
        if self.seen.cuts and self.data.retrieval.fraction:
            raise ValueError(f"seen={self.seen.name} would cut keys from questions: set data.retrieval.fraction=0")
        if getattr(self.seen, "longest", self.window) < self.window:
            raise ValueError(f"seen.longest={self.seen.longest} must be at least window={self.window}")
        if any(step > self.steps for step in self.snapshots):
            raise ValueError(f"snapshots={list(self.snapshots)} must not lie beyond steps={self.steps}")
        return self


def validate(schema: type[Settings], values: dict) -> Settings:
    """Turn plain values into frozen settings.

    Raises:
        BadInput: one sentence for the first fault, naming the key, its value and what is allowed.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise BadInput(_sentence(error.errors()[0], values)) from None


def _sentence(fault: dict, values: dict) -> str:
    """A pydantic fault, in words: key = value, and what is allowed there."""
    here, keys = values, []
    for part in fault["loc"]:  # a discriminator's tag is in the path but not in the values
        inside = part in here if isinstance(here, dict) else isinstance(part, int) and isinstance(here, list | tuple)
        if inside:
            here = here[part]
        elif part in _names():
            continue
        keys.append(str(part))
    key = ".".join(keys)
    if fault["type"] == "extra_forbidden":
        return f"{key}={fault['input']} is not a setting; allowed beside it: {_beside(keys, values)}"
    if fault["type"] == "missing":
        return f"{key} is not set, and it has no default"
    if fault["type"] == "union_tag_invalid":
        context = fault["ctx"]
        return f"{key}={context['tag']} is not known; allowed: {context['expected_tags']}".replace("'", "")
    if fault["type"] == "value_error":
        return (f"{key}: " if key else "") + str(fault["ctx"]["error"])
    said = fault["msg"].removeprefix("Input ")
    return f"{key}={fault['input']!r} {said}"


def _names() -> set[str]:
    return {*SCHEMES, *EXTENSIONS, *SPECTRA, *SEEN, "sotu", "files", "hub", "chains", "prepared"}


def _beside(keys: list[str], values: dict) -> str:
    """The keys that stand beside an unknown one."""
    parent = values
    for key in keys[:-1]:
        parent = parent[key]
    return ", ".join(key for key in parent if key != keys[-1]) or "none"
