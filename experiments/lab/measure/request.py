"""The common request of commands that measure one checkpoint: the checkpoint, extension, text and way of reading."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

from conf.base import BadInput, Settings
from conf.overrides import key_of
from conf.validation import validate

if TYPE_CHECKING:
    from conf.schema import Config, Logger

Progress = Callable[[int, int], None]  # tokens read, tokens to read
# How targets are read: a whole window in one pass, or each as decoding would, from a pass that ends just before it.
# Settings leave the first out where they are written down.
Pass = Annotated[Literal["whole", "decoded"], Field(exclude_if="whole".__eq__)]
Split = Literal["train", "validation", "test"]
# The precision of a model's blocks; auto: bfloat16 on a GPU, float32 on a CPU. A reading records what it comes to.
AutoPrecision = Literal["auto", "float32", "bfloat16"]
OF_THE_CHECKPOINT = ("tokenizer", "isolate_documents", "retrieval")  # settings of data that a model was trained with


@dataclass(frozen=True)
class Request:
    """The checkpoint to read, its extension, the text, and folders."""

    checkpoint: Path
    extend: dict | None  # None: as trained
    data: dict | None  # plain settings as in conf/data; None: the text it was trained on
    cache: str
    runs: str
    logger: "Logger"
    trained: "Config"  # what the checkpoint was trained with


def read_request(values: dict, overrides: Sequence[str] = ()) -> Request:
    """Take the common settings of readings out of composed values; the remaining values say how to measure.

    Raises:
        BadInput: an invalid path, a missing checkpoint, or a setting of data that belongs to the checkpoint.
    """
    from conf.schema import Config, Logger
    from models.checkpoint_files import find_checkpoint
    from models.restore import read_record

    for key in ("checkpoint", "cache", "runs"):
        if not isinstance(values[key], str) or not values[key]:
            raise BadInput(f"{key}={values[key]} must be a path")
    check_text(overrides, "data")
    checkpoint = find_checkpoint(Path(values.pop("checkpoint")))
    extend, data = values.pop("extend", None), values.pop("data", None)
    cache, runs = (str(Path(values.pop(key)).expanduser()) for key in ("cache", "runs"))
    logger = validate(Logger, values.pop("logger"))
    trained = validate(Config, read_record(checkpoint)["config"])
    return Request(checkpoint, extend, data, cache, runs, logger, trained)


def check_text(overrides: Sequence[str], group: str) -> None:
    """Refuse settings of a text that belong to the checkpoint; group: the group of the text, such as data.

    Raises:
        BadInput: it names the setting.
    """
    for override in overrides:
        key = key_of(override)
        name = key.removeprefix(f"{group}.").split(".")[0]
        if key.startswith(f"{group}.") and name in OF_THE_CHECKPOINT:
            raise BadInput(f"{key} cannot be set: a text is read with the checkpoint's own {name}")


def choose_passes(request: Request, reading: str) -> tuple[list[str], str]:
    """The passes to measure, whole or decoded or both, and a sentence on why.

    Args:
        reading: whole, decoded, or both; the latter means whole alone unless the method depends on the length of the
            text.

    Raises:
        BadInput: it is none of these.
    """
    both = get_args(get_args(Pass)[0])
    if reading not in (*both, "both"):
        raise BadInput(f"reading={reading} is not known: one of {', '.join(both)}, both")
    from conf.load import read_with
    from conf.schema import Config
    from models.restore import make_position

    config = validate(Config, read_with(request.trained.model_dump(mode="json"), request.extend))
    extend = config.extend
    if not make_position(config).extension.depends_on_length:  # by the layers, whose extensions may be their own
        why = f"extend={extend.label} does not depend on the length of the text: as decoded, losses are the same."
        return [reading if reading != "both" else "whole"], why
    why = f"extend={extend.label} depends on the length of the text: in a window read whole, early tokens are turned "
    why += "as the last one needs, which no decoding does"
    if reading == "whole":
        return [reading], f"{why}; reading=both adds what decoding sees, at a forward pass for every target."
    return (list(both) if reading == "both" else [reading]), f"{why}. As decoded, every target has a pass of its own."


@contextmanager
def progress_bar(name: str) -> Iterator[Progress]:
    """A progress bar over tokens."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="tok", unit_scale=True) as bar:

        def progress(read: int, total: int) -> None:
            bar.total = total
            bar.update(read - bar.n)

        yield progress


def wandb_reading(request: Request, result: dict, kind: str, settings: Settings):
    """The W&B run of a reading, whose curves have context/length as their x axis."""
    from conf.tracking import tracked

    return tracked(
        request.logger,
        Path(request.runs),
        name=f"{result['run']}-read-{result['label']}-{kind}",
        group=request.trained.group,
        job_type="eval",
        tags=[result["position"], result["label"], kind],
        config={
            "trained": request.trained.model_dump(mode="json"),
            "extend": result["extend"],
            "data": result["corpus"],
            "measurement": settings.model_dump(mode="json"),
        },
    )
