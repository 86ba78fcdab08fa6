"""What runs are called: the scheme, the extension, the model, whatever else was overridden, and the seed."""

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conf.schema import Config

# Overrides that do not name a run: they stand elsewhere in the name, or are not what the run is.
UNNAMED = {"position", "model", "extend", "extend.factor", "experiment", "seed", "group", "name", "runs", "cache"}
UNNAMED |= {"checkpoint", "log_every", "validate_every", "validation_windows", "checkpoint_every", "snapshots"}


def run_name(config: "Config", overrides: Sequence[str]) -> str:
    """What a run is, in a folder name: scheme, extension, model, whatever else was overridden, seed."""
    extend = config.extend.label if config.extend.name != "none" else ""
    return joined([config.position.name, extend, config.model.name, *labels(overrides, UNNAMED)], config.seed)


def labels(overrides: Sequence[str], unnamed: set[str]) -> list[str]:
    """What overrides come to in a name, save those of unnamed keys, of loggers and of trainers."""
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in unnamed or key.startswith(("logger", "trainer", "hydra")):
            continue
        label = "" if key in ("data", "optimizer", "frequencies", "seen") else key.split(".")[-1]
        parts.append(label + re.sub(r"[^A-Za-z0-9.]+", "_", value).strip("_"))
    return parts


def joined(parts: Sequence[str], seed: int) -> str:
    """The parts of a name, and the seed; a long one is cut, and a digest tells it from others."""
    name = "-".join(part for part in (*parts, f"s{seed}") if part)
    return name if len(name) <= 80 else f"{name[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}-s{seed}"
