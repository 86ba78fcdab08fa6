"""Tools for figures: a scheme to draw, pyplot, title and caption, and files."""

import re
import textwrap
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import Settings
from conf.files import with_ending
from models.positions import EXTENSIONS, SCHEMES, Geometry, Position, build_position
from models.positions.frequencies import Geometric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def headed(figure: "Figure", title: str, caption: str) -> None:
    """Give a figure its title above and a sentence on how it was made below."""
    figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.supxlabel(textwrap.fill(caption, int(figure.get_figwidth() * 14)), fontsize=9, color="#333333")


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


def scheme(
    name: str, width: int, heads: int = 1, window: int = 256, spectrum: Settings | None = None, **knobs
) -> Position:
    """A scheme with its default settings for a model of one layer, without an extension."""
    geometry = Geometry(width=width, heads=heads, layers=1, window=window)
    return build_position(SCHEMES[name].Knobs(**knobs), spectrum or Geometric(), EXTENSIONS["none"].Knobs(), geometry)
