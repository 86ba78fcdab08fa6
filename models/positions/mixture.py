"""Two schemes in one model, told apart by layer: the plan of a scheme that has one."""

from typing import Literal

from conf.base import Count, Settings
from models.positions.base import Position
from models.positions.layers import Kind, Layered, LayerScheme


class Mixture(Layered):
    """Two schemes by layer: every n-th layer uses the second, all others the first (RNoPE, Yang et al. 2025).

    Layers count from 1, so in a model of fewer than `every` layers the second has no place. Each scheme takes of the
    spectrum and the extension what it can; one that neither can take is refused. A scheme that adds to the embeddings
    has no layer of its own and cannot be part.
    """

    class Knobs(Settings):
        name: Literal["mixture"] = "mixture"
        first: LayerScheme
        second: LayerScheme
        every: Count = 4

    first: Position
    second: Position

    def __init__(self, knobs, geometry, spectrum, extension):
        order = ["first" if (index + 1) % knobs.every else "second" for index in range(geometry.layers)]
        kinds = {side: Kind(position=getattr(knobs, side)) for side in ("first", "second")}
        super().__init__(knobs, geometry, spectrum, extension, kinds, order)
