"""From composed values to the Config of one run: what comes from a checkpoint is filled in, all is checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.names import run_name

if TYPE_CHECKING:
    from conf.schema import Config

# What a fine-tuned model takes over from its checkpoint; the first three cannot be changed after training.
FIXED, INHERITED = ("model", "position", "frequencies"), ("extend", "data", "window")


def resolve(values: dict, overrides: Sequence[str], trained: dict | None = None) -> "Config":
    """Plain composed values → Config: what comes from a checkpoint is filled in, the run is named, all is checked.

    Args:
        trained: settings of the run that will leave the checkpoint, for a plan made before it is there; None reads
            them from it.

    Raises:
        BadInput: an unknown key, a wrong type, an impossible value or combination, a checkpoint that cannot be read.
    """
    from conf.schema import Config, validate
    from models.restore import make_position, read_record

    if "original_window" in values:
        raise BadInput("original_window is not a setting: it is the window, or comes from the checkpoint")
    values = {key: value for key, value in values.items() if key != "study"}  # an experiment's, for experiments/extend
    given = {override.lstrip("+~").split("=")[0] for override in overrides}
    if not isinstance(values.get("checkpoint"), str | None):
        raise BadInput(f"checkpoint={values['checkpoint']} must be a path")
    if values.get("checkpoint") is not None:
        values = _inherit(values, given, trained or read_record(Path(values["checkpoint"]))["config"])
    else:
        values = {**values, "original_window": values["window"]}
    config = validate(Config, {**values, "name": values["name"] or "unnamed"})
    position = make_position(config)  # refuses what only shows when the scheme meets the model and the extension
    config.seen.fits(config.window, position.extension)
    return config if values["name"] else config.model_copy(update={"name": run_name(config, overrides)})


def _inherit(values: dict, given: set[str], trained: dict) -> dict:
    """Fill in what a fine-tuned run takes from that of its checkpoint, unless the command line says otherwise."""
    groups = {key.split(".")[0] for key in given}
    if fixed := sorted(groups & set(FIXED)):
        raise BadInput(f"{fixed[0]} comes from checkpoint={values['checkpoint']} and cannot be changed after training")
    taken = {key: trained[key] for key in (*FIXED, *INHERITED) if key not in groups}
    return {**values, **taken, "original_window": trained["original_window"]}
