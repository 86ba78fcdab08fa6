"""Checkpoints that survive being killed: written beside their target, loaded as data, the last good one found."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, distributed
from torch.utils._pytree import tree_map

from conf.base import BadInput

SHARDED = ("state_dict", "optimizer_states")  # what the processes of a sharded run have different rows of


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it, so that a path either holds the whole or nothing."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        remove(partial)  # may be a folder of parts, left by a kill
        _write(checkpoint, partial)
        os.replace(partial, path)

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        return load_checkpoint(Path(path), map_location)


def _write(checkpoint: dict[str, Any], path: Path) -> None:
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
    _write(checkpoint if rank == 0 else {key: checkpoint[key] for key in SHARDED}, partial / part_name(rank, ranks))
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


class Checkpoints(L.Callback):
    """Saves the whole training state every so many steps and when a signal asks the run to stop.

    The two newest are kept, so that one damaged file loses one interval; `snapshots` are kept for good. Ctrl-C and
    SIGTERM take effect between steps: a state saved in the middle of one could not be resumed bit for bit. Where
    several processes train together, a signal to one stops all after the same step, and what is kept for good is one
    file even if they are sharded.
    """

    def __init__(self, folder: Path, every: int, snapshots: tuple[int, ...] = (), keep: int = 2):
        self.folder, self.every, self.snapshots, self.keep = folder, every, snapshots, keep
        self.signal: int | None = None  # the one that stopped the run
        self._group: distributed.ProcessGroup | None = None

    def on_train_start(self, trainer, module) -> None:
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")  # on the CPU, so that asking does not wait for a GPU
            # Lightning asks as well, before every step, and waits for the device to answer.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # Lightning has its own there by now, and itself puts back what it found, however the run ends.
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame) -> None:
        self.signal = number

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # between two optimizer steps
        step = trainer.global_step
        self._agree()
        if step in self.snapshots:
            self._save(trainer, self.snapshot(step), whole=True)
        if self.signal is not None:
            trainer.should_stop = True
        if step % self.every == 0 or step == trainer.max_steps or self.signal is not None:
            self._save(trainer, self.folder / f"step-{step:08d}.ckpt", whole=step == trainer.max_steps)
            if trainer.is_global_zero:
                for old in numbered(self.folder)[: -self.keep]:
                    remove(old)

    def _agree(self) -> None:
        """A signal that reached one process counts for all."""
        if self._group is not None:
            number = torch.tensor(self.signal or 0)
            distributed.all_reduce(number, distributed.ReduceOp.MAX, group=self._group)
            self.signal = int(number) or None

    def _save(self, trainer, path: Path, whole: bool) -> None:
        trainer.save_checkpoint(path)  # returns when every process has written its part
        if whole and trainer.is_global_zero and path.is_dir():
            checkpoint, partial = load_checkpoint(path), path.with_suffix(".tmp")
            _write(checkpoint, partial)
            remove(path)
            os.replace(partial, path)

    def snapshot(self, step: int) -> Path:
        """Where the state after this many steps is kept."""
        return self.folder / f"snapshot-{step:08d}.ckpt"
