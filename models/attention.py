"""Causal attention on torch's fused kernels: whole, in parts, a few queries at a time, or over a sliding window.

Letters in shape comments are those of models/__init__.py; E is the width of queries and keys.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.parts import attend_in_parts, has_kernels
from models.positions import base
from models.positions.base import Differences, Layer, Position, row_chunks, rows_at_once, window_rows


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Position | Layer,
    prepared,
    temperature: float | Tensor,
    mask: Tensor | None,
    sink: Tensor | None,
) -> Tensor:
    """Attention of queries and keys that a scheme has rotated, with its bias and within its window.

    q and k (B, H, T, E), v (B, H, T, D) → (B, H, T, D). temperature, mask and sink: as for `attend`.
    """
    length, window = q.shape[-2], position.sliding_window
    rows = rows_at_once(length, q.device)
    windowed = window is not None and window < length
    fuses = mask is None and not windowed and not torch.is_grad_enabled() and has_kernels(q)
    if fuses and (parts := position.parts(q, k, prepared)):  # of extensions that have no temperature
        return attend_in_parts(parts, v, sink)
    if windowed:
        return attend_in_chunks(q, k, v, position, prepared, temperature, mask, sink, window_rows(rows, window))
    if rows == length:
        return attend(q, k, v, position.bias(q, k, prepared), mask, temperature, sink)
    return attend_in_chunks(q, k, v, position, prepared, temperature, mask, sink, rows)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | Differences | None,
    mask: Tensor | None,
    temperature: float | Tensor,
    sink: Tensor | None = None,
) -> Tensor:
    """Causal attention of the last Q of N tokens over all N; without bias or mask it stays on the flash path.

    q (B, H, Q, E), k (B, H, N, E) and v (B, H, N, D) → (B, H, Q, D). The scores are q·k/(t√D), also where a scheme
    made queries and keys wider than D; t is the temperature, one number or one for every query, (…, Q, 1). bias: added
    to the scores and never divided, (H, Q, N) or (B, H, Q, N), or differences, which are as fast as none. mask: True
    where a query may look, broadcastable likewise and already causal; None means causal alone, of Q = N. sink: the
    score of each head, (H,), of a key that takes its share of the probability and gives nothing.
    """
    width = v.shape[-1]
    if isinstance(bias, Tensor):
        if mask is None:
            mask = visible_keys(q.shape[-2], k.shape[-2], None, q.device)
        mask = bias.to(q.dtype).masked_fill(~mask, float("-inf"))
        mask = mask[None] if mask.dim() == 3 else mask  # with three dimensions the kernel would be the slow one
    if isinstance(temperature, Tensor):  # the kernels take one number
        q, temperature = (q / temperature.unsqueeze(-3)).to(q.dtype), 1.0
    scale = width**-0.5 / temperature
    if isinstance(bias, Differences):
        q, k = add_differences(q, k, bias, scale)
    if sink is not None:
        q, k, v, mask = add_sink(q, k, v, mask, sink / scale)
    if extra := q.shape[-1] - v.shape[-1]:  # the fast kernels want one width; zeros cost less than the slow kernel
        v = F.pad(v, (0, extra))
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    return x[..., 1:, :width] if sink is not None and mask is None else x[..., :width]


def add_differences(q: Tensor, k: Tensor, bias: Differences, scale: float) -> tuple[Tensor, Tensor]:
    """Queries and keys whose products, times the scale, have the bias in them, eight channels wider.

    A number is the sum of three that bfloat16 holds, so that little is lost in a model of that precision: products with
    one are exact, and the kernels sum in float32.
    """

    def split(numbers: Tensor) -> Tensor:
        """(…) → the parts of each number, (…, 3), of which the last has the gradient."""
        rest, parts = numbers / scale, []
        for _ in range(2):
            parts.append(rest.detach().to(torch.bfloat16).to(rest.dtype))
            rest = rest - parts[-1]
        return torch.stack((*parts, rest), dim=-1)

    own, subtracted = split(bias.queries), -split(bias.keys)
    more_q = torch.cat((own, torch.ones_like(own)), dim=-1)
    more_k = torch.cat((torch.ones_like(subtracted), subtracted), dim=-1)
    q, k = (torch.cat((x, F.pad(more, (0, 2)).to(x.dtype)), dim=-1) for x, more in ((q, more_q), (k, more_k)))
    return q, k


def add_sink(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, product: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys, values and mask with a first key that every query sees, of this product q·k by head, (H,).

    The product is that of a channel of its own, of eight since the kernels want multiples. Without a mask there is a
    first query too, of whose output nothing is known, so that the rest is causal as it was.
    """
    q = torch.cat((q, F.pad(torch.ones_like(q[..., :1]), (0, 7))), dim=-1)
    key = F.pad(product.to(k.dtype)[:, None, None], (k.shape[-1], 7)).expand(len(k), -1, -1, -1)  # (B, H, 1, E + 8)
    k, v = torch.cat((key, F.pad(k, (0, 8))), dim=-2), F.pad(v, (0, 0, 1, 0))
    if mask is None:
        return F.pad(q, (0, 0, 1, 0)), k, v, None
    return q, k, v, F.pad(mask, (1, 0), value=mask.dtype == torch.bool)


def visible_keys(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Which keys the last Q of N tokens see, (Q, N): themselves and those before, within a window of so many tokens."""
    past = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return past if window is None else past.triu(keys - queries - window + 1)


def attend_in_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Position | Layer,
    prepared,
    temperature: float | Tensor,
    mask: Tensor | None,
    sink: Tensor | None,
    rows: int,
) -> Tensor:
    """`attend` with so many queries at a time, and only the keys that one of them sees: no bias is ever (H, T, T)."""
    parts, length, window = [], q.shape[-2], position.sliding_window
    window = None if window is None or window >= length else window
    for first, last in row_chunks(length, rows):
        start = 0 if window is None else max(0, first + 1 - window)
        queries, keys, values = q[..., first:last, :], k[..., start:last, :], v[..., start:last, :]
        bias = position.bias(queries, keys, prepared, first)
        if not isinstance(bias, Tensor) and mask is None:  # the fast kernels make nothing large, and skip the unseen
            if window is None:
                return attend(q, k, v, None if bias is None else position.bias(q, k, prepared), None, temperature, sink)
            if bias is None:
                return attend_in_window(q, k, v, window, temperature, sink)
        visible = None if mask is None else mask[..., first:last, start:last]
        if window is not None:
            near = visible_keys(last - first, last - start, window, q.device)
            visible = near if visible is None else visible & near
        heat = temperature[..., first:last, :] if isinstance(temperature, Tensor) else temperature
        parts.append(attend(queries, keys, values, bias, visible, heat, sink))
    return torch.cat(parts, dim=-2)


def attend_in_window(
    q: Tensor, k: Tensor, v: Tensor, window: int, temperature: float | Tensor, sink: Tensor | None
) -> Tensor:
    """`attend` without bias, each query over the last `window` of its keys, itself included; Q = N = T > window.

    First as many queries as a window has, which see all before them. Then blocks of R queries, each with its
    R + window - 1 keys, all in the same pattern, so that they are one batch with one mask: cost grows with T·window.
    """
    length, heads, rows = q.shape[-2], q.shape[1], max(base.ROWS_IN_WINDOW, -(-window // 4))
    if isinstance(temperature, Tensor):
        q, temperature = (q / temperature.unsqueeze(-3)).to(q.dtype), 1.0
    opening = min(max(window, rows), length)
    mask = None if opening <= window else visible_keys(opening, opening, window, q.device)
    near = slice(opening)
    first = attend(q[..., near, :], k[..., near, :], v[..., near, :], None, mask, temperature, sink)
    if opening == length:
        return first
    reach, blocks = rows + window - 1, -(-(length - opening) // rows)
    spare = blocks * rows - (length - opening)
    queries = F.pad(q[..., opening:, :], (0, 0, 0, spare)).unflatten(-2, (blocks, rows))  # (B, H, blocks, R, E)
    keys, values = (
        F.pad(x[..., opening - window + 1 :, :], (0, 0, 0, spare)).unfold(-2, reach, rows).transpose(-1, -2)
        for x in (k, v)
    )  # (B, H, blocks, R + window - 1, E or D)
    mask = visible_keys(rows, reach, window, q.device)
    sink = None if sink is None else sink.repeat_interleave(blocks)
    rest = attend(queries.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), None, mask, temperature, sink)
    rest = rest.unflatten(1, (heads, blocks)).flatten(2, 3)[..., : length - opening, :]
    return torch.cat((first, rest), dim=-2)
