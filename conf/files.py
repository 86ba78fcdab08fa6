"""Small JSON files that a power cut cannot tear, and that are named where something else has torn them."""

import json
import os
from contextlib import suppress
from pathlib import Path

from conf.base import BadInput, sync


def with_ending(stem: Path, ending: str) -> Path:
    """The file of a stem: x1.5 and .png are x1.5.png, where Path.with_suffix would take .5 for a suffix."""
    return stem.with_name(stem.name + ending)


class Torn(BadInput):
    """A file that holds something other than the JSON that was written."""


def write_text(path: Path, text: str) -> None:
    """Write a text so that the path holds the old one or the new, and the disk has it when this returns."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # another process may write the same reading
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None
    sync(path.parent)


def write_json(path: Path, value) -> None:
    """Write JSON by write_text.

    Raises:
        BadInput: a number in it is not finite, which JSON does not know.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise BadInput(f"{path} is not written: it would hold a number that is not finite ({error})") from None
    write_text(path, text)


def read_json(path: Path, *keys: str) -> dict | None:
    """The object in a JSON file, or None where there is no such file; keys: that it must have.

    Raises:
        Torn: it holds something else.
        BadInput: it cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Torn(f"{path} is torn: it holds no JSON object")
    if lacking := [key for key in keys if key not in value]:
        raise Torn(f"{path} is torn: it lacks {', '.join(lacking)}")
    return value
