"""Compare any runs: settings that differ, final metrics and curves.

    python -m experiments.compare runs/default/rope-nano-s1 runs/default/alibi-nano-s1
    python -m experiments.compare runs/wandb/offline-run-*
    python -m experiments.compare entity/project/id runs/default/rope-nano-s1

A run is its folder, an offline run of Weights & Biases, or entity/project/id of a server. Perplexity against context is
compared where it was measured: in a folder's perplexity/, or in the W&B run of a reading.
"""

import argparse
from pathlib import Path
from string import ascii_uppercase
from typing import Literal

from conf.base import BadInput
from conf.compose import program
from conf.files import with_ending, write_text
from experiments.compare.recorded import Recorded, read
from experiments.lab.canvas import COLOURS, Drawing, add_title, log_ticks, plain_numbers, pyplot, save
from experiments.lab.tables import format_table

# Settings of where a run is saved and logged, which do not change its results.
IGNORED = ("name", "runs", "cache", "logger", "trainer.progress")
CURVES = {"train/loss": 0.8, "validation/nll": 2.0}  # width of each line
STYLES = ("-", "--", ":", "-.")


def letters(count: int) -> list[str]:
    """A, B, … Z, A2, B2, …"""
    return [ascii_uppercase[i % 26] + (str(i // 26 + 1) if i >= 26 else "") for i in range(count)]


def differences(runs: list[Recorded]) -> dict[str, list]:
    """The settings in which runs differ: a value for each run, None if it has none."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    keys = [key for key in keys if not any(key == prefix or key.startswith(f"{prefix}.") for prefix in IGNORED)]
    values = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def finals(runs: list[Recorded]) -> dict[str, list]:
    """The final metrics: a value for each run, None if it has none."""
    keys = dict.fromkeys(key for run in runs for key in run.final)
    return {key: [run.final.get(key) for run in runs] for key in keys}


def contexts(runs: list[Recorded], quantity: Literal["perplexity", "effective"] = "perplexity") -> dict[str, list]:
    """Perplexity or effective context by tokens of context (columns) of every reading that has it (rows)."""
    rows = {}
    for letter, run in zip(letters(len(runs)), runs, strict=True):
        for name, points in run.readings.items():
            rows[f"{letter} {name}"] = {point.context: getattr(point, quantity) for point in points}
    rows = {name: row for name, row in rows.items() if any(value is not None for value in row.values())}
    lengths = sorted({length for row in rows.values() for length in row})
    table = {name: [row.get(length) for length in lengths] for name, row in rows.items()}
    return {"tokens of context": lengths} | table if table else {}


def notes(runs: list[Recorded]) -> list[str]:
    """Warnings where the numbers of these runs cannot be compared."""
    messages, differing = [], differences(runs)
    known = [{run.inputs[key] for run in runs if key in run.inputs} for key in ("texts", "tokenizer")]
    # What is mixed into training (data.retrieval) changes no held-out text.
    named = any(key.startswith("data.") and not key.startswith("data.retrieval.") for key in differing)
    if named or any(len(digests) > 1 for digests in known):
        messages.append("The runs differ in their data: their losses are of different text or different tokens.")
    if windows := [key for key in ("window", "validation_windows") if key in differing]:
        messages.append(
            f"The runs differ in {' and '.join(windows)}: their validation losses are of different targets."
        )
    points = [point for run in runs for reading in run.readings.values() for point in reading if point.targets]
    sets: dict[tuple, set] = {}
    for point in points:
        sets.setdefault((point.context, point.count), set()).add(point.targets)
    if any(len(targets) > 1 for targets in sets.values()):
        messages.append("Some readings scored different targets; their differences mean nothing.")
    elif len({count for _, count in sets}) > 1:
        messages.append("Readings of as many targets scored the same ones; others cannot be compared.")
    if unfinished := [run.name for run in runs if run.state not in ("done", "finished")]:
        messages.append(f"These runs are not finished and are shown so far: {', '.join(unfinished)}.")
    return messages


def text(runs: list[Recorded]) -> str:
    """The whole comparison as text: runs, settings that differ, final metrics, perplexity by context and warnings."""
    names = letters(len(runs))
    parts = ["\n".join(f"{letter}  {run.name}  ({run.source})" for letter, run in zip(names, runs, strict=True))]
    differing, ends, reading = differences(runs), finals(runs), contexts(runs)
    if differing:
        parts.append("Settings that differ:\n" + columns({"": names, **differing}))
    else:
        parts.append("No setting differs.")
    if ends:
        parts.append("Final metrics:\n" + columns({"": names, **ends}))
    if reading:
        parts.append("Perplexity by context:\n" + columns(reading))
    if effective := contexts(runs, "effective"):
        parts.append("Effective context, by context:\n" + columns(effective))
    return "\n\n".join([*parts, *notes(runs)])


def columns(table: dict[str, list]) -> str:
    """Format rows, by name, of which the first is the head, as aligned columns."""
    head, *rows = ([name, *map(_cell, values)] for name, values in table.items())
    return format_table(head, rows)


def _cell(value) -> str:
    return "-" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def draw(runs: list[Recorded]):
    """Draw loss against tokens, and perplexity and effective context against context if there are any."""
    plt = pyplot()
    drawn = [run for run in runs if any(run.curves.get(curve) for curve in CURVES)]
    read = [run for run in runs if run.readings]
    known = contexts(runs, "effective")
    panels = [kind for kind, there in ((_losses, drawn), (_contexts, read), (_effective, known)) if there]
    figure, axes = plt.subplots(
        1, max(1, len(panels)), figsize=(7 * max(1, len(panels)), 5.5), layout="constrained", squeeze=False
    )
    by_letter = dict(zip(letters(len(runs)), runs, strict=True))
    colours = {letter: COLOURS[i % len(COLOURS)] for i, letter in enumerate(by_letter)}
    for panel, kind in zip(axes.flat, panels, strict=False):
        kind(panel, by_letter, colours)
        panel.grid(alpha=0.3)
    if read:  # many more than fit into a panel
        handles, labels = axes.flat[panels.index(_contexts)].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    caption = "; ".join(f"{letter}: {run.name}" for letter, run in by_letter.items())
    add_title(figure, "Runs compared", caption)
    return Drawing(figure, "Runs compared", text(runs))


def _losses(panel, runs: dict[str, Recorded], colours: dict[str, str]) -> None:
    for letter, run in runs.items():
        for curve, width in CURVES.items():
            if points := run.curves.get(curve):
                label = f"{letter} {short(run.name)}" if curve == "validation/nll" else None
                panel.plot(*zip(*points, strict=True), color=colours[letter], linewidth=width, label=label,
                           alpha=0.5 if label is None else 1, marker="." if len(points) == 1 else None)  # fmt: skip
    panel.set(title="validation loss (thin: training)", xlabel="tokens", ylabel="nats per token")
    panel.legend(fontsize=8)


def _contexts(panel, runs: dict[str, Recorded], colours: dict[str, str]) -> None:
    _plot_readings(panel, runs, colours, "perplexity")
    for letter, run in runs.items():
        for points in run.readings.values():
            if all(point.low is not None for point in points):
                x, low, high = ([getattr(point, key) for point in points] for key in ("context", "low", "high"))
                panel.fill_between(x, low, high, color=colours[letter], alpha=0.12, linewidth=0)
    for window in {run.config.get("original_window") for run in runs.values() if run.readings} - {None}:
        panel.axvline(window, color="black", linewidth=0.8, linestyle=":")
    log_ticks(panel, contexts(list(runs.values()))["tokens of context"])
    panel.set(yscale="log", xlabel="tokens of context (dotted: the trained window)", ylabel="perplexity")
    plain_numbers(panel)
    panel.set_title("perplexity against context (bands: 95 % over documents)")


def _effective(panel, runs: dict[str, Recorded], colours: dict[str, str]) -> None:
    from experiments.lab.measure.context import effective_ticks

    lengths, *rows = contexts(list(runs.values()), "effective").values()
    panel.plot(lengths, lengths, color="black", linewidth=0.8)
    _plot_readings(panel, runs, colours, "effective")
    effective_ticks(panel, lengths, min(value for row in rows for value in row if value is not None))
    panel.set(xlabel="tokens of context", ylabel="tokens", title="effective context (black: the best reader)")


def _plot_readings(panel, runs: dict[str, Recorded], colours: dict[str, str], quantity: str) -> None:
    """Plot a quantity of every reading that has it against context; labels leave out what all readings share."""
    names = sorted(
        {name for run in runs.values() for name in run.readings}, key=lambda name: (name[:4] != "none", name)
    )
    parts = [name.split(", ") for name in names]
    shared = set.intersection(*map(set, parts)) if len(names) > 1 else set()
    for letter, run in runs.items():
        for name, points in run.readings.items():
            label = ", ".join([letter, *(part for part in name.split(", ") if part not in shared)])
            known = [(point.context, value) for point in points if (value := getattr(point, quantity)) is not None]
            if known:
                style = STYLES[names.index(name) % len(STYLES)]
                panel.plot(*zip(*known, strict=True), style, color=colours[letter], marker="o", markersize=3,
                           label=short(label))  # fmt: skip


def short(name: str) -> str:
    """Shorten a name to 48 letters, to fit into a legend, by leaving out its middle."""
    return name if len(name) <= 48 else f"{name[:23]}…{name[-24:]}"


def compare(sources: list[str], out: Path) -> str:
    """Read the runs, write <out>.txt, .png and .svg, and return the text.

    Raises:
        BadInput: fewer than two runs, or a source that is no run.
    """
    if len(sources) < 2:
        raise BadInput(f"compare takes two runs or more, not only {' '.join(sources)}")
    if not out.name:
        raise BadInput(f"--out={out} must be the name of files, without their suffix")
    runs = [read(source) for source in sources]
    report = text(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(with_ending(out, ".txt"), report + "\n")
    save(draw(runs), out)
    return report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, an offline-run-* folder, or a W&B path")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/comparison"), help="files to write, without their suffix"
    )
    with program():
        words = parser.parse_args()
        print(f"{compare(words.runs, words.out)}\n\nFigure: {words.out}.png, {words.out}.svg")
