"""Protocols of long-context perplexity: which target is predicted from which context.

A document is a row of tokens d[0] … d[R]; d[0] is the separator, which is context and never a target. Every protocol
reads the same documents (those of at least R + 1 tokens) and in each the same region, its first R + 1 tokens, so the
targets are at most d[1] … d[R]. A protocol is a list of windows, the same for every document. A window reads
d[start] … d[stop - 1] in one forward pass, at positions 0, 1, …, and scores targets up to d[stop]; target t therefore
sees t - start tokens. No separator is put before a window that starts inside a document, just as in training.

| protocol | targets of a document | tokens seen by a target, context c, stride S |
|---|---|---|
| windows | 1 … R | 1 … c, all equally often but for the remainder |
| sliding | 1 … R | 1 … c in the first window, then c - S + 1 … c |
| fixed_targets | R - S + 1 … R | c - S + 1 … c; the last one c, on average c - (S - 1)/2 |

The targets are the same for every context length in all three. In `windows` and `sliding` a longer context also means
fewer poorly informed targets at the start of a window (the early token curse of Press et al. 2021), so part of their
curve is not about reading far; `fixed_targets` shows context and nothing else.

The loss is teacher-forced, a whole window at once. A method whose frequencies depend on the total length then reads
the early tokens of a window differently from a model that generates them one by one. `decoded` layouts give what
decoding gives: every target comes from a forward pass of its own, which ends with the token before it, so that no key
was rotated for a longer text than there is. For all other methods both are the same, to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, slots=True)
class Window:
    """One forward pass: reads tokens start … stop - 1, scores targets first … stop."""

    start: int
    stop: int
    first: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def targets(self) -> np.ndarray:
        return np.arange(self.first, self.stop + 1)


def windows(region: int, context: int, stride: int | None = None) -> list[Window]:
    """Non-overlapping windows of `context` tokens (Press et al. 2021, ALiBi, "nonoverlapping inference").

    Window k reads tokens kc … kc + c - 1 and scores targets kc + 1 … kc + c: its first token is the last target of
    the window before. The last window is shorter when c does not divide the region. The stride plays no part.
    """
    starts = range(0, region, context)
    return [Window(start, min(start + context, region), start + 1) for start in starts]


def sliding(region: int, context: int, stride: int) -> list[Window]:
    """Overlapping windows moved by `stride` (Press et al. 2021; Chen et al. 2023, Position Interpolation, S = 256).

    The first window scores all its targets, each further one its last `stride`. The last one ends with the region,
    still reads `context` tokens, and scores the targets that are left.
    """
    stops = [context, *(min(stop, region) for stop in range(context + stride, region + stride, stride))]
    firsts = [1, *(stop + 1 for stop in stops)]
    return [Window(stop - context, stop, first) for stop, first in zip(stops, firsts, strict=False)]


def fixed_targets(region: int, context: int, stride: int) -> list[Window]:
    """The last `stride` targets of the region from one window of `context` tokens that ends just before the last.

    The lab's own headline view: without the early token curse that Press et al. (2021) describe.
    """
    return [Window(region - context, region, region - stride + 1)]


def decoded(layout: list[Window]) -> list[Window]:
    """The same targets from the same context, a window for each: it ends with the token before its target."""
    return [Window(window.start, target, target) for window in layout for target in window.targets.tolist()]


Protocol = Literal["windows", "sliding", "fixed_targets"]
PROTOCOLS: dict[Protocol, Callable] = {"windows": windows, "sliding": sliding, "fixed_targets": fixed_targets}
