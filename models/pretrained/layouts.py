"""Which tensors of an architecture of `transformers` are which of ours, in both directions.

Letters in shape comments are those of models/__init__.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from conf.base import BadInput
from models.gpt import Shape


@dataclass(frozen=True)
class Row:
    """One tensor of ours: theirs, one below the other, each with its shape; form says how theirs lie."""

    ours: str
    theirs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    form: str = "rows"  # rows; columns, transposed, as GPT-2 keeps them; heads: q, k and v of each head together
    heads: int = 0

    def read(self, get: Callable[[str], Tensor]) -> Tensor:
        """Ours from theirs.

        Raises:
            BadInput: a tensor has another shape than config.json asks for.
        """
        parts = []
        for name, shape in zip(self.theirs, self.shapes, strict=True):
            tensor = get(name)
            if tuple(tensor.shape) != shape:
                raise BadInput(f"{name} has the shape {tuple(tensor.shape)}, and config.json asks for {shape}")
            parts.append(tensor)
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        if self.form == "heads":
            return whole.unflatten(0, (self.heads, 3, -1)).transpose(0, 1).flatten(0, 2).contiguous()
        return whole.T.contiguous() if self.form == "columns" else whole

    def write(self, ours: Tensor) -> dict[str, Tensor]:
        """Theirs from ours."""
        if self.form == "heads":
            ours = ours.unflatten(0, (3, self.heads, -1)).transpose(0, 1).flatten(0, 2)
        parts = [ours.T] if self.form == "columns" else ours.split([shape[0] for shape in self.shapes])
        return {name: part.contiguous() for name, part in zip(self.theirs, parts, strict=True)}


def _linear(ours: str, theirs: dict[str, int], columns: int, bias: bool, form: str = "rows", heads: int = 0):
    """Rows for the weight of a projection, and its bias if it has one; theirs: modules, each with its outputs."""
    outputs = [(rows, columns) if form != "columns" else (columns, rows) for rows in theirs.values()]
    names = tuple(f"{name}.weight" for name in theirs)
    yield Row(f"{ours}.weight", names, tuple(outputs), form, heads)
    if bias:
        names = tuple(f"{name}.bias" for name in theirs)
        shapes = tuple((rows,) for rows in theirs.values())
        yield Row(f"{ours}.bias", names, shapes, "heads" if form == "heads" else "rows", heads)


def _norm(ours: str, theirs: str, shape: Shape, width: int | None = None):
    for kind in ("weight", "bias") if shape.norm_bias else ("weight",):
        yield Row(f"{ours}.{kind}", (f"{theirs}.{kind}",), ((width or shape.width,),))


def _ends(shape: Shape, embedding: str, norm: str, head: str) -> Iterator[Row]:
    table = ((shape.vocabulary, shape.width),)
    yield Row("embedding.weight", (embedding,), table)
    yield from _norm("norm", norm, shape)
    if not shape.tied:
        yield Row("head.weight", (head,), table)


def llama(shape: Shape, window: int) -> Iterator[Row]:
    """llama, mistral, ministral3, qwen2, qwen3 and smollm3."""
    yield from _ends(shape, "model.embed_tokens.weight", "model.norm", "lm_head.weight")
    head_width, width, inner = shape.channels // shape.heads, shape.width, shape.inner
    shared = (shape.kv_heads or shape.heads) * head_width
    qkv, out = shape.biases in ("qkv", "attention", "all"), shape.biases in ("attention", "all")
    network = shape.biases in ("network", "all")
    for i in range(shape.layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        yield from _norm(f"{ours}.attention_norm", f"{theirs}.input_layernorm", shape)
        yield from _norm(f"{ours}.network_norm", f"{theirs}.post_attention_layernorm", shape)
        parts = {"q_proj": shape.channels, "k_proj": shared, "v_proj": shared}
        parts = {f"{theirs}.self_attn.{name}": rows for name, rows in parts.items()}
        yield from _linear(f"{ours}.attention.qkv", parts, width, qkv)
        yield from _linear(f"{ours}.attention.out", {f"{theirs}.self_attn.o_proj": width}, shape.channels, out)
        if shape.qk_norm == "learned":
            for name in ("q_norm", "k_norm"):
                yield from _norm(f"{ours}.attention.{name}", f"{theirs}.self_attn.{name}", shape, head_width)
        parts = {f"{theirs}.mlp.{name}": inner for name in ("gate_proj", "up_proj")}
        yield from _linear(f"{ours}.up", parts, width, network)
        yield from _linear(f"{ours}.down", {f"{theirs}.mlp.down_proj": width}, inner, network)


def gpt_neox(shape: Shape, window: int) -> Iterator[Row]:
    yield from _ends(shape, "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm", "embed_out.weight")
    width, biases = shape.width, shape.biases in ("attention", "all")
    for i in range(shape.layers):
        ours, theirs = f"blocks.{i}", f"gpt_neox.layers.{i}"
        yield from _norm(f"{ours}.attention_norm", f"{theirs}.input_layernorm", shape)
        yield from _norm(f"{ours}.network_norm", f"{theirs}.post_attention_layernorm", shape)
        fused = {f"{theirs}.attention.query_key_value": 3 * width}
        yield from _linear(f"{ours}.attention.qkv", fused, width, biases, "heads", shape.heads)
        yield from _linear(f"{ours}.attention.out", {f"{theirs}.attention.dense": width}, width, biases)
        yield from _linear(f"{ours}.up", {f"{theirs}.mlp.dense_h_to_4h": shape.inner}, width, True)
        yield from _linear(f"{ours}.down", {f"{theirs}.mlp.dense_4h_to_h": width}, shape.inner, True)


def gpt2(shape: Shape, window: int) -> Iterator[Row]:
    yield from _ends(shape, "transformer.wte.weight", "transformer.ln_f", "lm_head.weight")
    yield Row("position.table", ("transformer.wpe.weight",), ((window, shape.width),))
    width = shape.width
    for i in range(shape.layers):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        yield from _norm(f"{ours}.attention_norm", f"{theirs}.ln_1", shape)
        yield from _norm(f"{ours}.network_norm", f"{theirs}.ln_2", shape)
        yield from _linear(f"{ours}.attention.qkv", {f"{theirs}.attn.c_attn": 3 * width}, width, True, "columns")
        yield from _linear(f"{ours}.attention.out", {f"{theirs}.attn.c_proj": width}, width, True, "columns")
        yield from _linear(f"{ours}.up", {f"{theirs}.mlp.c_fc": shape.inner}, width, True, "columns")
        yield from _linear(f"{ours}.down", {f"{theirs}.mlp.c_proj": width}, shape.inner, True, "columns")


LAYOUTS: dict[str, Callable[[Shape, int], Iterator[Row]]] = {
    **dict.fromkeys(("llama", "mistral", "ministral3", "qwen2", "qwen3", "smollm3"), llama),
    "gpt_neox": gpt_neox,
    "gpt2": gpt2,
}
