"""A reading: something measured of a checkpoint, as trained or with an extension, kept beside its run and read back.

What every program shares that measures one checkpoint: how it is asked for, where its result is kept, how far it is,
and its W&B run.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from conf.base import BadInput, Settings
from conf.run_folder import write_json

if TYPE_CHECKING:
    from conf.schema import Config, Logger
    from data.corpus import Corpus

Progress = Callable[[int, int], None]  # tokens read, tokens to read
# How targets are read: a whole window in one pass, or each as decoding would, from a pass that ends just before it.
# The first goes without saying, also in what tells questions apart: results from before the second keep their names.
Pass = Annotated[Literal["whole", "decoded"], Field(exclude_if="whole".__eq__)]


@dataclass(frozen=True)
class Request:
    """Which checkpoint is to be read, with which extension (None as trained), and where things are."""

    checkpoint: Path
    extend: dict | None
    cache: str
    runs: str
    logger: "Logger"
    trained: "Config"  # what the checkpoint was trained with


def read_request(values: dict) -> Request:
    """Take from composed values what every reading is told; what is left says how to measure.

    Raises:
        BadInput: a path that is none, or no checkpoint there.
    """
    from conf.schema import Config, Logger, validate
    from models.restore import read_record

    for key in ("checkpoint", "cache", "runs"):
        if not isinstance(values[key], str):
            raise BadInput(f"{key}={values[key]} must be a path")
    checkpoint = find_checkpoint(Path(values.pop("checkpoint")))
    extend, cache, runs = values.pop("extend", None), values.pop("cache"), values.pop("runs")
    logger = validate(Logger, values.pop("logger"))
    return Request(checkpoint, extend, cache, runs, logger, validate(Config, read_record(checkpoint)["config"]))


def choose_passes(asked: Request, reading: str) -> tuple[list[str], str]:
    """Which of whole and decoded to measure, and what to say of it: a sentence, or nothing.

    Args:
        reading: whole, decoded, or both, which is both where they differ: the method depends on the length of the text.

    Raises:
        BadInput: it is none of these.
    """
    both = get_args(get_args(Pass)[0])
    if reading not in (*both, "both"):
        raise BadInput(f"reading={reading} is not known: one of {', '.join(both)}, both")
    from conf.schema import Config, validate

    extend = asked.trained.extend
    if asked.extend is not None:
        extend = validate(Config, {**asked.trained.model_dump(mode="json"), "extend": asked.extend}).extend
    if not depends_on_length(extend, asked.trained.original_window):
        said = f"extend={extend.label} does not depend on the length of the text: as decoded, losses are the same."
        return [reading if reading != "both" else "whole"], said
    said = f"extend={extend.label} depends on the length of the text: in a window read whole, early tokens are turned "
    said += "as the last one needs, which no decoding does"
    if reading == "whole":
        return [reading], f"{said}; reading=both adds what decoding sees, at a forward pass for every target."
    return (list(both) if reading == "both" else [reading]), f"{said}. As decoded, every target has a pass of its own."


def depends_on_length(extend: Any, window: int) -> bool:
    """Whether, read with these settings, the logits of a text change when more text follows it."""
    from models.positions import EXTENSIONS

    return EXTENSIONS[extend.name](extend, window).depends_on_length


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file, or the last one of a run folder."""
    from models.checkpoint_files import numbered

    if path.is_dir():
        found = numbered(path / "checkpoints")
        if not found:
            raise BadInput(f"checkpoint={path} is a folder without checkpoints/step-*.ckpt")
        return found[-1]
    if not path.is_file():
        raise BadInput(f"checkpoint={path}: there is no such file or run folder")
    return path


def cached_reading(
    kind: str, checkpoint: Path, extend: dict | None, how: Settings, label: str, cache: str, measure: Callable
) -> tuple[dict, Path]:
    """A reading and its file, <run>/<kind>/<checkpoint>-<extension>-<label>-<digest>.json; measured only once.

    Args:
        extend: plain settings of an extension, or None for the one it was trained with.
        how: everything the measurement depends on beside checkpoint and extension; label: it in a word.
        measure: (model, config it is read with, corpus, {device, precision}) → plain values.

    Returns:
        {"checkpoint", "run", "step", "position", "extend", "label", "original_window", **measured}.

    Raises:
        BadInput: the corpus is not the one the checkpoint was trained on.
    """
    from train import load_model

    model, config, record = load_model(checkpoint, extend)
    name = f"{checkpoint.stem}-{config.extend.label}-{label}-{digest(checkpoint, extend, how)}.json"
    place = checkpoint.parent.parent / kind / name
    if place.exists():
        return json.loads(place.read_text()), place

    corpus = trained_corpus(checkpoint, config, record, cache)
    result = {
        "checkpoint": str(checkpoint),
        "run": config.name,
        "step": record["step"],
        "position": config.position.name,
        "extend": config.extend.model_dump(mode="json"),
        "label": config.extend.label,
        "original_window": config.original_window,
        **measure(model, config, corpus, device_and_precision()),
    }
    place.parent.mkdir(exist_ok=True)
    write_json(place, result)
    return result, place


def digest(checkpoint: Path, extend: dict | None, how: Settings) -> str:
    """What tells a question apart from every other: the checkpoint's content, the extension and the settings."""
    content = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    question = json.dumps([content, extend, how.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(question.encode()).hexdigest()[:10]


def trained_corpus(checkpoint: Path, config: "Config", record: dict, cache: str) -> "Corpus":
    """The corpus a checkpoint was trained on.

    Raises:
        BadInput: it has changed since.
    """
    from data.corpus import prepare

    corpus = prepare(config.data, Path(cache), progress=False)
    if corpus.fingerprint != record["corpus"]:
        raise BadInput(f"data={config.data.name} has changed since checkpoint={checkpoint} was trained on it")
    return corpus


def device_and_precision() -> dict:
    """Where a model is read, and in which precision its blocks."""
    import torch

    device, precision = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    return {"device": device, "precision": precision}


@contextmanager
def progress_bar(name: str) -> Iterator[Progress]:
    """A progress bar over tokens."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="tok", unit_scale=True) as shown:

        def progress(read: int, total: int) -> None:
            shown.total = total
            shown.update(read - shown.n)

        yield progress


def wandb_reading(asked: Request, result: dict, kind: str, how: Settings):
    """The W&B run of a reading, whose curves have context/length as their x axis."""
    from conf.tracking import tracked

    return tracked(
        asked.logger,
        Path(asked.runs),
        name=f"{result['run']}-read-{result['label']}-{kind}",
        group=asked.trained.group,
        job_type="eval",
        tags=[result["position"], result["label"], kind],
        config={
            "trained": asked.trained.model_dump(mode="json"),
            "extend": result["extend"],
            "measurement": how.model_dump(mode="json"),
        },
    )
