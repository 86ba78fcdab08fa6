"""From settings, or from a checkpoint, to a GPT.

`config` is any object with the settings of a run as attributes: model, position, frequencies, extend, data, seed and
original_window.
"""

from pathlib import Path

from conf.base import BadInput
from models.checkpoint_files import load_checkpoint
from models.compute import flush_denormals
from models.gpt import GPT
from models.positions import Position, build_position


def make_position(config) -> Position:
    """The positional scheme of a run, with its spectrum and its extension."""
    geometry = config.model.geometry(config.original_window)
    return build_position(config.position, config.frequencies, config.extend, geometry)


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
    """The record in a checkpoint that was read from this path."""
    if not isinstance(loaded, dict) or "lab" not in loaded:
        raise BadInput(f"checkpoint={checkpoint} was not written by train.py")
    return {**loaded["lab"], "step": loaded["global_step"]}


def check_tokenizer(loaded: dict, config, corpus) -> None:
    """Refuse to fine-tune on another tokenizer's tokens: they mean nothing to the weights of config.checkpoint.

    Args:
        loaded: the checkpoint that was read; corpus: what it would be fine-tuned on.
    """
    record = record_of(loaded, Path(config.checkpoint))
    if (record["vocabulary"], record["separator"]) != (corpus.vocabulary, corpus.separator):
        raise BadInput(
            f"checkpoint={config.checkpoint} was trained with a vocabulary of {record['vocabulary']} tokens, and "
            f"data={config.data.name} has {corpus.vocabulary}: fine-tune on data with the same tokenizer"
        )


def load_weights(gpt: GPT, loaded: dict) -> None:
    """Give a GPT the weights of a checkpoint that was read."""
    gpt.load_state_dict({key.removeprefix("gpt."): value for key, value in loaded["state_dict"].items()}, strict=True)
