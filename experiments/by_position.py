"""Loss by position: does a model use its context at all, and how far back?

    python -m experiments.by_position checkpoint=runs/default/rope-nano-s1

lab/measure/by_position.py says what is measured. Results go beside the run, in by_position/: numbers and a figure. The
same measurement is read back from there.
"""

from conf.compose import command_line
from conf.validation import validate
from experiments.lab.measure.by_position import ByPosition, draw_figure, format_table, measure_by_position
from experiments.lab.measure.readings import describe_origin
from experiments.lab.measure.request import progress_bar, read_request, wandb_reading


def run_command(values: dict, overrides: list[str]) -> None:
    """Measure a checkpoint, and print, draw and log its losses."""
    request = read_request(values, overrides)
    if values["context"] is None:
        values["context"] = request.trained.window
    settings = validate(ByPosition, values)
    with progress_bar(request.trained.name) as progress:
        result, path = measure_by_position(
            request.checkpoint, request.extend, settings, request.cache, progress, request.data
        )
    print(f"{result['run']} at step {result['step']}, read with extend={result['label']}, {settings.split}:")
    print(f"{format_table(result)}\n{describe_origin(result)}", flush=True)
    if path is not None:
        draw_figure(result, path.with_suffix(""))
        print(f"Numbers and figure: {path.with_suffix('')}.json, .png, .svg")
    if request.logger.name == "wandb":
        with wandb_reading(request, result, "by_position", settings) as run:
            for row in result["rows"]:
                run.log({"context/length": row["high"], "context/nll_by_position": row["nll"]})


if __name__ == "__main__":
    command_line("by_position", run_command)
