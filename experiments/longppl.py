"""LongPPL: how well does a checkpoint predict the tokens that far context makes much likelier?

    python -m experiments.longppl checkpoint=experiments/bases/rope-nano extend=yarn extend.factor=4 \\
      extend@evaluator_extend=yarn evaluator_extend.factor=4

lab/measure/longppl.py says what is measured. Which tokens these are is for an evaluator to say: the model itself, or
another checkpoint with its tokenizer (evaluator=). Results go beside the run, in longppl/; the same measurement is read
back from there, and so are the losses of an evaluator.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from conf.base import Settings
from conf.compose import command_line
from conf.validation import validate
from experiments.lab.measure.longppl import LongPPL, format_table, measure_longppl
from experiments.lab.measure.readings import describe_origin
from experiments.lab.measure.request import Request, progress_bar, read_request, wandb_reading


def _settings(values: dict, window: int) -> LongPPL:
    """The settings of the measurement, with defaults that depend on the original window."""
    values = dict(values)
    for key, default in (("length", 4 * window), ("short", max(1, window // 4))):
        values[key] = default if values[key] is None else values[key]
    if values["stride"] is None:
        values["stride"] = max(1, values["short"] // 4) if isinstance(values["short"], int) else 1
    return validate(LongPPL, values)


def _evaluator(values: dict) -> tuple[Path | None, dict | None]:
    """The checkpoint that chooses the key tokens, and plain settings of the extension it is read with."""
    from conf.schema import ExtendSettings
    from models.checkpoint_files import find_checkpoint

    class Evaluator(Settings):
        evaluator: Annotated[str, Field(min_length=1)] | None
        evaluator_extend: ExtendSettings | None

    given = validate(Evaluator, {key: values.pop(key, None) for key in Evaluator.model_fields})
    checkpoint = None if given.evaluator is None else find_checkpoint(Path(given.evaluator))
    return checkpoint, given.evaluator_extend and given.evaluator_extend.model_dump(mode="json")


def run_command(values: dict, overrides: list[str]) -> None:
    """Measure a checkpoint, and print and log its perplexity of key tokens."""
    request = read_request(values, overrides)
    evaluator = _evaluator(values)
    settings = _settings(values, request.trained.original_window)
    with progress_bar(request.trained.name) as progress:
        result, path = measure_longppl(
            request.checkpoint, request.extend, settings, request.cache, progress, request.data, *evaluator
        )
    print(f"{result['run']} at step {result['step']}, read with extend={result['label']}, {settings.split}:")
    print(f"{format_table(result)}\n{describe_origin(result)}", flush=True)
    if path is not None:
        print(f"Numbers: {path}")
    if request.logger.name == "wandb":
        _to_wandb(request, result, settings)


def _to_wandb(request: Request, result: dict, settings: LongPPL) -> None:
    point = {"context/length": result["length"], "context/perplexity": result["all"]["perplexity"]}
    if result["key"] is not None:
        point["context/longppl"] = result["key"]["perplexity"]
    with wandb_reading(request, result, "longppl", settings) as run:
        run.log(point)


if __name__ == "__main__":
    command_line("longppl", run_command)
