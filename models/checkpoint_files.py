"""Checkpoint files that survive being killed: written beside their target, sealed by a digest, loaded as plain data.

A file is what torch.save writes, and after it MARK and the SHA-256 of all before. torch.load reads past the seal. To
hash 100 MB takes about a third of a second on one core, when they are written and whenever they are read.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from conf.base import BadInput, sync
from models.shipped import is_shipped, read_shipped

MARK = b"SHA-256 follows:"
SEAL = len(MARK) + hashlib.sha256().digest_size  # bytes after what torch.save wrote
SEALED = "sealed"  # key in a checkpoint that tells a lost seal from a file of the time before seals
SHARDED = ("state_dict", "optimizer_states")  # what the processes of a sharded run have different rows of


class Damaged(BadInput):
    """A checkpoint that is not what was written: torn, overwritten, or a part of it is missing."""


class _HashedFile:
    """A file for torch.save that hashes what it writes, and keeps an error until torch has let go of the file."""

    def __init__(self, file):
        self.file, self.digest, self.error = file, hashlib.sha256(), None

    def write(self, data) -> int:
        size = memoryview(data).nbytes
        try:
            if self.error is None:
                self.file.write(data)
                self.digest.update(data)
        except OSError as error:  # raised from here, it would come out of torch as three errors of other kinds
            self.error = error
        return size

    def flush(self) -> None:
        pass


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write one sealed file, and return when the disk has it; a disk that is full keeps no part of it."""
    try:
        with open(path, "wb") as raw:
            file = _HashedFile(raw)
            torch.save({**checkpoint, SEALED: True}, file)  # type: ignore[arg-type] # it writes and flushes, no more
            if file.error is not None:
                raise file.error
            raw.write(MARK + file.digest.digest())
            raw.flush()
            os.fsync(raw.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint beside its path and rename it, so that the path holds either the whole or what it did."""
    partial = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)  # may be a folder of parts, left by a kill
    _write(checkpoint, partial)
    replace(partial, path)


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
    held = checkpoint if rank == 0 else {key: checkpoint[key] for key in SHARDED if key in checkpoint}
    _write(held, partial / part_name(rank, ranks))
    wait()
    if rank == 0:
        replace(partial, path)


def part_name(rank: int, ranks: int) -> str:
    """The file of one process in the folder of a sharded checkpoint."""
    return f"part-{rank}-of-{ranks}.ckpt"


def replace(partial: Path, path: Path) -> None:
    """Rename a file or folder over another, and return when the disk has it."""
    if partial.is_dir() or path.is_dir():
        remove(path)
    os.replace(partial, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Remove a checkpoint, file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_file(path: Path) -> bool:
    """Read a file or a folder of parts against its digests; returns whether it has any.

    Files of the time before digests are held to the checksums of the zip archive that torch.save writes.

    Raises:
        Damaged: it is not what was written.
        OSError: it cannot be read, which proves nothing.
    """
    if path.is_dir():
        return all([check_file(part) for part in _parts(path)])
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - SEAL))
        seal = file.read()
        if not seal.startswith(MARK):
            _check_zip(path)
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - SEAL
        while left and (chunk := file.read(min(left, 2**20))):
            digest.update(chunk)
            left -= len(chunk)
    if digest.digest() != seal[len(MARK) :]:
        raise Damaged(f"checkpoint={path} is damaged: its bytes are not those that were written")
    return True


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError):
        broken = "archive"
    if broken is not None:
        raise Damaged(f"checkpoint={path} cannot be read: it is truncated or damaged")


def _parts(folder: Path) -> list[Path]:
    """The files of a sharded checkpoint, one a process, in their order."""
    ranks = max((int(part.stem.rpartition("-")[2]) for part in folder.glob("part-*-of-*.ckpt")), default=0)
    parts = [folder / part_name(rank, ranks) for rank in range(ranks)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise Damaged(f"checkpoint={folder} is damaged: it lacks {missing[0]}")
    return parts


def _read(path: Path, map_location) -> dict[str, Any]:
    """A file, a shipped model, or the parts of a folder put together: along the first dimension; scalars are the same
    in each."""
    if is_shipped(path):
        return read_shipped(path)
    if path.is_dir():
        parts = [_read(part, map_location) for part in _parts(path)]
        whole = parts[0]
        for key in (key for key in SHARDED if key in whole):
            whole[key] = tree_map(
                lambda *rows: torch.cat(rows) if isinstance(rows[0], Tensor) and rows[0].dim() else rows[0],
                *(part[key] for part in parts),
            )
        return whole
    sealed = check_file(path)
    loaded = torch.load(path, map_location=map_location, weights_only=True)
    if isinstance(loaded, dict) and loaded.pop(SEALED, False) and not sealed:
        raise Damaged(f"checkpoint={path} is damaged: its last bytes are not those that were written")
    return loaded


def load_checkpoint(path: Path, map_location="cpu") -> dict[str, Any]:
    """Read a checkpoint, whole or in parts, as plain data; nothing in it is ever executed.

    Raises:
        Damaged: it is not what was written.
        BadInput: it is not there, may not be read, does not fit into memory, or holds more than tensors and plain
            values.
    """
    if not path.is_file() and not any(path.glob("part-*")) and not is_shipped(path):
        raise BadInput(f"checkpoint={path}: there is no such file")
    try:
        return _read(path, map_location)
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"checkpoint={path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises several kinds for a hostile file, and RuntimeError for want of memory
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in str(error):
            raise BadInput(f"checkpoint={path} cannot be read: there is not enough memory") from error
        raise BadInput(
            f"checkpoint={path} cannot be read ({type(error).__name__}): it holds more than tensors and plain values"
        ) from error


def numbered(folder: Path) -> list[Path]:
    """The resumable checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.ckpt"))


def find_checkpoint(path: Path) -> Path:
    """A checkpoint itself, a shipped model among them, or the last one of a run folder.

    Raises:
        BadInput: there is none.
    """
    path = path.expanduser()
    if path.is_dir() and path.suffix != ".ckpt" and not is_shipped(path):  # a sharded checkpoint is a folder too
        checkpoints = numbered(path / "checkpoints")
        if not checkpoints:
            raise BadInput(f"checkpoint={path} is a folder without checkpoints/step-*.ckpt")
        return checkpoints[-1]
    if not path.exists():
        raise BadInput(f"checkpoint={path}: there is no such file or run folder")
    return path


def home(checkpoint: Path) -> Path:
    """Where what is measured of a checkpoint is put: its run, or the folder of a shipped model or a lone file."""
    if is_shipped(checkpoint):
        return checkpoint
    folder = checkpoint.parent
    run = Path(os.path.normpath(folder / ".."))
    return run if folder.absolute().name == "checkpoints" and (run / "config.json").is_file() else folder


def latest(folder: Path, tell=print) -> Path | None:
    """The newest checkpoint of a run that is whole; damaged ones are reported, set aside and passed over.

    Raises:
        BadInput: one cannot be read, which is no proof of damage; or there were some and all are damaged: a run that
            had come so far does not start over by itself.
    """
    for path in reversed(numbered(folder)):
        try:
            check_file(path)
            return path
        except Damaged as error:
            tell(f"{error}; it is set aside, and the one before it is used")
            with suppress(FileNotFoundError):  # another process of this run may have done so
                path.rename(path.with_suffix(".damaged"))
        except OSError as error:
            if path.exists():
                raise BadInput(
                    f"checkpoint={path} cannot be read: {error.strerror or error}; nothing was changed"
                ) from error
    if damaged := sorted(folder.glob("step-*.damaged")):
        raise BadInput(
            f"every checkpoint in {folder} is damaged ({', '.join(path.name for path in damaged)}), and the run does "
            "not start over by itself: put a good copy back, or remove its folder to begin anew"
        )
    return None
