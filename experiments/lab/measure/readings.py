"""Readings: measurements of a checkpoint on a text, saved beside its run and read back when repeated.

The key of a reading is everything it depends on, resolved: the content of the checkpoint, the extension with the
contents of its files, the text, the settings, device and precision, and the version of the protocol. A saved reading
records when it was measured and by which code.
"""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from conf.base import BadInput, Settings
from conf.files import read_json, write_json
from experiments.lab.measure.losses import LossFile
from experiments.lab.measure.subject import Subject


def describe_origin(result: dict) -> str:
    """A sentence on when and by what a result was measured, whether it was read back, and which text was trained on."""
    measured, corpus = result["measured"], result["corpus"]
    code = (measured["commit"] or "unknown")[:10] + ", changed since" * bool(measured["changed"])
    setup = f"in {measured['precision']} on {measured['device']}, commit {code}"
    back = "Read back: measured" if result["read_back"] else "Measured"
    text = f"{back} {measured['time'].replace('T', ' ').replace('+00:00', ' UTC')} {setup}; text: {corpus['name']}"
    if corpus["trained_on"] is None:
        return f"{text}. Whether the model was trained on it is not known: {corpus['why']}"
    trained = [
        f"{count} of {corpus['documents'][split]} documents of {split} were trained on"
        for split, count in corpus["trained_on"].items()
        if count
    ]
    return f"{text}{'; ' * bool(trained)}{', '.join(trained)}."


def read_back_note(results: Sequence[dict]) -> str:
    """A note on which of several results were read back, since when and by what; empty if none was."""
    back = [result["measured"] for result in results if result["read_back"]]
    if not back:
        return ""
    oldest = min(measured["time"] for measured in back)[:16].replace("T", " ")
    commits = sorted({(measured["commit"] or "unknown")[:10] for measured in back})
    share = "" if len(back) == len(results) else f"{len(back)} of {len(results)} "
    return f" ({share}read back, measured {oldest} UTC or later, commit {', '.join(commits)})"


def reading_path(subject: Subject, kind: str, settings: Settings, label: str, **more) -> Path:
    """The file of a reading; label: a short name of its settings; more: what else it depends on."""
    name = f"{subject.checkpoint.stem}-{subject.config.extend.label}-{label}-{subject.key(kind, settings, **more)}.json"
    return subject.folder(kind) / name


def cached_reading(
    kind: str,
    subject: Subject,
    settings: Settings,
    label: str,
    splits: tuple[str, ...],
    measure: Callable,
    losses: LossFile | None = None,
    **more,
) -> tuple[dict, Path | None]:
    """Return a reading and its file (None if it cannot be saved); measured only if there is no saved one.

    Args:
        settings: everything the measurement depends on beside its subject; label: a short name of them.
        measure: (model, config it is read with, corpus, {device, precision}) → plain values.
        losses: the file of losses that the reading must have beside it; None: it need not.
        more: values beyond these settings that the measurement depends on.

    Returns:
        {"checkpoint", "run", "step", "position", "extend", "label", "original_window", "corpus", "measured",
        "read_back", **measured}.

    Raises:
        BadInput: the text cannot be had, or what was measured is not finite.
    """
    path = reading_path(subject, kind, settings, label, **more)
    result = read_result(path)
    if result is not None and (losses is None or losses.whole):
        return result | {"read_back": True}, path
    if result is not None:
        print(f"{path} has no losses of all targets beside it: measured again", flush=True)
    subject.require(*splits)
    keepable = can_be_written(path.parent)
    model, corpus = subject.model(), subject.corpus
    result = subject.describe(kind, *splits)
    result |= measure(model, subject.config, corpus, subject.computed)
    refuse_non_finite(result, subject.checkpoint)
    if keepable:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, result)
            Parts(path).path.unlink(missing_ok=True)
        except OSError as error:
            keepable = False
            print(f"{path} could not be written ({error.strerror}): the reading is not kept", flush=True)
    return result | {"read_back": False}, path if keepable else None


class Parts:
    """The parts of a reading that are measured so far, plain values by name, in a file beside it until it is whole.

    A reading that was stopped goes on after the last of them. Where nothing can be written, nothing is kept.
    """

    def __init__(self, reading: Path):
        self.path = reading.with_suffix(".parts")
        self.values: dict = {}
        with suppress(BadInput):  # torn, or it cannot be read
            self.values = read_json(self.path) or {}

    def add(self, name: str, value) -> None:
        """Keep a part."""
        self.values[name] = value
        with suppress(OSError, BadInput):  # that it is not finite is for the whole to say
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self.values)


def read_result(path: Path) -> dict | None:
    """Read a saved result; None if there is none or it is damaged, in which case a line is printed."""
    try:
        result = json.loads(path.read_text())
        if isinstance(result, dict) and "measured" in result:
            return result
        fault = "it holds no reading"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", None) or "it is no JSON"
    print(f"{path} cannot be read ({fault}): measured again", flush=True)
    return None


def can_be_written(folder: Path) -> bool:
    """Whether a folder, existing or not, can be written; if not, a line is printed."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError as error:
        print(f"{folder} cannot be written ({error.strerror}): what is measured is printed, and not kept", flush=True)
        return False


def refuse_non_finite(result: dict, checkpoint: Path) -> None:
    """Refuse a result with a number that is not finite.

    Raises:
        BadInput: it names the number.
    """
    if name := _non_finite(result):
        raise BadInput(f"checkpoint={checkpoint} gives a {name} that is not finite: nothing is kept of this reading")


def _non_finite(value, name: str = "value") -> str | None:
    """The name of the first number in plain values that is not finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else name
    parts = (
        value.items()
        if isinstance(value, dict)
        else [(name, part) for part in value]
        if isinstance(value, list | tuple)
        else []
    )
    return next((bad for key, part in parts if (bad := _non_finite(part, str(key)))), None)
