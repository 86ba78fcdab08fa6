"""Which factors, one for each pair, read a longer window best?

    python -m experiments.longrope checkpoint=runs/demo/rope-pico-s1 factor=8

The result is a file of factors for extend=longrope, a table and a figure. With recover=<factors.yaml> the search is for
texts within the window.
"""

import json
from pathlib import Path

from conf.compose import command_line
from experiments.lab.measure.readings import describe_origin
from experiments.lab.measure.request import Request, read_request, wandb_reading
from experiments.longrope.search import override, search_factors, search_settings
from experiments.longrope.searching import Searching, search_progress
from experiments.longrope.table import SEARCHED, format_table


def run_command(values: dict, overrides: list[str]) -> None:
    """Search, and print, draw and log the result."""
    from experiments.longrope.figure import search_figure
    from experiments.longrope.recovery import recover, recovery_sentence

    request = read_request(values, overrides)
    settings, factors = search_settings(values, overrides)
    title = f"{request.trained.name} {f'x{settings.factor:g}' if factors is None else 'short'}"
    with search_progress(title, settings) as progress:
        place = (request.cache, progress, request.data)
        if factors is None:
            result, folder = search_factors(request.checkpoint, settings, *place)
        else:
            result, folder = recover(request.checkpoint, factors, settings, *place)
    speed = result["evaluations_per_second"]
    print(
        f"{result['run']} at step {result['step']}, trained at {result['window']}, searched at {result['longer']} "
        f"tokens on {result['search_texts']} texts by {settings.fitness}: {result['evaluations']} candidates"
        + (f", {speed:.1f} a second" if speed else "")
    )
    print(f"{format_table(result)}\n{describe_origin(result)}")
    if factors is not None:
        print(recovery_sentence(result))
    print(f"n̂ = {result['n_hat']}, λ = {' '.join(f'{x:g}' for x in result['vectors'][SEARCHED])}", flush=True)
    search_figure(folder / "figure", result)
    print(f"Read with it: {override(result['factor'], folder)}\nHistory, numbers and figure: {folder}/")
    if request.logger.name == "wandb":
        _to_wandb(request, result, settings, folder)


def _to_wandb(request: Request, result: dict, settings: Searching, folder: Path) -> None:
    """The best score against tokens read, the table and the figure."""
    import wandb

    sizes = [len(generation) for generation in json.loads((folder / "history.json").read_text())]
    tokens = 0
    with wandb_reading(request, result, "longrope", settings) as run:
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


if __name__ == "__main__":
    command_line("longrope", run_command)
