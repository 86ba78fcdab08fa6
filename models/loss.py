"""The next-token loss and its gradient, computed in pieces of tokens, so that all logits never exist at once.

Letters in shape comments are those of models/__init__.py, but N: tokens of all texts together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits held at once: 4 MB stay in a CPU's cache, and a GPU wants large matrices.
LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}
# Each piece adds to a gradient as large as the head, which takes most of a step where 49,152 tokens leave room for few.
STATES_AT_ONCE = 512  # at least, whatever the vocabulary: 100 MB of logits of 49,152 tokens


def next_token_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, short: Tensor | None = None, limit: float = 5.0
) -> tuple[Tensor, Tensor]:
    """The mean negative log-likelihood of targets, and that of every target, (N,), in float32 nats.

    Only the mean has a gradient; of no targets it is 0. The gradient is computed in the forward pass, a piece of the
    tokens at a time, so that N·V logits are never held, and none is computed twice (Hsu et al. 2024, Liger Kernel,
    arXiv 2410.10989, 3.2).

    Args:
        hidden: last states, (N, C); weight: of the head, (V, C); targets: (N,).
        short: losses of the targets after a short context, (N,), NaN for those that have no other: a target of loss l
            then counts min(exp(short - l), limit) times, a number without a gradient (LongCE, longce.py).
    """
    return _Pieces.apply(hidden, weight, targets, torch.is_grad_enabled(), short, limit)


class _Pieces(torch.autograd.Function):
    """With logits z = h·Wᵀ and p their softmax, ∂nll/∂z = p - [target]; the rest are two products."""

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        with_gradient: bool,
        short: Tensor | None,
        limit: float,
    ) -> tuple[Tensor, Tensor]:
        rows = max(STATES_AT_ONCE, LOGITS_AT_ONCE.get(hidden.device.type, 2**20) // len(weight))
        nll = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)  # whatever the default dtype
        counts = torch.ones_like(nll) if short is not None else None
        if with_gradient:
            to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            target = targets[part, None]
            product = F.linear(hidden[part], weight)  # in bfloat16 under autocast, like those below
            logits = product.float()
            logits -= logits.amax(-1, keepdim=True)
            score = logits.gather(-1, target)
            error = logits.exp_()
            partition = error.sum(-1, keepdim=True)
            nll[part] = (partition.log() - score).squeeze(-1)
            if short is not None:
                counts[part] = (short[part] - nll[part]).exp().clamp(max=limit).nan_to_num(1.0)
            if with_gradient:
                error /= partition
                error.scatter_add_(-1, target, error.new_full(target.shape, -1))
                if short is not None:
                    error *= counts[part, None]
                error = error.to(product.dtype)
                to_hidden[part] = error @ weight
                to_weight += error.T @ hidden[part]
        if with_gradient:
            ctx.save_for_backward(to_hidden, to_weight)
        ctx.mark_non_differentiable(nll)
        total = nll.sum() if counts is None else (nll * counts).sum()
        return total / max(1, len(targets)), nll

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple:
        to_hidden, to_weight = ctx.saved_tensors
        share = gradient / max(1, len(to_hidden))
        return to_hidden * share, to_weight * share, None, None, None, None
