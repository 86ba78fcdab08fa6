"""RoPE: how a query turns with its position.

Letters in shape comments: T positions, D head width, K = D/2 pairs of channels.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.figures.schemes import make_scheme
from experiments.lab.canvas import COLOURS, Drawing, add_title, pyplot
from models.positions import Position

if TYPE_CHECKING:
    from experiments.figures.settings import Gallery


def rotated(position: Position, q: Tensor, length: int) -> Tensor:
    """A query (D,) at the positions 0 … T - 1, by pair: (T, K, 2), whose channels are (i, i + K)."""
    prepared = position.prepare(torch.arange(length, dtype=q.dtype))
    everywhere = q.expand(1, 1, length, -1)
    return position.rotate(everywhere, everywhere, prepared)[0][0, 0].unflatten(-1, (2, -1)).mT


def rotation(_: "Gallery") -> Drawing:
    """Draw the directions of a query's pairs, position by position, and its channels over positions."""
    width, near, far, chosen = 32, 16, 100, (0, 2, 4, 7)
    position = make_scheme("rope", width)
    q = torch.randn(width, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    path = rotated(position, q, far)
    frequencies = position.frequencies(q.device)

    plt = pyplot()
    figure, grid = plt.subplots(2, len(chosen), figsize=(13, 5.9), height_ratios=(1.8, 1), layout="constrained")
    for column, pair in enumerate(chosen):
        plane, lines = grid[:, column]
        points, radius = path[:, pair].numpy(), path[0, pair].norm().item()
        plane.add_patch(plt.Circle((0, 0), radius, fill=False, color="#bbbbbb", linewidth=0.8))
        for place in range(near):
            colour = plt.get_cmap("viridis")(place / (near - 1))
            plane.annotate("", points[place], (0, 0), arrowprops={"arrowstyle": "->", "color": colour})
        plane.annotate("p = 0", points[0] * 1.2, fontsize=8, ha="center", va="center")
        reach = 1.4 * radius
        plane.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        plane.set(xlabel=f"channel {pair}", ylabel=f"channel {pair + width // 2}")
        plane.set_title(f"pair {pair}: {math.degrees(frequencies[pair]):.3g}° per token", fontsize=10)
        for channel, colour in enumerate(COLOURS[:2]):
            lines.plot(points[:, channel], color=colour, linewidth=1, label=f"channel {pair + channel * width // 2}")
        lines.axvspan(0, near - 1, color="#000000", alpha=0.07, linewidth=0)
        lines.set(xlabel="position, tokens", xlim=(0, far), ylim=(-2.1 * radius, 1.2 * radius))
        lines.legend(fontsize=8, ncols=2, loc="lower center")
        lines.grid(alpha=0.3)
    grid[1, 0].set_ylabel("value")
    shades = plt.cm.ScalarMappable(plt.Normalize(0, near - 1), "viridis")
    figure.colorbar(shades, ax=grid[0], label="position, tokens", shrink=0.8)
    add_title(
        figure,
        "RoPE turns a query, pair by pair, by its position",
        f"One query of {width} channels (Gaussian at a seed, base 10 000): above, four of its pairs at positions 0 to "
        f"{near - 1}; below, their two channels over {far} positions, with those {near} shaded.",
    )
    drift = (path.norm(dim=-1) - path[0].norm(dim=-1)).abs().max()
    text = (
        f"Every pair keeps its length (to {drift:.0e} in float64) and turns at its own speed: pair 0 goes round in "
        f"{2 * math.pi / frequencies[0]:.1f} tokens, pair {chosen[-1]} in {2 * math.pi / frequencies[chosen[-1]]:.0f}. "
        "What position adds to the angle between a query and a key depends on how far apart they are alone."
    )
    return Drawing(figure, "RoPE's rotation of a query", text)
