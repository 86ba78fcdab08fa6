"""Passkey retrieval: can a model find a key in its context, and from how far away?

    python -m experiments.passkey checkpoint=runs/default/rope-nano-s1 extend=interpolate extend.factor=8

A method that depends on the length of the text is measured twice, in one pass over prompt and key and as decoded, digit
by digit. Results go beside the run, in passkey/: numbers, and a heat map of exact matches. The same measurement is read
back from there.
"""

from pathlib import Path

from conf.compose import command_line
from conf.validation import validate
from experiments.lab.measure.passkey import Passkey, draw_heat_map, format_table, measure_passkey
from experiments.lab.measure.readings import describe_origin
from experiments.lab.measure.request import Request, choose_passes, progress_bar, read_request, wandb_reading


def run_command(values: dict, overrides: list[str]) -> None:
    """Measure a checkpoint, and print, draw and log the grid."""
    request = read_request(values, overrides)
    for key in ("template", "digits", "keys"):
        values[key] = getattr(request.trained.data.retrieval, key) if values[key] is None else values[key]
    passes, why = choose_passes(request, values.pop("reading"))
    for name in passes:
        settings = validate(Passkey, {**values, "reading": name})
        with progress_bar(request.trained.name) as progress:
            result, path = measure_passkey(
                request.checkpoint, request.extend, settings, request.cache, progress, request.data
            )
        print(f"{result['run']} at step {result['step']}, read with extend={result['label']}, {settings.split}"
              f"{', as decoded' * (name == 'decoded')}; exact matches:\n{format_table(result)}\n"
              f"{describe_origin(result)}", flush=True)  # fmt: skip
        if path is not None:
            draw_heat_map(result, path.with_suffix(""))
            print(f"Numbers and heat map: {path.with_suffix('')}.json, .png, .svg")
        if request.logger.name == "wandb":
            _to_wandb(request, result, settings, path and path.with_suffix(".png"))
    print(why)


def _to_wandb(request: Request, result: dict, settings: Passkey, heat_map: Path | None) -> None:
    import wandb

    with wandb_reading(request, result, f"passkey{'-decoded' * (settings.reading == 'decoded')}", settings) as run:
        for row in result["lengths"]:
            scores = {"exact": row["exact"]["value"], "needle_perplexity": row["needle_perplexity"]}
            run.log({"context/length": row["length"], **{f"context/{name}": score for name, score in scores.items()}})
        if heat_map is not None:
            run.log({"passkey": wandb.Image(str(heat_map))})


if __name__ == "__main__":
    command_line("passkey", run_command)
