"""A compact decoder-only transformer, in which a positional scheme acts through hooks (models/positions/base.py).

Letters in shape comments are those of models/__init__.py.
"""

import zlib
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from conf.base import BadInput, Count, Settings
from models.attention import causal_attention
from models.loss import next_token_loss
from models.positions import Position
from models.positions.base import Geometry, Layer
from models.positions.extensions import length_of


def knob(default, **limits):
    """A setting younger than the first runs: what is saved leaves its default out, so that old runs compare equal."""
    return Field(default, exclude_if=lambda value: value == default, **limits)


class Shape(Settings):
    """The sizes of a GPT and what its layers are made of, as in conf/model; the defaults are GPT-2's without biases."""

    name: str
    layers: Count
    heads: Count
    width: Count
    qk_norm: bool | Literal["learned"] = False  # queries and keys to RMS 1 before positions; learned: times a weight
    head_width: Count | None = knob(None)  # null: width / heads
    kv_heads: Count | None = knob(None)  # each shared by heads / kv_heads heads (Ainslie et al. 2023); null: heads
    norm: Literal["layer", "rms"] = knob("layer")
    norm_epsilon: float = knob(1e-5, gt=0)
    norm_bias: bool = knob(False)
    network: Literal["gelu", "gelu_tanh", "swiglu"] = knob("gelu")  # swiglu: Shazeer 2020
    network_width: Count | None = knob(None)  # null: 4 x width; swiglu: 8/3 of it, up to a multiple of 8
    biases: Literal["none", "qkv", "attention", "network", "all"] = knob("none")  # of which projections
    parallel: bool = knob(False)  # attention and network both read the layer's input (GPT-J)
    sink: bool = knob(False)  # a learned score in every head that takes probability and gives nothing (gpt-oss)
    tied: bool = knob(True)  # the token embedding is the head
    embedding_scale: float | None = knob(None, gt=0)  # null: √width
    vocabulary: Count | None = knob(None)  # rows of embedding and head; null: the tokenizer's tokens

    @model_validator(mode="after")
    def _fits(self):
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width={self.width} cannot be shared by heads={self.heads}: it must be a multiple")
        if self.heads % (self.kv_heads or 1):
            raise ValueError(f"heads={self.heads} cannot be shared by kv_heads={self.kv_heads}: it must be a multiple")
        if self.norm == "rms" and self.norm_bias:
            raise ValueError("norm_bias=true needs norm=layer: an RMS norm has no bias")
        return self

    @property
    def channels(self) -> int:
        """Channels of all heads together, H·D."""
        return self.heads * self.geometry(1).head_width

    @property
    def inner(self) -> int:
        """Channels inside the network of a layer."""
        return self.network_width or (8 * -(-self.width // 3) if self.network == "swiglu" else 4 * self.width)

    def geometry(self, window: int) -> Geometry:
        """What a positional scheme has to know of a model trained on windows of so many tokens."""
        return Geometry(self.width, self.heads, self.layers, window, self.head_width, self.embedding_scale)

    def make_norm(self, width: int) -> nn.Module:
        if self.norm == "rms":
            return nn.RMSNorm(width, eps=self.norm_epsilon)
        return nn.LayerNorm(width, eps=self.norm_epsilon, bias=self.norm_bias)


class Attention(nn.Module):
    """Causal multi-head self-attention. Positions act on q and k, or on their scores; values never see them."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads, self.qk_norm = shape.heads, shape.qk_norm
        self.kv_heads, self.head_width = shape.kv_heads or shape.heads, shape.channels // shape.heads
        rows = (self.heads + 2 * self.kv_heads) * self.head_width  # of q, then k, then v, by head
        self.qkv = nn.Linear(shape.width, rows, bias=shape.biases in ("qkv", "attention", "all"))
        self.out = nn.Linear(shape.channels, shape.width, bias=shape.biases in ("attention", "all"))
        self.sink = nn.Parameter(torch.zeros(shape.heads)) if shape.sink else None
        if shape.qk_norm == "learned":
            self.q_norm, self.k_norm = (nn.RMSNorm(self.head_width, eps=shape.norm_epsilon) for _ in range(2))

    def forward(
        self,
        x: Tensor,
        position: Position | Layer,
        prepared,
        temperature: float | Tensor,
        sharpness: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        batch, length, _ = x.shape
        count = self.heads + 2 * self.kv_heads  # nothing is inferred: B may be 0
        heads = self.qkv(x).view(batch, length, count, self.head_width).transpose(1, 2)  # (B, H + 2 kv_heads, T, D)
        q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        if self.qk_norm == "learned":
            q, k = self.q_norm(q), self.k_norm(k)
        elif self.qk_norm:  # before the rotation, which keeps norms
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        if self.kv_heads < self.heads:  # before positions, which some schemes tell each head in its own way
            k, v = (shared.repeat_interleave(self.heads // self.kv_heads, dim=1) for shared in (k, v))
        prepared = position.read_input(x, prepared)
        q, k = position.rotate(q, k, prepared)  # each (B, H, T, D)
        if sharpness is not None:
            q = (q * sharpness).to(q.dtype)
        x = causal_attention(q, k, v, position, prepared, temperature, mask, self.sink)  # (B, H, T, D)
        return self.out(x.transpose(1, 2).reshape(batch, length, self.heads * self.head_width))


class Block(nn.Module):
    """One pre-norm layer: attention, then a network of one hidden layer, each added to the stream."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.parallel, self.network = shape.parallel, shape.network
        self.attention_norm = shape.make_norm(shape.width)
        self.attention = Attention(shape)
        self.network_norm = shape.make_norm(shape.width)
        bias, gated = shape.biases in ("network", "all"), shape.network == "swiglu"
        self.up = nn.Linear(shape.width, shape.inner * (2 if gated else 1), bias=bias)  # swiglu: rows of the gate first
        self.down = nn.Linear(shape.inner, shape.width, bias=bias)

    def forward(self, x: Tensor, position: Position | Layer, prepared, *options) -> Tensor:
        """Stream (B, T, C) → (B, T, C); what follows is as for the attention."""
        attended = x + self.attention(self.attention_norm(x), position, prepared, *options)
        inner = self.up(self.network_norm(x if self.parallel else attended))
        if self.network == "swiglu":
            gate, inner = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * inner
        else:
            inner = F.gelu(inner, approximate="tanh" if self.network == "gelu_tanh" else "none")
        return attended + self.down(inner)


class GPT(nn.Module):
    """Decoder-only, pre-norm; the token embedding is the head too, unless shape.tied is false.

    Token embeddings are multiplied by √C for every scheme, as Vaswani et al. do for the sinusoid, so that models
    that differ in position differ in nothing else; shape.embedding_scale sets another factor.
    """

    recompute = False  # in training, keep of a block its input alone, and compute the rest again in the backward pass

    def __init__(self, shape: Shape, vocabulary: int, position: Position, seed: int, separator: int | None = None):
        """Build and initialise.

        Args:
            seed: the weights are a function of it and of each parameter's name, so that models with different
                positional schemes start with the same bits in all they share.
            separator: token id that opens a document; given, no token sees another document and positions count
                from the separator. None lets windows cross documents.
        """
        super().__init__()
        if (shape.vocabulary or vocabulary) < vocabulary:
            raise BadInput(f"model.vocabulary={shape.vocabulary} has no row for each of {vocabulary} tokens")
        self.shape, self.separator = shape, separator
        self.embedding = nn.Embedding(shape.vocabulary or vocabulary, shape.width)
        self.head = None if shape.tied else nn.Linear(shape.width, self.embedding.num_embeddings, bias=False)
        self.position = position
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = shape.make_norm(shape.width)
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Normal weights of variance 1 / inputs, so that every branch speaks up whatever the width; embeddings of
        variance 1 / C, so that times √C they are of the size of a sinusoid added to them."""
        residual = (2 * self.shape.layers) ** -0.5  # GPT-2: the stream adds 2·layers branches

        def draw(name: str) -> torch.Generator:
            return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))

        for name, parameter in self.named_parameters():
            if name.endswith("bias") and not name.startswith("position."):
                nn.init.zeros_(parameter)
            if parameter.dim() < 2 or name.startswith("position."):
                continue  # norms start at one; a scheme initialises what it learns
            scale = residual if name.endswith(("attention.out.weight", "down.weight")) else 1.0
            with torch.no_grad():
                parameter.normal_(std=scale * parameter.shape[1] ** -0.5, generator=draw(name))
        self.position.initialise(lambda name: draw(f"position.{name}"))

    def hidden(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Tokens (B, T) → normalised states (B, T, C), ready for `logits`.

        positions: where the tokens are, (T,) or (B, T), if not 0 … T - 1 (or counted from the separator).
        """
        mask = None
        if self.separator is not None:
            mask, isolated = isolate_documents(tokens, self.separator)
            positions = isolated if positions is None else positions
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        positions = positions.to(torch.promote_types(torch.float32, self.embedding.weight.dtype))
        length = length_of(positions)
        with torch.autocast(tokens.device.type, enabled=False):
            prepared = self.position.prepare(self.position.extension.positions(positions))
        x = self.position.embed(self.embedding(tokens) * self.position.geometry.embedding_scale, prepared)  # (B, T, C)
        for index, block in enumerate(self.blocks):
            position = self.position.layer(index)
            sharpness = position.sharpness_at(positions, index)
            given = (x, position, prepared, position.temperature_at(length), sharpness, mask)
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)  # no block draws numbers
            else:
                x = block(*given)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """States (…, C) → logits (…, V)."""
        return F.linear(hidden, self.head_weight)

    @property
    def head_weight(self) -> Tensor:
        """What turns states into logits, (V, C)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        targets: Tensor | None = None,
        counted: Tensor | None = None,
        **weighted,
    ):
        """Tokens (B, T) → logits (B, T, V).

        With targets (B, T) → their mean negative log-likelihood, and that of each, (B, T), which has no gradient; the
        logits are then never whole. Here and not beside the model, so that compiling and sharding it include the loss.
        counted: (B, T) bool, the targets in the mean; those of no other are computed, and count 0.
        weighted: short, (B, T), and limit, as for `next_token_loss`, of all targets.
        """
        hidden = self.hidden(tokens, positions)
        if targets is None:
            return self.logits(hidden)
        if counted is None:
            weighted |= {"short": weighted["short"].flatten()} if weighted else {}
            mean, nll = next_token_loss(hidden.flatten(0, 1), self.head_weight, targets.flatten(), **weighted)
            return mean, nll.view_as(targets)
        weighted |= {"short": weighted["short"][counted]} if weighted else {}
        mean, nll = next_token_loss(hidden[counted], self.head_weight, targets[counted], **weighted)
        return mean, nll.new_zeros(targets.shape).masked_scatter(counted, nll)


def isolate_documents(tokens: Tensor, separator: int) -> tuple[Tensor, Tensor]:
    """Mask and positions that keep documents apart, from the separators that open them.

    Tokens (B, T) → mask (B, 1, T, T), True where a query may look (its own document, itself or before), and
    positions (B, T) counted from the token that opens the document (or the window).
    """
    opens = tokens == separator
    document = opens.cumsum(1)  # (B, T)
    index = torch.arange(tokens.shape[1], device=tokens.device)
    start = torch.where(opens, index, 0).cummax(1).values
    same = document[:, None, :, None] == document[:, None, None, :]
    return same & (index[:, None] >= index), index - start
