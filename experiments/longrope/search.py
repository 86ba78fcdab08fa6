"""LongRoPE's search: the factors and n̂ with which a checkpoint reads a longer window best, and what they are worth.

    python -m experiments.longrope checkpoint=runs/default/rope-nano-s1 factor=8

The evolution (evolution.py) is seeded with PI, NTK and YaRN, and for a model that was fine-tuned with
factors found before also with those, as they are and interpolated once more. It is scored on validation text. What it
found is then read from its file and scored on test text beside them: its ratio to the best of them is larger there
than on the text searched on by the overfit gap. All candidates share one temperature; PI, NTK and YaRN are measured as
published, YaRN with its own.

With recover=<factors.yaml> the factors for texts within the window are searched instead (recovery.py).

Results beside the run, in longrope/<checkpoint>-x<factor>-<fitness>-<digest>/: factors.yaml for extend=longrope,
history.json with every candidate, results.json, figure.png and figure.svg. The history is kept after every
generation; the same command goes on from there, and finds what it would have found uninterrupted.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from conf.base import BadInput, CountOrZero, Listed
from conf.compose import command_line
from experiments.lab.measure.readings import digest, read_request, trained_corpus, wandb_reading
from experiments.longrope.evolution import Scored
from experiments.longrope.searching import FOUND, Progress, Question, Searching, search_progress, searched, table, texts

if TYPE_CHECKING:
    from experiments.longrope.recovery import Recovery

FACTOR = 8.0  # if nothing else is said
NHats = Annotated[tuple[CountOrZero, ...], Listed, Field(min_length=1)]


class Longer(Searching):
    """A search for longer texts, whatever the factor."""

    critical: bool = False
    n_hats: NHats | None = None
    temperature: float | None = Field(1.0, gt=0)


class Search(Longer):
    """What is searched, on what, and how, as in conf/longrope.yaml."""

    factor: float = Field(gt=1)


def search_factors(checkpoint: Path, how: Search, cache: str, tell: Progress) -> tuple[dict, Path]:
    """Search, or go on, or read back what a finished search found.

    Returns:
        {"run", "step", "position", "window", "longer", "methods": {method: {"extend", "search", "held out", "at <L>"
        …}}, "vectors", "history": the best score after every generation, …}, and the folder it is kept in.

    Raises:
        BadInput: the scheme has no frequencies to rescale, or there is no text long enough.
    """
    from experiments.longrope.candidates import known, space
    from train import load_model

    extend = {"name": "longrope", "factor": how.factor, "temperature": how.temperature}
    name = f"{checkpoint.stem}-x{how.factor:g}-{how.fitness}-{digest(checkpoint, extend, how)}"
    folder = checkpoint.parent.parent / "longrope" / name
    if (folder / "results.json").exists():
        return json.loads((folder / "results.json").read_text()), folder

    model, config, record = load_model(checkpoint, extend)
    window, longer = config.original_window, int(how.factor * config.original_window)
    own = tuned_with(record["config"]["extend"], how.factor)
    about = {"run": config.name, "step": record["step"], "position": config.position.name}
    published = ("interpolate", "ntk", "yarn")
    readings = {"extrapolation": {"name": "none"}}
    readings |= {name: {"name": name, "factor": how.factor} for name in published} | own

    def plan(frequencies: list[float]):
        arena = space(frequencies, how.factor, window, how.n_hats, how.critical)
        vectors = known(frequencies, how.factor, window)
        seeds = arena.seeds(list(vectors.values()))
        for name, each in own.items():
            vectors[name] = list(each["long"])
            n_hat = each["n_hat"] if each["n_hat"] in arena.n_hats else min(arena.n_hats)
            hundredths = [100 * factor for factor in each["long"]]
            seeds.append(arena.individual(hundredths, n_hat, max(arena.criticals)))
        return arena, list(dict.fromkeys(seeds)), vectors, listed

    def listed(winner: Scored, temperature: float) -> dict:
        read = {"factor": how.factor, "n_hat": winner.individual.n_hat, "temperature": temperature}
        found = {"long": winner.individual.long, "fitness": how.fitness, "score": winner.score}
        return read | found | {"found_for": about}

    corpus = trained_corpus(checkpoint, config, record, cache)
    question = Question(
        checkpoint=checkpoint,
        folder=folder,
        model=model,
        texts=texts(how, corpus, config.data.retrieval, longer, (window, longer)),
        length=longer,
        readings={name: (checkpoint, extend) for name, extend in readings.items()},
        rivals=(*published, *own),
        about=about | {"window": window},
    )
    return searched(question, how, plan, tell)


def tuned_with(extend: dict, factor: float) -> dict[str, dict]:
    """How a model that was fine-tuned with factors of its own may go on to this factor: with them, or them times more.

    The latter is the paper's second interpolation as PI has it. Empty for a model that has no factors of its own.
    """
    if extend["name"] != "longrope" or extend["long"] is None:
        return {}
    own = {**extend, "path": None, "short": None, "n_hat": extend["n_hat"] or 0}
    again = [each * factor / extend["factor"] for each in extend["long"]]
    return {"tuned": own, "again": {**own, "factor": factor, "long": again}}


def override(factor: float, folder: Path) -> str:
    """What makes any program of the lab read a checkpoint with the factors found."""
    return f"extend=longrope extend.factor={factor:g} extend.path={folder / 'factors.yaml'}"


def asked(values: dict) -> "tuple[Search | Recovery, Path | None]":
    """The settings of either search from plain values, and the file whose short factors are searched, if any.

    Raises:
        BadInput: a setting that only the other one has.
    """
    from conf.schema import validate
    from experiments.longrope.recovery import Recovery

    path, length = values.pop("recover"), values.pop("length")
    if path is None:
        if length is not None:
            raise BadInput(f"length={length} is for recover=<factors.yaml>: longer texts have factor x window tokens")
        return validate(Search, values | {"factor": FACTOR if values["factor"] is None else values["factor"]}), None
    if not isinstance(path, str):
        raise BadInput(f"recover={path} must be the path of a factors.yaml")
    del values["temperature"]  # the file's
    for key, why in {"n_hats": "n̂ is that of the file", "critical": "there is no critical pair within"}.items():
        if values.pop(key):
            raise BadInput(f"{key} cannot be set with recover={path}: {why}")
    return validate(Recovery, values | {"length": length}), Path(path)


def _main(values: dict, overrides: list[str]) -> None:
    from experiments.longrope.figure import search_figure
    from experiments.longrope.recovery import recover, worth

    about = read_request(values)
    how, factors = asked(values)
    title = f"{about.trained.name} {f'x{how.factor:g}' if factors is None else 'short'}"
    with search_progress(title, how) as tell:
        if factors is None:
            result, folder = search_factors(about.checkpoint, how, about.cache, tell)
        else:
            result, folder = recover(about.checkpoint, factors, how, about.cache, tell)
    search_figure(folder / "figure", result)
    speed = result["evaluations_per_second"]
    print(
        f"{result['run']} at step {result['step']}, trained at {result['window']}, searched at {result['longer']} "
        f"tokens on {result['search_texts']} texts by {how.fitness}: {result['evaluations']} candidates"
        + (f", {speed:.1f} a second" if speed else "")
    )
    print(table(result))
    if factors is not None:
        print(worth(result))
    print(f"n̂ = {result['n_hat']}, λ = {' '.join(f'{x:g}' for x in result['vectors'][FOUND])}")
    print(f"Read with it: {override(result['factor'], folder)}\nHistory, numbers and figure: {folder}/")
    if about.logger.name == "wandb":
        _to_wandb(about, result, how, folder)


def _to_wandb(about, result: dict, how: Searching, folder: Path) -> None:
    """The best score against tokens read, the table and the figure."""
    import wandb

    sizes = [len(generation) for generation in json.loads((folder / "history.json").read_text())]
    tokens = 0
    with wandb_reading(about, result, "longrope", how) as run:
        for size, score in zip(sizes, result["history"], strict=True):
            tokens += size * result["search_texts"] * result["longer"]
            run.log({"tokens": tokens, "search/best": score})
        cells = [
            [name, part, row[part]["perplexity"]]
            for name, row in result["methods"].items()
            for part in row
            if part not in ("label", "extend")
        ]
        run.log({"methods": wandb.Table(columns=["method", "text", "perplexity"], data=cells)})
        run.log({"figure": wandb.Image(str(folder / "figure.png"))})


def main() -> None:
    """The command line."""
    command_line("longrope", _main)


if __name__ == "__main__":
    main()
