"""What the laws are held against: every scheme of conf/position, in models small enough to try everything on.

Letters in shape comments: B batch, T tokens, H heads, D head width, C model width.
"""

from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
from omegaconf import OmegaConf
from torch import Tensor

from models.gpt import GPT, Shape
from models.positions import EXTENSIONS, SCHEMES, Geometry, Plan, Position, build_position
from models.positions.frequencies import Geometric
from models.positions.layers import Layered

CONF = Path(__file__).parent.parent / "conf"
FOLDER = CONF / "position"
WIDTH, HEADS, LAYERS, WINDOW, VOCABULARY = 32, 2, 2, 16, 23

# Settings beside a scheme's YAML that lead through another branch of its code.
VARIANTS: dict[str, list[dict]] = {
    "rope": [{"fraction": 0.5}],
    "kerple": [{"kind": "power"}],
    "mixture": [{"first": "t5", "second": "rope", "every": 2}, {"first": "fire", "second": "cope", "every": 2}],
}
NEAR = 9  # tokens that a query of a local layer sees: fewer than a law's text has, and more than its second half
# Schemes whose layers read by a plan: by one of conf/layers, or by settings.
PLANNED: list[tuple[str, str | dict]] = [
    ("rope", "gemma3"),
    ("rope", "swan"),
    ("t5", {"pattern": "LG", "kinds": {"L": {"window": NEAR, "extend": "none"}, "G": {}}}),
    ("fire", {"pattern": "LM", "kinds": {"L": {"window": NEAR}, "M": {"window": NEAR + 2}}}),
    ("cope", {"pattern": "L", "kinds": {"L": {"window": NEAR}}}),
    ("sinusoidal", {"pattern": "GL", "kinds": {"L": {"window": NEAR}, "G": {}}}),
]
# The same for extensions.
READINGS: dict[str, list[dict]] = {
    "none": [{"rows": "su"}],
    "rerope": [{"rows": {"name": "llama4", "every": 5}}],
    "dca": [{"chunk": 5}],
    "ntk": [{"form": "critical"}, {"form": "fixed"}, {"form": "mixed"}],
    "dynamic_ntk": [{"variant": "transformers"}],
    "yarn": [{"ramp": "index"}, {"rows": "ministral"}],
    "resonance": [{"over": "ntk"}],
    "switch": [
        {"over": "interpolate"},
        {"over": {"name": "longrope", "n_hat": 5}},
        {"over": "self_extend"},
        {"over": "drop"},
    ],
}


@dataclass(frozen=True)
class Case:
    """One scheme with one choice of settings; the laws build from it whatever they need."""

    name: str
    settings: dict = field(default_factory=dict)  # over those of the YAML file
    scheme: type[Position] | None = None  # a mutant to build in place of the scheme of that name
    read: tuple[str, dict] = ("none", {})  # the extension it is read with where a law names none
    plan: Plan | None = None  # by which its layers differ

    def __str__(self) -> str:
        plan = [] if self.plan is None else [f"{self.plan.name}-{self.plan.pattern}"]
        return "-".join([self.name, *(f"{value}" for key, value in self.settings.items()), *plan])

    @property
    def kind(self) -> type[Position]:
        return self.scheme or SCHEMES[self.name]

    @property
    def stretches(self) -> frozenset[str]:
        """What an extension may change; of a model with several schemes, in any of them that takes the run's."""
        return frozenset().union(*(part.stretches for part in self._parts("extend")))

    @property
    def turns(self) -> bool:
        """Whether it has frequencies that the run sets."""
        return any("frequencies" in part.stretches for part in self._parts("frequencies"))

    def _parts(self, group: str) -> list[Position]:
        """The schemes in it that take this group of the run's settings."""
        position = self.position()
        kinds = {} if self.plan is None else self.plan.kinds
        children = dict(position.named_children()) if isinstance(position, Layered) else {"": position}
        parts = [part for name, part in children.items() if name not in kinds or getattr(kinds[name], group) is None]
        return [inner for part in parts for inner in (part.children() if isinstance(part, Layered) else [part])]

    @property
    def extended_alike(self) -> bool:
        """Whether the extension is that of all layers."""
        return self.plan is None or all(kind.extend is None for kind in self.plan.kinds.values())

    def position(
        self, extend: str | None = None, window: int = WINDOW, layers: int = LAYERS, spectrum=None, **knobs
    ) -> Position:
        """The scheme with its parameters randomised: tables that start at zero would look like no-ops.

        knobs: the extension's, e.g. factor.
        """
        settings = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{self.name}.yaml")) | self.settings
        extend, knobs = (extend, knobs) if extend is not None else self.read
        reading = EXTENSIONS[extend].Knobs(**knobs)
        geometry = Geometry(width=WIDTH, heads=HEADS, layers=layers, window=window)
        with patch.dict(SCHEMES, {self.name: self.kind}):
            scheme = self.kind.Knobs.model_validate(settings)
            position = build_position(scheme, spectrum or Geometric(), reading, geometry, self.plan)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in position.parameters():
                noise = torch.randn(2, *parameter.shape, generator=generator)
                parameter.mul_(1 + 0.1 * noise[0]).add_(0.3 * noise[1])
        return position

    def model(self, layers: int = LAYERS, **choices) -> GPT:
        """A GPT around `position(...)`, with weights large enough for attention to be far from uniform."""
        shape = Shape(name="tiny", layers=layers, heads=HEADS, width=WIDTH)
        model = GPT(shape, VOCABULARY, self.position(layers=layers, **choices), seed=0)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1 and not name.startswith("position."):
                    parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
        return model


def discover() -> list[Case]:
    """Every file of conf/position once, then the variants, then plans by layer."""
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    cases = [Case(name, settings) for name in names for settings in [{}, *VARIANTS.get(name, [])]]
    return cases + [Case(name, plan=small(plan)) for name, plan in PLANNED]


def small(plan: str | dict) -> Plan:
    """A plan for a model of two layers, in which windows are shorter than the texts of laws."""
    if isinstance(plan, str):
        plan = OmegaConf.to_container(OmegaConf.load(CONF / "layers" / f"{plan}.yaml"))
    near = {
        letter: {"window": min(kind["window"], NEAR + 2)} if kind.get("window") else {}
        for letter, kind in plan["kinds"].items()
    }
    kinds = {letter: kind | near[letter] for letter, kind in plan["kinds"].items()}
    return Plan.model_validate({"name": "plan", **plan, "pattern": "".join(kinds), "kinds": kinds})


def tokens(length: int, batch: int = 1) -> Tensor:
    """Random tokens (B, T), always the same for a length."""
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(length))


def vectors(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, always the same for a shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def readings() -> list[tuple[str, dict]]:
    """Every file of conf/extend once, then the variants, by a factor where they take one.

    Of 3, so that stretched positions are not exact in binary.
    """
    result = []
    for path in sorted((CONF / "extend").glob("*.yaml")):
        settings = OmegaConf.to_container(OmegaConf.load(path))
        name = settings.pop("name")
        settings |= {"factor": 3.0} if "factor" in settings else {}
        result += [(name, settings | variant) for variant in [{}, *READINGS.get(name, [])]]
    return result


def extensions(case: Case) -> list[tuple[str, dict]]:
    """The extensions that apply to a scheme, in every variant."""
    built = [(name, knobs, EXTENSIONS[name](EXTENSIONS[name].Knobs(**knobs), WINDOW)) for name, knobs in readings()]
    return [(name, knobs) for name, knobs, it in built if it.changes is None or it.changes in case.stretches]


def layer_of(position: Position, layer: int) -> Position:
    """The scheme that acts in a layer."""
    return position.layer(layer) if hasattr(position, "layer") else position


def leaves(prepared) -> list[Tensor]:
    """Every tensor in what `prepare` returned, whatever holds it."""
    if isinstance(prepared, Tensor):
        return [prepared]
    if isinstance(prepared, dict):
        prepared = prepared.values()
    elif hasattr(prepared, "__dataclass_fields__"):
        prepared = vars(prepared).values()
    elif not isinstance(prepared, (tuple, list)):
        return []
    return [leaf for part in prepared for leaf in leaves(part)]
