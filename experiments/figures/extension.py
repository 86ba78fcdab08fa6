"""Figures of the extension study, drawn from its findings: PNG and SVG."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.figures.canvas import pyplot
from experiments.study import CONTROL, PLAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.study_report import Findings, Reading

COLOURS = {PLAIN: "#c44e52", "interpolate": "#4c72b0", CONTROL: "#7f7f7f"}
LABELS = {PLAIN: "extrapolation", "interpolate": "interpolation", CONTROL: "control (tuned at the trained window)"}
OTHERS = ("#55a868", "#dd8452", "#8172b3", "#17a2b8", "#937860", "#da8bc3", "#b5a100", "#2f4b26", "#64b5cd", "#111111")
MARKERS = "osv^D<>Pp*hX"


def study_figures(folder: Path, found: "Findings") -> list[Path]:
    """Perplexity against context length and against fine-tuning steps at the longer windows.

    With one factor all methods share a panel, and one figure shows both; with more, every scheme has a figure with a
    panel for each method, and recovery has its own.

    Returns:
        The figures, written as .png and .svg, without their suffix.
    """
    plt = pyplot()
    positions, factors = found.study.positions, sorted(found.study.factors)
    if len(factors) == 1:
        figure, axes = plt.subplots(2, len(positions), figsize=(5.2 * len(positions), 8), sharey=True, squeeze=False,
                                    layout="constrained")  # fmt: skip
        for (curves, recovery), position in zip(axes.T, positions, strict=True):
            _methods(curves, found, position)
            _recovery(recovery, found, position, factors[0])
        for row in axes:
            row[0].set_ylabel("perplexity (same targets)")
        return [_finished(figure, axes[0][0], folder / "figure", 3)]

    drawn = [_by_method(found, position, folder / f"figure-{position}") for position in positions]
    size = (3.4 * len(factors), 3.6 * len(positions) + 0.8)
    figure, axes = plt.subplots(len(positions), len(factors), figsize=size, sharey="row", squeeze=False,
                                layout="constrained")  # fmt: skip
    for row, position in zip(axes, positions, strict=True):
        row[0].set_ylabel("perplexity (same targets)")
        for panel, factor in zip(row, factors, strict=True):
            _recovery(panel, found, position, factor)
    legend = max(axes.flat, key=lambda panel: len(panel.get_legend_handles_labels()[1]))
    return [*drawn, _finished(figure, legend, folder / "recovery", max(2, int(size[0] / 2.7)))]


def _by_method(found: "Findings", position: str, path: Path) -> Path:
    """One scheme: perplexity against context length, a panel for every method, a colour for every factor."""
    plt = pyplot()
    methods = found.methods(position)
    columns = min(5, len(methods))
    rows = -(-len(methods) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.1 * rows + 0.8), sharex=True, sharey=True,
                                squeeze=False, layout="constrained")  # fmt: skip
    shades = plt.get_cmap("viridis")
    factors = sorted(found.study.factors)
    for panel in axes.flat[len(methods) :]:
        panel.set_axis_off()
    for panel, method in zip(axes.flat, methods, strict=False):
        _curve(panel, found.base(position), "#c44e52", "untuned extrapolation", linewidth=2.5, alpha=0.45)
        for number, factor in enumerate((1, *factors)):
            colour = "black" if factor == 1 else shades(0.85 * (number - 1) / max(1, len(factors) - 1))
            for reading in _first_and_last(found, position, method):
                if reading.factor == factor:
                    window = f"to {found.window * factor}" if factor > 1 else "no factor"
                    _curve(panel, reading, colour, f"{window}, {reading.steps or 'no'} steps")
        _contexts(panel, found)
        panel.set_title(LABELS.get(method, method).split(" (")[0], pad=14, fontsize=10)
        panel.set_xlabel("")
    for panel in axes.flat[max(0, len(methods) - columns) : len(methods)]:  # the lowest of each column
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("context, tokens")
    for row in axes:
        row[0].set_ylabel("perplexity (same targets)")
    figure.suptitle(f"{position}, trained on {found.window} tokens: every method and window", fontweight="bold")
    handles = {
        label: line for panel in axes.flat for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, fontsize=8)
    return _written(figure, path)


def _first_and_last(found: "Findings", position: str, method: str) -> Iterable["Reading"]:
    return (r for r in found.ordered if (r.position, r.arm) == (position, method) and r.steps in (0, found.steps[-1]))


def _methods(axes: "Axes", found: "Findings", position: str) -> None:
    """Perplexity against context length, all methods of a scheme: untuned dashed, fine-tuned to the end solid."""
    for method in found.methods(position):
        for reading in _first_and_last(found, position, method):
            label = f"{LABELS.get(method, method)}, {reading.steps or 'no'} steps"
            _curve(axes, reading, _colour(found, method), label)
    _contexts(axes, found)
    axes.set_title(f"{position}: reading further", pad=16)  # clear of the label above the axes


def _curve(axes: "Axes", reading: "Reading", colour, label: str, **style) -> None:
    contexts, values = zip(*((row["context"], row["perplexity"]) for row in reading.rows), strict=True)
    style = {"linestyle": "-" if reading.steps else "--", "marker": "o", "markersize": 4} | style
    axes.plot(contexts, values, color=colour, label=label, **style)


def _contexts(axes: "Axes", found: "Findings") -> None:
    """The context axis, with the trained window marked."""
    axes.axvline(found.window, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("trained window", (found.window, 1), (0, 2), xycoords=("data", "axes fraction"),
                  textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    contexts = [row["context"] for row in found.readings[0].rows]
    axes.set(xscale="log", yscale="log", xlabel="context, tokens")
    axes.set_xticks(contexts, [str(context) for context in contexts])
    axes.tick_params(axis="x", which="minor", bottom=False)
    _grid(axes)


def _recovery(axes: "Axes", found: "Findings", position: str, factor: int) -> None:
    """Perplexity at a longer window against fine-tuning steps, all methods of a scheme."""
    window = found.window * factor
    for method in found.methods(position):
        readings = [found.get(position, method, factor, steps) for steps in found.steps]
        points = [(r.steps, r.at(window)["perplexity"]) for r in readings if r is not None]
        marker = MARKERS[_place(found, method) % len(MARKERS)] if len(found.study.extends) > 3 else "o"
        axes.plot(*zip(*points, strict=True), color=_colour(found, method), marker=marker, markersize=4,
                  linewidth=1.2, label=LABELS.get(method, method))  # fmt: skip
    inside = found.base(position).at(found.window)["perplexity"]
    axes.axhline(inside, color="black", linewidth=0.8, linestyle=":")
    axes.annotate(f"untuned, {found.window} tokens", (0, inside), fontsize=8, va="bottom")
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(found.steps, [str(each) for each in found.steps])
    axes.set_xlim(left=-0.2)
    axes.set(yscale="log", title=f"{position}: recovery at {window} tokens", xlabel="fine-tuning steps")
    _grid(axes)


def _grid(axes: "Axes") -> None:
    axes.grid(alpha=0.3)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)


def _place(found: "Findings", method: str) -> int:
    """The place of a method among all of the study, so that it looks the same in every panel."""
    return list(dict.fromkeys(reading.arm for reading in found.readings)).index(method)


def _colour(found: "Findings", method: str) -> str:
    return COLOURS.get(method, OTHERS[_place(found, method) % len(OTHERS)])


def _finished(figure: "Figure", legend: "Axes", path: Path, columns: int) -> Path:
    """Give a figure the legend of one of its panels and write it."""
    figure.legend(*legend.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9)
    return _written(figure, path)


def _written(figure: "Figure", path: Path) -> Path:
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=150)
    pyplot().close(figure)
    return path
