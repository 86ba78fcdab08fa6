"""The figure of the tasks: a panel for each task and scheme, exact answers by the length of the question."""

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.lab.canvas import COLOURS, pyplot, write_figure
from experiments.tasks.published import published_share

if TYPE_CHECKING:
    from experiments.tasks.accuracy import Measured


def tasks_figure(path: Path, measured: "Measured") -> None:
    """Tasks by schemes: shares in bins of ten tokens with Wilson's interval over samples, each seed's in thin lines,
    the range of training shaded, and the paper's shares as bars. Writes path.png and path.svg.
    """
    tasks, schemes = list(measured), list(next(iter(measured.values())))
    size = (1.4 + 1.75 * len(schemes), 0.9 + 1.45 * len(tasks))
    figure, grid = pyplot().subplots(
        len(tasks), len(schemes), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for row, task in zip(grid, tasks, strict=True):
        for axes, scheme in zip(row, schemes, strict=True):
            ranges = measured[task].get(scheme, [])
            for place, one in enumerate(ranges):
                if place == 0:
                    axes.axvspan(one.low, one.high, color="#eeeeee", linewidth=0)
                for seed in range(len(one.exact)):
                    x, shares = zip(*one.of([seed]).bins(), strict=True)
                    axes.plot(x, [share.value for share in shares], color=COLOURS[0], linewidth=0.5, alpha=0.5)
                x, shares = zip(*one.bins(), strict=True)
                axes.plot(x, [share.value for share in shares], color=COLOURS[0], linewidth=1.4)
                low, high = ([getattr(share, end) for share in shares] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
                if (published := published_share(task, scheme, place, one.high)) is not None:
                    axes.hlines(published, one.low, one.high, color=COLOURS[3], linewidth=1.2)
            axes.set_ylim(-0.03, 1.03)
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize=7)
        row[0].set_ylabel(task.replace("_", " "), fontsize=8)
    for axes, scheme in zip(grid[0], schemes, strict=True):
        axes.set_title(scheme, fontsize=9)
    figure.supxlabel("length of the question, tokens (grey: trained; red: published, Huang et al. 2024)", fontsize=9)
    figure.supylabel("exact answers", fontsize=9)
    write_figure(figure, path)
