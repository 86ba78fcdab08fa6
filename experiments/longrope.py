"""LongRoPE's search: the factors and n̂ with which a checkpoint reads a longer window best, and what they are worth.

    python -m experiments.longrope checkpoint=runs/default/rope-nano-s1 factor=8

The evolution (experiments/evolution.py) is seeded with PI, NTK and YaRN and scored on validation text. What it found
is then read from its file and scored on test text beside them: its ratio to the best of them is larger there than on
the text searched on by the overfit gap. All candidates share one temperature; PI, NTK and YaRN are measured as
published, YaRN with its own.

Results beside the run, in longrope/<checkpoint>-x<factor>-<fitness>-<digest>/: factors.yaml for extend=longrope,
history.json with every candidate, results.json, figure.png and figure.svg. The history is kept after every
generation; the same command goes on from there, and finds what it would have found uninterrupted.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import BeforeValidator, Field

from conf.base import Count, CountOrZero
from conf.compose import command_line
from conf.run_folder import write_json
from experiments.evolution import STEPS, Evolution, Individual, Scored, best, evolve
from experiments.readings import corpus_of, digest, request, tracked_reading, where

if TYPE_CHECKING:
    from experiments.candidates import Fitness, Texts

FOUND = "found"
NHats = Annotated[
    tuple[CountOrZero, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v), Field(min_length=1)
]


class Search(Evolution):
    """What is searched, on what, and how, as in conf/longrope.yaml."""

    factor: float = Field(gt=1)
    fitness: Literal["perplexity", "needle"] = "perplexity"
    critical: bool = False
    n_hats: NHats | None = None
    temperature: float | None = Field(1.0, gt=0)
    tokens: Count = 8192
    segments: Count = 128
    batch_tokens: Count = 4096


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


def search(checkpoint: Path, how: Search, cache: str, tell: Progress) -> tuple[dict, Path]:
    """Search, or go on, or read back what a finished search found.

    Returns:
        {"run", "step", "position", "window", "longer", "methods": {method: {"extend", "search", "held out", "at <L>"
        …}}, "vectors", "history": the best score after every generation, …}, and the folder it is kept in.

    Raises:
        BadInput: the scheme has no frequencies to rescale, or there is no text long enough.
    """
    from experiments.candidates import Fitness, in_place, known, space
    from train import load_model

    extend = {"name": "longrope", "factor": how.factor, "temperature": how.temperature}
    name = f"{checkpoint.stem}-x{how.factor:g}-{how.fitness}-{digest(checkpoint, extend, how)}"
    folder = checkpoint.parent.parent / "longrope" / name
    if (folder / "results.json").exists():
        return json.loads((folder / "results.json").read_text()), folder

    model, config, record = load_model(checkpoint, extend)
    window, longer = config.original_window, int(how.factor * config.original_window)
    texts = _texts(how, config, corpus_of(checkpoint, config, record, cache), window, longer)
    there = where()
    candidates, frequencies = in_place(model.to(there["device"]))
    vectors = known(frequencies, how.factor, window)
    fitness = Fitness(model, candidates, texts["search"], how.batch_tokens, there, tell)
    arena = space(frequencies, how.factor, window, how.n_hats, how.critical)
    folder.mkdir(parents=True, exist_ok=True)
    history = run_evolution(folder / "history.json", arena, list(vectors.values()), fitness, how, tell)

    winner = best(history)[0]
    about = {"run": config.name, "step": record["step"], "position": config.position.name}
    _write_factors(folder / "factors.yaml", winner, how, candidates.temperature, about)
    methods = _scores(checkpoint, how, folder / "factors.yaml", texts, there)
    result = about | {
        "checkpoint": str(checkpoint),
        "label": methods[FOUND]["label"],
        "extend": methods[FOUND]["extend"],
        "window": window,
        "longer": longer,
        "settings": how.model_dump(mode="json"),
        "search_documents": sorted(set(texts["search"].owners)) if how.fitness == "perplexity" else None,
        "search_texts": len(texts["search"].tokens),
        "evaluations": sum(len(generation) for generation in history),
        "evaluations_per_second": tell.speed,
        "score": winner.score,
        "n_hat": winner.individual.n_hat,
        "critical": winner.individual.critical,
        "bounds": [arena.low / STEPS, arena.high / STEPS],
        "frequencies": frequencies,
        "vectors": vectors | {FOUND: winner.individual.long},
        "history": [best(history[: number + 1])[0].score for number in range(len(history))],
        "methods": methods,
    }
    write_json(folder / "results.json", result)
    return result, folder


def _texts(how: Search, config, corpus, window: int, longer: int) -> dict[str, "Texts"]:
    """What is searched on, what is held out, and held-out text read at the trained window (and at the longer one)."""
    from experiments.candidates import needles, stretches

    few = max(1, how.tokens // longer)
    inside, outside = (stretches(corpus, "test", longer, how.segments, context) for context in (window, longer))
    if how.fitness == "perplexity":
        searched = stretches(corpus, "validation", longer, few, longer)
        return {"search": searched, "held out": outside, f"at {window}": inside}
    keys = config.data.retrieval
    return {
        "search": needles(corpus, keys, "validation", longer, few, how.seed),
        "held out": needles(corpus, keys, "test", longer, how.segments, how.seed + 1),
        f"at {window}": inside,
        f"at {longer}": outside,
    }


def run_evolution(path: Path, arena, vectors, fitness: "Fitness", how: Search, tell: Progress) -> list[list[Scored]]:
    """Every generation, from the history in this file on, which is written after each; the seeds come first."""
    kept = json.loads(path.read_text()) if path.exists() else []
    history = [[_scored(each) for each in generation] for generation in kept]
    tell.resume(history)
    for generation in evolve(arena, arena.seeds(vectors), fitness, how, history):
        history.append(generation)
        write_json(path, [[_plain(each) for each in generation] for generation in history])
    return history


def _plain(scored: Scored) -> dict:
    one = scored.individual
    return {"score": scored.score, "n_hat": one.n_hat, "critical": one.critical, "long": one.long}


def _scored(plain: dict) -> Scored:
    factors = tuple(round(STEPS * factor) for factor in plain["long"])
    return Scored(Individual(factors, plain["n_hat"], plain["critical"]), plain["score"])


def _write_factors(path: Path, winner: Scored, how: Search, temperature: float, about: dict) -> None:
    """What extend=longrope reads, and where it comes from."""
    read = {"factor": how.factor, "n_hat": winner.individual.n_hat, "temperature": temperature}
    found = {"long": winner.individual.long, "fitness": how.fitness, "score": winner.score, "found_for": about}
    path.write_text(yaml.safe_dump(read | found, sort_keys=False, default_flow_style=None, width=120))


def override(factor: float, folder: Path) -> str:
    """What makes any program of the lab read a checkpoint with the factors found."""
    return f"extend=longrope extend.factor={factor:g} extend.path={folder / 'factors.yaml'}"


def _scores(checkpoint: Path, how: Search, factors: Path, texts: dict[str, "Texts"], there: dict) -> dict[str, dict]:
    """Every text read with plain extrapolation, PI, NTK, YaRN and what was found, this from its file."""
    from train import load_model

    methods = {"extrapolation": {"name": "none"}}
    methods |= {name: {"name": name, "factor": how.factor} for name in ("interpolate", "ntk", "yarn")}
    methods[FOUND] = {"name": "longrope", "factor": how.factor, "path": str(factors)}
    scores = {}
    for method, extend in methods.items():
        model, config, _ = load_model(checkpoint, extend)
        rows = {name: each.row(model, batch_tokens=how.batch_tokens, **there) for name, each in texts.items()}
        scores[method] = {"label": config.extend.label, "extend": config.extend.model_dump(mode="json"), **rows}
    return scores


def rival(methods: dict[str, dict]) -> str:
    """The best of PI, NTK and YaRN on the text searched on."""
    return min(("interpolate", "ntk", "yarn"), key=lambda name: methods[name]["search"]["perplexity"])


def table(result: dict) -> str:
    """Perplexities of every method, and those of what was found over them; then the overfit gap in a sentence."""
    from experiments.statistics import paired_ratio

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
    other = rival(methods)
    searched, held_out = (ratios[other][part].value for part in ("search", "held out"))
    lines.append(
        f"Of PI, NTK and YaRN, {other} is best on what was searched on; found is {searched:.3f} of it there and "
        f"{held_out:.3f} on what was held out: an overfit gap of {100 * (held_out / searched - 1):.1f} %."
    )
    return "\n".join(lines)


def _main(values: dict, overrides: list[str]) -> None:
    from tqdm import tqdm

    from conf.schema import validate
    from experiments.figures.search import search_figure

    asked = request(values)
    how = validate(Search, values)
    candidates = max(how.population, 3) + how.generations * (how.mutations + how.crossovers)
    try:
        with tqdm(desc=f"{asked.trained.name} x{how.factor:g}", total=candidates, unit="candidate") as bar:
            result, folder = search(asked.checkpoint, how, asked.cache, Progress(bar))
    except KeyboardInterrupt:
        print("stopped; the same command goes on after the last finished generation")
        sys.exit(130)
    search_figure(folder / "figure", result)
    speed = result["evaluations_per_second"]
    print(
        f"{result['run']} at step {result['step']}, trained at {result['window']}, searched at {result['longer']} "
        f"tokens on {result['search_texts']} texts by {how.fitness}: {result['evaluations']} candidates"
        + (f", {speed:.1f} a second" if speed else "")
    )
    print(f"{table(result)}\nn̂ = {result['n_hat']}, λ = {' '.join(f'{x:g}' for x in result['vectors'][FOUND])}")
    print(f"Read with it: {override(how.factor, folder)}\nHistory, numbers and figure: {folder}/")
    if asked.logger.name == "wandb":
        _to_wandb(asked, result, how, folder)


def _to_wandb(asked, result: dict, how: Search, folder: Path) -> None:
    """The best score against tokens read, the table and the figure."""
    import wandb

    sizes = [len(generation) for generation in json.loads((folder / "history.json").read_text())]
    tokens = 0
    with tracked_reading(asked, result, "longrope", how) as run:
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
