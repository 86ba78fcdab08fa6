"""Pairs of channels that turn: cosines and sines of their phases, and the rotation of queries and keys by them."""

import torch
from torch import Tensor


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first 2K channels of x, pair (i, i + K) by its phase; the channels behind them pass unchanged.

    x (B, H, T, D); cos and sin (T, K), (H, T, K) or (B, 1, T, K), float32. The products are taken in the wider of
    the two dtypes and rounded back to x's.
    """
    if x.dtype == cos.dtype and not (cos.requires_grad or torch.compiler.is_compiling()):
        return _Rotation.apply(x, cos, sin)
    return rotated_by_formula(x, cos, sin)


def rotated_by_formula(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotation as a formula whose derivative is left to autograd or a compiler."""
    half = cos.shape[-1]
    pairs, rest = x.split((2 * half, x.shape[-1] - 2 * half), dim=-1)
    a, b = pairs.to(torch.promote_types(x.dtype, cos.dtype)).chunk(2, dim=-1)  # (B, H, T, K) twice
    turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


class _Rotation(torch.autograd.Function):
    """The same numbers, bit for bit, with one array beside the result instead of six: 0.6 of the time on a CPU."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    a, b, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    first, second, behind = out.split((half, half, rest.shape[-1]), dim=-1)
    product = torch.empty_like(first)
    torch.mul(a, cos, out=first)
    first.sub_(torch.mul(b, sin, out=product))
    torch.mul(b, cos, out=second)
    second.add_(torch.mul(a, sin, out=product))
    behind.copy_(rest)
    return out


def waves(phase: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of a phase."""
    return _opaque_waves(phase) if torch.compiler.is_compiling() else (phase.cos(), phase.sin())


@torch.library.custom_op("lab::waves", mutates_args=())
def _opaque_waves(phase: Tensor) -> tuple[Tensor, Tensor]:
    """Computed once: a compiler that saw inside would compute them in every layer, there again for every head and text.

    Called without a compiler, it would import one: a second, half of what a reading of a small model takes.
    """
    return phase.cos(), phase.sin()


@_opaque_waves.register_fake
def _(phase: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(phase), torch.empty_like(phase)


def _derivative(ctx, of_cos: Tensor, of_sin: Tensor) -> Tensor:
    cos, sin = ctx.saved_tensors
    return of_sin * cos - of_cos * sin


_opaque_waves.register_autograd(_derivative, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*output))
