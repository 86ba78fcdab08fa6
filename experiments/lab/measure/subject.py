"""The subject of a measurement: a checkpoint, the extension it is read with, and a text, all resolved."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput, Settings
from conf.environment import commit
from conf.validation import validate
from experiments.lab.measure.held_out import count_trained_on, other_corpus, trained_corpus
from experiments.lab.measure.request import AutoPrecision

if TYPE_CHECKING:
    from conf.schema import Config
    from data.corpus import Corpus
    from models.gpt import GPT

# Versions of the measurements; raise a number whenever the same settings would give another result.
VERSIONS = {"perplexity": 3, "by_position": 5, "passkey": 2, "longppl": 3, "longrope": 3, "progressive": 2, "tasks": 1}


@dataclass(frozen=True)
class Subject:
    """The subject of a measurement: a checkpoint, the config it is read with, and the text, all resolved."""

    checkpoint: Path
    config: "Config"
    record: dict
    content: str  # sha256 of the checkpoint
    data: dict | None  # plain settings of the text, as in conf/data; None: the one it was trained on
    cache: str
    precision: AutoPrecision = "auto"

    @property
    def computed(self) -> dict:
        """The device it is read on and the precision of its blocks."""
        return device_and_precision(self.precision)

    @cached_property
    def corpus(self) -> "Corpus":
        """The text.

        Raises:
            BadInput: it cannot be had, or is no longer what was trained on.
        """
        if self.data is None:
            return trained_corpus(self.checkpoint, self.config, self.record, self.cache)
        return other_corpus(self.checkpoint, self.config, self.record, self.data, self.cache)

    @property
    def text(self) -> str:
        """The fingerprint of the text."""
        return self.record["corpus"] if self.data is None else self.corpus.fingerprint

    def key(self, kind: str, settings: Settings, **more) -> str:
        """A digest of everything a reading of this kind depends on; more: values beyond these settings."""
        depends_on = {
            "version": VERSIONS[kind],
            "checkpoint": self.content,
            "extend": _without_paths(self.config.extend.model_dump(mode="json")),
            "corpus": self.text,
            "settings": settings.model_dump(mode="json"),
            **self.computed,
            **more,
        }
        return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:10]

    def folder(self, kind: str) -> Path:
        """The folder for readings of this kind: in the run, or beside a checkpoint outside of runs."""
        from models.checkpoint_files import home

        return home(self.checkpoint) / kind

    def model(self) -> "GPT":
        """The model, read with the extension.

        Raises:
            BadInput: its weights are not finite, or not those of such a model.
        """
        from conf.load import load_model

        return load_model(self.checkpoint, {"rows": None, **self.config.extend.model_dump(mode="json")})[0]

    @property
    def identity(self) -> dict:
        """The run, step and scheme of the checkpoint."""
        return {"run": self.config.name, "step": self.record["step"], "position": self.config.position.name}

    def require(self, *splits: str) -> None:
        """Refuse a text without any documents in one of these splits.

        Raises:
            BadInput: it names the split.
        """
        for split in splits:
            if not len(self.corpus.split(split)):
                raise BadInput(f"data={self.corpus.name} has no text for split={split}: name some as data.{split}=")

    def describe(self, kind: str, *splits: str) -> dict:
        """The common part of every result: the run, extension, text, and time and code of the measurement."""
        return {
            "checkpoint": str(self.checkpoint),
            **self.identity,
            "extend": self.config.extend.model_dump(mode="json"),
            "label": self.config.extend.label,
            "original_window": self.config.original_window,
            "corpus": self._describe_text(splits),
            "measured": origin(kind, self.precision),
        }

    def _describe_text(self, splits: tuple[str, ...]) -> dict:
        """The corpus by name and content, and how many documents of each split were trained on (None: unknown)."""
        text = {"name": self.corpus.name, "fingerprint": self.corpus.fingerprint}
        if "origin" in self.record:
            return text | {"trained_on": None, "why": f"it was trained elsewhere ({self.record['origin']})."}
        try:
            trained = self.corpus
            if self.data is not None:
                trained = trained_corpus(self.checkpoint, self.config, self.record, self.cache)
            counts = {split: count_trained_on(self.corpus, split, trained) for split in splits}
        except BadInput as error:
            return text | {"trained_on": None, "why": str(error)}
        documents = {split: len(self.corpus.split(split)) for split in splits}
        return text | {"trained_on": counts, "documents": documents}


def open_subject(
    checkpoint: Path, extend: dict | None, cache: str, data: dict | None = None, precision: AutoPrecision = "auto"
) -> Subject:
    """Open a checkpoint to measure, with plain settings of an extension (None: as trained) and a text (None: its own).

    Raises:
        BadInput: the checkpoint cannot be read, or not with that extension.
    """
    from conf.load import read_with
    from conf.schema import Config
    from models.restore import make_position

    content, record = _read(checkpoint, _state(checkpoint))
    config = validate(Config, read_with(record["config"], extend))
    make_position(config)  # refuses an extension that does not fit the scheme
    return Subject(checkpoint, config, record, content, data, cache, precision)


def _state(checkpoint: Path) -> tuple:
    """The names, sizes and times of a checkpoint's files, which change when it does."""
    files = sorted(filter(Path.is_file, checkpoint.iterdir())) if checkpoint.is_dir() else [checkpoint]
    return tuple(
        (file.name, *(getattr(file.stat(), f"st_{key}") for key in ("ino", "size", "mtime_ns"))) for file in files
    )


@lru_cache(maxsize=64)
def _read(checkpoint: Path, state: tuple) -> tuple[str, dict]:
    """The sha256 of a checkpoint, a file or a folder of parts, and its record; cached by state."""
    from models.restore import read_record

    record, digest = read_record(checkpoint), hashlib.sha256()
    for name, *_ in state:
        with open(checkpoint / name if checkpoint.is_dir() else checkpoint, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest(), record


def _without_paths(settings: dict) -> dict:
    """Settings of an extension without the names of files, whose contents they hold."""
    inner = {key: _without_paths(value) if isinstance(value, dict) else value for key, value in settings.items()}
    return {key: value for key, value in inner.items() if key != "path"}


def device_and_precision(precision: AutoPrecision = "auto") -> dict:
    """The device a model is read on, and the precision of its blocks with auto resolved."""
    import torch

    device, usual = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    return {"device": device, "precision": usual if precision == "auto" else precision}


def origin(kind: str, precision: AutoPrecision = "auto") -> dict:
    """The time, code, device and versions of a measurement."""
    import torch

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "time": now,
        **commit(),
        **device_and_precision(precision),
        "torch": torch.__version__,
        "version": VERSIONS[kind],
    }
