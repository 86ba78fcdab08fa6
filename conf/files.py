"""Files and folders that appear whole or not at all; a JSON file that is torn nevertheless is named."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conf.base import BadInput, sync


def with_ending(stem: Path, ending: str) -> Path:
    """The file of a stem: x1.5 and .png are x1.5.png, where Path.with_suffix would take .5 for a suffix."""
    return stem.with_name(stem.name + ending)


class Torn(BadInput):
    """A file that holds something other than the JSON that was written."""


def write_text(path: Path, text: str) -> None:
    """Write a text by write_bytes."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that the path holds the old content or the new, and the disk has it when this returns."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # another process may write the same reading
    try:
        with open(partial, "wb") as file:
            file.write(content)
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


@contextmanager
def folder_that_appears(target: Path) -> Iterator[Path]:
    """A folder beside the target to fill, which becomes the target when the block ends well, and else is gone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        os.rename(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
