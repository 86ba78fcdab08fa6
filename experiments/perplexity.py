"""How well does a checkpoint predict with more and more context, as trained or with any extension?

    python -m experiments.perplexity checkpoint=runs/default/rope-nano-s1 extend=interpolate extend.factor=8
    python -m experiments.perplexity checkpoint=runs/default/rope-nano-s1 data=files data.test=book.txt

The text is the test text of its corpus, or that of data=. A method that depends on the length of the text is read
twice, whole windows at once and as decoded (lab/measure/windows.py). Results go beside the run that was measured, in
perplexity/; the same measurement is read back from there.
"""

from conf.compose import command_line
from conf.validation import validate
from experiments.lab.measure.context import figure as draw_context
from experiments.lab.measure.perplexity import (
    Measurement,
    default_contexts,
    format_both,
    format_table,
    measure_perplexity,
    notes,
)
from experiments.lab.measure.readings import describe_origin
from experiments.lab.measure.request import Request, choose_passes, progress_bar, read_request, wandb_reading


def _settings(values: dict, window: int) -> Measurement:
    """The settings of the measurement, with defaults that depend on the window and on the shortest context."""
    contexts = list(default_contexts(window)) if values["contexts"] is None else values["contexts"]
    given = values["stride"]
    settings = validate(Measurement, {**values, "contexts": contexts, "stride": 1 if given is None else given})
    if given is not None:
        return settings
    return settings.model_copy(update={"stride": max(1, min(settings.contexts) // 2)})


def run_command(values: dict, overrides: list[str]) -> None:
    """Measure a checkpoint, and print and log the table."""
    request = read_request(values, overrides)
    passes, why = choose_passes(request, values.pop("reading"))
    whole = _settings(values, request.trained.original_window)
    results = {}
    for name in passes:
        settings = whole.model_copy(update={"reading": name})
        with progress_bar(request.trained.name) as progress:
            result, path = measure_perplexity(
                request.checkpoint, request.extend, settings, request.cache, progress, request.data
            )
        results[name] = result
        print(f"{result['run']} at step {result['step']}, read with extend={result['label']}, {settings.protocol}, "
              f"{settings.split}{', as decoded' * (name == 'decoded')}:", flush=True)  # fmt: skip
        print("\n".join([format_table(result["rows"], result["gains"]), *notes(result), describe_origin(result)]))
        if settings.losses and path is not None:
            print(f"Losses of all targets: {path.with_suffix('.npz')}")
        if "optimum" in result["rows"][0] and path is not None:
            title = f"{result['run']}, {settings.protocol}"
            draw_context({result["label"]: result["rows"]}, result["original_window"], title, path.with_suffix(""))
            print(f"Figure: {path.with_suffix('')}.png, .svg")
    print(why)
    if len(results) > 1:
        print(format_both(*(result["rows"] for result in results.values())))
    if request.logger.name == "wandb":
        _to_wandb(request, results, whole)


def _to_wandb(request: Request, results: dict[str, dict], settings: Measurement) -> None:
    *_, result = results.values()
    with wandb_reading(request, result, settings.protocol, settings) as run:
        for rows in zip(*(result["rows"] for result in results.values()), strict=True):
            point = {"context/length": rows[0]["context"]}
            for name, row in zip(results, rows, strict=True):
                suffix = "_decoded" * (name == "decoded")
                point[f"context/perplexity{suffix}"] = row["perplexity"]
                point[f"context/nll{suffix}"] = row["nll"] / row["tokens"]
                if "optimum" in row:
                    point[f"context/effective{suffix}"] = row["effective_context"]["value"]
            run.log(point)


if __name__ == "__main__":
    command_line("perplexity", run_command)
