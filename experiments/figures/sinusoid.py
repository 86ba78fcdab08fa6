"""The absolute sinusoid: beside the bits it descends from, as a set of clocks, and as a space where a shift is linear.

Letters in shape comments: T positions, C channels, K = C/2 pairs of a sine and a cosine, whose frequencies fall.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.figures.schemes import make_scheme
from experiments.lab.canvas import COLOURS, Drawing, add_title, pyplot
from models.positions import Position
from models.positions.frequencies import File
from models.positions.pairs import rotate_pairs
from models.positions.rotate import interleaved_to_half_split

if TYPE_CHECKING:
    from experiments.figures.settings import Gallery


def encoding(position: Position, start: int, stop: int, dtype=torch.float64) -> Tensor:
    """PE(p) of the whole positions start ≤ p < stop, (T, C)."""
    return position.prepare(torch.arange(start, stop, dtype=dtype))


def step_lengths(table: Tensor) -> Tensor:
    """|PE(p + 1) - PE(p)|, (T - 1,), of a table (T, C)."""
    return table.diff(dim=0).norm(dim=-1)


def codes(_: "Gallery") -> Drawing:
    """The bits of the position and the sinusoid as heat maps, channel by channel, and how far one step takes each."""
    positions, bits, width = 64, 6, 64
    code = encoding(make_scheme("binary", width, bits=bits), 0, positions)[:, :bits]
    wave = encoding(make_scheme("sinusoidal", width), 0, positions)
    octaves = File(path="the periods of the bits", values=[math.pi / 2**bit for bit in range(bits)])
    sinusoid = make_scheme("sinusoidal", 2 * bits, spectrum=octaves)
    twin = -encoding(sinusoid, 0, positions)[:, 0::2]  # the sines, (T, bits)

    plt = pyplot()
    figure = plt.figure(figsize=(12, 6.2), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(2.4, 4, 4.6))
    for part, table, title, label in (
        (left, code, f"binary, {bits} bits", "bit"),
        (middle, wave, f"sinusoidal, {width} channels", "channel (even: sine, odd: cosine)"),
    ):
        panel = part.subplots()
        image = panel.imshow(table.numpy(), aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        panel.set(title=title, xlabel=label, ylabel="position, tokens")
    left.axes[0].set_xticks(range(bits))
    middle.colorbar(image, ax=middle.axes[0], label="value", ticks=(-1, 0, 1))

    waves, steps = right.subplots(2, 1, height_ratios=(3, 2))
    for bit in range(1, 5):
        waves.step(range(positions), code[:, bit] - 3 * bit, where="post", color=COLOURS[0], linewidth=1)
        waves.plot(twin[:, bit] - 3 * bit, color=COLOURS[1], linewidth=1)
    waves.set_yticks([-3 * bit for bit in range(1, 5)], [f"bit {bit}" for bit in range(1, 5)])
    waves.set(title="a bit and the sine of its period", xlabel="position, tokens")
    steps.step(range(positions - 1), step_lengths(code), where="mid", color=COLOURS[0], linewidth=1, label="binary")
    steps.plot(step_lengths(wave), color=COLOURS[1], label="sinusoidal")
    steps.set(title="length of one step, |PE(p + 1) - PE(p)|", xlabel="position p, tokens", ylim=(0, 6.4))
    steps.legend(loc="upper right", fontsize=8, ncols=2)
    add_title(
        figure,
        "The sinusoid is the binary code made smooth",
        "Bit b turns over every 2^b tokens; pair k of the sinusoid goes round in 2π·10 000^(2k/C) tokens.",
    )
    short, long = step_lengths(code).aminmax()
    same = step_lengths(wave)
    text = (
        "Fast channels left, slow ones right, in both codes. One step forward moves the bits by anything between "
        f"{short:.1f} and {long:.1f}, as many as turn over at once; it moves the sinusoid by {same.mean():.3f} "
        f"everywhere (to {same.max() - same.min():.0e})."
    )
    return Drawing(figure, "The binary code beside the sinusoid", text)


def clocks(_: "Gallery") -> Drawing:
    """Every pair (sin, cos) as the hand of a clock that starts at twelve, at successive positions and far ones."""
    width, near, far = 16, 10, (10, 100, 1000)
    position = make_scheme("sinusoidal", width)
    wavelengths = (2 * math.pi / position.spectrum.table(width)).tolist()
    places = [*range(near), *far]
    pairs = position.prepare(torch.tensor(places, dtype=torch.float64)).view(len(places), -1, 2)  # (T, K, 2): x, y

    plt = pyplot()
    from matplotlib.patches import Circle, Wedge

    figure, panel = plt.subplots(figsize=(12, 6.9), layout="constrained")
    columns = [column + 0.8 * (column >= near) for column in range(len(places))]
    for column, x in enumerate(columns):
        for row in range(len(wavelengths)):
            panel.add_patch(Circle((x, -row), 0.4, facecolor="white", edgecolor="#999999", linewidth=0.8))
            hand = pairs[column, row] * 0.4
            if 0 < column < near:
                now, before = (math.degrees(math.atan2(*pairs[at, row].flip(0))) for at in (column, column - 1))
                panel.add_patch(Wedge((x, -row), 0.4, now, before, facecolor=COLOURS[0], alpha=0.2))
            panel.plot((x, x + hand[0]), (-row, -row + hand[1]), color=COLOURS[0], linewidth=1.8)
    names = [f"pair {k}: one turn in {length:,.{int(length < 100)}f}" for k, length in enumerate(wavelengths)]
    panel.set_yticks([-row for row in range(len(wavelengths))], names)
    panel.set_xticks(columns, [f"{p:,}" for p in places])
    panel.set(aspect="equal", xlim=(-0.6, columns[-1] + 0.6), ylim=(-len(wavelengths) + 0.4, 0.6))
    panel.set(xlabel="position, tokens: the first ones, then far ones", ylabel="pair, and its wavelength, tokens")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    add_title(
        figure,
        "Each sine and cosine is a clock; the position is the time",
        f"The hand of pair k points to (sin, cos) of position × frequency, so that it starts at twelve and turns "
        f"clockwise; shaded is the step from the position before (sinusoid of {width} channels, base 10 000).",
    )
    text = (
        f"Read a column as one position: the second hand (pair 0) goes round in {wavelengths[0]:.1f} tokens, the "
        f"slowest in {wavelengths[-1]:,.0f}. Over the first {near} positions the slow hands stand still, which is all "
        "that a short window ever sees of them; the last columns show that they do move."
    )
    return Drawing(figure, "Each pair as a clock", text)


def shift_matrix(position: Position, offset: int, dtype=torch.float64) -> Tensor:
    """M_φ, (C, C), with PE(p + φ) = M_φ PE(p): the rotation of RoPE, by φ × frequency, on the pairs (cos, sin)."""
    at = encoding(position, offset, offset + 1, dtype)  # (1, C), sines and cosines in turn
    channels = at.shape[-1]
    order = interleaved_to_half_split(channels).roll(channels // 2)  # all cosines, then all sines
    basis = torch.eye(channels, dtype=dtype)[:, order]
    return rotate_pairs(basis, at[:, 1::2], at[:, 0::2])[:, order.argsort()].T


def shift_errors(position: Position, offset: int, positions: int, dtype=torch.float64) -> Tensor:
    """max_c |PE(p + φ) - M_φ PE(p)| for the first positions, (T,), in float64, of tables made in `dtype`."""
    table = encoding(position, 0, positions + offset, dtype).double()
    moved = table[:positions] @ shift_matrix(position, offset, dtype).double().T
    return (moved - table[offset:]).abs().amax(dim=-1)


def fitted_errors(position: Position, offset: int, positions: int, channels: int) -> Tensor:
    """The same error, (T,), for the first channels of any encoding, with the matrix that least squares gives."""
    table = encoding(position, 0, positions + offset)[:, :channels]
    before, after = table[:positions], table[offset:]
    return (before @ torch.linalg.lstsq(before, after).solution - after).abs().amax(dim=-1)


def shift(_: "Gallery") -> Drawing:
    """M_φ for two shifts, and how exactly it moves an encoding, in float64, in float32, and for the bits."""
    small, width, positions, offsets = 16, 128, 8192, (1, 64)
    drawn, position = make_scheme("sinusoidal", small), make_scheme("sinusoidal", width)

    plt = pyplot()
    figure, panels = plt.subplots(1, 3, figsize=(14, 4.9), width_ratios=(1, 1, 1.5), layout="constrained")
    for panel, offset in zip(panels, offsets, strict=False):
        image = panel.imshow(shift_matrix(drawn, offset).numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        panel.set(title=f"M_φ, φ = {offset} token{'s' * (offset > 1)} ({small} channels)")
        panel.set(xlabel="channel of PE(p)", ylabel="channel of PE(p + φ)")
        panel.set(xticks=range(0, small, 2), yticks=range(0, small, 2))
    figure.colorbar(image, ax=panels[:2], label="value", ticks=(-1, 0, 1), shrink=0.7)
    curve = panels[2]
    at = torch.arange(1, positions)
    worst = {}
    for offset, line in zip(offsets, ("-", "--"), strict=True):
        for dtype, colour in ((torch.float32, COLOURS[1]), (torch.float64, COLOURS[0])):
            errors = shift_errors(position, offset, positions, dtype).cummax(0).values
            name = str(dtype).removeprefix("torch.")
            worst[name, offset] = errors[-1].item()
            curve.plot(at, errors[1:], color=colour, linestyle=line, label=f"sinusoid, {name}, φ = {offset}")
    bits = math.ceil(math.log2(positions + 1)) + 1
    fitted = fitted_errors(make_scheme("binary", width), 1, positions, bits).cummax(0).values
    curve.plot(at, fitted[1:], color="#7f7f7f", label="bits, φ = 1, best matrix")
    curve.set(xscale="log", yscale="log", title=f"error of the shift ({width} channels)")
    curve.set(xlabel="positions up to p, tokens", ylabel="largest |PE(p + φ) - M_φ PE(p)| so far")
    curve.grid(alpha=0.3)
    curve.legend(fontsize=8, loc="center", bbox_to_anchor=(0.6, 0.42))
    add_title(
        figure,
        "A shift by φ tokens is one matrix for every position",
        "PE(p + φ) = M_φ PE(p), where M_φ turns each pair by φ × frequency and does not know p; it is made by RoPE's "
        "own rotation. For the bits it is the least-squares fit.",
    )
    one, other = (shift_matrix(position, offset) for offset in offsets)
    law = (one @ other - shift_matrix(position, sum(offsets))).abs().max()
    straight = (one @ one.T - torch.eye(width)).abs().max()
    exact, rounded = (max(worst[name, offset] for offset in offsets) for name in ("float64", "float32"))
    text = (
        f"In float64 the shift by {offsets[0]} and by {offsets[1]} is exact to {exact:.0e} over {positions:,} "
        f"positions; M_φ M_φᵀ = 1 to {straight:.0e} and M_{offsets[0]} M_{offsets[1]} = M_{sum(offsets)} to {law:.0e}. "
        f"In float32 the error grows with the position, to {rounded:.0e}: that is the rounding of position × "
        f"frequency. No matrix shifts the bits (error {fitted[-1]:.1f})."
    )
    return Drawing(figure, "The shift matrix and its error", text)
