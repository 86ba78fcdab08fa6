"""What LongRoPE's two searches share: experiments/longrope for longer texts, experiments/recovery for short ones.

A search is an evolution over one vector of factors, seeded with known ones, whose history is kept after every
generation; what it found is written to a file, read from there, and scored beside its rivals on text it never saw.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from conf.base import Count
from conf.run_folder import write_json
from experiments.lab.measure.readings import device_and_precision
from experiments.longrope.evolution import STEPS, Evolution, Individual, Scored, Space, best, evolve

if TYPE_CHECKING:
    from data.corpus import Corpus
    from data.settings import Retrieval
    from experiments.longrope.candidates import Fitness, Texts
    from models.gpt import GPT

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
        self.best = min((each.score for each in best(history)), default=float("inf"))
        self.bar.update(sum(len(generation) for generation in history))

    @property
    def speed(self) -> float | None:
        """Candidates per second, if any was scored."""
        return self.done / self.seconds if self.done else None


@contextmanager
def search_progress(title: str, how: Searching) -> Iterator[Progress]:
    """The progress of a search, on the terminal."""
    from tqdm import tqdm

    with tqdm(desc=title, total=how.candidates, unit="candidate") as bar:
        yield Progress(bar)


@dataclass(frozen=True)
class Question:
    """A search made ready to run, and what its winner is compared with.

    model: is read with extend=longrope; length: tokens of a text searched on; readings: checkpoint and extension by
    name, the rivals among them; about: what the result says first.
    """

    checkpoint: Path
    folder: Path
    model: "GPT"
    texts: dict[str, "Texts"]
    length: int
    readings: dict[str, tuple[Path, dict]]
    rivals: tuple[str, ...]
    about: dict


def searched(question: Question, how: Searching, plan, tell: Progress) -> tuple[dict, Path]:
    """Run a search, or go on with it; score its winner, read from its file, beside the others.

    Args:
        plan: frequencies (fastest first) → the space, the seeds, known vectors to draw, and what the file of a winner
            holds, given (Scored, temperature).

    Returns:
        The result, as kept in results.json, and the folder it is kept in.
    """
    from experiments.longrope.candidates import Fitness, in_place

    there, folder, about = device_and_precision(), question.folder, question.about
    candidates, frequencies = in_place(question.model.to(there["device"]))
    arena, seeds, vectors, listed = plan(frequencies)
    fitness = Fitness(question.model, candidates, question.texts["search"], how.batch_tokens, there, tell)
    folder.mkdir(parents=True, exist_ok=True)
    history = run_evolution(folder / "history.json", arena, seeds, fitness, how, tell)

    winner, path = best(history)[0], folder / "factors.yaml"
    held = listed(winner, candidates.temperature)
    path.write_text(yaml.safe_dump(held, sort_keys=False, default_flow_style=None, width=120))
    found = (question.checkpoint, {"name": "longrope", "factor": held["factor"], "path": str(path)})
    methods = _scores(question.readings | {FOUND: found}, question.texts, how.batch_tokens, there)
    result = about | {
        "checkpoint": str(question.checkpoint),
        "label": methods[FOUND]["label"],
        "extend": methods[FOUND]["extend"],
        "factor": held["factor"],
        "longer": question.length,
        "settings": how.model_dump(mode="json"),
        "search_documents": sorted(set(question.texts["search"].owners)) if how.fitness == "perplexity" else None,
        "search_texts": len(question.texts["search"].tokens),
        "evaluations": sum(len(generation) for generation in history),
        "evaluations_per_second": tell.speed,
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
    write_json(folder / "results.json", result)
    return result, folder


def texts(
    how: Searching, corpus: "Corpus", keys: "Retrieval", length: int, contexts: tuple[int, int]
) -> dict[str, "Texts"]:
    """What is searched on, what is held out, and held-out text read at two context lengths, one of them `length`."""
    from experiments.longrope.candidates import needles, stretches

    few = max(1, how.tokens // length)
    longest = max(contexts)
    apart = {context: stretches(corpus, "test", longest, how.segments, context) for context in contexts}
    if how.fitness == "perplexity":
        search = stretches(corpus, "validation", length, few, length)
        others = {f"at {context}": each for context, each in apart.items() if context != length}
        return {"search": search, "held out": apart[length], **others}
    return {
        "search": needles(corpus, keys, "validation", length, few, how.seed),
        "held out": needles(corpus, keys, "test", length, how.segments, how.seed + 1),
        **{f"at {context}": each for context, each in apart.items()},
    }


def run_evolution(
    path: Path, arena: Space, seeds: list[Individual], fitness: "Fitness", how: Evolution, tell: Progress
) -> list[list[Scored]]:
    """Every generation, from the history in this file on, which is written after each; the seeds come first."""
    kept = json.loads(path.read_text()) if path.exists() else []
    history = [[_scored(each) for each in generation] for generation in kept]
    tell.resume(history)
    for generation in evolve(arena, seeds, fitness, how, history):
        history.append(generation)
        write_json(path, [[_plain(each) for each in generation] for generation in history])
    return history


def _plain(scored: Scored) -> dict:
    one = scored.individual
    return {"score": scored.score, "n_hat": one.n_hat, "critical": one.critical, "long": one.long}


def _scored(plain: dict) -> Scored:
    factors = tuple(round(STEPS * factor) for factor in plain["long"])
    return Scored(Individual(factors, plain["n_hat"], plain["critical"]), plain["score"])


def _scores(readings: dict[str, tuple[Path, dict]], texts: dict[str, "Texts"], batch_tokens: int, there: dict) -> dict:
    """Every text read by every checkpoint and extension."""
    from train import load_model

    scores = {}
    for method, (checkpoint, extend) in readings.items():
        model, config, _ = load_model(checkpoint, extend)
        rows = {name: each.row(model, batch_tokens=batch_tokens, **there) for name, each in texts.items()}
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


def table(result: dict) -> str:
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
