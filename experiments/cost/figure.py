"""The figure of experiments/cost/growth.py: seconds and peak memory of a training step against each size."""

from pathlib import Path

import numpy as np

from experiments.lab.canvas import COLOURS, Drawing, add_title, plain_numbers, pyplot, save

QUANTITIES = {"seconds": "seconds a step", "peak": "peak memory, MB"}
UNITS = {"seconds": 1.0, "peak": 1e-6}


def cost_figure(path: Path, rows: list[dict], fits: list[dict], paper: list[dict], about: dict) -> None:
    """A column for each axis with its fit, and one for devices; writes path.png and path.svg."""
    plt = pyplot()
    columns = len(fits) + bool(paper)
    figure, grid = plt.subplots(2, columns, figsize=(3.1 * columns, 6.6), squeeze=False, layout="constrained")
    for column, fit in enumerate(fits):
        points = [row for row in rows if row["axis"] == fit["axis"] and row["failure"] is None]
        for panel, key in zip(grid[:, column], QUANTITIES, strict=True):
            _axis(panel, points, fit, key)
    if paper:
        _devices(grid[:, -1], paper, about["settings"]["bandwidths"])
    for panel, label in zip(grid[:, 0], QUANTITIES.values(), strict=True):
        panel.set_ylabel(label)
    for panel in grid.flat:
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        plain_numbers(panel)
        panel.grid(alpha=0.3, which="both")
        panel.legend(fontsize=7, frameon=False)
    settings = about["settings"]
    title = "How the cost of a training step grows"
    caption = (
        f"{about['device']}, {about['threads']} threads, {about['precision']}. Each axis is scaled alone from "
        f"{settings['model']} at window {settings['window']}; medians and range of the rounds; lines are power laws "
        "fitted to the points they pass. Costs on several devices are estimated from the bytes they exchange, without "
        "overlap."
    )
    add_title(figure, title, caption)
    laws = [f"{fit['axis']} {fit['low']}-{fit['high']}: seconds ~ x^{fit['rounds']['median']:.2f}" for fit in fits]
    save(Drawing(figure, title, "; ".join(laws) + "."), path)


def _axis(panel, rows: list[dict], fit: dict, key: str) -> None:
    """The points of one axis and the power law between the first and the last."""
    x = np.array([row["size"] for row in rows], dtype=float)
    if key == "seconds":
        middle = np.array([np.median(row[key]) for row in rows])
        spans = [middle - [min(row[key]) for row in rows], [max(row[key]) for row in rows] - middle]
    else:
        middle, spans = np.array([row[key] for row in rows]) * UNITS[key], None
    panel.errorbar(x, middle, spans, fmt="o", markersize=4, capsize=2, color=COLOURS[0])
    law, ends = fit[key], np.array([fit["low"], fit["high"]], dtype=float)
    label = f"~ {fit['axis']}^{law['exponent']:.2f}"
    if key == "seconds":  # as in the table: the median over rounds
        label = f"~ {fit['axis']}^{fit['rounds']['median']:.2f}  (operations {fit['operations']['exponent']:.2f})"
    panel.plot(ends, law["constant"] * ends ** law["exponent"] * UNITS[key], color=COLOURS[1], label=label)
    panel.set_xlabel(fit["axis"])


def _devices(panels, paper: list[dict], bandwidths) -> None:
    """Seconds at every bandwidth, and the bytes of weights, gradients and moments on one device."""
    for strategy, style in (("ddp", "-"), ("fsdp", "--")):
        points = [row for row in paper if row["strategy"] == strategy]
        n = [row["devices"] for row in points]
        for place, bandwidth in enumerate(bandwidths):
            label = f"{strategy}, {bandwidth / 1e9:g} GB/s"
            panels[0].plot(n, [row["seconds"][place] for row in points], style, color=COLOURS[place % 6], label=label)
        panels[1].plot(
            n, [row["state"] / 1e6 for row in points], style, color="#333333", label=f"{strategy}, state alone"
        )
    for panel in panels:
        panel.set_xlabel("devices (on paper)")
