"""Two schemes in one model, told apart by layer."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from torch import Tensor

from conf.base import BadInput, Count, cannot_take
from models.positions.base import Layer, Position, Settings
from models.positions.extensions import Extension
from models.positions.frequencies import Geometric
from models.positions.tables import SINGLE_SCHEMES


def _part(value) -> Settings:
    """The settings of a scheme that acts in layers, from its name or from its name and settings."""
    if isinstance(value, Settings):
        return value
    given = value if isinstance(value, dict) else {"name": value}
    layered = [name for name, scheme in SINGLE_SCHEMES.items() if scheme.embed is Position.embed]
    name = given.get("name")
    if name not in layered:
        raise ValueError(f"{name} is no scheme that acts in single layers; allowed: {', '.join(layered)}")
    try:
        return SINGLE_SCHEMES[name].Knobs.model_validate(given)
    except ValidationError as error:
        raise ValueError(cannot_take(name, error)) from None


Part = Annotated[SerializeAsAny[Settings], BeforeValidator(_part)]


class Mixture(Position):
    """Two schemes by layer: every n-th layer uses the second, all others the first (RNoPE, Yang et al. 2025).

    Layers count from 1, so in a model of fewer than `every` layers the second has no place. Each scheme takes of the
    spectrum and the extension what it can; one that neither can take is refused. A scheme that adds to the embeddings
    has no layer of its own and cannot be part.
    """

    class Knobs(Settings):
        name: Literal["mixture"] = "mixture"
        first: Part
        second: Part
        every: Count = 4

    first: Position
    second: Position
    stretches = frozenset({"positions", "frequencies", "plain rotation"})  # as far as its two schemes do

    def __init__(self, knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension)
        kinds = {side: SINGLE_SCHEMES[getattr(knobs, side).name] for side in ("first", "second")}
        together = frozenset().union(*(kind.stretches for kind in kinds.values()))
        pair = f"position=mixture of {knobs.first.name} and {knobs.second.name}"
        if spectrum != Geometric() and "frequencies" not in together:
            raise BadInput(f"frequencies={spectrum.name} cannot apply: {pair} has no frequencies")
        if extension.changes is not None and extension.changes not in together:
            raise BadInput(
                f"extend={extension.knobs.name} changes {extension.changes}, and {pair} has none that could be changed"
            )
        plain = Extension(Extension.Knobs(), extension.window)
        for side, kind in kinds.items():
            part_spectrum = spectrum if "frequencies" in kind.stretches else Geometric()
            reach = extension if extension.changes in kind.stretches else plain
            self.add_module(side, kind(getattr(knobs, side), geometry, part_spectrum, reach))
        self.relative = self.first.relative and self.second.relative

    @property
    def learning_rates(self) -> dict[str, float]:
        return {
            f"{side}.{name}": rate
            for side in ("first", "second")
            for name, rate in getattr(self, side).learning_rates.items()
        }

    def initialise(self, draw) -> None:
        self.first.initialise(lambda name: draw(f"first.{name}"))
        self.second.initialise(lambda name: draw(f"second.{name}"))

    def prepare(self, positions: Tensor) -> tuple:
        """Positions (T,) or (B, T) → per layer, what the scheme of that layer needs; each scheme prepares once."""
        first, second = self.first.prepare(positions), self.second.prepare(positions)
        return tuple(second if self._second(index) else first for index in range(self.geometry.layers))

    def layer(self, index: int) -> Layer:
        return Layer((self.second if self._second(index) else self.first).layer(index), index)

    def _second(self, index: int) -> bool:
        return (index + 1) % self.knobs.every == 0
