"""Passkey retrieval: can a model find a key in its context, and from how far away?

    python -m experiments.passkey checkpoint=runs/default/rope-nano-s1 extend=interpolate extend.factor=8

A grid of lengths and depths (retrieval.py says what is measured) over held-out text with held-out keys.
A model that was not trained to retrieve (data.retrieval.fraction) will hardly do so at small scale. A method that
depends on the length of the text is asked twice, in one pass over prompt and key and as decoded, digit by digit.
Results go beside the run, in passkey/: numbers, and a heat map of exact matches; they are read back when asked again.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from conf.base import BadInput, Count, CountOrZero, Counts, Settings
from conf.compose import command_line
from data.retrieval import Task
from data.settings import Retrieval
from experiments.lab.measure.perplexity import default_contexts
from experiments.lab.measure.readings import (
    Pass,
    Request,
    cached_reading,
    choose_passes,
    progress_bar,
    read_request,
    wandb_reading,
)
from experiments.lab.measure.retrieval import ask, cell, make_trials, summarise


class Passkey(Settings):
    """How retrieval is measured, as in conf/passkey.yaml."""

    template: Literal["compact", "passkey"]
    digits: Count
    keys: Count
    lengths: Counts | None
    reading: Pass = "whole"
    depths: Count = 10
    trials: Count = 50
    split: Literal["validation", "test"] = "test"
    seed: CountOrZero = 0
    batch_tokens: Count = 16_384


def measure_passkey(
    checkpoint: Path, extend: dict | None, how: Passkey, cache: str, progress=None
) -> tuple[dict, Path]:
    """Retrieval of a checkpoint over the grid, and the file it is kept in; what was measured before is read back."""
    from conf.schema import validate

    settings = {"template": how.template, "digits": how.digits, "keys": how.keys}

    def measured(model, config, corpus, where: dict) -> dict:
        task = Task(validate(Retrieval, settings), corpus.encode, corpus.separator)
        lengths = how.lengths or [n for n in default_contexts(config.original_window) if task.fits(n, how.depths)]
        if not lengths:
            raise BadInput(f"template={how.template} takes at least {task.shortest} tokens: name longer lengths=[…]")
        documents, decoded = corpus.split(how.split), how.reading == "decoded"
        per_token = 2 * how.trials * (how.digits if decoded else 1)  # times that a token is read, about
        cells, done, total = [], 0, per_token * how.depths * sum(lengths)
        for length in lengths:
            for depth, k in zip(np.linspace(0, 1, how.depths), task.distances(length, how.depths), strict=True):
                trials = make_trials(task, documents, length, k, how.trials, how.seed)
                answers = ask(model, trials, as_decoded=decoded, batch_tokens=how.batch_tokens, **where)
                cells.append(cell(length, float(depth), k, answers, how.digits))
                done += per_token * length
                if progress is not None:
                    progress(done, total)
        chance = {"exact": 10.0**-how.digits, "label_blind": 1 / how.keys, "preferred": 0.5}
        told = {"split": how.split, **settings, "trials": how.trials, "chance": chance}
        return told | {"cells": [asdict(each) for each in cells], **summarise(cells)}

    label = f"{how.template}{how.keys}x{how.digits}" + "-decoded" * (how.reading == "decoded")
    return cached_reading("passkey", checkpoint, extend, how, label, cache, measured)


def table(result: dict) -> str:
    """Exact matches in per cent, depth by length; below them what a length comes to."""
    cells = {(each["depth"], each["length"]): each for each in result["cells"]}
    depths, rows = sorted({depth for depth, _ in cells}), result["lengths"]

    def line(name: str, words) -> str:
        return f"{name:>18} " + " ".join(f"{word:>12}" for word in words)

    lines = [line("length", [row["length"] for row in rows])]
    for depth in depths:
        lines.append(line(f"depth {depth:.2f}", [f"{cells[depth, row['length']]['exact']:.0%}" for row in rows]))
    intervals = [row["exact"] for row in rows]
    lines.append(line("all depths", [f"{each['value']:.1%}" for each in intervals]))
    lines.append(line("interval", [f"[{100 * each['low']:.1f}, {100 * each['high']:.1f}]" for each in intervals]))
    for name, key in (("needle ppl", "needle_perplexity"), ("gap, nats", "gap"), ("preferred", "preferred")):
        lines.append(line(name, [f"{row[key]:.2f}" for row in rows]))
    for key in [key for key in rows[0] if key.startswith("k_max")]:
        values = [row[key] for row in rows]
        lines.append(line(key, [f"{each['value']} [{each['low']}, {each['high']}]" for each in values]))
    chance = result["chance"]
    blind = f", {chance['label_blind']:.0%} without heeding labels" if result["keys"] > 1 else ""
    lines.append(
        f"{result['trials']} trials a cell; chance: exact {chance['exact']:.0e}{blind}, preferred 50%. "
        f"YaRN's 80 % rule: passkey context {result['passkey_context']}, accuracy {result['passkey_accuracy']:.1%}."
    )
    return "\n".join(lines)


def figure(result: dict, path: Path) -> None:
    """Heat map of exact matches, depth by length, the number in every cell; writes path.png and path.svg."""
    from experiments.lab.canvas import pyplot

    plt = pyplot()
    lengths = [row["length"] for row in result["lengths"]]
    depths = sorted({each["depth"] for each in result["cells"]})
    cells = {(each["depth"], each["length"]): each for each in result["cells"]}
    shares = np.array([[cells[depth, length]["exact"] for length in lengths] for depth in depths])
    size = (2.5 + 0.9 * len(lengths), 1.8 + 0.32 * len(depths))
    drawn, axes = plt.subplots(figsize=size, layout="constrained")
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
    drawn.colorbar(image, label=f"exact matches of {result['trials']}")
    for suffix in (".png", ".svg"):
        drawn.savefig(path.with_suffix(suffix), dpi=150)
    plt.close(drawn)


def _main(values: dict, overrides: list[str]) -> None:
    from conf.schema import validate

    asked = read_request(values)
    for key in ("template", "digits", "keys"):
        values[key] = getattr(asked.trained.data.retrieval, key) if values[key] is None else values[key]
    readings, said = choose_passes(asked, values.pop("reading"))
    for reading in readings:
        how = validate(Passkey, {**values, "reading": reading})
        with progress_bar(asked.trained.name) as progress:
            result, place = measure_passkey(asked.checkpoint, asked.extend, how, asked.cache, progress)
        figure(result, place.with_suffix(""))
        print(f"{result['run']} at step {result['step']}, read with extend={result['label']}, {how.split}"
              f"{', as decoded' * (reading == 'decoded')}; exact matches:\n{table(result)}\n"
              f"Numbers and heat map: {place.with_suffix('')}.json, .png, .svg", flush=True)  # fmt: skip
        if asked.logger.name == "wandb":
            _to_wandb(asked, result, how, place.with_suffix(".png"))
    print(said)


def _to_wandb(asked: Request, result: dict, how: Passkey, drawn: Path) -> None:
    import wandb

    with wandb_reading(asked, result, "passkey" + "-decoded" * (how.reading == "decoded"), how) as run:
        for row in result["lengths"]:
            scores = {"exact": row["exact"]["value"], "needle_perplexity": row["needle_perplexity"]}
            run.log({"context/length": row["length"], **{f"context/{name}": each for name, each in scores.items()}})
        run.log({"passkey": wandb.Image(str(drawn))})


def main() -> None:
    """The command line."""
    command_line("passkey", _main)


if __name__ == "__main__":
    main()
