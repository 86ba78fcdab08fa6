"""Figures of the extension study, drawn from its findings: PNG and SVG."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.extend.arms import CONTROL, PLAIN
from experiments.lab.canvas import log_ticks, plain_numbers, pyplot, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.extend.findings import Findings, Reading

COLOURS = {PLAIN: "#c44e52", "interpolate": "#4c72b0", CONTROL: "#7f7f7f"}
LABELS = {PLAIN: "extrapolation", "interpolate": "interpolation", CONTROL: "control (tuned without stretching)"}
OTHERS = ("#55a868", "#dd8452", "#8172b3", "#17a2b8", "#937860", "#da8bc3", "#b5a100", "#2f4b26", "#64b5cd", "#111111")
MARKERS = "osv^D<>Pp*hX"

FEW = len(COLOURS) + len(OTHERS)  # methods that can share a panel


def study_figures(folder: Path, findings: "Findings") -> list[Path]:
    """Draw perplexity against context and against fine-tuning steps, likewise k_max and keys found, and effective
    context where the optimum is known.

    With one factor and few methods, all methods share a panel. Otherwise every scheme has figures with a panel for
    each method and a colour for each factor.

    Returns:
        The figures, written as .png and .svg, without their suffix.
    """
    positions, factors = findings.study.positions, findings.study.factors
    if len(factors) == 1 and max(len(findings.methods(position)) for position in positions) <= FEW:
        drawn = [_together(findings, folder / "figure")]
    else:
        kinds = {"figure": (_perplexity_by_context, "reading further")}
        kinds["recovery"] = (_perplexity_by_steps, "recovery by fine-tuning")
        drawn = _panels(findings, folder, kinds)
    if findings.readings[0].effective_context(findings.reach(1)) is not None:
        drawn.append(_effective(findings, folder / "effective"))
    if findings.study.passkey:
        kinds = {"k_max": (_k_max_by_steps, "the farthest key found"), "passkey": (_keys_found_by_length, "keys found")}
        drawn += _panels(findings, folder, kinds)
    return drawn


def _width(positions) -> float:
    """Inches of a figure with a column per scheme; its legend has to fit below one."""
    return max(6.4, 5.2 * len(positions))


def _add_legend(figure, axes) -> None:
    columns = 3 if figure.get_figwidth() > 10 else 2
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9)


def _together(findings: "Findings", path: Path) -> Path:
    """Draw all methods at one factor, a column per scheme: perplexity by context, and below it by steps, if any."""
    positions, factor = findings.study.positions, findings.study.factors[0]
    rows = 2 if len(findings.steps) > 1 else 1
    figure, axes = pyplot().subplots(rows, len(positions), figsize=(_width(positions), 1 + 3.5 * rows), sharey=True,
                                     squeeze=False, layout="constrained")  # fmt: skip
    for column, position in zip(axes.T, positions, strict=True):
        _perplexity_by_context_of_all(column[0], findings, position)
        if rows == 2:
            _perplexity_by_steps_of_all(column[1], findings, position, factor)
    for row in axes:
        row[0].set_ylabel("perplexity (same targets)")
    _add_legend(figure, axes[0][0])
    return write_figure(figure, path)


def _effective(findings: "Findings", path: Path) -> Path:
    """Effective against given context, a panel for every scheme: extrapolation, and all methods at the largest factor,
    untuned and fine-tuned to the end."""
    from experiments.lab.measure.context import draw_effective

    positions, largest = findings.study.positions, max(findings.study.factors)
    figure, panels = pyplot().subplots(1, len(positions), figsize=(_width(positions), 5.6), sharey=True,
                                       squeeze=False, layout="constrained")  # fmt: skip
    for axes, position in zip(panels[0], positions, strict=True):
        curves = {}
        for method in findings.methods(position):
            for reading in _first_and_last(findings, position, method):
                if method != CONTROL and (reading.factor == largest or (method, reading.steps) == (PLAIN, 0)):
                    label = f"{LABELS.get(method, method)}, {reading.steps or 'no'} steps"
                    curves[label] = [_effective_row(reading, context) for context in reading.contexts]
        draw_effective(axes, curves, findings.window)
        axes.set_title(f"{position}: tokens used of the tokens read")
    _add_legend(figure, panels[0][0])
    return write_figure(figure, path)


def _effective_row(reading: "Reading", context: int) -> dict:
    """One seed's effective context with its interval over documents, or the geometric mean and range over seeds."""
    seeds = [row["effective_context"] for row in reading.at(context)]
    if len(seeds) == 1:
        return {"context": context, "effective_context": seeds[0]}
    values = [seed["value"] for seed in seeds]
    spread = {"value": reading.effective_context(context), "low": min(values), "high": max(values)}
    return {"context": context, "effective_context": spread}


def _panels(findings: "Findings", folder: Path, kinds: dict) -> list[Path]:
    """Draw a figure of each kind for every scheme; kinds: (function that draws a panel, title) by name."""
    return [_by_method(findings, position, folder / f"{name}-{position}", *how)
            for name, how in kinds.items() for position in findings.study.positions]  # fmt: skip


def _by_method(findings: "Findings", position: str, path: Path, draw: Callable, what: str) -> Path:
    """One scheme: a panel for every method, drawn by (axes, findings, scheme, method, colours of the factors)."""
    methods, factors = findings.methods(position), sorted(findings.study.factors)
    columns = min(5, len(methods))
    rows = -(-len(methods) // columns)
    size = (max(7, 3.4 * columns), 3.1 * rows + 0.8)
    figure, axes = pyplot().subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False,
                                     layout="constrained")  # fmt: skip
    shades = pyplot().get_cmap("viridis")
    colours = {1: "black"} | {factor: shades(0.85 * n / max(1, len(factors) - 1)) for n, factor in enumerate(factors)}
    for panel in axes.flat[len(methods) :]:
        panel.set_axis_off()
    for number, (panel, method) in enumerate(zip(axes.flat, methods, strict=False)):
        draw(panel, findings, position, method, colours)
        panel.set_title(LABELS.get(method, method).split(" (")[0], pad=14, fontsize=10)
        if number < len(methods) - columns:
            panel.set_xlabel("")
        else:  # the lowest of each column
            panel.tick_params(labelbottom=True)
        if number % columns:
            panel.set_ylabel("")
    figure.suptitle(
        f"{position}, trained on {findings.window} tokens: {what}, every method and window", fontweight="bold"
    )
    handles = {
        label: line for panel in axes.flat for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(columns, 4), fontsize=8)
    return write_figure(figure, path)


def _perplexity_by_context(axes: "Axes", findings: "Findings", position: str, method: str, colours: dict) -> None:
    """Perplexity against context length, before fine-tuning and after all of it."""
    _curve(axes, findings.base(position), COLOURS[PLAIN], "untuned extrapolation", linewidth=2.5, alpha=0.45)
    for reading in _first_and_last(findings, position, method):
        _curve(axes, reading, colours[reading.factor], _label(findings, reading))
    _set_context_axis(axes, findings)
    axes.set_ylabel("perplexity (same targets)")


def _perplexity_by_steps(axes: "Axes", findings: "Findings", position: str, method: str, colours: dict) -> None:
    """Perplexity at the longer windows against fine-tuning steps, beside direct fine-tuning's."""
    for factor in sorted(findings.study.factors):
        window = findings.reach(factor)
        for name in (PLAIN, method) if method != PLAIN else (method,):
            points = [(r.steps, r.perplexity(window)) for r in _over_steps(findings, position, name, factor)]
            style = {"marker": "o", "markersize": 4} if name == method else {"linestyle": ":", "linewidth": 1}
            label = f"at {window} tokens" + ", extrapolation" * (name != method)
            axes.plot(*zip(*points, strict=True), color=colours[factor], label=label, **style)
    _inside(axes, findings, position)
    axes.set(yscale="log", ylabel="perplexity (same targets)")
    _set_steps_axis(axes, findings)
    _grid(axes)


def _k_max_by_steps(axes: "Axes", findings: "Findings", position: str, method: str, colours: dict) -> None:
    """k_max at every window against fine-tuning steps, with its interval."""
    for factor in (1, *sorted(findings.study.factors)):
        window = findings.reach(factor)
        points = [(r.steps, r.k_max(window)) for r in _over_steps(findings, position, method, factor)]
        points = [(steps, k) for steps, k in points if k is not None]
        axes.axhline(window, color=colours[factor], linewidth=0.8, linestyle=":")
        if points:
            steps, values = zip(*points, strict=True)
            low, middle, high = ([value[key] for value in values] for key in ("low", "value", "high"))
            axes.fill_between(steps, low, high, color=colours[factor], alpha=0.15, linewidth=0)
            axes.plot(
                steps, middle, color=colours[factor], marker="o", markersize=4, label=f"measured at {window} (dotted)"
            )
    axes.set_yscale("symlog", base=2, linthresh=findings.window / 4)
    axes.set_ylim(bottom=-findings.window / 32)
    axes.set_ylabel("k_max, tokens")
    axes.yaxis.set_major_formatter("{x:g}")
    _set_steps_axis(axes, findings)
    axes.grid(alpha=0.3)


def _keys_found_by_length(axes: "Axes", findings: "Findings", position: str, method: str, colours: dict) -> None:
    """Exact matches against tokens read, before fine-tuning and after all of it."""
    for reading in (findings.base(position), *_first_and_last(findings, position, method)):
        base = reading is findings.base(position)
        style = (
            {"color": COLOURS[PLAIN], "linewidth": 2.5, "alpha": 0.45} if base else {"color": colours[reading.factor]}
        )
        shares = [reading.keys_found(length) for length in reading.passkey_lengths]
        axes.plot(reading.passkey_lengths, shares, marker="o", markersize=4,
                  linestyle="-" if reading.steps else "--",
                  label="untuned extrapolation" if base else _label(findings, reading), **style)  # fmt: skip
    axes.axvline(findings.window, color="black", linewidth=0.8, linestyle=":")
    lengths = findings.base(position).passkey_lengths
    axes.set(xscale="log", xlabel="tokens read (dotted: trained window)", ylabel="exact matches", ylim=(-0.03, 1.03))
    log_ticks(axes, lengths)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(alpha=0.3)


def _label(findings: "Findings", reading: "Reading") -> str:
    window = f"to {findings.window * reading.factor}" if reading.factor > 1 else "no factor"
    return f"{window}, {reading.steps or 'no'} steps"


def _over_steps(findings: "Findings", position: str, method: str, factor: int) -> list["Reading"]:
    """The readings of a method at a factor, by fine-tuning steps, as far as there are any."""
    readings = [findings.get(position, method, factor, steps) for steps in findings.steps]
    return [reading for reading in readings if reading is not None]


def _first_and_last(findings: "Findings", position: str, method: str) -> Iterable["Reading"]:
    """A method before fine-tuning and after all of it, smallest factor first."""
    return (
        r for r in findings.ordered if (r.position, r.arm) == (position, method) and r.steps in (0, findings.steps[-1])
    )


def _perplexity_by_context_of_all(axes: "Axes", findings: "Findings", position: str) -> None:
    """Perplexity against context length, all methods of a scheme: untuned dashed, fine-tuned to the end solid."""
    for method in findings.methods(position):
        for reading in _first_and_last(findings, position, method):
            label = f"{LABELS.get(method, method)}, {reading.steps or 'no'} steps"
            _curve(axes, reading, _colour(findings, method), label)
    _set_context_axis(axes, findings)
    axes.set_title(f"{position}: reading further", pad=16)  # clear of the label above the axes


def _curve(axes: "Axes", reading: "Reading", colour, label: str, **style) -> None:
    values = [reading.perplexity(context) for context in reading.contexts]
    style = {"linestyle": "-" if reading.steps else "--", "marker": "o", "markersize": 4} | style
    axes.plot(reading.contexts, values, color=colour, label=label, **style)


def _set_context_axis(axes: "Axes", findings: "Findings") -> None:
    """The context axis, with the trained window marked."""
    axes.axvline(findings.window, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("trained window", (findings.window, 1), (0, 2), xycoords=("data", "axes fraction"),
                  textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    contexts = findings.contexts
    rows = findings.readings[0].models[0].rows
    if "optimum" in rows[0]:
        best = {row["context"]: row["optimum"]["perplexity"] for row in rows}
        axes.plot(contexts, [best[context] for context in contexts], color="black", label="the best reader")
    axes.set(xscale="log", yscale="log", xlabel="context, tokens")
    log_ticks(axes, contexts)
    _grid(axes)


def _perplexity_by_steps_of_all(axes: "Axes", findings: "Findings", position: str, factor: int) -> None:
    """Perplexity at a longer window against fine-tuning steps, all methods of a scheme."""
    window = findings.reach(factor)
    for method in findings.methods(position):
        points = [(r.steps, r.perplexity(window)) for r in _over_steps(findings, position, method, factor)]
        marker = MARKERS[_place(findings, method) % len(MARKERS)] if len(findings.study.extends) > 3 else "o"
        axes.plot(*zip(*points, strict=True), color=_colour(findings, method), marker=marker, markersize=4,
                  linewidth=1.2, label=LABELS.get(method, method))  # fmt: skip
    _inside(axes, findings, position)
    _set_steps_axis(axes, findings)
    axes.set(yscale="log", title=f"{position}: recovery at {window} tokens")
    _grid(axes)


def _inside(axes: "Axes", findings: "Findings", position: str) -> None:
    """The base model's perplexity within its window, as a line."""
    inside = findings.base(position).perplexity(context := findings.reach(1))
    axes.axhline(inside, color="black", linewidth=0.8, linestyle=":")
    axes.annotate(f"untuned, {context} tokens", (0, inside), fontsize=8, va="bottom")


def _set_steps_axis(axes: "Axes", findings: "Findings") -> None:
    """The axis of fine-tuning steps, which begins with none."""
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(findings.steps, [str(step) for step in findings.steps])
    axes.set_xlim(left=-0.2)
    axes.set_xlabel("fine-tuning steps")


def _grid(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator

    axes.grid(alpha=0.3)
    axes.yaxis.set_minor_locator(LogLocator(subs=range(2, 8)))  # 8 and 9 would run into 10
    plain_numbers(axes)


def _place(findings: "Findings", method: str) -> int:
    """The place of a method among all of the study, so that it looks the same in every panel."""
    return list(dict.fromkeys(reading.arm for reading in findings.readings)).index(method)


def _colour(findings: "Findings", method: str) -> str:
    return COLOURS.get(method, OTHERS[_place(findings, method) % len(OTHERS)])
