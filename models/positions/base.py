"""The interface between a transformer and a positional scheme.

Letters in shape comments are those of models/__init__.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from conf.base import BadInput, Settings
from models.positions.extensions import Extension
from models.positions.frequencies import Geometric

# The scores of one head that may be held at once when nothing is learned; beyond it, queries go in chunks of rows.
SCORES_AT_ONCE = 2**22
ROWS_IN_TRAINING = 128  # queries at a time on a CPU; 256 and 512 are as fast or slower
ROWS_IN_WINDOW = 128  # queries at a time in a sliding window that is shorter


def rows_at_once(length: int, device: torch.device) -> int:
    """How many queries of a text of this length attend at a time, where their scores are not left to fast kernels.

    Reading, as many as memory should hold. Training, all of them on a GPU, in few large kernels; a few on a CPU,
    each with the keys up to the last of them, so that half of the pairs, which nobody may look at, cost nothing.
    """
    if torch.is_grad_enabled():
        return min(length, ROWS_IN_TRAINING) if device.type == "cpu" else length
    return min(length, max(1, SCORES_AT_ONCE // length))


def window_rows(rows: int, window: int) -> int:
    """How many of the queries that attend at a time (`rows_at_once`) do so in a sliding window of so many tokens."""
    return min(rows, max(window, ROWS_IN_WINDOW))


def row_chunks(length: int, rows: int) -> list[tuple[int, int]]:
    """(first, last + 1) of so many rows at a time."""
    return [(first, min(first + rows, length)) for first in range(0, length, rows)]


def bounded(parameter: Tensor, low: float, high: float = float("inf")) -> Tensor:
    """A learned number kept in its range, with the gradient of the number itself, so that it can come back inside."""
    return parameter.clamp(low, high).detach() + (parameter - parameter.detach())


@dataclass(frozen=True)
class Geometry:
    """The sizes a scheme may need: model width C, heads H, layers, and the window (tokens) trained on."""

    width: int
    heads: int
    layers: int
    window: int
    head_width: int | None = None  # D; None: C / H
    embedding_scale: float | None = None  # what token embeddings are multiplied by; None: √C

    def __post_init__(self):
        for name, default in (("head_width", self.width // self.heads), ("embedding_scale", self.width**0.5)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)


class Differences(NamedTuple):
    """A bias that is a number of the query less one of the key, (B, H, Q) and (B, H, N): it stays on the flash path."""

    queries: Tensor
    keys: Tensor

    def dense(self) -> Tensor:
        """The bias of every pair, (B, H, Q, N)."""
        return self.queries[..., :, None] - self.keys[..., None, :]


class Parts(NamedTuple):
    """Queries and keys that are turned otherwise for each other the farther they are apart, in whole units of tokens.

    Each of the groups holds from its first distance on, up to that of the next: the first from 0 on, and any between
    it and the last for one distance. They have the queries and keys that are so far apart: the last Q and the first N,
    or none.
    """

    unit: int  # tokens
    groups: list[tuple[int, Tensor, Tensor]]  # first distance, q (B, H, Q, D) and k (B, H, N, D)


class Position(nn.Module):
    """Tells a transformer where its tokens are.

    A scheme implements up to three hooks; the rest do nothing, so that a scheme without any is NoPE:

    - `embed`, once, on the token embeddings;
    - `rotate`, in every layer, on queries and keys (never on values);
    - `bias`, in every layer, added to q·k/√D. What it is made of may come from content too: `read_input` is given
      what the attention of the layer reads.

    What a forward pass needs (sines, a bias) is made once per forward by `prepare` from the positions, in float32,
    and handed to the hooks as `prepared`. A scheme keeps no buffer and no cache and knows no maximum length; only
    learned parameters enter the state dict. They are shared by all layers unless the scheme says otherwise; a layer
    always goes through `layer(i)`, so that a scheme may differ from one to the next.
    """

    class Knobs(Settings):
        """The scheme's own settings: one frozen class per scheme, one YAML file in conf/position."""

    relative: bool = True  # adding a constant to every position changes no logit
    stretches: ClassVar[frozenset[str]] = frozenset()  # what an extension may change: see Extension.changes
    exempt: ClassVar[dict[str, str]] = {}  # laws of tests/laws.py the scheme cannot obey, each with the reason
    sliding_window: int | None = None  # tokens that a query of a layer sees, itself included; None: all before it
    reach: int | None = None  # the largest of them over the layers that read so, if all have one

    def __init__(self, knobs: Any, geometry: Geometry, spectrum: Any, extension: Extension):
        """Bind the scheme to a model's sizes, to its spectrum and to the extension it is read with.

        Raises:
            BadInput: the spectrum or the extension sets something this scheme does not have.
        """
        super().__init__()
        self.knobs, self.geometry, self.spectrum, self.extension = knobs, geometry, spectrum, extension
        rows = extension.knobs.rows
        self.relative = self.relative and extension.relative and rows is None
        if rows is not None and rows.learned:
            start = rows.start(geometry.window)
            self.row_scale = nn.Parameter(torch.full((geometry.layers, geometry.heads), start))
        if "frequencies" not in self.stretches and spectrum != Geometric():
            raise BadInput(f"frequencies={spectrum.name} cannot apply: position={knobs.name} has no frequencies")
        if extension.changes is not None and extension.changes not in self.stretches:
            raise BadInput(
                f"extend={extension.knobs.name} changes {extension.changes}, "
                f"and position={knobs.name} has no {extension.changes} that could be changed"
            )

    def temperature_at(self, length: Tensor) -> float | Tensor:
        """What the scores q·k/√D in texts of these lengths, (…, T, 1), are divided by before any bias is added."""
        return self.extension.temperature_at(length)

    def sharpness_at(self, positions: Tensor, layer: int) -> Tensor | None:
        """What rotated queries of a layer, at positions (T,) or (B, T) before any extension, are multiplied by.

        It broadcasts to (B, H, T, 1); None multiplies by nothing.
        """
        sharpness = self.extension.sharpness(positions)
        if sharpness is None:
            return None
        sharpness = sharpness[..., None, :, None]
        if self.extension.knobs.rows.learned:
            sharpness = sharpness * self.row_scale[layer].to(sharpness.dtype)[:, None, None]
        return sharpness

    @property
    def learning_rates(self) -> dict[str, float]:
        """Learned parameters, by name, whose learning rate is a multiple of the model's."""
        return {}

    def initialise(self, draw: Callable[[str], torch.Generator]) -> None:
        """Give random first values to what is learned; what starts at a fixed value has it since it was built.

        draw: a fresh generator that is a function of the model's seed and of the parameter's name given.
        """

    def prepare(self, positions: Tensor) -> Any:
        """Turn positions, (T,) or (B, T) in float32 (float64 in tests), into what the hooks need; once per forward.

        The positions have already passed through the extension's own `positions`.
        """
        return None

    def layer(self, index: int) -> "Position | Layer":
        """The hooks of the layer of this index, from 0."""
        return self

    def embed(self, x: Tensor, prepared: Any) -> Tensor:
        """(B, T, C) → (B, T, C), once, on the token embeddings."""
        return x

    def rotate(self, q: Tensor, k: Tensor, prepared: Any) -> tuple[Tensor, Tensor]:
        """(B, H, T, D) twice → the same shapes (PoPE's are twice as wide), in every layer, after any QK-norm."""
        return q, k

    def read_input(self, x: Tensor, prepared: Any) -> Any:
        """What was prepared, with what a layer's input x (B, T, C) adds to it for `rotate` and `bias`."""
        return prepared

    def bias(self, q: Tensor, k: Tensor, prepared: Any, first: int = 0) -> Tensor | Differences | None:
        """What to add to q·k/√D before the softmax, (H, Q, N) or (B, H, Q, N); None keeps it fast.

        q (B, H, Q, D) may be a chunk of the queries, of which the first stands at row `first`, and k (B, H, N, D)
        the N keys up to its last row, all of them or those in reach. What it says of keys after a query is never
        looked at. Differences of a number of the query and one of the key are as fast as none.
        """
        return None

    def parts(self, q: Tensor, k: Tensor, prepared: Any) -> Parts | None:
        """The same scores in parts for fused kernels, where `bias` replaces them by distance and nothing is learned."""
        return None


class Layer:
    """One layer's view of a scheme whose `prepare` returns one entry per layer, and which keys that layer sees."""

    def __init__(self, scheme: "Position | Layer", index: int, sliding_window: int | None = None):
        self.scheme, self.index, self.sliding_window = scheme, index, sliding_window

    def temperature_at(self, length: Tensor) -> float | Tensor:
        return self.scheme.temperature_at(length)

    def sharpness_at(self, positions: Tensor, layer: int) -> Tensor | None:
        return self.scheme.sharpness_at(positions, layer)

    def rotate(self, q: Tensor, k: Tensor, prepared: Any) -> tuple[Tensor, Tensor]:
        return self.scheme.rotate(q, k, prepared[self.index])

    def read_input(self, x: Tensor, prepared: Any) -> Any:
        before, after = self.index, self.index + 1
        read = self.scheme.read_input(x, prepared[before])
        return prepared if read is prepared[before] else (*prepared[:before], read, *prepared[after:])

    def bias(self, q: Tensor, k: Tensor, prepared: Any, first: int = 0) -> Tensor | Differences | None:
        return self.scheme.bias(q, k, prepared[self.index], first)

    def parts(self, q: Tensor, k: Tensor, prepared: Any) -> Parts | None:
        return self.scheme.parts(q, k, prepared[self.index])
