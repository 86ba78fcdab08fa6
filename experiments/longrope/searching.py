"""The common part of LongRoPE's two searches: search.py for longer texts, recovery.py for short ones.

A search is an evolution over one vector of factors, seeded with known vectors. Its history is saved after every
generation. The result is written to a file, read from there, and scored with its rivals on held-out text.
"""

import json
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import Field

from conf.base import Count
from conf.files import write_json, write_text
from experiments.lab.measure.readings import can_be_written, read_result, refuse_non_finite
from experiments.lab.measure.request import AutoPrecision
from experiments.lab.measure.subject import Subject
from experiments.longrope.evolution import STEPS, Evolution, Individual, Scored, Space, best, evolve
from experiments.longrope.table import SEARCHED, format_table

if TYPE_CHECKING:
    from data.corpus import Corpus
    from data.settings import Retrieval
    from experiments.longrope.candidates import Fitness, Texts


class Searching(Evolution):
    """The settings common to both searches."""

    fitness: Literal["perplexity", "needle"] = "perplexity"
    tokens: Count = 8192
    segments: Count = 128
    batch_tokens: Count = 4096
    precision: Annotated[AutoPrecision, Field(exclude=True)] = "auto"

    @property
    def candidates(self) -> int:
        """The number of candidates scored, unless the space is too small."""
        return max(self.population, 3) + self.generations * (self.mutations + self.crossovers)


@dataclass
class Progress:
    """A progress bar over candidates with the best score so far; it measures the speed of scoring."""

    bar: object
    start: float = 0.0
    done: int = 0
    seconds: float = 0.0
    best: float = float("inf")

    def __call__(self, scores: list[float]) -> None:
        now = time.perf_counter()
        self.done, self.seconds, self.start = self.done + len(scores), self.seconds + now - self.start, now
        self.best = min(self.best, *scores)
        self.bar.set_postfix(best=f"{self.best:.4g}", refresh=False)
        self.bar.update(len(scores))

    def resume(self, history: list[list[Scored]]) -> None:
        """Start the clock, and the bar where the history ends."""
        self.start = time.perf_counter()
        self.best = min((scored.score for scored in best(history)), default=float("inf"))
        self.bar.update(sum(len(generation) for generation in history))

    @property
    def speed(self) -> float | None:
        """Candidates per second, if any was scored."""
        return self.done / self.seconds if self.done else None


@contextmanager
def search_progress(title: str, settings: Searching) -> Iterator[Progress]:
    """The progress of a search, on the terminal."""
    from tqdm import tqdm

    with tqdm(desc=title, total=settings.candidates, unit="candidate") as bar:
        yield Progress(bar)


@dataclass(frozen=True)
class SearchTask:
    """The inputs of a search and the readings its winner is compared with.

    subject: read with extend=longrope; length: tokens of a text searched on; readings: checkpoint and extension by
    name, including the rivals.
    """

    subject: Subject
    folder: Path
    texts: dict[str, "Texts"]
    length: int
    readings: dict[str, tuple[Path, dict]]
    rivals: tuple[str, ...]


def search_folder(subject: Subject, label: str, key: str) -> Path:
    """The folder of a search; label: a short name, key: a digest of everything it depends on."""
    return subject.folder("longrope") / f"{subject.checkpoint.stem}-{label}-{key}"


def finished_search(folder: Path) -> dict | None:
    """The result of a finished search, or None."""
    result = read_result(folder / "results.json")
    return None if result is None else result | {"read_back": True}


def run_search(task: SearchTask, settings: Searching, plan, progress: Progress) -> tuple[dict, Path]:
    """Run or resume a search, and score its winner, read from its file, with the other readings.

    Args:
        plan: frequencies (fastest first) → the space, the seeds, known vectors to draw, and what the file of a winner
            holds, given (Scored, temperature).

    Returns:
        The result as saved in results.json, and its folder: a temporary one if its own cannot be written.
    """
    from experiments.longrope.candidates import Fitness, install_candidates

    device, folder, subject = task.subject.computed, task.folder, task.subject
    about = subject.describe("longrope", "validation", "test") | {"window": subject.config.original_window}
    model = subject.model().to(device["device"])
    candidates, frequencies = install_candidates(model)
    space, seeds, vectors, contents = plan(frequencies)
    fitness = Fitness(model, candidates, task.texts["search"], settings.batch_tokens, device, progress)
    if not can_be_written(folder):
        folder = Path(tempfile.mkdtemp(prefix="longrope-"))
    folder.mkdir(parents=True, exist_ok=True)
    history = run_evolution(folder / "history.json", space, seeds, fitness, settings, progress)

    winner, path = best(history)[0], folder / "factors.yaml"
    factors = contents(winner, candidates.temperature)
    with printing_what_is_lost(history):
        write_text(path, yaml.safe_dump(factors, sort_keys=False, default_flow_style=None, width=120))
    searched = (subject.checkpoint, {"name": "longrope", "factor": factors["factor"], "path": str(path)})
    methods = _scores(task.readings | {SEARCHED: searched}, task.texts, settings.batch_tokens, device)
    searched_on = task.texts["search"]
    result = about | {
        "label": methods[SEARCHED]["label"],
        "extend": methods[SEARCHED]["extend"],
        "factor": factors["factor"],
        "longer": task.length,
        "settings": settings.model_dump(mode="json"),
        "search_documents": sorted(set(searched_on.owners)) if settings.fitness == "perplexity" else None,
        "search_texts": len(searched_on.tokens),
        "evaluations": sum(len(generation) for generation in history),
        "evaluations_per_second": progress.speed,
        "score": winner.score,
        "n_hat": winner.individual.n_hat,
        "critical": winner.individual.critical,
        "bounds": [space.low / STEPS, space.high / STEPS],
        "frequencies": frequencies,
        "vectors": vectors | {SEARCHED: winner.individual.long},
        "history": [best(history[: number + 1])[0].score for number in range(len(history))],
        "rivals": list(task.rivals),
        "methods": methods,
    }
    refuse_non_finite(result, subject.checkpoint)
    with printing_what_is_lost(history, result):
        write_json(folder / "results.json", result)
    return result | {"read_back": False}, folder


def make_texts(
    settings: Searching, corpus: "Corpus", keys: "Retrieval", length: int, contexts: tuple[int, int]
) -> dict[str, "Texts"]:
    """The texts to search on, and held-out texts at two context lengths, one of them `length`."""
    from experiments.longrope.candidates import needle_texts, stretch_texts

    count = max(1, settings.tokens // length)
    longest = max(contexts)
    held_out = {context: stretch_texts(corpus, "test", longest, settings.segments, context) for context in contexts}
    if settings.fitness == "perplexity":
        search = stretch_texts(corpus, "validation", length, count, length)
        others = {f"at {context}": texts for context, texts in held_out.items() if context != length}
        return {"search": search, "held out": held_out[length], **others}
    return {
        "search": needle_texts(corpus, keys, "validation", length, count, settings.seed),
        "held out": needle_texts(corpus, keys, "test", length, settings.segments, settings.seed + 1),
        **{f"at {context}": texts for context, texts in held_out.items()},
    }


def run_evolution(
    path: Path, space: Space, seeds: list[Individual], fitness: "Fitness", settings: Evolution, progress: Progress
) -> list[list[Scored]]:
    """Run or resume the evolution; its history in this file is written after each generation and returned."""
    history = _read_history(path)
    progress.resume(history)
    for generation in evolve(space, seeds, fitness, settings, history):
        history.append(generation)
        with printing_what_is_lost(history):
            write_json(path, [[_to_plain(scored) for scored in generation] for generation in history])
    return history


@contextmanager
def printing_what_is_lost(history: list[list[Scored]], result: dict | None = None) -> Iterator[None]:
    """Print the best factors so far, and the table of a result, where the disk refuses them; the error goes on."""
    try:
        yield
    except OSError:
        winner = best(history)[0]
        if result is not None:
            print(format_table(result))
        print(
            f"Best of {sum(map(len, history))} candidates, by a score of {winner.score:.6g}: n̂ = "
            f"{winner.individual.n_hat}, λ = {' '.join(f'{x:g}' for x in winner.individual.long)}",
            flush=True,
        )
        raise


def _read_history(path: Path) -> list[list[Scored]]:
    """The generations in a file; none if it is not there or damaged, and the latter is printed."""
    try:
        return [[_from_plain(scored) for scored in generation] for generation in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
    except (ValueError, LookupError, TypeError):
        print(f"{path} is torn: the search begins anew")
        return []


def _to_plain(scored: Scored) -> dict:
    """Plain values for history.json, where a score that is not finite is null."""
    one, score = scored.individual, scored.score if math.isfinite(scored.score) else None
    return {"score": score, "n_hat": one.n_hat, "critical": one.critical, "long": one.long}


def _from_plain(plain: dict) -> Scored:
    factors = tuple(round(STEPS * factor) for factor in plain["long"])
    score = math.inf if plain["score"] is None else plain["score"]
    return Scored(Individual(factors, plain["n_hat"], plain["critical"]), score)


def _scores(readings: dict[str, tuple[Path, dict]], texts: dict[str, "Texts"], batch_tokens: int, device: dict) -> dict:
    """Score every checkpoint and extension on every text."""
    from conf.load import load_model

    scores = {}
    for method, (checkpoint, extend) in readings.items():
        model, config, _ = load_model(checkpoint, extend)
        rows = {name: one.row(model, batch_tokens=batch_tokens, **device) for name, one in texts.items()}
        scores[method] = {"label": config.extend.label, "extend": config.extend.model_dump(mode="json"), **rows}
    return scores
