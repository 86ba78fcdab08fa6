"""The gallery: its figures by name, and the page that shows them."""

from collections.abc import Callable
from pathlib import Path

from experiments.figures.decay import decay
from experiments.figures.distance import distance
from experiments.figures.rotary import rotation
from experiments.figures.settings import Gallery
from experiments.figures.sinusoid import clocks, codes, shift
from experiments.figures.spectra import expansion
from experiments.lab.canvas import Drawing, read_caption

FIGURES: dict[str, Callable[[Gallery], Drawing]] = {
    "codes": codes,
    "clocks": clocks,
    "shift": shift,
    "expansion": expansion,
    "rotation": rotation,
    "distance": distance,
    "decay": decay,
}

TITLE = "# Figures"  # of the page


def page(folder: Path) -> str:
    """The Markdown page of the figures in a folder, from the captions in their SVG files."""
    parts = [
        TITLE,
        "Drawn from the lab's own code, this page included, by `.venv/bin/python -m experiments.figures`; one alone "
        "with `only=NAME`, its name being that of its file.",
    ]
    for name in FIGURES:
        if (folder / f"{name}.svg").exists():
            title, text = read_caption(folder / f"{name}.svg")
            parts.append(f"## {title}\n\n{text} ([{name}.svg]({name}.svg))\n\n![{title}]({name}.png)")
    return "\n\n".join(parts) + "\n"
