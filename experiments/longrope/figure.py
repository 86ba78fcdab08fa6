"""The figure of a search for LongRoPE's factors, drawn from its results."""

import json
import math
from pathlib import Path

from experiments.lab.canvas import COLOURS, plain_numbers, pyplot, write_figure
from experiments.longrope.table import LABELS, SEARCHED


def search_figure(path: Path, result: dict) -> None:
    """Draw every candidate and the best so far by generation, and λ by pair of the result and its rivals.

    The candidates come from history.json in the folder of `path`. Writes path.png and path.svg.
    """
    rivals = result["rivals"]
    colours = dict(zip((*rivals[:3], SEARCHED, *rivals[3:]), COLOURS, strict=False))
    figure, (scores, factors) = pyplot().subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    history = json.loads((path.parent / "history.json").read_text())
    tried = [(number, candidate["score"]) for number, generation in enumerate(history) for candidate in generation]
    points = [(number, score) for number, score in tried if score is not None]
    scores.scatter(*zip(*points, strict=True), s=8, color=colours[SEARCHED], alpha=0.25, linewidth=0)
    scores.step(range(len(history)), result["history"], where="post", color=colours[SEARCHED], label="best so far")
    lines = {name: result["methods"][name]["search"]["perplexity"] for name in rivals}
    for name, score in lines.items():
        scores.axhline(score, color=colours[name], linestyle="--", linewidth=1, label=LABELS[name])
    top = max(*lines.values(), result["history"][0])
    scores.set(yscale="log", ylim=(result["score"] * 0.97, top * 1.03), xlabel="generation", ylabel="perplexity")
    what = "text" if result["settings"]["fitness"] == "perplexity" else "keys to find"
    scores.set_title(f"score on the {what} searched on", fontsize=10)
    plain_numbers(scores)
    scores.xaxis.get_major_locator().set_params(integer=True)

    low, high = result["bounds"]
    pairs = range(result["critical"], len(result["frequencies"]))
    factors.fill_between(pairs, low, high, color="#dddddd", alpha=0.5, linewidth=0, label="searched")
    for name, vector in result["vectors"].items():
        style = {"marker": "o", "linewidth": 2} if name == SEARCHED else {"linestyle": "--", "linewidth": 1.2}
        factors.plot(range(len(vector)), vector, color=colours[name], markersize=4, label=LABELS[name], **style)
    turns = [frequency * result["window"] / (2 * math.pi) for frequency in result["frequencies"]]
    whole = sum(turn >= 1 for turn in turns)
    if 0 < whole < len(turns):
        factors.axvline(whole - 0.5, color="black", linestyle=":", linewidth=0.8, label="one turn in the window")
    top = max(high, *(factor for vector in result["vectors"].values() for factor in vector))
    factors.set(xlabel="pair, fastest first", ylabel="λ", ylim=(0, top * 1.05))
    factors.set_title(f"factors; n̂ found: {result['n_hat']}", fontsize=10)
    for panel, place in ((scores, "upper right"), (factors, "lower right")):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc=place, framealpha=0.85, edgecolor="none")
    figure.suptitle(
        f"{result['run']}, trained at {result['window']}, searched at {result['longer']} tokens", fontsize=10
    )
    write_figure(figure, path)
