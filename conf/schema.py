"""The typed, frozen form of a training run's configuration: what Hydra composes must satisfy it, or is refused."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union

from pydantic import AfterValidator, Field, ValidationError, model_validator

from conf.base import BadInput, Count, CountOrZero, Counts, PathText, Project, Settings, Tags, nearest
from data.settings import DataSettings
from models.gpt import Shape
from models.language_model import Optimizer
from models.positions import EXTENSIONS, SCHEMES, SEEN, SPECTRA


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

AnySettings = TypeVar("AnySettings", bound=Settings)


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
    seen: SeenSettings  # positions of the tokens of a training window; measuring is always contiguous
    data: DataSettings
    optimizer: Optimizer
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
        if any(step > self.steps for step in self.snapshots):
            raise ValueError(f"snapshots={list(self.snapshots)} must not lie beyond steps={self.steps}")
        return self


def validate(schema: type[AnySettings], values: dict) -> AnySettings:
    """Turn plain values into frozen settings.

    Raises:
        BadInput: one sentence for the first fault, naming the key, its value and what is allowed.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise BadInput(_sentence(error.errors(), values)) from None


# What pydantic calls things, in the words of a configuration.
WORDS = {
    "model_type": "should be a group of settings",
    "model_attributes_type": "should be a group of settings",
    "dict_type": "should be a group of settings",
    "tuple_type": "should be a list",
    "string_type": "should be text",
    "string_too_short": "should not be empty",
    "string_pattern_mismatch": "may have letters, digits, dots, hyphens and underscores alone",
}


def _sentence(faults: Sequence[Mapping], values: dict) -> str:
    """The first of pydantic's faults, in words: key = value, and what is allowed there."""
    located = [(*_locate(fault, values), fault) for fault in faults]
    key, siblings, fault = located[0]
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = [name for name in siblings if name != key.rpartition(".")[2]]
        return (
            f"{key}={plainly(fault['input'])} is not a setting; allowed beside it: {', '.join(allowed) or 'none'}"
            + nearest(key.rpartition(".")[2], allowed)
        )
    if kind == "missing":
        return f"{key} is not set, and it has no default"
    if kind == "union_tag_invalid":
        return f"{key}={context['tag']} is not known; allowed: {context['expected_tags']}".replace("'", "")
    if kind == "union_tag_not_found":
        return f"{key}={plainly(fault['input'])} should be a group of settings with a {context['discriminator']}"
    if kind == "value_error":
        return (f"{key}: " if key else "") + str(context["error"])
    if kind == "too_short":
        return f"{key}={plainly(fault['input'])} needs at least {context['min_length']} value(s)"
    # A value that may be of several kinds has a fault for each of them.
    alternatives = [other for place, _, other in located if place == key and other["type"] != "value_error"]
    messages = [WORDS.get(other["type"], re.sub("^(Input|String) ", "", other["msg"])) for other in alternatives]
    return f"{key}={plainly(fault['input'])} {' or '.join(dict.fromkeys(messages))}"


def _locate(fault: Mapping, values: dict) -> tuple[str, list[str]]:
    """The dotted key of a fault, and the keys that stand beside it.

    pydantic's path also has the tag by which the members of a union are told apart, and names of its own functions.
    """
    value, keys, tag = values, [], None
    for index, part in enumerate(fault["loc"]):
        if isinstance(value, dict) and tag is None and part in (value.get("name"), value.get("source")) and keys:
            tag = part
        elif (part in value) if isinstance(value, dict) else isinstance(part, int) and isinstance(value, list | tuple):
            value, tag = value[part], None
            keys.append(str(part))
        elif fault["type"] == "missing" and index == len(fault["loc"]) - 1:
            keys.append(str(part))
    parent = values
    for key in keys[:-1]:
        parent = parent[int(key) if isinstance(parent, list | tuple) else key]
    return ".".join(keys), list(parent) if isinstance(parent, dict) else []


def plainly(value) -> str:
    """A value as it is written in YAML, cut where it is long."""
    value = list(value) if isinstance(value, tuple) else value
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
