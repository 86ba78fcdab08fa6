"""The score of a query and a key by their distance, for every scheme.

Letters in shape comments: N pairs of a query and a key, H heads, T distances, D head width, C model width.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.figures.schemes import default_scheme, scheme_names
from experiments.lab.canvas import COLOURS, Drawing, add_title, pyplot
from experiments.schemes import hooks
from models.positions import Position
from models.positions.base import Differences
from models.positions.extensions import length_of

if TYPE_CHECKING:
    from experiments.figures.settings import Gallery


@torch.no_grad()  # with gradients, a bias comes a few queries at a time
def scores(position: Position, layer: int, q: Tensor, k: Tensor, length: int) -> Tensor:
    """Scores before the softmax of a layer for the last of `length` tokens and the key r tokens back.

    They are q·k/(t√D) + bias, with the temperature t of the scheme, for queries and keys (N, H, D) placed at every
    position: (N, H, T), r = 0 … T - 1.
    """
    positions = torch.arange(length, dtype=q.dtype)
    prepared = position.prepare(position.extension.positions(positions))
    queries, keys = (x.unsqueeze(-2).expand(*x.shape[:-1], length, -1) for x in (q, k))  # (N, H, T, D)
    layer_position = position.layer(layer)
    rest = torch.zeros(1, length, position.geometry.width, dtype=q.dtype)  # gates that content opens are at rest
    prepared = layer_position.read_input(rest, prepared)
    queries, keys = layer_position.rotate(queries, keys, prepared)
    if (sharpness := layer_position.sharpness_at(positions, layer)) is not None:
        queries = queries * sharpness
    bias = layer_position.bias(queries, keys, prepared)
    bias = bias.dense() if isinstance(bias, Differences) else bias
    temperature = layer_position.temperature_at(length_of(positions))
    last = queries[..., -1:, :] @ keys.mT * q.shape[-1] ** -0.5 / temperature  # (N, H, 1, T)
    if bias is not None:
        last = last + bias[..., -1:, :]
    return last.squeeze(-2).flip(-1)


def added_scores(position: Position, length: int) -> Tensor:
    """x_i·x_j/√C of what a scheme adds to the embeddings, the last position i with the one r before it, (1, 1, T)."""
    empty = torch.zeros(1, length, position.geometry.width, dtype=torch.float64)
    prepared = position.prepare(position.extension.positions(torch.arange(length, dtype=torch.float64)))
    x = position.embed(empty, prepared)  # (1, T, C)
    return (x[:, -1:] @ x.mT * x.shape[-1] ** -0.5).flip(-1)


def curves(position: Position, q: Tensor, k: Tensor, length: int) -> Tensor:
    """The scores at every distance in every layer, (layers, H, T), for one query and key (D,) in every head.

    If all layers or all heads are equal, only the first is returned.
    """
    if "embed" in hooks(type(position)):
        return added_scores(position, length)
    heads, layers = position.geometry.heads, position.geometry.layers
    pair = [x.expand(1, heads, -1) for x in (q, k)]
    by_layer = torch.cat([scores(position, layer, *pair, length) for layer in range(layers)])
    for axis in (0, 1):
        first = by_layer.narrow(axis, 0, 1)
        if torch.allclose(by_layer, first.expand_as(by_layer), rtol=0, atol=1e-9):
            by_layer = first
    return by_layer


def distance(_: "Gallery") -> Drawing:
    """Draw score against distance, a panel per scheme."""
    names, columns = scheme_names(), 4
    plt = pyplot()
    rows = -(-len(names) // columns)
    figure = plt.figure(figsize=(13, 2.5 * rows + 0.5), layout="constrained")
    body = figure.subfigures()  # the legend has its own place, under the title
    grid = body.subplots(rows, columns, squeeze=False, sharex=True)
    for number, (panel, name) in enumerate(zip(grid.flat, names, strict=False)):
        position = default_scheme(name)
        length, added = position.geometry.window, "embed" in hooks(type(position))
        content = torch.Generator().manual_seed(0)
        q = torch.randn(position.geometry.head_width, generator=content, dtype=torch.float64)
        by_layer = curves(position, q, q, length)
        one = by_layer.shape[1] == 1
        for layer, style in ((0, "-"), (-1, "--"))[: len(by_layer)]:
            for head, curve in enumerate(by_layer[layer]):
                colour = "#333333" if one else COLOURS[head % len(COLOURS)]
                panel.plot(curve, color=colour, linestyle=style, linewidth=1.1)
        if not added:
            panel.axhline(q @ q * len(q) ** -0.5, color="#777777", linewidth=1, linestyle=":", zorder=0)
        low, high = panel.get_ylim()
        if high - low < 1:  # rounding is no shape
            panel.set_ylim((low + high) / 2 - 0.5, (low + high) / 2 + 0.5)
        random = "*" if list(position.parameters()) else ""
        panel.set_title(f"{name}{random}" + "  (added: x·x/√C)" * added, fontsize=10)
        panel.set_xlim(-4, length)  # what stands at 0 must be seen
        panel.tick_params(labelsize=8, labelbottom=number >= len(names) - columns)
        panel.grid(alpha=0.25)
    for panel in grid.flat[len(names) :]:
        panel.remove()
    for panel in grid[:, 0]:
        panel.set_ylabel("score", fontsize=9)
    for panel in grid.flat[len(names) - columns : len(names)]:
        panel.set_xlabel("distance, tokens", fontsize=9)
    lines = [plt.Line2D([], [], color=COLOURS[h], label=f"head {h + 1}") for h in range(position.geometry.heads)]
    lines += [plt.Line2D([], [], color="#333333", label="all heads alike")]
    lines += [plt.Line2D([], [], color="#333333", linestyle="--", label="last layer, where layers differ")]
    lines += [plt.Line2D([], [], color="#777777", linestyle=":", label="the same content without positions")]
    body.legend(handles=lines, loc="outside upper center", ncols=len(lines), fontsize=9, frameon=False)
    add_title(
        figure,
        "What a key scores by its distance, for every scheme",
        f"Score before the softmax, q·k/√D + bias, of the last of {length} tokens; query and key are one Gaussian "
        "vector in every head; for schemes that act on the embeddings, x·x/√C of what they add. Scales differ. "
        "* learned parameters, here random: the panel shows what kind of curve is possible, not what training finds.",
    )
    text = (
        f"All {len(names)} schemes of `conf/position`, by their own code. Flat: `none`; straight: `alibi`; "
        "steps: `t5`; ripples: everything that turns. Heads differ where a scheme has numbers per head. "
        "Where a panel carries a star the parameters are random, and only the kind of curve is meant."
    )
    return Drawing(figure, "Score against distance, every scheme", text)
