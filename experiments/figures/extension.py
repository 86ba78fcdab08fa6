"""Figures of the experiments, drawn from their results: PNG and SVG."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.extend import Reading, Study

COLOURS = {"none": "#c44e52", "interpolate": "#4c72b0", "control": "#7f7f7f"}
LABELS = {"none": "extrapolation", "interpolate": "interpolation", "control": "control (tuned at the trained window)"}


def extension_figure(path: Path, window: int, study: "Study", readings: list["Reading"]) -> None:
    """Perplexity against context length (top) and against fine-tuning steps at the longer window (bottom), by scheme.

    Writes path.png and path.svg.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    longer, last = window * study.factor, max(study.finetune_steps)
    count = len(study.positions)
    figure, axes = plt.subplots(2, count, figsize=(5.2 * count, 8), sharey=True, squeeze=False, layout="constrained")
    for column, position in enumerate(study.positions):
        mine = [reading for reading in readings if reading.position == position]
        curve, recovery = axes[0][column], axes[1][column]
        for reading in mine:
            if reading.steps not in (0, last):
                continue
            curve.plot(
                [row["context"] for row in reading.rows],
                [row["perplexity"] for row in reading.rows],
                color=COLOURS.get(reading.arm, "#55a868"),
                linestyle="--" if reading.steps == 0 else "-",
                marker="o",
                markersize=4,
                label=f"{LABELS.get(reading.arm, reading.arm)}, {reading.steps or 'no'} steps",
            )
        curve.axvline(window, color="black", linewidth=0.8, linestyle=":")
        curve.annotate("trained window", (window, 1), (0, 2), xycoords=("data", "axes fraction"),
                       textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
        curve.set_title(f"{position}: reading further", pad=16)  # clear of the label above the axes
        curve.set(xscale="log", yscale="log", xlabel="context, tokens")
        curve.set_xticks([row["context"] for row in mine[0].rows], [str(row["context"]) for row in mine[0].rows])
        curve.minorticks_off()
        for arm in dict.fromkeys(reading.arm for reading in mine):
            points = sorted((r.steps, r.at(longer)["perplexity"]) for r in mine if r.arm == arm)
            recovery.plot(*zip(*points, strict=True), color=COLOURS.get(arm, "#55a868"), marker="o", markersize=4,
                          label=LABELS.get(arm, arm))  # fmt: skip
        inside = next(r for r in mine if r.arm == "none" and r.steps == 0).at(window)["perplexity"]
        recovery.axhline(inside, color="black", linewidth=0.8, linestyle=":")
        recovery.annotate(f"untuned, {window} tokens", (0, inside), fontsize=8, va="bottom")
        recovery.set_xscale("symlog", base=2, linthresh=1)
        steps = [0, *study.finetune_steps]
        recovery.set_xticks(steps, [str(each) for each in steps])
        recovery.set_xlim(left=-0.2)
        recovery.set(yscale="log", title=f"{position}: recovery at {longer} tokens", xlabel="fine-tuning steps")
        for panel in (curve, recovery):
            panel.grid(alpha=0.3)
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter("{x:g}")
            panel.tick_params(axis="y", which="minor", labelsize=7)
    for row in axes:
        row[0].set_ylabel("perplexity (same targets)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    for suffix in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=150)
    plt.close(figure)
