"""A checkpoint of the field → weights, settings and tokenizer of the lab."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from conf.base import BadInput, cannot_take
from models.gpt import Shape
from models.pretrained.architectures import Described, describe
from models.pretrained.layouts import LAYOUTS
from models.pretrained.weights import Tensors, open_safetensors

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Imported:
    """Weights by our names in float32, plain settings as in conf/, the original window, and a tokenizer.json's text."""

    architecture: str
    model: dict[str, Any]
    position: dict[str, Any]
    frequencies: dict[str, Any]
    extend: dict[str, Any]
    window: int
    weights: dict[str, Tensor]
    tokenizer: str
    remarks: tuple[str, ...]
    layers: dict[str, Any]


def read_checkpoint(path: Path, window: int | None = None, tokenizer: Path | None = None) -> Imported:
    """Read a folder of config.json, safetensors and tokenizer.json, or a .gguf file.

    Args:
        window: the original window, where the files leave it open; tokenizer: a tokenizer.json in place of theirs.

    Raises:
        BadInput: something is missing, damaged, contradictory or not supported; one sentence.
    """
    if path.suffix == ".gguf":
        from models.pretrained.gguf import open_gguf

        config, tensors, text = open_gguf(path)
        if text is None and tokenizer is None:
            raise BadInput(f"{path}: a tokenizer.json cannot be read from it; name one by tokenizer=")
    else:
        config, tensors, text = _read_json(path / "config.json"), open_safetensors(path), None
    if tokenizer is not None or text is None:
        text = _read_text(tokenizer or path / "tokenizer.json")
    described = describe(config, window)
    model, weights = _weights(described, tensors)
    rope = described.rope
    settings = (rope.position, rope.frequencies, rope.extend, rope.window)
    return Imported(described.architecture, model, *settings, weights, text, rope.remarks, rope.layers)


def _weights(described: Described, tensors: Tensors) -> tuple[dict, dict[str, Tensor]]:
    """The model as its weights show it, and the weights."""
    name, model = described.architecture, described.model
    try:
        shape = Shape(name=name, **model)
    except ValidationError as error:
        raise BadInput(f"{name}: {cannot_take('config.json', error)}") from None
    if not shape.tied and HEAD not in tensors:
        raise BadInput(f"config.json says tie_word_embeddings=false, and the weights have no {HEAD}")
    weights = {row.ours: row.read(tensors.__getitem__) for row in LAYOUTS[name](shape, described.rope.window)}
    if shape.tied and HEAD in tensors and not tensors[HEAD].equal(weights["embedding.weight"]):
        raise BadInput("config.json says tie_word_embeddings=true, and the head of the weights is not the embedding")
    if unread := tensors.unread():
        raise BadInput(f"{unread[0]} has no place in {name} as config.json describes it")
    biases = {bias for bias in weights if bias.endswith(".bias")}
    if name == "gpt_neox" and shape.biases == "network" and not any(weights[bias].any() for bias in biases):
        # The architecture has no option for a model without biases: one that left the lab comes back as it was.
        model = model | {"biases": "none", "norm_bias": False}
        weights = {name: tensor for name, tensor in weights.items() if name not in biases}
    return model, weights


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(_read_text(path))
    except ValueError as error:
        raise BadInput(f"{path} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} must hold a mapping")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({getattr(error, 'strerror', error)})") from None
