"""Settings of fine-tuning runs: by default as many tokens per step as the base run, at a lower learning rate."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from conf.base import BadInput, Count, Different, Listed
from conf.run_folder import RunFolder
from conf.validation import validate

if TYPE_CHECKING:
    from conf.schema import Config

Factors = Annotated[tuple[Annotated[Count, Field(ge=2)], ...], Listed, Different, Field(min_length=1)]  # windows over L
GENTLE = 4  # divides the learning rate that the model was trained with


def fine_tuned(base: "Config", checkpoint: Path, changes: dict[str, Any], root: "Config | None" = None) -> "Config":
    """The configuration of a run that fine-tunes another run's checkpoint, which need not exist yet.

    Args:
        base: the run that writes the checkpoint; its settings hold unless changed.
        changes: settings by key, `steps` among them, as {"steps": 8, "window": 64, "optimizer.lr": 1e-3}. Defaults:
            as many tokens per step as the root, its optimizer (or the one in the changes) at a quarter of the learning
            rate, constant after a warmup of a tenth of the steps, and validation at the end.
        root: the run that trained the model from scratch; None if that is the base.

    Raises:
        BadInput: the extension cannot read the scheme, or what training would refuse.
    """
    from conf.load import read_with
    from conf.resolve import resolve

    trained, whole = base.model_dump(mode="json"), (root or base).model_dump(mode="json")
    window, steps = changes.get("window", base.window), changes["steps"]
    optimizer = changes.get("optimizer", whole["optimizer"])
    gently = {"lr": optimizer["lr"] / GENTLE, "schedule": "constant", "warmup": steps // 10}
    values = {key: value for key, value in trained.items() if key != "original_window"}
    if "extend" in changes:
        changes = {**changes, "extend": read_with(trained, changes["extend"])["extend"]}
    values |= {"batch": max(1, whole["batch"] * whole["window"] // window), "validate_every": steps, "snapshots": []}
    settings = {**changes, "optimizer": optimizer | gently, "checkpoint": str(checkpoint)}
    for key in sorted(settings, key=lambda key: "." in key):  # groups, then single settings in them
        values = with_value(values, key, settings[key])
    return resolve(values, list(changes), trained)


def with_value(values: dict, key: str, value: Any) -> dict:
    """Nested settings with the value under a dotted key replaced."""
    first, _, rest = key.partition(".")
    return values | {first: with_value(values.get(first) or {}, rest, value) if rest else value}


def check_batch(base: "Config", key: str, factors: Sequence[int]) -> None:
    """Refuse factors at which a fine-tuning step cannot have as many tokens as a step of the base run.

    Raises:
        BadInput: it names the setting of the factors.
    """
    for factor in factors:
        if base.batch % factor:
            raise BadInput(
                f"batch={base.batch} must be a multiple of {factor} in {key}={list(factors)}, for equal tokens a step"
            )


def checkpoint_after(run: "Config", step: int | None = None) -> Path:
    """The path of a run's last checkpoint, or of its snapshot after `step` steps; it need not exist."""
    name = f"step-{run.steps:08d}" if step is None else f"snapshot-{step:08d}"
    return RunFolder.of(run).checkpoints / f"{name}.ckpt"


def existing_base(checkpoint: Path, **changes) -> "Config":
    """The settings of the run that wrote a checkpoint, with the present location of its folder.

    A shipped model and a lone file say themselves where runs that go on from them belong.

    Args:
        changes: plain values that replace its own, such as {"logger": {…}, "cache": "…"}.

    Raises:
        BadInput: the model was extended or fine-tuned at another window, or the checkpoint cannot be read.
    """
    from conf.schema import Config
    from models.checkpoint_files import home
    from models.restore import read_record

    trained = read_record(checkpoint)["config"]
    extend, window = trained["extend"]["name"], trained["window"]
    if extend != "none" or window != trained["original_window"]:
        how = f"window={window}" if extend == "none" else f"extend={extend}"
        raise BadInput(f"checkpoint={checkpoint} was extended already ({how}): this starts from a base model")
    if home(checkpoint) not in (checkpoint, checkpoint.parent):  # it lies in a run, wherever that is by now
        run = Path(os.path.abspath(home(checkpoint)))
        trained = {**trained, "runs": os.path.relpath(run.parent.parent), "group": run.parent.name}
    return validate(Config, {**trained, **changes})
