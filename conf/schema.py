"""The typed, frozen form of a training run's configuration: what Hydra composes must satisfy it, or is refused."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import AfterValidator, Field, model_validator

from conf.base import BadInput, Count, CountOrZero, Counts, PathText, Project, Settings, Tags
from data.settings import DataSettings
from models.gpt import Shape, knob
from models.longce import LongCE
from models.optimizers import Optimizer
from models.positions import EXTENSIONS, SCHEMES, SEEN, SPECTRA, Plan


def one_of(table: dict) -> object:
    """The type 'settings of one of these classes, told apart by name'."""
    settings = tuple(getattr(entry, "Knobs", entry) for entry in table.values())
    return Annotated[Union[settings], Field(discriminator="name")] if len(settings) > 1 else settings[0]  # noqa: UP007


if TYPE_CHECKING:  # which class it is shows when a program runs
    PositionSettings = Any
    ExtendSettings = Any
    FrequencySettings = Any
    SeenSettings = Any
else:
    PositionSettings = one_of(SCHEMES)
    ExtendSettings = one_of(EXTENSIONS)
    FrequencySettings = one_of(SPECTRA)
    SeenSettings = one_of(SEEN)


class Trainer(Settings):
    """Where and how a run is computed, as in conf/trainer."""

    name: str
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Annotated[Count, Field(le=1024)]  # on each node
    nodes: Annotated[Count, Field(le=1024)] = 1
    strategy: Literal["auto", "ddp", "fsdp"]
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"]
    accumulate: Count
    compile: bool
    activation_checkpointing: bool = False
    progress: bool

    def check_single(self, what: str) -> None:
        """Refuse several processes a run for `what`, which trains many: each process would start the command anew.

        Raises:
            BadInput: it says so.
        """
        if self.devices * self.nodes > 1:
            raise BadInput(f"{what} trains on one device per job: set trainer.devices=1, or launch the runs one by one")


class Logger(Settings):
    """Where metrics go besides the run's own folder, as in conf/logger.

    mode auto means: WANDB_MODE if it is set, else online when an API key is known, else offline. tags: beside those
    that say what a run is.
    """

    name: Literal["wandb", "csv", "none"]
    project: Project = "positions"
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    tags: Tags = ()


class Computed(Settings):
    """How the runs of a plan are computed and logged, all alike."""

    trainer: Trainer
    logger: Logger


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) or len(name) > 120:
        raise ValueError(
            f"{name!r} is no name of a folder: it has letters, digits, '.', '-' and '_', begins with none of '.' and "
            "'-', and is no longer than 120"
        )
    if name == "wandb":
        raise ValueError("'wandb' is the folder of Weights & Biases: take another name")
    return name


FolderName = Annotated[str, AfterValidator(_folder_name)]  # of one folder below runs/, never out of it


class Config(Settings):
    """One training run. Every key is a key of the command line; defaults are in conf/config.yaml."""

    seed: CountOrZero
    group: FolderName
    name: FolderName
    runs: PathText
    cache: PathText
    checkpoint: PathText | None  # fine-tune from here; None trains from scratch
    model: Shape
    position: PositionSettings
    frequencies: FrequencySettings
    extend: ExtendSettings
    layers: Plan = Field(Plan(), exclude_if=lambda plan: plan == Plan())  # younger than the first runs
    seen: SeenSettings  # positions of the tokens of a training window; measuring is always contiguous
    data: DataSettings
    optimizer: Optimizer
    longce: LongCE = Field(LongCE(), exclude_if=lambda longce: longce == LongCE())  # younger than the first runs
    trainer: Trainer
    logger: Logger

    window: Count
    original_window: Count  # what the model was first trained on: extension factors refer to it
    batch: Count
    steps: Count
    log_every: Count
    validate_every: Count
    validation_windows: Count
    checkpoint_every: Count
    snapshots: Counts
    # The share of exact answers in validation at which training ends, of data=tasks; None: after `steps`.
    stop_at: float | None = knob(None, gt=0, le=1)

    @model_validator(mode="after")
    def _fits(self):
        share = self.trainer.accumulate * self.trainer.devices * self.trainer.nodes
        if self.batch % share:
            raise ValueError(
                f"batch={self.batch} must be a multiple of trainer.accumulate x devices x nodes, here {share}"
            )
        for key, limit in (("layers", 1_000), ("width", 2**17)):  # a crafted checkpoint may ask for any
            if getattr(self.model, key) > limit:
                raise ValueError(f"model.{key}={getattr(self.model, key)} must be at most {limit}")
        if self.trainer.strategy == "fsdp" and self.optimizer.name == "muon":
            raise ValueError(
                "optimizer=muon needs whole matrices, and trainer.strategy=fsdp has rows of them: take adamw, or ddp"
            )
        if self.seen.cuts and self.data.retrieval.fraction:
            raise ValueError(f"seen={self.seen.name} would cut keys from questions: set data.retrieval.fraction=0")
        if getattr(self.seen, "longest", self.window) < self.window:
            raise ValueError(f"seen.longest={self.seen.longest} must be at least window={self.window}")
        if self.data.source != "prepared":  # whose folder says what it holds: train.py asks then
            self.fits_answers(self.data.source == "tasks")
        if self.longce.short is not None and self.longce.short >= self.window:
            raise ValueError(f"longce.short={self.longce.short} must be below window={self.window}")
        if self.longce.short is not None and self.seen.name != "contiguous":
            raise ValueError(f"longce.short={self.longce.short} reads short contexts contiguously: set seen=contiguous")
        if any(step > self.steps for step in self.snapshots):
            raise ValueError(f"snapshots={list(self.snapshots)} must not lie beyond steps={self.steps}")
        return self

    def fits_answers(self, answers: bool) -> None:
        """Refuse what a corpus with answers, as data=tasks, cannot have, or one without.

        Raises:
            BadInput: it names the setting.
        """
        if not answers and self.stop_at is not None:
            raise BadInput(f"stop_at={self.stop_at} needs answers that can be exact, as data=tasks has them")
        if answers and self.seen.cuts:
            raise BadInput(f"seen={self.seen.name} would cut answers from their questions: data=tasks is read whole")
