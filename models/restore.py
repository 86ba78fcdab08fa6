"""From settings, or from a checkpoint, to a GPT.

`config` is any object with the settings of a run as attributes: model, layers, position, frequencies, extend, data,
seed and original_window.
"""

import copy
import hashlib
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from conf.base import BadInput
from models.checkpoint_files import home, load_checkpoint
from models.compute import flush_denormals
from models.gpt import GPT
from models.positions import Position, build_position
from models.shipped import is_shipped

SCHEME, OWN = "position.", "position.own."  # before the names of a scheme's weights: of all layers, of those of a plan


def make_position(config) -> Position:
    """The positional scheme of a run, with its spectrum and its extension."""
    geometry = config.model.geometry(config.original_window)
    return build_position(config.position, config.frequencies, config.extend, geometry, config.layers)


def make_gpt(config, vocabulary: int, separator: int) -> GPT:
    """The untrained GPT of a run, its weights a function of the seed."""
    flush_denormals()
    isolated = separator if config.data.isolate_documents else None
    return GPT(config.model, vocabulary, make_position(config), config.seed, isolated)


def read_record(checkpoint: Path) -> dict:
    """What travels in a checkpoint beside weights: config, vocabulary, separator, corpus fingerprint, step.

    Raises:
        BadInput: there is no such file, it is damaged, or train.py did not write it.
    """
    return record_of(load_checkpoint(checkpoint), checkpoint)


def record_of(loaded: dict, checkpoint: Path) -> dict:
    """The record in a checkpoint that was read from this path.

    Raises:
        BadInput: train.py did not write it.
    """
    record = loaded.get("lab") if isinstance(loaded, dict) else None
    kinds = {"config": dict, "vocabulary": int, "separator": int, "corpus": str}
    if not isinstance(record, dict) or not isinstance(loaded.get("state_dict"), dict):
        raise BadInput(f"checkpoint={checkpoint} was not written by train.py")
    for key, kind in kinds.items():
        if not isinstance(record.get(key), kind):
            raise BadInput(f"checkpoint={checkpoint} was not written by train.py: its record lacks {key}")
    if not isinstance(loaded.get("global_step"), int):
        raise BadInput(f"checkpoint={checkpoint} was not written by train.py: it lacks global_step")
    if "origin" in record or is_shipped(checkpoint):  # its tokenizer lies beside it, wherever that is by now
        tokenizer = home(checkpoint) / "tokenizer.json"
        if tokenizer.is_file() and "tokenizer" in record["config"]["data"]:
            record = copy.deepcopy(record)
            record["config"]["data"]["tokenizer"]["path"] = str(tokenizer)
    return {**record, "step": loaded["global_step"]}


def make_record(config, corpus) -> dict:
    """What is to travel in every checkpoint of a run beside weights, enough to rebuild the model and to know it."""
    return {
        "config": config.model_dump(mode="json"),
        "vocabulary": corpus.vocabulary,
        "separator": corpus.separator,
        "corpus": corpus.fingerprint,
        "tokenizer": corpus.tokenizer_fingerprint,
    }


def check_resumed(recorded: dict, current: dict, run: Path) -> None:
    """Refuse to go on with a run on another corpus than it began with; both are records.

    Raises:
        BadInput: the texts or the tokenizer have changed.
    """
    data = current["config"]["data"]["name"]
    for key, changed in (("tokenizer", "the tokenizer"), ("corpus", "the texts")):
        if recorded.get(key, current[key]) != current[key]:  # older checkpoints do not know their tokenizer
            raise BadInput(
                f"{run}: {changed} of data={data} changed since this run began: put back what was there, or give a new "
                "run another name= or group="
            )


def check_tokenizer(loaded: dict, corpus, checkpoint: Path) -> None:
    """Refuse to fine-tune on another tokenizer's tokens: they mean nothing to the weights of a checkpoint.

    Args:
        loaded: the checkpoint, read from this path; corpus: what it would be fine-tuned on.

    Raises:
        BadInput: it was trained with another tokenizer.
    """
    record = record_of(loaded, checkpoint)
    new = (corpus.tokenizer_fingerprint, corpus.vocabulary, corpus.separator)
    trained = (record.get("tokenizer", new[0]), record["vocabulary"], record["separator"])  # older ones do not know it
    if record["corpus"] != corpus.fingerprint and trained != new:
        raise BadInput(
            f"checkpoint={checkpoint} was trained with another tokenizer ({record['vocabulary']} tokens) than that of "
            f"data={corpus.name} ({corpus.vocabulary} tokens): fine-tune on data with the same tokenizer, such as "
            "data.tokenizer.kind=file with data.tokenizer.path= the tokenizer.json in its run"
        )


def start_from(checkpoint: Path, gpt: GPT, corpus) -> None:
    """Give a GPT that is to be fine-tuned on a corpus the weights of a checkpoint."""
    loaded = load_checkpoint(checkpoint)
    check_tokenizer(loaded, corpus, checkpoint)
    load_weights(gpt, loaded, checkpoint)


def restore_gpt(config, loaded: dict, checkpoint: Path) -> GPT:
    """The GPT whose settings and weights a checkpoint holds.

    Args:
        config: the settings it is to be read with; loaded: the checkpoint, read from this path.

    Raises:
        BadInput: its weights are not those of such a model, or not finite.
    """
    record, weights = record_of(loaded, checkpoint), _weights(loaded, checkpoint)
    check_weights(weights, config, record["vocabulary"], checkpoint)  # before a model of that size is built
    gpt = make_gpt(config, record["vocabulary"], record["separator"])
    load_weights(gpt, loaded, checkpoint)
    return gpt


def check_weights(weights: dict[str, Tensor], config, vocabulary: int, checkpoint: Path) -> None:
    """Refuse weights that are of another size than the settings say, as a crafted or broken checkpoint's may be."""
    layers = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    table = weights.get("embedding.weight")
    size = (len(layers), *(table.shape if table is not None else ()))
    rows = config.model.vocabulary or vocabulary
    if size != (config.model.layers, rows, config.model.width):
        raise BadInput(
            f"checkpoint={checkpoint} has weights of {len(layers)} layers and an embedding of "
            f"{' x '.join(map(str, size[1:])) or 'nothing'}, and its settings say {config.model.layers} layers and "
            f"{rows} x {config.model.width}"
        )


def load_weights(gpt: GPT, loaded: dict, checkpoint: Path) -> None:
    """Give a GPT the weights of a checkpoint that was read from this path.

    Raises:
        BadInput: some are missing, too many, of another shape or type, or not finite.
    """
    expected = gpt.state_dict()
    weights = _by_layer(_weights(loaded, checkpoint), expected)
    if names := sorted(expected.keys() ^ weights.keys()):
        kind = "lacks" if names[0] in expected else "has one weight too many,"
        raise BadInput(f"checkpoint={checkpoint} {kind} {names[0]} ({len(names)} such): it is another model's")
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            shapes = f"{tuple(weight.shape)}, and the model has {tuple(expected[name].shape)}"
            raise BadInput(f"checkpoint={checkpoint} has {name} of shape {shapes}")
        if not torch.isfinite(weight).all():
            raise BadInput(f"checkpoint={checkpoint} holds {name} with values that are not finite: its run diverged")
    gpt.load_state_dict(weights)


def _by_layer(weights: dict[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Weights whose scheme has the name it has in the model expected: `own` where layers read by a plan (layers=)."""
    planned, expects = (any(name.startswith(OWN) for name in names) for names in (weights, expected))
    if planned == expects:
        return weights
    before, after = (OWN, SCHEME) if planned else (SCHEME, OWN)
    return {name.replace(before, after, 1) if name.startswith(before) else name: w for name, w in weights.items()}


def _weights(loaded: dict, checkpoint: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint by the names they have in a GPT."""
    weights = {str(key).removeprefix("gpt."): value for key, value in loaded["state_dict"].items()}
    for name, weight in weights.items():
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            kind = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
            raise BadInput(f"checkpoint={checkpoint} holds {name} as {kind}; weights are floating-point tensors")
    return weights


def weights_digest(loaded: dict) -> str:
    """SHA-256 over the weights of a checkpoint that was read: their names, types, shapes and values, nothing else."""
    digest = hashlib.sha256()
    for name, weight in sorted(loaded["state_dict"].items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
