"""Checkpoints that survive being killed: written beside their target, loaded as data, the last good one found."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from conf.base import BadInput


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it, so that a path either holds the whole or nothing."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        with open(partial, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        return load_checkpoint(Path(path), map_location)


def load_checkpoint(path: Path, map_location="cpu") -> dict[str, Any]:
    """Read a checkpoint as plain data; nothing in it is ever executed.

    Raises:
        BadInput: the file is missing, truncated, or holds something other than tensors and plain values.
    """
    if not path.is_file():
        raise BadInput(f"checkpoint={path}: there is no such file")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
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
            path.rename(path.with_suffix(".damaged"))
    return None


class Checkpoints(L.Callback):
    """Saves the whole training state every so many steps and when a signal asks the run to stop.

    The two newest are kept, so that one damaged file loses one interval; `snapshots` are kept for good. Ctrl-C and
    SIGTERM take effect between steps: a state saved in the middle of one could not be resumed bit for bit.
    """

    def __init__(self, folder: Path, every: int, snapshots: tuple[int, ...] = (), keep: int = 2):
        self.folder, self.every, self.snapshots, self.keep = folder, every, snapshots, keep
        self.signal: int | None = None  # the one that stopped the run
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer, module) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame) -> None:
        self.signal = number

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # between two optimizer steps
        step = trainer.global_step
        if step in self.snapshots:
            trainer.save_checkpoint(self.snapshot(step))
        if self.signal is not None:
            trainer.should_stop = True
        if step % self.every == 0 or step == trainer.max_steps or self.signal is not None:
            trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
            if trainer.is_global_zero:
                for old in numbered(self.folder)[: -self.keep]:
                    old.unlink()

    def snapshot(self, step: int) -> Path:
        """Where the state after this many steps is kept."""
        return self.folder / f"snapshot-{step:08d}.ckpt"

    def teardown(self, trainer, module, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
