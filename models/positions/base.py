"""The contract between a transformer and the thing that tells it where its tokens are.

Letters in shape comments, here and in every scheme: B batch, T tokens, H heads, D head width, C model width,
K frequencies (pairs of channels).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from conf.base import BadInput, Settings
from models.positions.extensions import Extension
from models.positions.frequencies import Geometric


@dataclass(frozen=True)
class Geometry:
    """The sizes a scheme may need: model width C, heads H, layers, and the window (tokens) trained on."""

    width: int
    heads: int
    layers: int
    window: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class Position(nn.Module):
    """Tells a transformer where its tokens are.

    A scheme acts at up to three doors and inherits silence at the rest, so a scheme silent everywhere is NoPE:

    - `embed`, once, on the token embeddings;
    - `rotate`, in every layer, on queries and keys (never on values);
    - `bias`, in every layer, added to q·k/√D.

    What a forward pass needs (sines, a bias) is made once per forward by `prepare` from the positions, in float32,
    and handed to the doors as `where`. A scheme keeps no buffer and no cache and knows no maximum length; only
    learned parameters enter the state dict.
    """

    class Knobs(Settings):
        """The scheme's own settings: one frozen class per scheme, one YAML file in conf/position."""

    relative: ClassVar[bool] = True  # adding a constant to every position changes no logit
    stretches: ClassVar[frozenset[str]] = frozenset()  # what an extension may change: "positions", "frequencies"

    def __init__(self, knobs: Settings, geometry: Geometry, spectrum: Settings, extension: Extension):
        """Bind the scheme to a model's sizes, to its spectrum and to the extension it is read with.

        Raises:
            BadInput: the spectrum or the extension sets something this scheme does not have.
        """
        super().__init__()
        self.knobs, self.geometry, self.spectrum, self.extension = knobs, geometry, spectrum, extension
        if "frequencies" not in self.stretches and spectrum != Geometric():
            raise BadInput(f"frequencies={spectrum.name} cannot apply: position={knobs.name} has no frequencies")
        if extension.changes is not None and extension.changes not in self.stretches:
            raise BadInput(
                f"extend={extension.knobs.name} changes {extension.changes}, "
                f"and position={knobs.name} has no {extension.changes} that could be changed"
            )

    def prepare(self, positions: Tensor) -> Any:
        """Turn positions, (T,) or (B, T) in float32 (float64 in tests), into what the doors need; once per forward.

        The positions have already passed through the extension's own `positions`.
        """
        return None

    def embed(self, x: Tensor, where: Any) -> Tensor:
        """(B, T, C) → (B, T, C), once, on the token embeddings."""
        return x

    def rotate(self, q: Tensor, k: Tensor, where: Any) -> tuple[Tensor, Tensor]:
        """(B, H, T, D) twice → the same shapes, in every layer, after any QK-norm."""
        return q, k

    def bias(self, q: Tensor, k: Tensor, where: Any) -> Tensor | None:
        """What to add to q·k/√D before the softmax, (H, T, T) or (B, H, T, T); None keeps it fast."""
        return None
