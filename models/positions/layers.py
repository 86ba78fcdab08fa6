"""Plans by layer: which tokens a layer sees, and with which scheme, spectrum and extension it reads them."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from torch import Tensor

from conf.base import BadInput, Count, Settings, settings_of
from models.positions.base import Layer, Position
from models.positions.extensions import Extension
from models.positions.frequencies import SPECTRA, Geometric
from models.positions.switch import EXTENSIONS
from models.positions.tables import SINGLE_SCHEMES

LAYERED = {name: scheme for name, scheme in SINGLE_SCHEMES.items() if scheme.embed is Position.embed}


def _scheme(value) -> Settings:
    return settings_of(LAYERED, value, "is no scheme that acts in single layers")


# Each from a name, or from a name and settings.
LayerScheme = Annotated[SerializeAsAny[Settings], BeforeValidator(_scheme)]
LayerSpectrum = Annotated[SerializeAsAny[Settings], BeforeValidator(lambda value: settings_of(SPECTRA, value))]
LayerExtension = Annotated[SerializeAsAny[Settings], BeforeValidator(lambda value: settings_of(EXTENSIONS, value))]


class Kind(Settings):
    """How layers of one kind read; what is null is as in the rest of the run."""

    window: Count | None = None  # tokens that a query sees, itself included; null: all before it
    position: LayerScheme | None = None
    frequencies: LayerSpectrum | None = None
    extend: LayerExtension | None = None

    @property
    def has_own_scheme(self) -> bool:
        """Whether its scheme, spectrum or extension differs from that of the run; its window does not count."""
        return (self.position, self.frequencies, self.extend) != (None, None, None)


class Plan(Settings):
    """Kinds of layers, each called by a letter, and their order, as in conf/layers.

    The pattern is repeated from the first layer to the last, LLLG for every fourth layer another; or the letter before
    a star is, as often as it takes: GL*G for the first and the last.
    """

    name: str = "alike"
    pattern: str = "A"
    kinds: dict[str, Kind] = Field({"A": Kind()})

    @model_validator(mode="after")
    def _fits(self):
        if not re.fullmatch(r"[A-Za-z]+(\*[A-Za-z]*)?", self.pattern):
            raise ValueError(f"pattern={self.pattern} must be letters, one of which a star may follow: LLLG, GL*G")
        if unknown := sorted(set(self.pattern) - {*self.kinds, "*"}):
            raise ValueError(f"pattern={self.pattern}: {unknown[0]} is none of kinds, {', '.join(self.kinds)}")
        if unused := sorted(set(self.kinds) - set(self.pattern)):
            raise ValueError(f"kinds.{unused[0]} stands nowhere in pattern={self.pattern}")
        return self

    @property
    def alike(self) -> bool:
        """Whether all layers read as the run says and see all tokens."""
        return all(kind == Kind() for kind in self.kinds.values())

    def order(self, layers: int) -> list[str]:
        """The kind of every layer.

        Raises:
            BadInput: there are fewer layers than letters beside the starred one.
        """
        before, star, after = self.pattern.partition("*")
        if not star:
            return [self.pattern[index % len(self.pattern)] for index in range(layers)]
        before, repeated = before[:-1], before[-1]
        if (rest := layers - len(before) - len(after)) < 0:
            raise BadInput(f"layers.pattern={self.pattern} needs at least {layers - rest} layers, not {layers}")
        return [*before, *repeated * rest, *after]


class Layered(Position):
    """Several readings in one model, told apart by layer.

    Every kind takes of the run's spectrum and extension what it can, unless it has its own; what none can take is
    refused. Kinds that differ in their window alone share a scheme and what it learns; others learn their own. A
    scheme that adds to the embeddings has no layer of its own: beside it, kinds can differ in their window alone.
    """

    stretches = frozenset({"positions", "frequencies", "plain rotation"})  # as far as its parts do

    def __init__(
        self, knobs, geometry, spectrum, extension, kinds: Mapping[str, Kind], order: Sequence[str], scheme=None
    ):
        """Bind to a model, whose layers read by the kinds in this order; scheme: the class of those without their own.

        Raises:
            BadInput: nothing in the model can take the spectrum or the extension, or a kind cannot take its own.
        """
        # Its parts have the extension, and what that learns.
        super().__init__(knobs, geometry, spectrum, Extension(Extension.Knobs(), extension.window))
        unextended = Extension(Extension.Knobs(rows=extension.knobs.rows), extension.window)  # rows suit every scheme
        if (
            scheme is not None
            and scheme.embed is not Position.embed
            and any(kind.has_own_scheme for kind in kinds.values())
        ):
            raise BadInput(
                f"position={knobs.name} is added to the embeddings once: of its layers, windows alone can differ"
            )
        self.names = [letter if kinds[letter].has_own_scheme else "own" for letter in order]
        takers: dict[str, bool] = {"frequencies": False, "extend": False}
        self.parts: dict[str, Position] = {}  # by the name each has among the model's modules
        for letter, kind in kinds.items():
            name = letter if kind.has_own_scheme else "own"
            if name in self.parts:
                continue
            kindred = scheme if kind.position is None else LAYERED[kind.position.name]  # type: ignore[attr-defined]
            turns, extends = "frequencies" in kindred.stretches, extension.changes in (None, *kindred.stretches)
            table, reading = spectrum if turns else Geometric(), extension if extends else unextended
            if name in self.names:  # of few layers, some kind may have none
                takers["frequencies"] |= turns and kind.frequencies is None
                takers["extend"] |= extends and kind.extend is None
            if kind.extend is not None:
                reading = EXTENSIONS[kind.extend.name](kind.extend, extension.window)  # type: ignore[attr-defined]
            self.parts[name] = kindred(kind.position or knobs, geometry, kind.frequencies or table, reading)
            self.add_module(name, self.parts[name])
        if spectrum != Geometric() and not takers["frequencies"]:
            raise BadInput(f"frequencies={spectrum.name} cannot apply: no layer of position={knobs.name} takes it")
        if extension.changes is not None and not takers["extend"]:
            raise BadInput(
                f"extend={extension.knobs.name} changes {extension.changes}, and no layer of position={knobs.name} "
                "has any that could be changed"
            )
        self.windows = [kinds[letter].window for letter in order]
        for name, part in self.parts.items():
            windows = [window for window, its in zip(self.windows, self.names, strict=True) if its == name]
            limits = [window for window in windows if window is not None]
            part.reach = max(limits, default=None) if len(limits) == len(windows) else None
        self.relative = all(part.relative for part in self.parts.values())
        self.extension = ByLayer(extension, [part.extension for part in self.parts.values()])

    @property
    def learning_rates(self) -> dict[str, float]:
        return {
            f"{name}.{parameter}": rate
            for name, part in self.parts.items()
            for parameter, rate in part.learning_rates.items()
        }

    def initialise(self, draw) -> None:
        def inside(name: str):
            return lambda parameter: draw(f"{name}.{parameter}")

        for name, part in self.parts.items():
            part.initialise(inside(name))

    def prepare(self, positions: Tensor) -> tuple:
        """Positions (T,) or (B, T) → per layer, what the scheme of that layer needs; each scheme prepares once."""
        parts = {name: self.parts[name] for name in dict.fromkeys(self.names)}
        made = {name: part.prepare(part.extension.positions(positions)) for name, part in parts.items()}
        return tuple(made[name] for name in self.names)

    def layer(self, index: int) -> Layer:
        return Layer(self.parts[self.names[index]].layer(index), index, self.windows[index])

    def embed(self, x: Tensor, prepared: tuple) -> Tensor:
        return self.parts[self.names[0]].embed(x, prepared[0])  # of a scheme that does, all layers share one


class ByLayer(Extension):
    """What a model with several readings has in place of one: positions are changed in each of them."""

    def __init__(self, extension: Extension, parts: Sequence[Extension]):
        super().__init__(extension.knobs, extension.window)
        self.depends_on_length = any(part.depends_on_length for part in parts)
        self.relative = all(part.relative for part in parts)


class Planned(Layered):
    """A scheme in a model whose layers read by a plan."""

    def __init__(self, plan: Plan, scheme: type[Position], knobs, geometry, spectrum, extension):
        super().__init__(knobs, geometry, spectrum, extension, plan.kinds, plan.order(geometry.layers), scheme)
        self.plan = plan
