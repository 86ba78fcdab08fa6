"""The limits of the device: its matrix multiplication rate and the bandwidth of a copy."""

from collections.abc import Iterator

import torch

from experiments.benchmark.timing import timed_loop
from experiments.benchmark.workbench import Workbench, training_dtype


def run(bench: Workbench) -> Iterator[list[dict]]:
    """One row: FLOP/s of a square matrix multiplication in the training precision, bytes/s moved by a copy."""
    yield [
        {
            "dtype": str(training_dtype(bench.device)).removeprefix("torch."),
            "matmul_flops_per_second": bench.ceiling,
            "copy_bytes_per_second": copy_rate(bench.device),
        }
    ]


def copy_rate(device: torch.device) -> float:
    """Bytes read and written per second by a copy too large for any cache, the best of five."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)  # float32: 1 GiB, or 256 MiB
    target = torch.empty_like(source)
    copy = timed_loop(lambda: target.copy_(source), device)
    copy(1)  # the first one fetches the pages
    return 2 * source.nbytes / min(copy(1) for _ in range(5))


def table(rows: list[dict]) -> str:
    return "\n".join(
        f"matrix multiplication, {row['dtype']}: {row['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s; "
        f"copy: {row['copy_bytes_per_second'] / 1e9:,.1f} GB/s"
        for row in rows
    )
