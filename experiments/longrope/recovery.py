"""LongRoPE's recovery: short factors for texts within the window, of a model with long factors for longer texts.

    python -m experiments.longrope checkpoint=runs/<group>/<fine-tuned run> recover=<folder of a search>/factors.yaml

Factors for a longer window cost accuracy within the old one. The paper searches once more there, with a smaller
largest λ, and the model switches by length (Ding et al. 2024, section 3.4): extend=longrope reads texts of up to L
tokens with `short`, longer ones with `long`. The search is that of experiments/longrope, on texts of L tokens or
fewer, λ from 1 to 1.25·r with r below the factor s that `long` is for. Its seeds are all ones, which is plain RoPE;
`long` scaled down, λ^(ln r / ln s), and as it is; and PI, NTK and YaRN by r. n̂ and temperature are those of the file:
extend=longrope has one of each for texts of every length.

The result is compared on the same held-out targets with `long` alone, with all ones (which a fine-tuned model may no
longer read well) and, for the cost of the extension, with the base model that was fine-tuned.
"""

import math
from pathlib import Path

from pydantic import Field

from conf.base import BadInput, Count
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
from experiments.longrope.table import SEARCHED, overfit


class Recovery(Searching):
    """The settings of a recovery; factor: r, by default half of s; length: of the texts, by default L."""

    factor: float | None = Field(None, ge=1)
    length: Count | None = None


def recover(
    checkpoint: Path, factors: Path, settings: Recovery, cache: str, progress: Progress, data: dict | None = None
) -> tuple[dict, Path]:
    """Run a search for short factors to the long ones in a file, resume it, or read back its result.

    Args:
        factors: a file for extend=longrope with `long` and the factor they are for.
        data: plain settings of a text, as in conf/data, or None for the one the checkpoint was trained on.

    Returns:
        As experiments.longrope.search; the factors.yaml in the folder holds both long and short.

    Raises:
        BadInput: the file has no long factors or not those of the scheme, r is above s, or the texts are beyond L.
    """
    from experiments.longrope.candidates import known_factors, make_space
    from models.positions import EXTENSIONS

    file_values = _read(factors)
    knobs = open_subject(checkpoint, {"name": "longrope", "path": str(factors)}, cache).config.extend
    plain = {"name": "longrope", "factor": knobs.factor, "long": list(knobs.long), "n_hat": knobs.n_hat or 0}
    plain |= {"temperature": knobs.temperature}
    subject = open_subject(checkpoint, plain, cache, data, settings.precision)
    config, window = subject.config, subject.config.original_window
    s, length = knobs.factor, window if settings.length is None else settings.length
    r = max(1.0, s / 2) if settings.factor is None else settings.factor
    if r > s:
        raise BadInput(f"factor={r:g} must not be above that of recover={factors}, which is for {s:g}")
    if not 2 <= length <= window:
        raise BadInput(f"length={length} must be from 2 to the window of {window} tokens, up to which `short` is read")

    long = plain | {"temperature": EXTENSIONS["longrope"](knobs, window).temperature}
    ones = {**long, "short": [1.0] * len(knobs.long)}
    readings = {"long": (checkpoint, long), "ones": (checkpoint, ones)}
    base, content = _base(checkpoint, subject.record["config"]), None
    if base is not None:
        readings["base"] = (base, {"name": "none"})
        content = open_subject(base, None, cache).content
    key = subject.key("longrope", settings, base=content)
    folder = search_folder(subject, f"x{s:g}-short-{settings.fitness}", key)
    if result := finished_search(folder):
        return result, folder
    subject.require("validation", "test")

    def plan(frequencies: list[float]):
        search_space = make_space(frequencies, r, window, (long["n_hat"],), critical=False)
        scaled = [max(factor, 1.0) ** (math.log(r) / math.log(s) if s > 1 else 0) for factor in knobs.long]
        vectors = {"ones": ones["short"], "long": long["long"]}
        published = known_factors(frequencies, r, window).values()
        seeds = search_space.seeds([ones["short"], scaled, long["long"], *published])
        return search_space, seeds, vectors, contents

    def contents(winner: Scored, temperature: float) -> dict:
        read = {"factor": s, "n_hat": long["n_hat"], "temperature": temperature, "long": long["long"]}
        about = {"length": length, "fitness": settings.fitness, "score": winner.score, "found_for": subject.identity}
        return file_values | read | {"short": winner.individual.long, "short_found": about}

    task = SearchTask(
        subject=subject,
        folder=folder,
        texts=make_texts(settings, subject.corpus, config.data.retrieval, length, (length // 2, length)),
        length=length,
        readings=readings,
        rivals=("long", "ones"),
    )
    return run_search(task, settings, plan, progress)


def _read(factors: Path) -> dict:
    """Read the mapping in a file of factors."""
    from models.positions.longrope import read_factors

    try:
        values = read_factors(str(factors))
    except ValueError as error:
        raise BadInput(f"recover: {error}") from None
    if not isinstance(values.get("factor"), int | float):
        raise BadInput(f"recover: path={factors} does not say the factor that `long` is for")
    return values


def _base(checkpoint: Path, trained: dict) -> Path | None:
    """The checkpoint that fine-tuning started from; None if there was none or it is gone.

    Raises:
        BadInput: a checkpoint comes from itself.
    """
    from models.restore import read_record

    base, passed = checkpoint, {checkpoint.resolve()}
    while trained["checkpoint"] is not None:
        base = Path(trained["checkpoint"]).expanduser()
        if not base.exists():
            return None
        if base.resolve() in passed:
            raise BadInput(f"checkpoint={base} says that it was fine-tuned from itself")
        passed.add(base.resolve())
        trained = read_record(base)["config"]
    return None if base == checkpoint else base


def recovery_sentence(result: dict) -> str:
    """A sentence on the gain of the recovery and the remaining cost of the extension, on held-out text."""
    from experiments.lab.statistics import compare

    methods = result["methods"]
    rows = {name: [method["held out"]] for name, method in methods.items()}
    over = {name: compare(rows[SEARCHED], rows[name]).ratio for name in rows}
    text = f"At {result['longer']} tokens, held out, recovered is {over['long']} of long alone"
    text += f" and {over['ones']} of all ones"
    if "base" in over:
        before = compare(rows["long"], rows["base"]).ratio
        text += f"; the extension costs {over['base']} of the base model, {before} before"
    if overfit(result)[0] >= 1:
        text += ". On the text searched on, nothing beat the best rival: a larger factor= allows larger λ"
    return text + "."
