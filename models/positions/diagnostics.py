"""Diagnostics of a table of frequencies: which positions of a window it distinguishes, without any training.

A table is (K,) frequencies in radians per token, as a spectrum's `table` gives it. Everything is float64.
"""

import torch
from torch import Tensor

from models.positions.frequencies import phases


def kernel(frequencies: Tensor, offsets: Tensor) -> Tensor:
    """g(r) = mean_k cos(ω_k·r), (R,): the mean score of an encoding with itself r tokens away; g(0) = 1.

    The encoding seen as a Fourier expansion: ⟨PE(p), PE(p + r)⟩ / K for the sinusoid, and the score of RoPE for
    constant q = k, divided by its value at r = 0.
    """
    return phases(offsets.double(), frequencies.double()).cos().mean(dim=-1)


def alias(frequencies: Tensor, start: int, stop: int) -> float:
    """The largest g(r) over whole offsets start ≤ r < stop: near one, two distant positions look the same."""
    return kernel(frequencies, torch.arange(start, stop)).max().item()


def participation_rank(frequencies: Tensor, window: int) -> float:
    """The effective number of directions of a window's encodings: (Σσ²)² / Σσ⁴ of its singular values, 1 … 2K.

    Of the matrix of the sines and cosines of all positions of the window, (window, 2K).
    """
    phase = phases(torch.arange(window, dtype=torch.float64), frequencies.double())
    table = torch.cat((phase.sin(), phase.cos()), dim=-1)
    power = torch.linalg.svdvals(table) ** 2
    return (power.sum() ** 2 / (power**2).sum()).item()
