"""The schemes that the figures draw."""

import torch

from conf.base import Settings
from conf.overrides import choices
from models.positions import EXTENSIONS, SCHEMES, Geometry, Position, build_position
from models.positions.frequencies import Geometric


def make_scheme(
    name: str, width: int, heads: int = 1, window: int = 256, spectrum: Settings | None = None, **knobs
) -> Position:
    """A scheme with its default settings for a model of one layer, without an extension."""
    geometry = Geometry(width=width, heads=heads, layers=1, window=window)
    return build_position(SCHEMES[name].Knobs(**knobs), spectrum or Geometric(), EXTENSIONS["none"].Knobs(), geometry)


def scheme_names() -> list[str]:
    """The schemes of conf/position, in the order of the README."""
    return sorted(choices("position"), key=list(SCHEMES).index)


def default_scheme(name: str) -> Position:
    """A scheme with the default settings of `position=<name>` in nano, its learned parameters perturbed.

    Otherwise tables that start at zero would show nothing. The laws of the tests do the same.
    """
    from train import compose

    config = compose([f"position={name}"])
    shape = config.model
    geometry = shape.geometry(config.window)
    position = build_position(config.position, config.frequencies, config.extend, geometry)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for parameter in position.parameters():
            noise = torch.randn(2, *parameter.shape, generator=generator)
            parameter.mul_(1 + 0.1 * noise[0]).add_(0.3 * noise[1])
    return position.requires_grad_(False).double()
