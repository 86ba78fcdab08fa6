"""Passkey retrieval: can a model find a key in its context, and from how far away?

A grid of lengths and depths (retrieval.py says what is measured) over held-out text with held-out keys. A model that
was not trained to retrieve (data.retrieval.fraction) will hardly do so at small scale.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from conf.base import BadInput, Count, CountOrZero, Counts, Settings
from conf.validation import validate
from data.settings import Retrieval
from experiments.lab import tables
from experiments.lab.canvas import pyplot, write_figure
from experiments.lab.measure.perplexity import default_contexts
from experiments.lab.measure.readings import cached_reading
from experiments.lab.measure.request import AutoPrecision, Pass, Split
from experiments.lab.measure.retrieval import make_trials, score_trials, summarise, summarise_cell
from experiments.lab.measure.subject import open_subject


class Passkey(Settings):
    """The settings of a retrieval measurement, as in conf/passkey.yaml."""

    template: Literal["compact", "passkey"]
    digits: Count
    keys: Count
    lengths: Annotated[Counts, Field(min_length=1)] | None
    reading: Pass = "whole"
    depths: Count = 10
    trials: Count = 50
    split: Split = "test"
    seed: CountOrZero = 0
    batch_tokens: Count = 16_384
    precision: Annotated[AutoPrecision, Field(exclude=True)] = "auto"

    @property
    def label(self) -> str:
        """A short name of the settings."""
        return f"{self.template}{self.keys}x{self.digits}" + "-decoded" * (self.reading == "decoded")


def measure_passkey(
    checkpoint: Path, extend: dict | None, settings: Passkey, cache: str, progress=None, data: dict | None = None
) -> tuple[dict, Path | None]:
    """Measure retrieval of a checkpoint over the grid, or read it back; returns the result and its file.

    Args:
        extend, data: plain settings of an extension and of a text, or None for those it was trained with.
    """
    from data.retrieval import Task

    task_settings = {"template": settings.template, "digits": settings.digits, "keys": settings.keys}

    def measured(model, config, corpus, device: dict) -> dict:
        task = Task(validate(Retrieval, task_settings), corpus.encode, corpus.separator)
        fitting = [n for n in default_contexts(config.original_window) if task.fits(n, settings.depths)]
        lengths = fitting if settings.lengths is None else settings.lengths
        if not lengths:
            raise BadInput(
                f"template={settings.template} takes at least {task.shortest} tokens: name longer lengths=[…]"
            )
        documents, decoded = corpus.split(settings.split), settings.reading == "decoded"
        per_token = 2 * settings.trials * (settings.digits if decoded else 1)  # times that a token is read, about
        cells, done, total = [], 0, per_token * settings.depths * sum(lengths)
        for length in lengths:
            distances = task.distances(length, settings.depths)
            for depth, k in zip(np.linspace(0, 1, settings.depths), distances, strict=True):
                trials = make_trials(task, documents, length, k, settings.trials, settings.seed)
                answers = score_trials(model, trials, as_decoded=decoded, batch_tokens=settings.batch_tokens, **device)
                cells.append(summarise_cell(length, float(depth), k, answers, settings.digits))
                done += per_token * length
                if progress is not None:
                    progress(done, total)
        chance = {"exact": 10.0**-settings.digits, "label_blind": 1 / settings.keys, "preferred": 0.5}
        about = {"split": settings.split, **task_settings, "trials": settings.trials, "chance": chance}
        return about | {"cells": [asdict(one) for one in cells], **summarise(cells)}

    subject = open_subject(checkpoint, extend, cache, data, settings.precision)
    return cached_reading("passkey", subject, settings, settings.label, (settings.split,), measured)


def format_table(result: dict) -> str:
    """Format exact matches in per cent, depth by length, and the totals of every length."""
    cells = {(cell["depth"], cell["length"]): cell for cell in result["cells"]}
    depths, lengths = sorted({depth for depth, _ in cells}), result["lengths"]
    rows = {f"depth {d:.2f}": [f"{cells[d, row['length']]['exact']:.0%}" for row in lengths] for d in depths}
    shares = [{end: 100 * share for end, share in row["exact"].items()} for row in lengths]
    rows["all depths"] = ["{value:.1f}%".format(**share) for share in shares]
    rows["interval"] = ["[{low:.1f}, {high:.1f}]".format(**share) for share in shares]
    for name, key in (("needle ppl", "needle_perplexity"), ("gap, nats", "gap"), ("preferred", "preferred")):
        rows[name] = [f"{row[key]:.2f}" for row in lengths]
    for key in [key for key in lengths[0] if key.startswith("k_max")]:
        rows[key] = ["{value} [{low}, {high}]".format(**row[key]) for row in lengths]
    table = tables.format_table(["length", *(row["length"] for row in lengths)], [[n, *row] for n, row in rows.items()])
    chance = result["chance"]
    blind = f", {chance['label_blind']:.0%} without heeding labels" if result["keys"] > 1 else ""
    return (
        f"{table}\n{result['trials']} trials a cell; chance: exact {chance['exact']:.0e}{blind}, preferred 50%. "
        f"YaRN's 80 % rule: passkey context {result['passkey_context']}, accuracy {result['passkey_accuracy']:.1%}."
    )


def draw_heat_map(result: dict, path: Path) -> None:
    """Heat map of exact matches, depth by length, the number in every cell; writes path.png and path.svg."""
    lengths = [row["length"] for row in result["lengths"]]
    cells = {(cell["depth"], cell["length"]): cell for cell in result["cells"]}
    depths = sorted({depth for depth, _ in cells})
    shares = np.array([[cells[depth, length]["exact"] for length in lengths] for depth in depths])
    size = (2.5 + 0.9 * len(lengths), 1.8 + 0.32 * len(depths))
    figure, axes = pyplot().subplots(figsize=size, layout="constrained")
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (y, x), share in np.ndenumerate(shares):
        k = cells[depths[y], lengths[x]]["k"]
        text = f"{share:.0%}  k={k}"
        axes.text(x, y, text, ha="center", va="center", fontsize=7, color="black" if share > 0.6 else "white")
    inside = sum(length <= result["original_window"] for length in lengths)
    axes.axvline(inside - 0.5, color="white", linewidth=2, linestyle=":")
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:.2f}" for depth in depths])
    axes.set(xlabel=f"tokens read (dotted: trained window, {result['original_window']})", ylabel="depth of the key")
    axes.set_title(f"{result['run']}\nextend={result['label']}", fontsize=8)
    figure.colorbar(image, label=f"exact matches of {result['trials']}")
    write_figure(figure, path)
