"""Tools for figures: pyplot, title and caption, axes, and files."""

import re
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from conf.files import with_ending

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.lab.statistics import Estimate

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class Drawing:
    """A figure, its title, and the text of the gallery that describes it."""

    figure: "Figure"
    title: str
    text: str


def pyplot():
    """Matplotlib's pyplot, set up to draw to files, with the same bytes every time."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "positions"
    matplotlib.rcParams["path.simplify_threshold"] = 0.3  # pixels that a dense curve may be off, for small files
    import matplotlib.pyplot as plt

    return plt


def add_title(figure: "Figure", title: str, caption: str) -> None:
    """Give a figure its title above and a sentence on how it was made below."""
    figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.supxlabel(textwrap.fill(caption, int(figure.get_figwidth() * 14)), fontsize=9, color="#333333")


def log_ticks(axes: "Axes", values: Sequence[int]) -> None:
    """Make the x axis logarithmic, with ticks at these values alone."""
    axes.set_xscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.xaxis.minorticks_off()


def plain_numbers(axes: "Axes", which: Literal["x", "y"] = "y") -> None:
    """Label the ticks of a logarithmic axis with plain numbers, the minor ones in small."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")
    axis.set_tick_params(which="minor", labelsize=7)


def plot_band(axes: "Axes", x: Sequence[float], ends, colour, label: str, style: str = "-") -> None:
    """Plot the rows of `ends`, (n, 3): value, low and high, as a curve with a band."""
    import numpy as np

    value, low, high = np.array(ends, dtype=float).T  # None, where there is no interval, is nan
    axes.plot(x, value, style, color=colour, marker="o", label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def plot_interval(axes: "Axes", place: float, ratio: "Estimate", colour: str, label: str | None = None) -> None:
    """Plot a ratio at this height as a point, with its interval, cut at 0.01 and 100, as a line."""
    axes.plot([max(ratio.low, 0.01), min(ratio.high, 100)], [place, place], color=colour)
    axes.plot(ratio.value, place, "o", color=colour, label=label)


def write_figure(figure: "Figure", path: Path) -> Path:
    """Write path.png and path.svg, close the figure, and return the path."""
    for ending in (".png", ".svg"):
        figure.savefig(with_ending(path, ending), dpi=150)
        figure.set_layout_engine("none")  # once is enough, and is most of the time
    pyplot().close(figure)
    return path


def save(drawing: Drawing, path: Path) -> None:
    """Write path.svg, with title and text inside, and path.png, both small, and close the figure."""
    from PIL import Image

    svg, png = with_ending(path, ".svg"), with_ending(path, ".png")
    metadata = {"Title": drawing.title, "Description": drawing.text, "Date": None}  # no date: same figure, same file
    drawing.figure.savefig(svg, metadata=metadata)
    svg.write_text(re.sub(r"(?m)^L (\S+) (\S+) $", _shorter, svg.read_text(encoding="utf-8")), encoding="utf-8")
    drawing.figure.savefig(png, dpi=110)
    with Image.open(png) as image:
        small = image.convert("RGB").quantize(dither=Image.Dither.NONE)
    small.save(png, optimize=True)
    pyplot().close(drawing.figure)


def _shorter(line: re.Match) -> str:
    """The end of a line in an SVG path, to a tenth of a point."""
    x, y = (round(float(number), 1) for number in line.groups())
    return f"L {x:g} {y:g} "


def read_caption(svg: Path) -> tuple[str, str]:
    """Read the title and the text from an SVG file of `save`."""
    root = ElementTree.parse(svg).getroot()
    title, text = (next(root.iter(f"{DUBLIN_CORE}{part}")).text for part in ("title", "description"))
    return title, text
