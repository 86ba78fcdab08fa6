"""Checkpoint files that survive being killed: written beside their target, loaded as data, the last good one found."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from conf.base import BadInput

SHARDED = ("state_dict", "optimizer_states")  # what the processes of a sharded run have different rows of


def write(checkpoint: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a checkpoint, file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def save_part(path: Path, checkpoint: dict[str, Any], rank: int, ranks: int, wait: Callable[[], None]) -> None:
    """Write one process's rows of a sharded checkpoint, a folder of such parts that appears when all are written.

    Args:
        checkpoint: as Lightning makes it, every tensor the rows (along its first dimension) of this process.
        wait: returns when every process has called it.
    """
    partial = path.with_suffix(".tmp")
    if rank == 0:
        remove(partial)
        partial.mkdir(parents=True)
    wait()
    write(checkpoint if rank == 0 else {key: checkpoint[key] for key in SHARDED}, partial / part_name(rank, ranks))
    wait()
    if rank == 0:
        remove(path)
        os.replace(partial, path)


def part_name(rank: int, ranks: int) -> str:
    return f"part-{rank}-of-{ranks}.ckpt"


def _read(path: Path, map_location) -> dict[str, Any]:
    """A file, or the parts of a folder put together: along the first dimension; scalars are the same in each."""
    if path.is_file():
        return torch.load(path, map_location=map_location, weights_only=True)
    ranks = len(list(path.iterdir()))
    parts = [_read(path / part_name(rank, ranks), map_location) for rank in range(ranks)]
    whole = parts[0]
    for key in SHARDED:
        whole[key] = tree_map(
            lambda *rows: torch.cat(rows) if isinstance(rows[0], Tensor) and rows[0].dim() else rows[0],
            *(part[key] for part in parts),
        )
    return whole


def load_checkpoint(path: Path, map_location="cpu") -> dict[str, Any]:
    """Read a checkpoint, whole or in parts, as plain data; nothing in it is ever executed.

    Raises:
        BadInput: a file is missing, truncated, or holds something other than tensors and plain values.
    """
    if not path.is_file() and not any(path.glob("part-*")):
        raise BadInput(f"checkpoint={path}: there is no such file")
    try:
        return _read(path, map_location)
    except Exception as error:  # torch raises several kinds for a torn or hostile file
        raise BadInput(
            f"checkpoint={path} cannot be read ({type(error).__name__}): it is truncated, or holds more than tensors "
            "and plain values"
        ) from error


def numbered(folder: Path) -> list[Path]:
    """The resumable checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.ckpt"))


def latest(folder: Path, tell=print) -> Path | None:
    """The newest checkpoint of a run that can be read; unreadable ones are reported, set aside and passed over."""
    for path in reversed(numbered(folder)):
        try:
            load_checkpoint(path)
            return path
        except BadInput as error:
            tell(f"{error}; the checkpoint before it is used")
            with suppress(FileNotFoundError):  # another process of this run may have done so
                path.rename(path.with_suffix(".damaged"))
    return None
