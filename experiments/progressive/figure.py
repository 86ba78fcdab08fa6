"""The figure of a progressive extension, drawn from its readings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.lab.canvas import COLOURS, log_ticks, plain_numbers, pyplot, write_figure

if TYPE_CHECKING:
    from experiments.progressive.report import PathReading


def progressive_figure(path: Path, readings: Sequence["PathReading"], result: dict) -> None:
    """Perplexity against context length: base, every stage searched (dashed) and fine-tuned, recovered, direct.

    Writes path.png and path.svg.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8.6, 4.6), layout="constrained")
    colours = {("base", 1): "black", ("recovered", result["factors"][-1]): COLOURS[3]}
    colours |= {("direct", result["factors"][-1]): "#7f7f7f"}
    shades = plt.get_cmap("viridis")
    for number, factor in enumerate(result["factors"]):
        colours["progressive", factor] = shades(0.8 * number / max(1, len(result["factors"]) - 1))
    ended = {(reading.name, reading.factor): reading.steps for reading in readings}  # the last of a stage
    for reading in readings:
        finished = reading.steps == ended[reading.name, reading.factor]
        contexts, values = zip(*((row["context"], row["perplexity"]) for row in reading.rows), strict=True)
        style = {"linestyle": "-" if finished else "--", "marker": "o", "markersize": 4}
        if reading.name == "recovered":
            style = {"linestyle": ":", "marker": "s", "markersize": 5}
        axes.plot(contexts, values, color=colours[reading.name, reading.factor], label=reading.label, **style)
    windows = [result["window"], *(result["window"] * factor for factor in result["factors"])]
    for window in windows:
        axes.axvline(window, color="black", linewidth=0.6, linestyle=":")
    axes.set(yscale="log", xlabel="context, tokens", ylabel="perplexity (same targets)")
    log_ticks(axes, [row["context"] for row in readings[0].rows])
    plain_numbers(axes)
    axes.grid(alpha=0.3)
    axes.set_title("dotted: the trained window and those of the stages", fontsize=9)
    figure.suptitle(f"{result['run']}, extended in stages", fontsize=10)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    write_figure(figure, path)
