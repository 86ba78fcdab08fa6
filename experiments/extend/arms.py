"""The settings and arms of the extension study, and the base runs that it trains.

An arm is a scheme extended by a method from L tokens, the window of its base model, to s·L tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from conf.base import BadInput, Count, Counts, Listed, Names, Settings, cannot_take
from conf.overrides import key_of
from conf.validation import validate
from data.settings import DataSettings
from experiments.lab.finetuning import Factors
from experiments.lab.measure.request import AutoPrecision
from experiments.lab.scale import Scale

if TYPE_CHECKING:
    from conf.schema import Config

# The reference arms: extrapolation, and fine-tuning at the window of the base model.
PLAIN, CONTROL = "none", "control"
DECODED = "-decoded"  # after the name of a method that depends on the length of the text, read as decoding reads it
# Methods that are never fine-tuned, and why.
ZERO_SHOT = {
    "dynamic_ntk": "its frequencies follow the length of the text read, and windows of one length would teach one set",
    "dynamic_interpolate": "its positions follow the length of the text read, as do the frequencies of dynamic_ntk",
    "self_extend": "meant for models as they were trained",
    "rerope": "meant for models as they were trained",
    "leaky_rerope": "meant for models as they were trained",
    "dca": "meant for models as they were trained",
}
OWN_KEYS = ("study", "scale", "seeds", "checkpoint", "launcher", "jobs_on_gpu")  # of the study, not of its runs
TUNED_AT_ONE = (CONTROL, "drop")  # fine-tuned at L, whatever the factor: DroPE recalibrates where a model is at home

Methods = Annotated[tuple[str | dict, ...], Listed, Field(min_length=1)]


class Study(Settings):
    """The settings of the study, as in conf/extend_study.yaml."""

    positions: Names
    extends: Methods
    factors: Factors
    tuned: Annotated[tuple[str | dict, ...], Listed] | None  # those of extends that are fine-tuned; None: all that can
    finetune_steps: Annotated[Counts, Field(min_length=1)]
    finetune_lr: float | None = Field(gt=0)
    progressive: bool
    # In tokens; None: from a quarter of the window on, and the windows.
    contexts: Annotated[Counts, Field(min_length=1)] | None
    segments: Count
    precision: AutoPrecision
    split: Literal["validation", "test"]
    data: DataSettings | None = None  # the text measured, in the base model's tokens; None: what it learned from
    passkey: bool
    depths: Count
    trials: Count

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of fine-tuning after which arms are measured; none where nothing is fine-tuned."""
        return () if self.tuned == () else tuple(sorted(self.finetune_steps))

    def tunes(self, label: str) -> bool:
        """Whether a method, by its label, is among those to fine-tune."""
        return self.tuned is None or label in map(_label, self.tuned)


class _Study(Settings):
    study: Study


def study_settings(values: dict) -> Study:
    """The settings of a study from plain values.

    Raises:
        BadInput: one sentence for the first fault; a method that no scheme could be read by is one.
    """
    from models.positions import EXTENSIONS

    study = validate(_Study, {"study": values}).study
    for key, methods in {"extends": study.extends, "tuned": study.tuned or ()}.items():
        for method in methods:
            if _settings(method).get("name") not in EXTENSIONS:
                raise BadInput(f"study.{key}={method} is not known; allowed: {', '.join(EXTENSIONS)}")
            if "factor" in _settings(method):
                raise BadInput(f"study.{key}={method} names a factor: factors are study.factors, for every method")
    labels = [_label(method) for method in study.extends]
    if others := [label for label in map(_label, study.tuned or ()) if label not in labels]:
        raise BadInput(f"study.tuned has {others[0]}, which is not in study.extends={labels}")
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise BadInput(f"study.extends has {twice[0]} twice: methods need names, settings or files of different names")
    if study.tuned and PLAIN not in study.tuned:
        raise BadInput("study.tuned must have none: direct fine-tuning is what the others are held to")
    if PLAIN not in study.extends:
        raise BadInput("study.extends must have none: extrapolation is what the others are held to")
    for method in study.extends:
        _check_settings(method, study.factors)
    return study


def _check_settings(method: str | dict, factors: Sequence[int]) -> None:
    """Refuse a method that can take its settings at none of these factors; a file of factors is for one alone.

    Whether a scheme can be read by it is asked later, of every scheme (make_arms).
    """
    from models.positions import EXTENSIONS

    settings = _settings(method)
    knobs, fault = EXTENSIONS[settings["name"]].Knobs, None
    for factor in factors:
        try:
            knobs.model_validate(settings | ({"factor": float(factor)} if "factor" in knobs.model_fields else {}))
            return
        except ValidationError as error:
            fault = error
    if fault is not None:
        raise BadInput(f"study.extends: {cannot_take(settings['name'], fault)}")


@dataclass(frozen=True)
class Arm:
    """A scheme read by a method, and the steps of fine-tuning after which it is measured (0: as it was trained).

    factor: s of the method, or of the window it is fine-tuned at; 1 where there is neither. extend: plain settings.
    depends_on_length: its early logits depend on how much text follows, so that decoding sees others than a window.
    """

    position: str
    method: str
    factor: int
    extend: dict
    steps: tuple[int, ...]
    depends_on_length: bool = False

    @property
    def passes(self) -> tuple[str, ...]:
        """How its texts are read (request.Pass): whole windows at once, and as decoded where that differs."""
        return ("whole", "decoded") if self.depends_on_length else ("whole",)

    @property
    def label(self) -> str:
        """Method and factor, as far as it has one, in a file name."""
        return f"{self.method}{self.factor}" if "factor" in self.extend else self.method

    @property
    def tuning(self) -> int:
        """Steps of its fine-tuning run; 0 if it has none."""
        return max(self.steps)

    def run_name(self, base: "Config", progressive: bool) -> str:
        """The name of its fine-tuning run from this base run."""
        name = f"{base.name}-tuned-{self.label}-w{base.window * self.factor}-n{self.tuning}"
        return f"{name}-progressive" if progressive else name


def method_name(method: str) -> str:
    """A method in words."""
    return "extrapolation" if method == PLAIN else method


def make_arms(base: "Config", study: Study) -> tuple[list[Arm], list[str]]:
    """The arms of a scheme, and in a sentence each those that it cannot have.

    Raises:
        BadInput: the scheme cannot even be extrapolated as far as the study reads.
    """
    position, longest = base.position.name, max(base.window * max(study.factors), max(study.contexts or (0,)))
    arms, left_out = [], []
    for arm in (arm for method in study.extends for arm in _arms_of(method, position, study)):
        try:
            arms.append(replace(arm, depends_on_length=_depends_on_length(base, arm.extend, longest)))
        except BadInput as error:
            if arm.method == PLAIN:
                raise BadInput(f"study.positions={position} cannot be read at {longest} tokens: {error}") from None
            left_out.append(str(error))
    if study.steps:
        arms.append(Arm(position, CONTROL, 1, {"name": PLAIN}, study.steps))
    return arms, list(dict.fromkeys(left_out))


def _arms_of(method: str | dict, position: str, study: Study) -> list[Arm]:
    """The arms of a method, whether the scheme can have them or not."""
    settings, label = _settings(method), _label(method)
    tuned = study.steps if settings["name"] not in ZERO_SHOT and study.tunes(label) else ()
    if _takes_factor(method):
        return [Arm(position, label, s, {**settings, "factor": float(s)}, (0, *tuned)) for s in study.factors]
    if settings["name"] in TUNED_AT_ONE or not tuned:
        return [Arm(position, label, 1, settings, (0, *tuned))]
    # One reading of the base model, and fine-tuning at every window.
    return [Arm(position, label, 1, settings, (0,)), *(Arm(position, label, s, settings, tuned) for s in study.factors)]


def _settings(method: str | dict) -> dict:
    return {"name": method} if isinstance(method, str) else method


def _label(method: str | dict) -> str:
    """A method's name, and the settings it was given, in a file name; of a file that a search wrote, that it did."""
    name, path, knobs = _settings(method).get("name"), _settings(method).get("path"), []
    if isinstance(path, str):
        knobs.append("searched" if Path(path).name == "factors.yaml" else Path(path).stem)
    knobs += [f"{key}{value}" for key, value in _settings(method).items() if key not in ("name", "path")]
    return "-".join([name, *(re.sub(r"[^A-Za-z0-9.]+", "_", knob) for knob in knobs)])


def _takes_factor(method: str | dict) -> bool:
    """Whether the method is another one at another factor, as its label then shows."""
    from models.positions import EXTENSIONS

    settings = _settings(method)
    knobs = EXTENSIONS[settings["name"]].Knobs
    if "factor" not in knobs.model_fields:
        return False
    try:
        low, high = (knobs.model_validate({**settings, "factor": factor}).label for factor in (2.0, 3.0))
    except ValueError:
        return True  # made for one factor, or refused at any, in the words of whoever reads it
    return low != high


def _depends_on_length(base: "Config", extend: dict, length: int) -> bool:
    """Whether an extension does; refuses, before anything is trained, a scheme that it cannot read so far.

    Raises:
        BadInput: one sentence that says why.
    """
    import torch

    from conf.resolve import resolve
    from models.restore import make_position

    values = base.model_dump(mode="json", exclude={"original_window"}) | {"checkpoint": None, "extend": extend}
    position = make_position(resolve(values, []))
    position.prepare(position.extension.positions(torch.arange(length, dtype=torch.float32)))
    return position.extension.depends_on_length


def of_study(override: str) -> bool:
    """Whether an override is for the study alone, and not for its runs."""
    return key_of(override).removeprefix("data@").split(".")[0] in OWN_KEYS


def base_runs(scale: Scale, overrides: Sequence[str], position: str, seeds: int) -> list["Config"]:
    """The base runs of a scheme, one for each seed: of the size that the scale or an experiment gives them.

    overrides: of the command line; what is not for the study alone holds for the base runs.

    Raises:
        BadInput: they have two sizes, or cannot be composed.
    """
    from conf.compose import compose_values
    from conf.resolve import resolve

    words = [word for word in overrides if key_of(word) != "position" and not of_study(word)]
    keys = {key_of(word) for word in words}
    if "experiment" in keys:
        size = []
        if scales := [word for word in overrides if word.startswith("scale=")]:
            raise BadInput(f"{scales[0]}: an experiment has a size of its own, so leave one of the two out")
    else:
        group = [] if "group" in keys else [f"group=extend-{scale.name}"]
        unused = {"snapshots", "validation_windows"}  # a study reads the last checkpoint, and measures on its own
        size = [*group, *(word for word in scale.compatible_with(words) if key_of(word) not in unused)]
    values = compose_values("config", [*size, *words, f"position={position}"])
    first = resolve(values, words)
    return [first, *(resolve({**values, "seed": first.seed + number}, words) for number in range(1, seeds))]
