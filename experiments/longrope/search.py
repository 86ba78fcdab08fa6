"""LongRoPE's search for the factors and n̂ with which a checkpoint reads a longer window best.

    python -m experiments.longrope checkpoint=runs/default/rope-nano-s1 factor=8

The evolution (evolution.py) is seeded with PI, NTK and YaRN; for a model fine-tuned with factors of its own also with
those, unchanged and interpolated once more. It is scored on validation text. The result is then read from its file and
scored with its rivals on test text: there its ratio to the best rival is larger than on the text searched on, by the
overfit gap. All candidates share one temperature; PI, NTK and YaRN are measured as published, YaRN with its own.

With recover=<factors.yaml> the factors for texts within the window are searched instead (recovery.py). With data= the
search uses another text, in the checkpoint's own tokens.

Results beside the run, in longrope/<checkpoint>-x<factor>-<fitness>-<digest>/: factors.yaml for extend=longrope,
history.json with every candidate, results.json, figure.png and figure.svg. The history is saved after every
generation; the same command resumes from there with the same result as an uninterrupted search.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from conf.base import BadInput, CountOrZero, Different, Listed
from conf.overrides import given_keys
from conf.validation import validate
from experiments.lab.measure.subject import open_subject
from experiments.longrope.evolution import Scored
from experiments.longrope.searching import (
    Progress,
    Searching,
    SearchTask,
    finished_search,
    make_texts,
    run_search,
    search_folder,
)

if TYPE_CHECKING:
    from experiments.longrope.recovery import Recovery

FACTOR = 8.0  # default
NHats = Annotated[tuple[CountOrZero, ...], Listed, Different, Field(min_length=1)]


class Longer(Searching):
    """The settings of a search for longer texts, without the factor."""

    critical: bool = False
    n_hats: NHats | None = None
    temperature: float | None = Field(1.0, gt=0)


class Search(Longer):
    """The settings of a search for longer texts, as in conf/longrope.yaml."""

    factor: float = Field(gt=1)


def search_factors(
    checkpoint: Path, settings: Search, cache: str, progress: Progress, data: dict | None = None
) -> tuple[dict, Path]:
    """Run a search, resume it, or read back its result.

    Args:
        data: plain settings of a text, as in conf/data, or None for the one the checkpoint was trained on.

    Returns:
        {"run", "step", "position", "window", "longer", "methods": {method: {"extend", "search", "held out", "at <L>"
        …}}, "vectors", "history": the best score after every generation, …}, and its folder.

    Raises:
        BadInput: the scheme has no frequencies to rescale, or there is no text long enough.
    """
    from experiments.longrope.candidates import known_factors, make_space

    extend = {"name": "longrope", "factor": settings.factor, "temperature": settings.temperature}
    subject = open_subject(checkpoint, extend, cache, data, settings.precision)
    label = f"x{settings.factor:g}-{settings.fitness}"
    folder = search_folder(subject, label, subject.key("longrope", settings))
    if result := finished_search(folder):
        return result, folder
    subject.require("validation", "test")

    config, record = subject.config, subject.record
    window, longer = config.original_window, round(settings.factor * config.original_window)
    tuned = tuned_extensions(record["config"]["extend"], settings.factor)
    published = ("interpolate", "ntk", "yarn")
    readings = {"extrapolation": {"name": "none"}}
    readings |= {name: {"name": name, "factor": settings.factor} for name in published} | tuned

    def plan(frequencies: list[float]):
        search_space = make_space(frequencies, settings.factor, window, settings.n_hats, settings.critical)
        vectors = known_factors(frequencies, settings.factor, window)
        seeds = search_space.seeds(list(vectors.values()))
        for name, extension in tuned.items():
            vectors[name] = list(extension["long"])
            n_hat = extension["n_hat"] if extension["n_hat"] in search_space.n_hats else min(search_space.n_hats)
            hundredths = [100 * factor for factor in extension["long"]]
            seeds.append(search_space.individual(hundredths, n_hat, max(search_space.criticals)))
        return search_space, list(dict.fromkeys(seeds)), vectors, contents

    def contents(winner: Scored, temperature: float) -> dict:
        read = {"factor": settings.factor, "n_hat": winner.individual.n_hat, "temperature": temperature}
        best = {"long": winner.individual.long, "fitness": settings.fitness, "score": winner.score}
        return read | best | {"found_for": subject.identity}

    task = SearchTask(
        subject=subject,
        folder=folder,
        texts=make_texts(settings, subject.corpus, config.data.retrieval, longer, (window, longer)),
        length=longer,
        readings={name: (checkpoint, extend) for name, extend in readings.items()},
        rivals=(*published, *tuned),
    )
    return run_search(task, settings, plan, progress)


def tuned_extensions(extend: dict, factor: float) -> dict[str, dict]:
    """Extensions to this factor of a model fine-tuned with factors of its own: unchanged, or interpolated once more.

    The latter is the paper's second interpolation, by PI. Empty for a model that has no factors of its own.
    """
    if extend["name"] != "longrope" or extend["long"] is None:
        return {}
    unchanged = {**extend, "path": None, "short": None, "n_hat": extend["n_hat"] or 0}
    interpolated = [longer * factor / extend["factor"] for longer in extend["long"]]
    return {"tuned": unchanged, "again": {**unchanged, "factor": factor, "long": interpolated}}


def override(factor: float, folder: Path) -> str:
    """The overrides with which any command reads a checkpoint with the found factors."""
    return f"extend=longrope extend.factor={factor:g} extend.path={folder / 'factors.yaml'}"


def search_settings(values: dict, overrides: Sequence[str]) -> "tuple[Search | Recovery, Path | None]":
    """The settings of either search from plain values, and the file to recover short factors for, if any.

    Raises:
        BadInput: a setting belongs to the other search.
    """
    from experiments.longrope.recovery import Recovery

    path, length = values.pop("recover"), values.pop("length")
    if path is None:
        if length is not None:
            raise BadInput(f"length={length} is for recover=<factors.yaml>: longer texts have factor x window tokens")
        return validate(Search, values | {"factor": FACTOR if values["factor"] is None else values["factor"]}), None
    if not isinstance(path, str):
        raise BadInput(f"recover={path} must be the path of a factors.yaml")
    reasons = {"temperature": "it is that of the file", "n_hats": "n̂ is that of the file"}
    reasons["critical"] = "there is no critical pair within"
    given = given_keys(overrides)
    for key, why in reasons.items():
        del values[key]
        if key in given:
            raise BadInput(f"{key} cannot be set with recover={path}: {why}")
    return validate(Recovery, values | {"length": length}), Path(path).expanduser()
