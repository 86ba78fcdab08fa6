"""The loss of every target of a reading, in an .npz beside its numbers, for whoever has another question of it.

Arrays of the file, with S segments of text, c a length of context and N targets of a segment at it:

| array | shape | what it holds |
|---|---|---|
| documents | (S,) | the document of the split, counted from 0, that a segment is of |
| starts | (S,) | where in that document the segment begins, in tokens |
| positions_c | (N,) | where a target stands in its segment: in its document, at starts[s] + positions_c[n] |
| seen_c | (N,) | tokens of context before it |
| tokens_c | (S, N) | its id |
| nll_c | (S, N) | its loss, float32 nats |
| top_c | (S, N) | whether it was the likeliest token |

`numpy.load` opens it; `by_context` makes the losses at each length of context of it again.
"""

import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conf.files import write_bytes

if TYPE_CHECKING:
    from experiments.lab.measure.protocols import TokenLosses
    from experiments.lab.measure.segments import Segments

OF_TARGETS = ("positions", "seen", "tokens", "nll", "top")


class LossFile:
    """The losses of a reading that are kept so far; a reading that was stopped goes on after the last of them."""

    def __init__(self, reading: Path, contexts: Sequence[int]):
        """reading: the file of its numbers; contexts: the lengths it is to have."""
        self.path, self.contexts = reading.with_suffix(".npz"), contexts
        self.arrays = _read(self.path)

    def has(self, context: int) -> bool:
        """Whether the losses at a length of context are there."""
        return all(f"{name}_{context}" in self.arrays for name in OF_TARGETS)

    @property
    def whole(self) -> bool:
        """Whether they are there at every length of context."""
        return all(map(self.has, self.contexts))

    def add(self, losses: "TokenLosses", segments: "Segments") -> None:
        """Keep the losses of segments at one length of context; where nothing can be written a line is printed."""
        if not np.isfinite(losses.nll).all():  # that it is not is for the reading to say
            return
        owners = {"documents": np.array(segments.owners), "starts": np.array(segments.starts)}
        self.arrays |= owners | {f"{name}_{losses.context}": getattr(losses, name) for name in OF_TARGETS}
        content = io.BytesIO()
        np.savez_compressed(content, **self.arrays)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path, content.getbuffer())
        except OSError as error:
            print(f"{self.path} could not be written ({error.strerror}): these losses are not kept", flush=True)


def by_context(path: Path) -> dict[int, dict[str, np.ndarray]]:
    """The arrays of a file of losses by length of context, named as above without it; documents and starts in each."""
    arrays = _read(path)
    owners = {name: arrays[name] for name in ("documents", "starts") if name in arrays}
    contexts = sorted(int(name.removeprefix("nll_")) for name in arrays if re.fullmatch(r"nll_\d+", name))
    return {context: owners | {name: arrays[f"{name}_{context}"] for name in OF_TARGETS} for context in contexts}


def _read(path: Path) -> dict[str, Any]:
    """The arrays of a file; none, and a line is printed, if it is damaged."""
    try:
        with np.load(path) as file:
            return dict(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        print(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'it holds no arrays'})", flush=True)
        return {}
