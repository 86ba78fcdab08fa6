"""What a training step costs, in operations and memory, and what the device could do."""

import resource
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from models.gpt import GPT


def flops_per_token(gpt: GPT, window: int) -> float:
    """Floating-point operations to train on one token of a window.

    6·N for the N weights that multiply it (the embedding only as the head, if it is one; none of the scheme of
    positions), and 6·layers·H·D·T for causal attention: forward and backward cost 3 × 2 × 2·H·D multiply-adds for every
    token seen, T/2 of them on average.
    """
    weights = sum(p.numel() for name, p in gpt.named_parameters() if p.dim() >= 2 and not name.startswith("position."))
    if gpt.head is not None:  # the embedding is only looked up
        weights -= gpt.embedding.weight.numel()
    return 6.0 * weights + 6.0 * gpt.shape.layers * gpt.shape.channels * window


def flush_denormals() -> None:
    """Count numbers below 1e-38, of which a softmax far from its query leaves many, as zero: a CPU takes many times as
    long for them. Threads keep what they began with, so it has to come before the first work they share."""
    torch.set_flush_denormal(True)


def reset_peak_memory(device: torch.device) -> None:
    """Have `peak_memory` count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux alone has it: the peak of the process becomes what it holds now
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes held at most: by torch on a GPU, else by this whole process (of all its life, where that is not Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, KeyError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(status["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def matmul_size(device: torch.device) -> int:
    """Rows and columns of the matrices whose product is this device's ceiling."""
    return 4096 if device.type == "cuda" else 1024


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix multiplication on this device, the best of five: the ceiling MFU refers to.

    Measured once in a process, for its number of threads: all runs of a plan refer to the same.
    """
    return _measure_matmul(device, dtype, torch.get_num_threads())


@cache
def _measure_matmul(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    size = matmul_size(device)
    own = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=own).to(dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    best, began = float("inf"), time.perf_counter()
    for _ in range(6):  # the first is warm-up and never the best
        wait()
        start = time.perf_counter()
        a @ b
        wait()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > 1:  # seconds each, on a processor without arithmetic of this type
            break
    return 2.0 * size**3 / best
