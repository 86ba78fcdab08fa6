"""Attention in parts: sets of keys with queries and keys of their own, each left to a fused kernel, and merged exactly.

A softmax over several sets of keys is the mean of the softmaxes over each, weighted by the sums of exponentials that
they divide by. The kernels return the logarithms of these sums, but have no gradient for them: this is for reading.

Letters in shape comments are those of models/__init__.py.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from models.positions.base import Parts

Piece = tuple[int, Tensor, Tensor]  # the first of R queries, what they get (B, H, R, D), their sums (B, H, R)


def has_kernels(q: Tensor) -> bool:
    """Whether there are fused kernels that return sums for queries (B, H, T, D) of this device, type and width."""
    if q.device.type != "cuda":
        return q.device.type == "cpu"
    half = q.dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(q.device) >= (8, 0)
    return (half or q.dtype == torch.float32) and q.shape[-1] % 8 == 0


def fused(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and the logarithm of each query's sum: (B, H, Q, D), (B, H, N, D) twice → (B, H, Q, D), (B, H, Q)."""
    kernels = torch.ops.aten
    if q.device.type == "cpu":
        return kernels._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    if q.dtype == torch.float32:
        x, sums, *_ = kernels._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal, scale=scale)
    else:
        x, sums, *_ = kernels._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return x, sums[..., : q.shape[-2]]  # the kernel may round their number up


def attend_in_parts(parts: Parts, v: Tensor, sink: Tensor | None) -> Tensor:
    """Causal attention of T tokens over all of them, to values v (B, H, T, D) → (B, H, T, D).

    sink: as for `attend` (models/attention.py).
    """
    wide = torch.promote_types(v.dtype, torch.float32)
    merged, sums = v.new_zeros(v.shape, dtype=wide), v.new_full(v.shape[:-1], float("-inf"), dtype=wide)
    ends = [first for first, _, _ in parts.groups[1:]] + [None]
    for (first, q, k), end in zip(parts.groups, ends, strict=True):
        for row, x, piece_sums in pieces(q, k, v, parts.unit, first, end, v.shape[-1] ** -0.5):
            rows = slice(row, row + piece_sums.shape[-1])
            share = torch.sigmoid(piece_sums - sums[..., rows])[..., None]  # of its sums in those of both
            merged[..., rows, :].lerp_(x.to(wide), share)
            sums[..., rows] = torch.logaddexp(sums[..., rows], piece_sums)
    if sink is not None:
        merged = merged * torch.sigmoid(sums - sink[:, None])[..., None]
    return merged.to(v.dtype)


def pieces(q: Tensor, k: Tensor, v: Tensor, unit: int, first: int, end: int | None, scale: float) -> Iterator[Piece]:
    """Attention from the last R tokens, q (B, H, R, D), to keys from `first` up to before `end` units away.

    The pieces share no pair of tokens.
    """
    rows, start = q.shape[-2], v.shape[-2] - q.shape[-2]
    v = v[..., : k.shape[-2], :]

    def part(queries: slice, keys: slice, blocks: int = 1, order: str = "any") -> Piece:
        x = fused_blocks(q[..., queries, :], k[..., keys, :], v[..., keys, :], blocks, order, scale)
        return start + queries.start, *x

    if not rows:
        return
    if end is None and unit == 1:
        yield part(slice(0, rows), slice(0, rows), order="past")
    elif end is None:
        # Keys of the block of the same place, and of all before it: by halves, since large calls are fast.
        for row, last, blocks in equal_blocks(rows, unit):
            yield part(slice(row, last), slice(row, row + blocks * unit), blocks)
        size = unit
        while size < rows:
            for row in range(size, rows, 2 * size):
                yield part(slice(row, min(row + size, rows)), slice(row - size, row))
            size *= 2
    elif end == first + 1:
        for row, last, blocks in equal_blocks(rows, unit):
            keys = slice(row, row + blocks * unit if first else last)
            yield part(slice(row, last), keys, blocks, "any" if first else "past")
    else:  # a window of `end` tokens: keys of a query's own block of as many, and later ones of the block before
        for row, last, blocks in equal_blocks(rows, end):
            yield part(slice(row, last), slice(row, last), blocks, "past")
        for row, last, blocks in equal_blocks(rows - end, end):
            if last - row > blocks:  # blocks of one have no later key
                yield part(slice(row + end, last + end), slice(row, last), blocks, "later")
            if last - row < end:
                yield part(slice(row + end, last + end), slice(last, row + end))


def equal_blocks(rows: int, size: int) -> list[tuple[int, int, int]]:
    """First, last + 1 and the number of whole blocks of so many rows, and of the block of those that are left."""
    whole = max(0, rows) // size
    spans = [(0, whole * size, whole), (whole * size, rows, 1)]
    return [span for span in spans if span[0] < span[1]]


def fused_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: int, order: str, scale: float) -> tuple[Tensor, Tensor]:
    """Attention from each of so many blocks of queries to its block of keys, in one call of a kernel.

    order: any keys of the block; those up to the query's own place in it (past); or those after it (later), which read
    backwards is the same.
    """
    heads = q.shape[1]
    q, k, v = (x.unflatten(-2, (blocks, x.shape[-2] // blocks)) for x in (q, k, v))
    if order == "later":
        q, k, v = (x.flip(-2) for x in (q[..., :-1, :], k[..., 1:, :], v[..., 1:, :]))
    x, sums = fused(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), order != "any", scale)
    x, sums = (part.unflatten(1, (heads, blocks)) for part in (x, sums))
    if order == "later":  # the last query of a block has no later key
        x, sums = F.pad(x.flip(-2), (0, 0, 0, 1)), F.pad(sums.flip(-1), (0, 1), value=float("-inf"))
    return x.flatten(2, 3), sums.flatten(2, 3)
