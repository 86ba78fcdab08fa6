"""What LongRoPE's two searches share: search.py for longer texts, recovery.py for short ones.

A search is an evolution over one vector of factors, seeded with known ones, whose history is kept after every
generation; what it found is written to a file, read from there, and scored beside its rivals on text it never saw.
"""

import json
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from conf.base import Count
from conf.files import write_json
from experiments.lab.measure.readings import can_be_written, read_result, refuse_non_finite
from experiments.lab.measure.subject import Subject, device_and_precision
from experiments.longrope.evolution import STEPS, Evolution, Individual, Scored, Space, best, evolve

if TYPE_CHECKING:
    from data.corpus import Corpus
    from data.settings import Retrieval
    from experiments.longrope.candidates import Fitness, Texts

FOUND = "found"
# Readings in words: known methods, factors a model was fine-tuned with, and those of a file without its short ones.
NAMED = {"interpolate": "PI", "ntk": "NTK", "yarn": "YaRN", "tuned": "as tuned", "again": "as tuned, then PI"}
NAMED |= {"long": "long alone", "ones": "all ones", "base": "base model", FOUND: "found"}


class Searching(Evolution):
    """What candidates are scored on, in either search."""

    fitness: Literal["perplexity", "needle"] = "perplexity"
    tokens: Count = 8192
    segments: Count = 128
    batch_tokens: Count = 4096

    @property
    def candidates(self) -> int:
        """How many will be scored, if the space has room for them."""
        return max(self.population, 3) + self.generations * (self.mutations + self.crossovers)


@dataclass
class Progress:
    """A bar over candidates with the best score so far; it knows how fast candidates were scored."""

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
class Question:
    """A search made ready to run, and what its winner is compared with.

    subject: is read with extend=longrope; length: tokens of a text searched on; readings: checkpoint and extension by
    name, the rivals among them.
    """

    subject: Subject
    folder: Path
    texts: dict[str, "Texts"]
    length: int
    readings: dict[str, tuple[Path, dict]]
    rivals: tuple[str, ...]


def search_folder(subject: Subject, label: str, key: str) -> Path:
    """Where a search is kept; label: it in a word, key: a digest of all it depends on."""
    return subject.folder("longrope") / f"{subject.checkpoint.stem}-{label}-{key}"


def finished_search(folder: Path) -> dict | None:
    """The result of a search that came to its end, or None."""
    result = read_result(folder / "results.json")
    return None if result is None else result | {"read_back": True}


def run_search(question: Question, settings: Searching, plan, progress: Progress) -> tuple[dict, Path]:
    """Run a search, or go on with it; score its winner, read from its file, beside the others.

    Args:
        plan: frequencies (fastest first) → the space, the seeds, known vectors to draw, and what the file of a winner
            holds, given (Scored, temperature).

    Returns:
        The result, as kept in results.json, and the folder it is kept in: one for the moment where its own cannot be
        written.
    """
    from experiments.longrope.candidates import Fitness, in_place

    device, folder, subject = device_and_precision(), question.folder, question.subject
    about = subject.describe("longrope", "validation", "test") | {"window": subject.config.original_window}
    model = subject.model().to(device["device"])
    candidates, frequencies = in_place(model)
    arena, seeds, vectors, contents = plan(frequencies)
    fitness = Fitness(model, candidates, question.texts["search"], settings.batch_tokens, device, progress)
    if not can_be_written(folder):
        folder = Path(tempfile.mkdtemp(prefix="longrope-"))
    folder.mkdir(parents=True, exist_ok=True)
    history = run_evolution(folder / "history.json", arena, seeds, fitness, settings, progress)

    winner, path = best(history)[0], folder / "factors.yaml"
    held = contents(winner, candidates.temperature)
    path.write_text(yaml.safe_dump(held, sort_keys=False, default_flow_style=None, width=120))
    found = (subject.checkpoint, {"name": "longrope", "factor": held["factor"], "path": str(path)})
    methods = _scores(question.readings | {FOUND: found}, question.texts, settings.batch_tokens, device)
    searched_on = question.texts["search"]
    result = about | {
        "label": methods[FOUND]["label"],
        "extend": methods[FOUND]["extend"],
        "factor": held["factor"],
        "longer": question.length,
        "settings": settings.model_dump(mode="json"),
        "search_documents": sorted(set(searched_on.owners)) if settings.fitness == "perplexity" else None,
        "search_texts": len(searched_on.tokens),
        "evaluations": sum(len(generation) for generation in history),
        "evaluations_per_second": progress.speed,
        "score": winner.score,
        "n_hat": winner.individual.n_hat,
        "critical": winner.individual.critical,
        "bounds": [arena.low / STEPS, arena.high / STEPS],
        "frequencies": frequencies,
        "vectors": vectors | {FOUND: winner.individual.long},
        "history": [best(history[: number + 1])[0].score for number in range(len(history))],
        "rivals": list(question.rivals),
        "methods": methods,
    }
    refuse_non_finite(result, subject.checkpoint)
    write_json(folder / "results.json", result)
    return result | {"read_back": False}, folder


def make_texts(
    settings: Searching, corpus: "Corpus", keys: "Retrieval", length: int, contexts: tuple[int, int]
) -> dict[str, "Texts"]:
    """What is searched on, what is held out, and held-out text read at two context lengths, one of them `length`."""
    from experiments.longrope.candidates import needles, stretches

    few = max(1, settings.tokens // length)
    longest = max(contexts)
    apart = {context: stretches(corpus, "test", longest, settings.segments, context) for context in contexts}
    if settings.fitness == "perplexity":
        search = stretches(corpus, "validation", length, few, length)
        others = {f"at {context}": texts for context, texts in apart.items() if context != length}
        return {"search": search, "held out": apart[length], **others}
    return {
        "search": needles(corpus, keys, "validation", length, few, settings.seed),
        "held out": needles(corpus, keys, "test", length, settings.segments, settings.seed + 1),
        **{f"at {context}": texts for context, texts in apart.items()},
    }


def run_evolution(
    path: Path, arena: Space, seeds: list[Individual], fitness: "Fitness", settings: Evolution, progress: Progress
) -> list[list[Scored]]:
    """Every generation, from the history in this file on, which is written after each; the seeds come first."""
    earlier = json.loads(path.read_text()) if path.exists() else []
    history = [[_from_plain(scored) for scored in generation] for generation in earlier]
    progress.resume(history)
    for generation in evolve(arena, seeds, fitness, settings, history):
        history.append(generation)
        write_json(path, [[_to_plain(scored) for scored in generation] for generation in history])
    return history


def _to_plain(scored: Scored) -> dict:
    """As in history.json, where a score that was no number is null."""
    one, score = scored.individual, scored.score if math.isfinite(scored.score) else None
    return {"score": score, "n_hat": one.n_hat, "critical": one.critical, "long": one.long}


def _from_plain(plain: dict) -> Scored:
    factors = tuple(round(STEPS * factor) for factor in plain["long"])
    score = math.inf if plain["score"] is None else plain["score"]
    return Scored(Individual(factors, plain["n_hat"], plain["critical"]), score)


def _scores(readings: dict[str, tuple[Path, dict]], texts: dict[str, "Texts"], batch_tokens: int, device: dict) -> dict:
    """Every text read by every checkpoint and extension."""
    from train import load_model

    scores = {}
    for method, (checkpoint, extend) in readings.items():
        model, config, _ = load_model(checkpoint, extend)
        rows = {name: one.row(model, batch_tokens=batch_tokens, **device) for name, one in texts.items()}
        scores[method] = {"label": config.extend.label, "extend": config.extend.model_dump(mode="json"), **rows}
    return scores


def rival(result: dict) -> str:
    """The best of the rivals on the text searched on."""
    return min(result["rivals"], key=lambda name: result["methods"][name]["search"]["perplexity"])


def overfit(result: dict) -> tuple[float, float, float]:
    """Perplexity of what was found over that of its best rival: on what was searched on, held out, and the gap."""
    from experiments.lab.statistics import paired_ratio

    ours, theirs = (result["methods"][name] for name in (FOUND, rival(result)))
    searched, held_out = (paired_ratio(ours[part], theirs[part]).value for part in ("search", "held out"))
    return searched, held_out, held_out / searched - 1


def format_table(result: dict) -> str:
    """Perplexities of every method, and those of what was found over them; then the overfit gap in a sentence."""
    from experiments.lab.statistics import paired_ratio

    methods = result["methods"]
    columns = [name for name in methods[FOUND] if name not in ("label", "extend")]
    ratios = {
        name: {part: paired_ratio(methods[FOUND][part], row[part]) for part in ("search", "held out")}
        for name, row in methods.items()
    }
    head = [f"{'method':<14}", *(f"{name:>10}" for name in columns), "  found / it: search   held out"]
    lines = ["".join(head)]
    for name, row in methods.items():
        cells = "".join(f"{row[column]['perplexity']:>10.3f}" for column in columns)
        ratio = "" if name == FOUND else f"{ratios[name]['search'].value:>20.3f}   {ratios[name]['held out']}"
        lines.append(f"{name:<14}{cells}{ratio}".rstrip())
    *first, last = (NAMED[name] for name in result["rivals"])
    inside, outside, gap = overfit(result)
    lines.append(
        f"Of {', '.join(first)} and {last}, {rival(result)} is best on what was searched on; found is {inside:.3f} of "
        f"it there and {outside:.3f} on what was held out: an overfit gap of {100 * gap:.1f} %."
    )
    return "\n".join(lines)
