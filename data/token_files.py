"""Token files on disk, written whole or not at all.

A folder holds, for each split, `<split>.tokens` (flat little-endian uint16 or uint32) and `<split>.offsets` (int64,
one more than there are documents), with `bytes_per_token.npy`, `tokenizer.json` (unless tokens are bytes) and
`meta.json`.
"""

import fcntl
import os
import shutil
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from conf.base import sync

# Raise it whenever the same source and tokenizer would be written differently.
FORMAT = 1


def token_dtype(vocabulary: int) -> str:
    """The little-endian type that holds every token: uint16, or uint32 where the vocabulary is above 65535."""
    return "<u4" if vocabulary > 65535 else "<u2"


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of `target` against other processes; the system frees it when the holder ends, however it ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another process is preparing {target.name}; waiting for it.", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `target` at the end of the block; the caller holds the lock of `target`.

    Whoever is killed inside leaves only the hidden working folder. Under the lock nobody else can be writing there,
    so what is found in it is stale and is thrown away.
    """
    working = target.with_name(f".{target.name}.writing")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
    try:
        yield working
        for path in working.iterdir():
            sync(path)
        sync(working)
        os.replace(working, target)
        sync(target.parent)
    finally:
        shutil.rmtree(working, ignore_errors=True)


class SplitWriter:
    """Appends documents, each as `separator, tokens…`, to one split of the folder being written."""

    def __init__(self, folder: Path, split: str, vocabulary: int, separator: int):
        self.tokens = 0
        self.bytes = 0
        self._dtype = token_dtype(vocabulary)
        self._separator = np.array([separator], dtype=self._dtype).tobytes()
        self._begins = array("q")  # where documents begin
        self._file = open(folder / f"{split}.tokens", "wb")  # noqa: SIM115 - open until close()
        self._offsets_path = folder / f"{split}.offsets"

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()  # a full disk has no room again before

    @property
    def documents(self) -> int:
        return len(self._begins)

    def begin(self):
        """Begin a document, with the separator."""
        self._begins.append(self.tokens)
        self._file.write(self._separator)
        self.tokens += 1

    def add(self, ids: np.ndarray, size: int):
        """Go on with the document by tokens that stand for `size` UTF-8 bytes."""
        self._file.write(ids.astype(self._dtype).tobytes())
        self.tokens += len(ids)
        self.bytes += size

    def close(self) -> dict[str, int]:
        """Finish the files and return what they hold."""
        self._file.close()
        np.append(np.asarray(self._begins, dtype="<i8"), self.tokens).astype("<i8").tofile(self._offsets_path)
        return {"documents": self.documents, "tokens": self.tokens, "bytes": self.bytes}
