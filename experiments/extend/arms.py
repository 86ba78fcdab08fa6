"""What the extension study asks: its settings, its arms, and the training runs they are made of.

An arm is a scheme read by a method at a factor s, from L tokens, the window its base model was trained on, to s·L.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from conf.base import BadInput, Count, Counts, Listed, Settings
from experiments.lab.finetuning import customary

if TYPE_CHECKING:
    from conf.schema import Config

PLAIN, CONTROL = "none", "control"  # what the others are held to: extrapolation; fine-tuning at the window there was
DECODED = "-decoded"  # after the name of a method that depends on the length of the text: what decoding makes of it
# Methods that are never fine-tuned, and why.
ZERO_SHOT = {
    "dynamic_ntk": "its frequencies follow the length of the text read, and windows of one length would teach one set",
    "self_extend": "meant for models as they were trained",
    "rerope": "meant for models as they were trained",
}
TUNED_AT_ONE = (CONTROL, "drop")  # fine-tuned at L, whatever the factor: DroPE recalibrates where a model is at home

Names = Annotated[tuple[str, ...], Listed, Field(min_length=1)]
Methods = Annotated[tuple[str | dict, ...], Listed, Field(min_length=1)]
Factors = Annotated[tuple[Annotated[Count, Field(ge=2)], ...], Listed, Field(min_length=1)]


class Study(Settings):
    """What is asked of the base models, as in conf/extend_study.yaml."""

    positions: Names
    extends: Methods
    factors: Factors
    finetune_steps: Annotated[Counts, Field(min_length=1)]
    finetune_lr: float | None = Field(gt=0)
    progressive: bool
    segments: Count
    split: Literal["validation", "test"]
    passkey: bool
    depths: Count
    trials: Count


class _Asked(Settings):
    study: Study


def asked(values: dict) -> Study:
    """The settings of a study from plain values.

    Raises:
        BadInput: one sentence for the first fault; a method that no scheme could be read by is one.
    """
    from conf.schema import validate
    from models.positions import EXTENSIONS

    study = validate(_Asked, {"study": values}).study
    for method in study.extends:
        if _settings(method).get("name") not in EXTENSIONS:
            raise BadInput(f"study.extends={method} is not known; allowed: {', '.join(EXTENSIONS)}")
        if "factor" in _settings(method):
            raise BadInput(f"study.extends={method} names a factor: factors are study.factors, for every method")
    labels = [_label(method) for method in study.extends]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise BadInput(f"study.extends has {twice[0]} twice: methods need names, settings or files of different names")
    if PLAIN not in study.extends:
        raise BadInput("study.extends must have none: extrapolation is what the others are held to")
    return study


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
    def readings(self) -> tuple[str, ...]:
        """How its texts are read (readings.Pass): whole windows at once, and as decoded where that differs."""
        return ("whole", "decoded") if self.depends_on_length else ("whole",)

    @property
    def label(self) -> str:
        """Method and factor, as far as it has one, in a file name."""
        return f"{self.method}{self.factor}" if "factor" in self.extend else self.method

    @property
    def tuning(self) -> int:
        """Steps of its fine-tuning run; 0 if it has none."""
        return max(self.steps)


def named(method: str) -> str:
    """A method in words."""
    return "extrapolation" if method == PLAIN else method


def arms(base: "Config", study: Study) -> tuple[list[Arm], list[str]]:
    """The arms of a scheme, and in a sentence each those that it cannot have.

    Raises:
        BadInput: the scheme cannot even be extrapolated as far as the study reads.
    """
    position, longest = base.position.name, base.window * max(study.factors)
    found, left_out = [], []
    for method in study.extends:
        name, label = _settings(method)["name"], _label(method)
        tuned = () if name in ZERO_SHOT else study.finetune_steps
        wanted = []
        if _takes_factor(method):
            for factor in study.factors:
                stretched = {**_settings(method), "factor": float(factor)}
                wanted.append(Arm(position, label, factor, stretched, (0, *tuned)))
        else:
            apart = name not in TUNED_AT_ONE  # one reading of the base model, and fine-tuning at every window
            wanted.append(Arm(position, label, 1, _settings(method), (0,) if apart else (0, *tuned)))
            if apart and tuned:
                wanted += [Arm(position, label, factor, _settings(method), tuned) for factor in study.factors]
        for arm in wanted:
            try:
                depends_on_length = _depends_on_length(base, arm.extend, longest)
            except BadInput as error:
                if label == PLAIN:
                    raise BadInput(f"study.positions={position} cannot be read at {longest} tokens: {error}") from None
                left_out.append(str(error))
            else:
                found.append(replace(arm, depends_on_length=depends_on_length))
    found.append(Arm(position, CONTROL, 1, {"name": PLAIN}, study.finetune_steps))
    return found, list(dict.fromkeys(left_out))


def _settings(method: str | dict) -> dict:
    return {"name": method} if isinstance(method, str) else method


def _label(method: str | dict) -> str:
    """A method's name, and the settings it was given, in a file name; a file's own without its folders."""
    given = _settings(method)
    given = given | {"path": Path(given["path"]).stem} if isinstance(given.get("path"), str) else given
    told = [re.sub(r"[^A-Za-z0-9.]+", "_", f"{key}{value}") for key, value in given.items() if key != "name"]
    return "-".join([given["name"], *told])


def _takes_factor(method: str | dict) -> bool:
    """Whether the method is another one at another factor, which its label then says."""
    from models.positions import EXTENSIONS

    given = _settings(method)
    knobs = EXTENSIONS[given["name"]].Knobs
    if "factor" not in knobs.model_fields:
        return False
    try:
        low, high = (knobs.model_validate({**given, "factor": factor}).label for factor in (2.0, 3.0))
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
    from models.positions import build_position

    config = resolve({**base.model_dump(mode="json", exclude={"original_window"}), "extend": extend}, [])
    geometry = config.model.geometry(base.window)
    position = build_position(config.position, config.frequencies, config.extend, geometry)
    position.prepare(position.extension.positions(torch.arange(length, dtype=torch.float32)))
    return position.extension.depends_on_length


def base_config(scale: dict, overrides: Sequence[str], position: str) -> "Config":
    """The base run of a scheme: as the overrides say, of the size that the scale or an experiment gives it.

    Raises:
        BadInput: it has two sizes, or cannot be composed.
    """
    from conf.compose import compose_values
    from conf.resolve import resolve

    told = [word for word in overrides if not word.startswith(("study.", "position=", "scale="))]
    given = {word.lstrip("+~").split("=")[0] for word in told}
    size = [f"group=extend-{scale['name']}", *scale["train"]]
    if "experiment" in given:
        size = []
        if named_twice := [word for word in overrides if word.startswith("scale=")]:
            raise BadInput(f"{named_twice[0]}: an experiment has a size of its own, so leave one of the two out")
    unused = {"snapshots", "validation_windows"}  # a study reads the last checkpoint, and measures on its own
    size = [word for word in size if word.split("=")[0] not in given | unused]
    return resolve(compose_values("config", [*size, *told, f"position={position}"]), told)


def check_batch(base: "Config", key: str, factors: Sequence[int]) -> None:
    """Refuse factors at which a step of fine-tuning cannot have as many tokens as one of the base run.

    Raises:
        BadInput: one sentence with the setting the factors come from.
    """
    for factor in factors:
        if base.batch % factor:
            raise BadInput(
                f"batch={base.batch} must be a multiple of {factor} in {key}={list(factors)}, for equal tokens a step"
            )


def tuned_name(base: "Config", arm: Arm, study: Study) -> str:
    """The name of an arm's fine-tuning run."""
    name = f"{base.name}-tuned-{arm.label}-w{base.window * arm.factor}-n{arm.tuning}"
    return f"{name}-progressive" if study.progressive else name


def finetune_config(base: "Config", checkpoint: Path, arm: Arm, study: Study) -> "Config":
    """The fine-tuning run of an arm; every number of steps at which it is measured leaves a checkpoint."""
    window, name, snapshots = base.window * arm.factor, tuned_name(base, arm, study), study.finetune_steps
    return tuning_config(base, checkpoint, name, arm.extend, window, arm.tuning, study.finetune_lr, snapshots)


def tuning_config(
    base: "Config",
    checkpoint: Path,
    name: str,
    extend: dict,
    window: int,
    steps: int,
    lr: float | None,
    snapshots: Sequence[int] = (),
) -> "Config":
    """A fine-tuning run at another window and extension, with as many tokens a step as the base run had.

    Args:
        checkpoint: where it starts; lr: constant after a warmup of a tenth of the steps, a quarter of the base run's
            if None.

    Raises:
        BadInput: the extension cannot read the scheme.
    """
    from conf.resolve import resolve

    values = base.model_dump(mode="json", exclude={"original_window"})
    values |= customary(values, values, window, steps) | {"snapshots": list(snapshots)}
    if lr:
        values["optimizer"]["lr"] = lr
    values |= {"name": name, "checkpoint": str(checkpoint), "extend": extend}
    values |= {"window": window, "steps": steps, "log_every": 1}
    return resolve(values, ["extend", "window", "data"])
