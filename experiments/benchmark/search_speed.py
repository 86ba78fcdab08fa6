"""Candidates per second scored by a search for LongRoPE's factors, in batches and one at a time.

One at a time, a model with extend=longrope takes a candidate's factors as its settings and reads the same texts by the
same protocol. The weights are untrained, which does not change the speed.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from conf.resolve import resolve
from experiments.benchmark.timing import Run, ratio, spread_cell, timed_loop
from experiments.benchmark.workbench import Workbench
from experiments.lab.measure.subject import device_and_precision
from experiments.lab.tables import format_rows
from experiments.longrope import Fitness, Individual, Texts, install_candidates, known_factors, make_space
from models.gpt import GPT
from models.positions.longrope import LongRoPE
from train import build_model

if TYPE_CHECKING:
    from experiments.benchmark.settings import SearchSpeed

ONE = "one at a time"


def run(bench: Workbench) -> Iterator[list[dict]]:
    """A row per number of texts, tokens per forward pass and way of scoring."""
    settings = bench.settings.search_speed
    for texts in settings.texts:
        yield _rows(bench, settings.model, texts)


def _rows(bench: Workbench, model: str, count: int) -> list[dict]:
    settings = bench.settings.search_speed
    longer = int(settings.factor * settings.window)
    texts = Texts(list(bench.tokens(count, longer + 1).cpu().numpy()), list(range(count)), longer)

    def timed(contestant, tokens: int) -> Run:
        score, (_, frequencies) = contestant(bench, model, texts, tokens), install_candidates(_model(bench, model))
        candidates = first_generation(frequencies, settings)
        return timed_loop(lambda: score(candidates), bench.device)

    builders = {
        (way, tokens): lambda contestant=contestant, tokens=tokens: timed(contestant, tokens)
        for tokens in settings.batch_tokens
        for way, contestant in ((ONE, one_at_a_time), ("batched", batched))
    }
    outcomes = bench.compare(f"search {model} {count} x {longer}", builders)
    rows = []
    for (way, tokens), outcome in outcomes.items():
        row = {"model": model, "texts": count, "length": longer, "batch_tokens": tokens, "way": way} | asdict(outcome)
        if outcome.failure is None:
            row["candidates_per_second"] = asdict(outcome.rate(settings.candidates))
            if way != ONE and outcomes[ONE, tokens].failure is None:
                row["speed_over_one"] = asdict(ratio(outcomes[ONE, tokens], outcome))
        rows.append(row)
    return rows


def first_generation(frequencies: list[float], settings: "SearchSpeed") -> list[Individual]:
    """The first generation of a search: the seeds and mutants of each in turn."""
    search_space = make_space(frequencies, settings.factor, settings.window, None, critical=False)
    seeds = search_space.seeds(list(known_factors(frequencies, settings.factor, settings.window).values()))
    random = np.random.default_rng(0)
    mutants = [search_space.mutate(seeds[number % len(seeds)], 0.3, random) for number in range(settings.candidates)]
    return (seeds + mutants)[: settings.candidates]


def _model(bench: Workbench, name: str) -> GPT:
    """A model with extend=longrope on the device."""
    settings = bench.settings.search_speed
    values = bench.config(name, "rope", settings.window).model_dump(mode="json", exclude={"original_window"})
    return build_model(resolve({**values, "extend": {"name": "longrope", "factor": settings.factor}}, [])).to(
        bench.device
    )


def batched(bench: Workbench, name: str, texts: Texts, batch_tokens: int) -> Fitness:
    """The fitness function of the search."""
    model = _model(bench, name)
    return Fitness(model, install_candidates(model)[0], texts, batch_tokens, device_and_precision())


def one_at_a_time(bench: Workbench, name: str, texts: Texts, batch_tokens: int) -> Callable[[list], list[float]]:
    """The same scores by a plain loop that sets each candidate's factors in the model's extension."""
    model = _model(bench, name)
    (part,) = (part for part in model.position.modules() if isinstance(getattr(part, "extension", None), LongRoPE))
    knobs, window = part.extension.knobs, part.extension.window

    def score(individuals: list[Individual]) -> list[float]:
        scores = []
        for individual in individuals:
            factors = {
                "long": tuple(individual.long),
                "n_hat": individual.n_hat,
                "temperature": part.extension.temperature,
            }
            part.extension = LongRoPE(knobs.model_copy(update=factors), window)
            scores.append(texts.row(model, batch_tokens=batch_tokens, **device_and_precision())["perplexity"])
        return scores

    return score


def table(rows: list[dict]) -> str:
    """Candidates per second, both ways."""
    columns = {"model": "{model}", "texts": "{texts} x {length}", "a pass": "{batch_tokens}", "way": "{way}"}
    columns["candidates/s"] = "{candidates_per_second[median]:.1f}"
    return format_rows(rows, columns | {"speed over one at a time": spread_cell("speed_over_one")})
