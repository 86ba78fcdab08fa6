"""What a training step costs, and what the device could do: the two sides of model FLOPs utilisation."""

import time

import torch

from models.gpt import GPT


def flops_per_token(gpt: GPT, window: int) -> float:
    """Floating-point operations to train on one token of a window.

    6·N for the N weights that multiply it (the embedding only as the head, if it is one), and 6·layers·H·D·T for causal
    attention: forward and backward cost 3 × 2 × 2·H·D multiply-adds for every token seen, T/2 of them on average.
    """
    weights = sum(p.numel() for p in gpt.parameters() if p.dim() >= 2)
    if gpt.head is not None:  # the embedding is only looked up
        weights -= gpt.embedding.weight.numel()
    return 6.0 * weights + 6.0 * gpt.shape.layers * gpt.shape.channels * window


def flush_denormals() -> None:
    """Count numbers below 1e-38, of which a softmax far from its query leaves many, as zero: a CPU takes many times as
    long for them. Threads keep what they began with, so it has to come before the first work they share."""
    torch.set_flush_denormal(True)


def matmul_size(device: torch.device) -> int:
    """Rows and columns of the matrices whose product is this device's ceiling."""
    return 4096 if device.type == "cuda" else 1024


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix multiplication on this device, the best of five: the ceiling MFU refers to."""
    size = matmul_size(device)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    best = float("inf")
    for _ in range(6):  # the first is warm-up and never the best
        wait()
        start = time.perf_counter()
        a @ b
        wait()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
