"""From composed values to the Config of one run: what comes from a checkpoint is filled in, all is checked."""

from collections.abc import Collection, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.names import run_name
from conf.overrides import given_keys, key_of
from conf.validation import validate

if TYPE_CHECKING:
    from conf.schema import Config

# What a fine-tuned model takes over from its checkpoint; the first three cannot be changed after training.
FIXED, INHERITED = ("model", "position", "frequencies"), ("layers", "extend", "data", "window")


def resolve(
    values: dict, overrides: Sequence[str], trained: dict | None = None, swept: Collection[str] = ()
) -> "Config":
    """Plain composed values → Config: what comes from a checkpoint is filled in, the run is named, all is checked.

    Args:
        trained: settings of the run that will leave the checkpoint, for a plan made before it is there; None reads
            them from it.
        swept: keys that a sweep is over.

    Raises:
        BadInput: an unknown key, a wrong type, an impossible value or combination, a checkpoint that cannot be read.
    """
    from conf.schema import Config
    from models.checkpoint_files import find_checkpoint
    from models.restore import make_position, read_record

    if "original_window" in values:
        raise BadInput("original_window is not a setting: it is the window, or comes from the checkpoint")
    values = {key: value for key, value in values.items() if key != "study"}  # an experiment's, for experiments/extend
    if not isinstance(values.get("checkpoint"), str | None):
        raise BadInput(f"checkpoint={values['checkpoint']} must be a path")
    if values.get("checkpoint") is None:
        values = {**values, "original_window": values["window"]}
    else:
        if trained is None:
            checkpoint = find_checkpoint(Path(values["checkpoint"]))
            values, trained = {**values, "checkpoint": str(checkpoint)}, read_record(checkpoint)["config"]
        values = _inherit(values, given_keys(overrides), trained)
    config = validate(Config, {**values, "name": values["name"] or "unnamed"})
    # Only where it is given: a run shorter than the warmup of its optimizer's defaults is a try.
    if "optimizer.warmup" in map(key_of, overrides) and config.optimizer.warmup > config.steps:
        raise BadInput(f"optimizer.warmup={config.optimizer.warmup} must be at most steps, here {config.steps}")
    position = make_position(config)  # refuses what only shows when the scheme meets the model and the extension
    config.seen.fits(config.window, position.extension)
    if config.data.isolate_documents and config.seen.name not in ("contiguous", "mixed"):  # which leave it to the model
        raise BadInput(
            f"data.isolate_documents=true restarts positions at every document, and seen={config.seen.name} draws them "
            "for whole windows: set one of the two back"
        )
    return config if values["name"] else config.model_copy(update={"name": run_name(config, overrides, swept)})


def _inherit(values: dict, given: Collection[str], trained: dict) -> dict:
    """Fill in what a fine-tuned run takes from that of its checkpoint, unless the command line or its experiment says.

    A group that is chosen, as by extend=yarn, replaces that of the checkpoint; keys, as extend.factor=8, go over it.
    """
    if fixed := sorted({key.split(".")[0] for key in given} & set(FIXED)):
        raise BadInput(f"{fixed[0]} comes from checkpoint={values['checkpoint']} and cannot be changed after training")
    trained = {"layers": {"name": "alike"}, **trained}  # which is not written down
    taken = {key: trained[key] for key in FIXED}
    for group in INHERITED:
        if group not in given:
            keys = [key.split(".")[1:] for key in sorted(given) if key.startswith(f"{group}.")]
            taken[group] = _overlaid(trained[group], values[group], keys) if keys else trained[group]
    return {**values, **taken, "original_window": trained["original_window"]}


def _overlaid(trained: dict, values: dict, keys: Sequence[Sequence[str]]) -> dict:
    """The settings of a group in a checkpoint, with those at some keys as they were composed."""
    settings = deepcopy(trained)
    if ["path"] in keys:  # of an extension: what was read from the file before is read anew
        settings = {key: value for key, value in settings.items() if key == "name"}
    if isinstance(over := settings.get("over"), dict):  # the extension that is switched to
        if ["over", "path"] in keys:
            settings["over"] = {"name": over["name"]}
        elif ["factor"] in keys:
            over.pop("factor", None)  # it is the same
    for *path, last in keys:
        target, source = settings, values
        for part in path:
            target, source = target.setdefault(part, {}), source.get(part, {})
            if not isinstance(target, dict):
                raise BadInput(
                    f"{'.'.join([*path, last])} is not a setting of the checkpoint's {part}, which is {target}"
                )
        if last in source:
            target[last] = source[last]
        else:  # as after ~
            target.pop(last, None)
    return settings
