"""A .gguf file → what a folder of config.json, tensors and tokenizer.json would have held, weights dequantised.

The file keeps q and k of Llama with the channels of a pair side by side; they are put half a head apart again.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conf.base import BadInput
from models.pretrained.weights import Tensors

# Names of tensors in a block, and outside.
BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ARCHITECTURES = ("llama", "qwen2", "qwen3")
DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# Fields that change nothing of what is computed here.
PASSED_OVER = {
    "attention.value_length",
    "pooling_type",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
}
# Values at which others that are not read change nothing either; of any *_scale it is 1.
NEUTRAL = {
    "attention.causal": True,
    "attention.sliding_window": 0,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scale_linear": 1,
    "rope.scaling.attn_factor": 1,
    "rope.scaling.factor": 1,
    "rope.scaling.yarn_attn_factor": 1,
    "rope.scaling.yarn_beta_fast": 32,
    "rope.scaling.yarn_beta_slow": 1,
    "rope.scaling.yarn_log_multiplier": 0,
    "use_parallel_residual": False,
}
# How a text is cut before merges apply, by tokenizer.ggml.pre.
PIECES = {"smollm": [DIGITS, BYTES], "gpt-2": [BYTES]}


def open_gguf(path: Path) -> tuple[dict, Tensors, str | None]:
    """config.json as a mapping, the tensors, and the text of a tokenizer.json, None where the file's cannot be one.

    Raises:
        BadInput: the `gguf` package or the file is missing, it is cut short, or holds what is not supported.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError:
        raise BadInput(f"{path} needs the package gguf: pip install -r requirements-pretrained.txt") from None
    if not path.is_file():
        raise BadInput(f"from={path}: there is no such file")
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, OSError, KeyError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error}): it is cut short, or no GGUF file") from None
    try:
        config, text = _config(fields, path), _tokenizer(fields)
    except BadInput:
        raise
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:  # a list for a number, say
        raise BadInput(f"{path} holds a value of a kind that it cannot have ({error})") from None
    untied = any(tensor.name == "output.weight" for tensor in reader.tensors)
    config["tie_word_embeddings"] = not untied
    interleaved = config["model_type"] == "llama"
    readers: dict[str, Callable[[], Tensor]] = {}
    for tensor in reader.tensors:
        name, heads = _their_name(tensor.name), 0
        if interleaved and ".attn_q." in tensor.name:
            heads = config["num_attention_heads"]
        elif interleaved and ".attn_k." in tensor.name:
            heads = config["num_key_value_heads"]
        readers[name] = partial(_dequantised, tensor, heads)
    return config, Tensors(readers), text


def _config(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """The options of a config.json, from the fields of the file."""
    name = fields.get("general.architecture")
    if name not in ARCHITECTURES:
        raise BadInput(
            f"{path}: general.architecture={name} is not supported; supported are {', '.join(ARCHITECTURES)}"
        )

    read: set[str] = set()

    def field(key: str, default=None):
        read.add(key)
        value = fields.get(f"{name}.{key}", default)
        if value is None:
            raise BadInput(f"{path}: {name}.{key} is missing")
        return value

    width, heads = field("embedding_length"), field("attention.head_count")
    if isinstance(heads, list):
        raise BadInput(f"{path}: {name}.attention.head_count={heads} differs by layer, which is not supported")
    tokens = len(fields.get("tokenizer.ggml.tokens") or ())
    head_width = field("attention.key_length", width // heads)
    if field("rope.dimension_count", head_width) != head_width:
        raise BadInput(f"{path}: {name}.rope.dimension_count={field('rope.dimension_count')} rotates part of a head")
    config = {
        "model_type": name,
        "hidden_size": width,
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("attention.head_count_kv", heads),
        "head_dim": head_width,
        "intermediate_size": field("feed_forward_length"),
        "rms_norm_eps": float(f"{field('attention.layer_norm_rms_epsilon'):.6g}"),  # it was rounded to float32
        "vocab_size": field("vocab_size", tokens),
        "max_position_embeddings": field("context_length"),
        "rope_theta": field("rope.freq_base", 10_000.0),
    }
    kind = field("rope.scaling.type", "none")
    if kind not in ("none", "linear", "yarn"):
        raise BadInput(f"{path}: rope.scaling.type={kind} is not supported; supported are none, linear, yarn")
    if kind != "none":
        scaling = {"rope_type": kind, "factor": field("rope.scaling.factor")}
        if f"{name}.rope.scaling.original_context_length" in fields:
            scaling["original_max_position_embeddings"] = field("rope.scaling.original_context_length")
        config["rope_scaling"] = scaling
    for key in sorted(key.removeprefix(f"{name}.") for key in fields if key.startswith(f"{name}.")):
        neutral = NEUTRAL.get(key, 1 if key.endswith("_scale") else None)
        if key not in read | PASSED_OVER and fields[f"{name}.{key}"] != neutral:
            raise BadInput(f"{path}: {name}.{key}={fields[f'{name}.{key}']} is not supported")
    return config


def _their_name(name: str) -> str:
    """blk.3.attn_q.weight → model.layers.3.self_attn.q_proj.weight; one that is not known stays, and is refused."""
    stem, _, kind = name.rpartition(".")
    if stem in ENDS:
        return f"{ENDS[stem]}.{kind}"
    _, _, place = stem.partition("blk.")
    index, _, module = place.partition(".")
    return f"model.layers.{index}.{BLOCK[module]}.{kind}" if module in BLOCK else name


def _dequantised(tensor, heads: int) -> Tensor:
    from gguf.quants import dequantize

    try:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    except NotImplementedError:
        raise BadInput(f"{tensor.name} is kept as {tensor.tensor_type.name}, which gguf cannot dequantise") from None
    values = values.reshape([int(size) for size in reversed(tensor.shape)])
    if not heads:
        return values
    return values.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _tokenizer(fields: dict[str, Any]) -> str | None:
    """A byte-level BPE from the file's tokens and merges; None where it is of another kind."""
    pieces = PIECES.get(fields.get("tokenizer.ggml.pre", "gpt-2"))
    tokens, kinds, merges = (fields.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "merges"))
    if fields.get("tokenizer.ggml.model") != "gpt2" or None in (pieces, tokens, kinds, merges):
        return None
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = [{"id": i, "content": tokens[i]} | plain for i, kind in enumerate(kinds) if kind == 3]  # control tokens
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "byte_fallback": False}
    model |= {"merges": merges, "dropout": None, "unk_token": None, "fuse_unk": False}
    model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None}
    whole |= {"pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces}, "post_processor": None}
    return json.dumps(whole | {"decoder": BYTES, "model": model})
