"""A trained model from its checkpoint: the record becomes settings, the settings a model, which takes the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conf.validation import validate

if TYPE_CHECKING:
    from conf.schema import Config
    from models.gpt import GPT


def read_with(trained: dict, extend: dict | None) -> dict:
    """The settings of a trained run, as plain values, with another extension in place of its own; None: as trained.

    Scores sharpen with the row as in training, unless the extension itself says how.
    """
    return trained if extend is None else {**trained, "extend": {"rows": trained["extend"].get("rows"), **extend}}


def load_model(checkpoint: Path, extend: dict | None = None) -> tuple[GPT, Config, dict]:
    """Rebuild a trained GPT from its checkpoint, read as trained or with another extension.

    Args:
        extend: plain settings of an extension, such as {"name": "interpolate", "factor": 8.0}; None as trained.

    Returns:
        The model, the Config it is now read with, and the checkpoint's record.

    Raises:
        BadInput: the checkpoint is missing, damaged, malformed, or no model can be read with the extension.
    """
    from conf.schema import Config
    from models.checkpoint_files import load_checkpoint
    from models.restore import record_of, restore_gpt

    loaded = load_checkpoint(checkpoint)
    record = record_of(loaded, checkpoint)
    config = validate(Config, read_with(record["config"], extend))
    return restore_gpt(config, loaded, checkpoint), config, record
