"""Tensors of a checkpoint by name, from safetensors files, whole or in shards, and back into one file."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from conf.base import BadInput

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Tables that old files hold beside the weights; every one is a function of config.json.
TABLES = re.compile(r"(rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias)$")
# One name for another: GPT-NeoX's head has had both.
ALIASES = {"embed_out.weight": "lm_head.weight", "lm_head.weight": "embed_out.weight"}


class Tensors:
    """Tensors that are read when they are asked for, as float32; remembers which were."""

    def __init__(self, readers: dict[str, Callable[[], Tensor]]):
        self._readers, self._read = readers, set()

    def _find(self, name: str) -> str | None:
        """The name under which it is there: with the name of the model before it, or without."""
        return next((key for key in (name, name.partition(".")[2], ALIASES.get(name)) if key in self._readers), None)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of this name.

        Raises:
            BadInput: it is missing, cannot be read, is no floating-point tensor, or holds a number that is not finite.
        """
        key = self._find(name)
        if key is None:
            raise BadInput(f"{name} is missing from the weights, and config.json asks for it")
        self._read.add(key)
        tensor = self._readers[key]()
        if tensor.dtype not in DTYPES:
            raise BadInput(f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, and only floats are supported")
        tensor = tensor.to(torch.float32)
        if not tensor.isfinite().all():
            raise BadInput(f"{name} holds numbers that are not finite")
        return tensor

    def unread(self) -> list[str]:
        """Names that nobody asked for, save those of tables that follow from config.json."""
        return sorted(name for name in self._readers if name not in self._read and not TABLES.search(name))


def open_safetensors(folder: Path) -> Tensors:
    """The tensors of a folder: model.safetensors, or the shards that model.safetensors.index.json lists.

    Raises:
        BadInput: there are none, a shard is missing, or a file is cut short.
    """
    if (folder / INDEX).is_file():
        try:
            listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            files = [folder / Path(file).name for file in sorted(set(listed.values()))]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(f"{folder / INDEX} is not readable as an index of shards") from None
    elif (folder / WHOLE).is_file():
        listed, files = None, [folder / WHOLE]
    else:
        pickled = next(folder.glob("*.bin"), None)
        instead = f"; {pickled.name} could run code when it is read, and is not" if pickled else ""
        raise BadInput(f"{folder} holds neither {WHOLE} nor {INDEX}{instead}")
    readers: dict[str, Callable[[], Tensor]] = {}
    for path in files:
        if not path.is_file():
            raise BadInput(f"{path} is missing: {INDEX} lists it as a shard")
        readers |= _readers(path)
    if lost := sorted(set(listed or ()) - set(readers)):
        raise BadInput(f"{lost[0]} is in no shard of {folder}, and {INDEX} lists it in {listed[lost[0]]}")
    return Tensors(readers)


def _readers(path: Path) -> dict[str, Callable[[], Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, "pt")
        return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} cannot be read ({error}): it is cut short, or no safetensors file") from None


def save_safetensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / WHOLE, metadata={"format": "pt"})
    (folder / WHOLE).chmod(0o644)  # as the files beside it
