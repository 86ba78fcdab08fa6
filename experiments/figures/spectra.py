"""The encoding as a Fourier expansion: sums of its frequencies.

Letters in shape comments: K frequencies, R offsets.
"""

from typing import TYPE_CHECKING

import torch
from omegaconf import OmegaConf

from conf.base import Settings
from conf.overrides import FOLDER
from experiments.lab.canvas import COLOURS, Drawing, add_title, pyplot
from models.positions import SPECTRA
from models.positions.diagnostics import alias, kernel
from models.positions.frequencies import Geometric, phases

if TYPE_CHECKING:
    from experiments.figures.settings import Gallery

SLOWEST = 1e-4  # radians per token: the slowest frequency of spectra that allow to set it, for a fair comparison


def spacings() -> dict[str, Settings]:
    """Every spectrum of conf/frequencies without required settings, with the same slowest frequency if it has one."""
    spectra = {}
    for name in SPECTRA:
        values = OmegaConf.load(FOLDER / "frequencies" / f"{name}.yaml")
        if OmegaConf.missing_keys(values):
            continue
        values = OmegaConf.to_container(values)
        spectra[name] = SPECTRA[name](**values | ({"slowest": SLOWEST} if "slowest" in values else {}))
    return spectra


def expansion(_: "Gallery") -> Drawing:
    """Draw the cosines of a geometric spectrum and their mean g(r), and g(r) by base and by spacing."""
    channels, near, far, window = 64, 128, 1024, 256
    terms = Geometric().table(channels)
    bases = (100.0, 10_000.0, 500_000.0)

    plt = pyplot()
    figure = plt.figure(figsize=(13, 10), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    left, right = above.subfigures(1, 2)
    waves, mean = left.subplots(2, 1, height_ratios=(2, 1), sharex=True)
    offsets = torch.arange(near)
    cosines = phases(offsets.double(), terms).cos().T.numpy()
    image = waves.imshow(cosines, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
    waves.set(title=f"the terms: cos(ω_k r), base 10 000, {len(terms)} pairs", ylabel="pair k (slower downwards)")
    left.colorbar(image, ax=waves, label="value", ticks=(-1, 0, 1))
    mean.plot(offsets, kernel(terms, offsets), color=COLOURS[0])
    mean.set(title="their mean g(r)", xlabel="offset r, tokens", ylabel="g(r)", ylim=(-0.1, 1.05))
    mean.grid(alpha=0.3)

    panel, offsets = right.subplots(), torch.arange(far)
    for base, colour in zip(bases, COLOURS, strict=False):
        panel.plot(offsets, kernel(Geometric(base=base).table(channels), offsets), color=colour, linewidth=1,
                   label=f"base {base:,.0f}")  # fmt: skip
    panel.set(title="per base: the larger, the slower the fall", xlabel="offset r, tokens", ylabel="g(r)")
    panel.set(ylim=(-0.55, 1.05), xlim=(0, far))
    panel.grid(alpha=0.3)
    panel.legend(loc="upper right")

    tables = {name: spectrum.table(channels) for name, spectrum in spacings().items()}
    columns = 5
    grid = below.subplots(-(-len(tables) // columns), columns, sharex=True, sharey=True, squeeze=False)
    largest = {name: alias(table, 16, window) for name, table in tables.items()}
    offsets = torch.arange(2 * window)
    for panel, (name, table) in zip(grid.flat, tables.items(), strict=False):
        panel.plot(offsets, kernel(table, offsets), color=COLOURS[0], linewidth=0.9)
        panel.axvline(window, color="black", linewidth=0.6, linestyle=":")
        panel.set_title(f"{name}: up to {largest[name]:.2f} within {window}", fontsize=9)
        panel.set(xlim=(0, 2 * window), ylim=(-1.05, 1.05))
        panel.grid(alpha=0.3)
    for panel in grid.flat[len(tables) :]:
        panel.remove()
    below.suptitle(f"per spacing (its largest g(r) over 16 ≤ r < {window} in the title)", fontsize=11)
    below.supylabel("g(r)", fontsize=10)
    below.supxlabel("offset r, tokens", fontsize=10)
    add_title(
        figure,
        "The encoding as a Fourier expansion: g(r) = mean cos(ω_k r)",
        f"g(r) is the score of an encoding with itself r tokens away, over its value at r = 0 ({channels} channels); "
        f"spacings run from frequency 1 to {SLOWEST:g} where their settings let them; dotted: {window} tokens.",
    )
    alike = max(largest, key=lambda name: largest[name])
    apart = min(largest, key=lambda name: largest[name])
    half = torch.arange(far // 2, far)
    levels = ", ".join(f"{kernel(Geometric(base=base).table(channels), half).mean():z.2f}" for base in bases)
    text = (
        "Fast terms cancel within a few tokens; what is left at a distance is the share of pairs that have not turned "
        f"yet. That share is what the base sets: g is {levels} on average at {far // 2:,} to {far - 1:,} tokens for "
        f"bases {', '.join(f'{base:,.0f}' for base in bases)}. Evenly spaced frequencies (linear, harmonic) leave "
        "next to nothing in between and then come back whole, harmonic only after twice its length. The largest g "
        f"from 16 tokens to {window} is {largest[apart]:.2f} for {apart}, "
        f"{largest['geometric']:.2f} for geometric, {largest[alike]:.2f} for {alike}."
    )
    return Drawing(figure, "The encoding as a Fourier expansion", text)
