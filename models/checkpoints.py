"""When a run saves its whole state, and what stops it."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from models.checkpoint_files import load_checkpoint, numbered, remove, save_checkpoint
from models.lightning import L

KEPT = 2  # whole states, so that one damaged file loses one interval


class AtomicCheckpointIO(L.fabric.plugins.TorchCheckpointIO):
    """Lightning's way to checkpoint files, by models/checkpoint_files.py."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        return load_checkpoint(Path(path), map_location)


class Checkpoints(L.Callback):
    """Saves the whole training state every so many steps and when a signal asks the run to stop.

    The two newest are kept; `snapshots`, weights alone, are kept for good, and a run that ends with one keeps its last
    state alone. With AdamW a state is three times its weights. Ctrl-C, SIGTERM and SIGHUP take effect between steps: a
    state saved in the middle of one could not be resumed bit for bit. A second signal says what is waited for, a third
    gives up what was done since the last checkpoint. Where several processes train together, a signal to one stops all
    after the same step, and what is kept for good is one file even if they are sharded.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        snapshots: tuple[int, ...] = (),
        saved: Callable[[int], None] = lambda step: None,
    ):
        """Save to a folder; `saved` is called with the step after every checkpoint that a run can go on from."""
        self.folder, self.every, self.snapshots, self.saved = folder, every, snapshots, saved
        self.signal: int | None = None  # the first that came to this process
        self._shared: int | None = None  # the one that the processes stop for
        self._signals, self._busy = 0, "this step"
        self._group: distributed.ProcessGroup | None = None

    def on_train_start(self, trainer, module) -> None:
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")  # on the CPU, so that asking does not wait for a GPU
            # Lightning asks as well, before every step, and waits for the device to answer.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # under nohup
                # Lightning has its own there by now, and itself puts back what it found, however the run ends.
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame) -> None:
        self._signals += 1
        if self._signals > 2:
            raise SystemExit(128 + number)
        if self.signal is None:
            self.signal, message = number, f"stopping after {self._busy}, then saving"
        else:
            message = f"still busy with {self._busy}; once more gives up what was done since the last checkpoint"
        # print itself may have been interrupted
        os.write(2, f"{self.folder.parent.name}: {signal.Signals(number).name}: {message}\n".encode())

    def stopping(self) -> bool:
        """Whether a signal has come, to whichever process; all of them have to ask."""
        self._agree()
        return self.agreed is not None

    @property
    def agreed(self) -> int | None:
        """The signal that stops the run, the same in all processes whenever it is read."""
        return self.signal if self._group is None else self._shared

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return  # between two optimizer steps
        step = trainer.global_step
        self._agree()
        last = step == trainer.max_steps or trainer.should_stop  # the Recorder, which comes before, may end the run
        if step in self.snapshots:
            self._save(trainer, self.snapshot(step), whole=True, weights_only=True)
        if self.agreed is not None:
            trainer.should_stop = True
        if step % self.every == 0 or last or self.agreed is not None:
            self._save(trainer, self.folder / f"step-{step:08d}.ckpt", whole=last)
            if trainer.is_global_zero:
                self.saved(step)
                for old in numbered(self.folder)[: -1 if last and step in self.snapshots else -KEPT]:
                    remove(old)

    def _agree(self) -> None:
        """A signal that reached one process counts for all; one that comes from here on waits for the next time."""
        if self._group is not None:
            number = torch.tensor(self._shared or self.signal or 0)
            distributed.all_reduce(number, distributed.ReduceOp.MAX, group=self._group)
            self._shared = int(number) or None

    def _save(self, trainer, path: Path, whole: bool, weights_only: bool = False) -> None:
        """Write a checkpoint; whole: as one file, even where every process wrote a part."""
        self._busy = f"writing {path.name}"
        trainer.lightning_module.check_finite()
        trainer.save_checkpoint(path, weights_only)  # returns when every process has written its part
        if whole and trainer.is_global_zero and path.is_dir():
            save_checkpoint(load_checkpoint(path), path)
        self._busy = "this step"

    def snapshot(self, step: int) -> Path:
        """Where the weights after this many steps are kept."""
        return self.folder / f"snapshot-{step:08d}.ckpt"
