"""Long-context perplexity: the loss of every target under a protocol (windows.py), and what the losses sum to.

Letters in shape comments: B batch, T tokens, C model width, V vocabulary, D documents, N targets of a document.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice, product
from operator import attrgetter
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F

from conf.base import BadInput
from experiments.lab.measure.windows import PROTOCOLS, Protocol, Window, decoded
from models.gpt import GPT

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TokenLosses:
    """The loss of every target at one context length; what "loss by position" is made of.

    documents (D,): where the measured documents stand in the list given; positions (N,): where the targets stand in
    each; seen (N,): tokens of context each was predicted from; tokens (D, N): their ids; nll (D, N): float32 nats;
    top (D, N): whether the target was the likeliest token, which greedy decoding takes.
    """

    protocol: str
    context: int
    stride: int | None
    region: int
    documents: np.ndarray
    positions: np.ndarray
    seen: np.ndarray
    tokens: np.ndarray
    nll: np.ndarray
    top: np.ndarray


@dataclass(frozen=True)
class Perplexity:
    """Perplexity at one context length, with the sums it is made of; plain values, ready for JSON.

    perplexity is exp(nll / tokens), nll in nats summed over all targets. documents are indices into the list given,
    document_nll and document_tokens their sums. bits_per_byte is None where bytes_per_token was not given.
    token_set is the sha256 of the scored (document index, position, token id): equal hash, equal targets.
    """

    protocol: str
    context: int
    stride: int | None
    region: int
    nll: float
    tokens: int
    perplexity: float
    bits_per_byte: float | None
    documents: tuple[int, ...]
    document_nll: tuple[float, ...]
    document_tokens: tuple[int, ...]
    token_set: str


def measure(
    model: GPT,
    documents: Sequence,
    contexts: Sequence[int],
    protocol: Protocol,
    stride: int | None = None,
    *,
    bytes_per_token: np.ndarray | None = None,
    **options,
) -> list[Perplexity]:
    """Perplexity at each context length: `token_losses`, its arguments and errors, and bytes_per_token (V,)."""
    by_context = token_losses(model, documents, contexts, protocol, stride, **options)
    return [summarise(losses, bytes_per_token) for losses in by_context]


def summarise(losses: TokenLosses, bytes_per_token: np.ndarray | None = None) -> Perplexity:
    """Sum token losses in float64 into a perplexity; with bytes_per_token (V,), into bits per byte as well."""
    document_nll = losses.nll.sum(axis=1, dtype=np.float64).tolist()
    nll, tokens = math.fsum(document_nll), losses.nll.size  # fsum: exact, whatever the order of the documents
    digest = hashlib.sha256()
    for document, row in zip(losses.documents, losses.tokens, strict=True):
        triples = np.stack((np.full_like(losses.positions, document), losses.positions, row), axis=1)  # (N, 3)
        digest.update(triples.astype("<i8").tobytes())
    with np.errstate(over="ignore"):  # a mean above 709 nats is an infinite perplexity, not an error
        perplexity = float(np.exp(np.float64(nll / tokens)))
    size = None if bytes_per_token is None else float(np.asarray(bytes_per_token)[losses.tokens].sum(dtype=np.float64))
    return Perplexity(
        protocol=losses.protocol,
        context=losses.context,
        stride=losses.stride,
        region=losses.region,
        nll=nll,
        tokens=tokens,
        perplexity=perplexity,
        bits_per_byte=None if size is None else nll / math.log(2) / size,
        documents=tuple(losses.documents.tolist()),
        document_nll=tuple(document_nll),
        document_tokens=(len(losses.positions),) * len(document_nll),
        token_set=digest.hexdigest(),
    )


def token_losses(model: GPT, documents: Sequence, contexts: Sequence[int], protocol: Protocol, *stride, **options):
    """As a list, what `iterate_losses` gives; its arguments and errors."""
    return list(iterate_losses(model, documents, contexts, protocol, *stride, **options))


def iterate_losses(
    model: GPT,
    documents: Sequence,
    contexts: Sequence[int],
    protocol: Protocol,
    stride: int | None = None,
    *,
    region: int | None = None,
    as_decoded: bool = False,
    batch_tokens: int = 32_768,
    head_tokens: int = 512,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[TokenLosses]:
    """The loss of every target, one context length after another, under one protocol; batching does not change them.

    Memory is bounded by one batch's states and the logits of `head_tokens` positions. The model keeps its mode.

    Args:
        documents: 1-D integer arrays or CPU tensors, each opened by its separator; those too short are left out.
        contexts: context lengths, in tokens.
        stride: S of `sliding` and `fixed_targets`, at most the shortest context; `windows` takes none.
        region: targets per document from which the protocol takes its own; by default the longest context, so that
            documents of at least region + 1 tokens count and are cut to that (PI: Proof-pile cut to 32768).
        as_decoded: give every target a forward pass of its own (`decoded`), in place of one for a whole window.
        batch_tokens, head_tokens: tokens per forward pass (a longer window goes alone); targets whose logits coexist.
        device: where to measure, and where the model stays; by default where it is.
        precision: of the blocks; head and loss are float32 always. bfloat16 is slow on a CPU without such products.
        progress: called with (tokens read, tokens to read) after every forward pass.

    Raises:
        BadInput: an impossible protocol, context, stride or precision, or no document is long enough.
    """
    device = next(model.parameters()).device if device is None else torch.device(device)
    region = max(contexts, default=0) if region is None else region
    stride = None if protocol == "windows" else stride
    _check(contexts, protocol, stride, region, precision)
    chosen, tokens = _regions(documents, region)
    model.to(device)
    layouts = [PROTOCOLS[protocol](region, context, stride) for context in contexts]
    layouts = [decoded(layout) for layout in layouts] if as_decoded else layouts
    total = len(tokens) * sum(window.length for layout in layouts for window in layout)
    read = 0
    for context, layout in zip(contexts, layouts, strict=True):
        nll = np.full(tokens.shape, np.nan, dtype=np.float32)  # (D, R + 1), by position in the document
        top = np.zeros(tokens.shape, dtype=bool)
        for batch in _batches(layout, len(tokens), batch_tokens):
            with _evaluating(model):
                _score(model, tokens, batch, nll, top, head_tokens, device, precision)
            read += sum(window.length for _, window in batch)
            if progress is not None:
                progress(read, total)
        positions = np.concatenate([window.targets for window in layout])  # (N,)
        seen = np.concatenate([window.targets - window.start for window in layout])  # (N,)
        scored = tokens[:, positions], nll[:, positions], top[:, positions]  # (D, N) each
        yield TokenLosses(protocol, context, stride, region, chosen, positions, seen, *scored)


def _check(contexts, protocol, stride, region, precision) -> None:
    if protocol not in PROTOCOLS:
        raise BadInput(f"protocol={protocol} is not known: one of {', '.join(PROTOCOLS)}")
    if not contexts or min(contexts) < 1:
        raise BadInput(f"contexts={list(contexts)} must name at least one length, each of at least 1 token")
    if region < max(contexts):
        raise BadInput(f"region={region} is shorter than the longest context, {max(contexts)}")
    if protocol != "windows" and (stride is None or not 1 <= stride <= min(contexts)):
        raise BadInput(f"stride={stride} cannot apply to {protocol}: from 1 to the shortest context, {min(contexts)}")
    if precision not in get_args(Precision):
        raise BadInput(f"precision={precision} is not known: one of {', '.join(get_args(Precision))}")


def _regions(documents: Sequence, region: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (D,) of the documents that are long enough, and their first region + 1 tokens, (D, R + 1) int64."""
    lengths = [len(document) for document in documents]
    chosen = np.array([index for index, length in enumerate(lengths) if length > region], dtype=np.int64)
    if not chosen.size:
        longest = f"the longest of {len(lengths)} has {max(lengths)}" if lengths else "there are no documents"
        raise BadInput(f"documents of at least {region + 1} tokens (separator included) are needed: {longest}")
    return chosen, np.stack([np.asarray(documents[index][: region + 1]).astype(np.int64) for index in chosen])


def _batches(layout: list[Window], documents: int, batch_tokens: int) -> Iterator[list[tuple[int, Window]]]:
    """Pairs (document row, window) that are read together: equal length, so that nothing is padded."""
    for length, group in groupby(sorted(layout, key=attrgetter("length")), key=attrgetter("length")):
        pairs = product(range(documents), list(group))
        while batch := list(islice(pairs, max(1, batch_tokens // length))):
            yield batch


@torch.inference_mode()
def _score(model, tokens, batch, nll, top, head_tokens, device, precision) -> None:
    """Fill the losses of one batch of windows into nll (D, R + 1), and what was likeliest into top, likewise."""
    rows, layout = zip(*batch, strict=True)
    inputs = np.stack([tokens[row, window.start : window.stop] for row, window in batch])  # (B, T)
    item = np.repeat(np.arange(len(batch)), [len(window.targets) for window in layout])  # window of each target
    target = np.concatenate([window.targets for window in layout])  # position of each target in its document
    row = np.array(rows)[item]
    state = target - 1 - np.array([window.start for window in layout])[item]  # the state that predicts it
    labels, item, state = (torch.from_numpy(array).to(device) for array in (tokens[row, target], item, state))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        hidden = model.hidden(torch.from_numpy(inputs).to(device))  # (B, T, C)
    losses = torch.empty(len(labels), device=device)  # whole from the start: pieces would fragment the heap
    likeliest = torch.empty(len(labels), dtype=torch.bool, device=device)
    for start in range(0, len(labels), head_tokens):
        part = slice(start, start + head_tokens)
        logits = model.logits(hidden[item[part], state[part]]).float()  # (head_tokens, V)
        losses[part] = F.cross_entropy(logits, labels[part], reduction="none")
        likeliest[part] = logits.argmax(dim=-1) == labels[part]
    nll[row, target], top[row, target] = losses.cpu().numpy(), likeliest.cpu().numpy()


@contextmanager
def _evaluating(model: torch.nn.Module):
    """Evaluation mode for the block; then every part gets back the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
