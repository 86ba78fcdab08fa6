"""A model that is shipped: a folder of weights, settings with their origin, and tokenizer, which `checkpoint=` takes.

    model.safetensors    weights by the lab's names, bfloat16; nothing in it can run
    shipped.json         what travels in every checkpoint, how it was made, and the digests of the other two
    tokenizer.json       where its tokens are of text

Weights become float32 when they are read, so the model is a run's last one rounded to 8 bits of mantissa.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conf.base import BadInput
from models.pretrained.weights import WHOLE, open_safetensors, save_safetensors

ABOUT, TOKENIZER = "shipped.json", "tokenizer.json"


def is_shipped(path: Path) -> bool:
    """Whether a path is the folder of a shipped model."""
    return (path / ABOUT).is_file()


def write_shipped(folder: Path, loaded: dict[str, Any], made: dict, tokenizer: str | None) -> None:
    """Fill a folder with a checkpoint that was read.

    Args:
        loaded: with state_dict, lab and global_step; made: the origin, plain values; tokenizer: a tokenizer.json.
    """
    weights: dict[str, Tensor] = {
        str(name).removeprefix("gpt."): weight.to(torch.bfloat16) for name, weight in loaded["state_dict"].items()
    }
    save_safetensors(folder, weights)
    if tokenizer is not None:
        (folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    digests = {name: _digest(folder / name) for name in (WHOLE, TOKENIZER) if (folder / name).is_file()}
    about = {"lab": loaded["lab"], "global_step": loaded["global_step"], "made": made, "sha256": digests}
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def read_shipped(folder: Path) -> dict[str, Any]:
    """The checkpoint in a folder: state_dict in float32, lab and global_step.

    Raises:
        BadInput: a file is missing, damaged or not what was shipped.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        lab, step, digests = about["lab"], about["global_step"], dict(about["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"checkpoint={folder}: {ABOUT} cannot be read as that of a shipped model ({error!r})") from None
    for name in (WHOLE, TOKENIZER):
        there = (folder / name).is_file()
        if there != (name in digests) or (there and _digest(folder / name) != digests[name]):
            raise BadInput(f"checkpoint={folder} is damaged: {name} is not the one that was shipped")
    tensors = open_safetensors(folder)
    weights = {name: tensors[name] for name in tensors.unread()}
    return {"state_dict": weights, "lab": lab, "global_step": step}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
