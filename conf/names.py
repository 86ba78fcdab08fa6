"""What runs are called: the scheme, the extension, the model, whatever else was overridden, and the seed."""

import hashlib
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from conf.overrides import key_of

if TYPE_CHECKING:
    from conf.schema import Config

# Overrides that stand elsewhere in the name, or in the folder above it.
ELSEWHERE = {"position", "model", "extend", "extend.factor", "seed", "group", "name", "runs"}
# Overrides that do not name a run, unless a sweep is over them: most are not what the run is.
UNNAMED = ELSEWHERE | {"experiment", "cache", "checkpoint"}
UNNAMED |= {"log_every", "validate_every", "validation_windows", "checkpoint_every"}
# Of a trainer, what changes the weights by more than rounding, or the step that is saved.
TRAINER = {"trainer.precision", "trainer.accumulate"}
# Settings that are paths: a run is called by the files, wherever they lie.
PATHS = {"checkpoint", "data.train", "data.validation", "data.test", "data.folder", "data.tokenizer.path"}
PATHS |= {"frequencies.path", "extend.path"}


def run_name(config: "Config", overrides: Sequence[str], swept: Collection[str] = ()) -> str:
    """What a run is, in a folder name: scheme, extension, model, whatever else was overridden, seed.

    Args:
        swept: keys that a sweep is over; they are always in the name, so that no two jobs share one.
    """
    extend = config.extend.label if config.extend.name != "none" else ""
    return joined([config.position.name, extend, config.model.name, *labels(overrides, UNNAMED, swept)], config.seed)


def labels(overrides: Sequence[str], unnamed: Collection[str], swept: Collection[str] = ()) -> list[str]:
    """What overrides come to in a name, save those of unnamed keys, of loggers and of trainers."""
    parts = []
    for override in overrides:
        key, value = key_of(override), override.partition("=")[2]
        circumstance = key.startswith(("logger", "trainer", "hydra")) and key not in TRAINER
        if key in ELSEWHERE or (key not in swept and (key in unnamed or circumstance)):
            continue
        word = "" if key in ("data", "optimizer", "frequencies", "layers", "seen") else key.split(".")[-1]
        parts.append(word + _label(key, value, key in swept))
    return parts


def _label(key: str, value: str, swept: bool) -> str:
    """A value in letters that a folder's name may have; one that a sweep is over differs wherever the value does."""
    text = re.sub(r"[^,\[\]]*/", "", value) if key in PATHS else value
    text = re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")
    if swept and (value.startswith("-") or re.search(r"[^A-Za-z0-9._+-]", value)):
        text += "_" + hashlib.sha256(value.encode()).hexdigest()[:4]
    return text


def joined(parts: Sequence[str], seed: int) -> str:
    """The parts of a name, and the seed; a long one is cut, and a digest tells it from others."""
    name = "-".join(part for part in (*parts, f"s{seed}") if part)
    short = shortened(name, 80, 60)
    return name if short == name else f"{short}-s{seed}"


def shortened(name: str, longest: int, kept: int) -> str:
    """A name of at most `longest` letters; of a longer one `kept`, and a digest, as its end may tell it from others."""
    return name if len(name) <= longest else f"{name[:kept]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
