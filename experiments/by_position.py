"""Loss by position: does a model use its context at all, and how far back?

    python -m experiments.by_position checkpoint=runs/default/rope-nano-s1
    python -m experiments.by_position checkpoint=runs/base/rope-nano-s1 snapshots=true

lab/measure/by_position.py says what is measured. Results go beside the run, in by_position/: numbers and a figure. The
same measurement is read back from there. With snapshots=true every snapshot of the run is measured too, and a figure
shows after how many tokens of training which distance begins to pay.
"""

from pathlib import Path

from conf.base import BadInput
from conf.compose import command_line
from conf.validation import validate
from experiments.lab.measure.by_position import (
    ByPosition,
    draw_figure,
    draw_training,
    format_table,
    measure_by_position,
)
from experiments.lab.measure.readings import describe_origin
from experiments.lab.measure.request import Request, progress_bar, read_request, wandb_reading


def run_command(values: dict, overrides: list[str]) -> None:
    """Measure a checkpoint, and print, draw and log its losses."""
    request = read_request(values, overrides)
    if values["context"] is None:
        values["context"] = request.trained.window
    snapshots = values.pop("snapshots")
    if not isinstance(snapshots, bool):
        raise BadInput(f"snapshots={snapshots} must be true or false")
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
        if settings.losses:
            print(f"Losses of all targets: {path.with_suffix('.npz')}")
    if request.logger.name == "wandb":
        with wandb_reading(request, result, "by_position", settings) as run:
            for row in result["rows"]:
                point = {"context/length": row["high"], "context/nll_by_position": row["nll"]}
                if "optimum" in row:
                    point["context/effective_by_position"] = row["effective_context"]["value"]
                run.log(point)
    if snapshots:
        measure_snapshots(request, settings, result, path)


def measure_snapshots(request: Request, settings: ByPosition, last: dict, file: Path | None) -> None:
    """Measure the snapshots of a run, and draw them with its last checkpoint against tokens trained.

    Args:
        last, file: the reading of the last checkpoint and where it is kept, which the figure is named after.

    Raises:
        BadInput: the run kept no snapshots before it, or nothing can be written to its folder.
    """
    from models.checkpoint_files import home

    folder = home(request.checkpoint)
    if file is None:
        raise BadInput(f"snapshots=true draws a figure in {folder}, where nothing can be written")
    paths = sorted((folder / "checkpoints").glob("snapshot-*.ckpt"))
    read = {last["step"]: last}
    for path in paths:
        step = int(path.stem.rpartition("-")[2])
        if step < last["step"]:
            with progress_bar(f"{request.trained.name}, step {step}") as progress:
                read[step] = measure_by_position(path, request.extend, settings, request.cache, progress, request.data)[
                    0
                ]
    if len(read) == 1:
        raise BadInput(f"snapshots=true: {folder} has none, as a run with snapshots=[…] keeps them")
    trained, steps = request.trained, sorted(read)
    place = file.with_name(f"training-{file.stem}")
    draw_training([read[step] for step in steps], [step * trained.batch * trained.window for step in steps], place)
    for step in steps:
        gains = ", ".join(f"{row['from']} → {row['to']} {row['value']:.3f}" for row in read[step]["doublings"])
        print(f"step {step:>6}: gains of {gains}")
    print(f"Figure: {place}.png, .svg")


if __name__ == "__main__":
    command_line("by_position", run_command)
