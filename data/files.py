"""Texts in local files, one document per .txt, or per row of a .jsonl, .json or .parquet, read a row at a time.

Only the column that holds the text is looked at, so it does not matter what others do from row to row. A byte-order
mark at the start of a file is no text, and line ends in a .txt are those of its system: all become a newline.
"""

import codecs
import glob
import json
import os
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from conf.base import BadInput, first_line
from data.long_text import LONG, LongText, decoded, decoded_bytes, long_row, parts, read_object, readable, text_file

ROWS_TOGETHER = 64  # of a .parquet whose strings are stored once each and numbered


def find(key: str, patterns: Sequence[str]) -> list[Path]:
    """The files that paths and patterns name, each once, in order; key: the setting they come from.

    A path that is there is meant as it is, also where it could be a pattern, such as [1].txt.

    Raises:
        BadInput: nothing matches, or something that does is not a file of a type that can be read.
    """
    files: dict[tuple[int, int], Path] = {}
    for pattern in patterns:
        spelled = os.path.expanduser(pattern)
        names = [spelled] if os.path.exists(spelled) else sorted(glob.glob(spelled, recursive=True))
        paths = [Path(name) for name in names]
        if not paths:
            raise BadInput(f"{key}: no file matches {pattern!r} (seen from {str(Path.cwd())!r}).")
        for path in paths:
            if path.is_dir():
                raise BadInput(
                    f"{key}: {str(path)!r} is a folder; name the files in it, such as {str(path / '*.txt')!r}."
                )
            if path.suffix not in READERS:
                raise BadInput(f"{key}: {str(path)!r} is none of the types that can be read ({', '.join(READERS)}).")
            if not path.is_file():
                raise BadInput(f"{key}: {str(path)!r} is not a file, or a link to nothing.")
            files.setdefault(file_id(path), path)
    return list(files.values())


def file_id(path: Path) -> tuple[int, int]:
    """The same for two paths that lead to one file, through links or however they are spelled."""
    status = path.stat()
    return status.st_dev, status.st_ino


def read(path: Path, column: str) -> Iterator[str | LongText]:
    """The text of every row of a file, empty where it has none.

    Raises:
        BadInput: the file cannot be read as what it is called, no row has the column, or one holds something else in
            it; the row is named.
    """
    with readable(path):
        yield from READERS[path.suffix](path, column)


def text_of(row: dict, column: str, place: str) -> str | LongText:
    """The text of one row, empty where there is none; BadInput where the column holds no text, or half a character."""
    text = row.get(column)
    if text is None:
        return ""
    if not isinstance(text, str | LongText):
        raise BadInput(f"{place} holds {type(text).__name__} in column {column!r}; a column of text is needed.")
    try:
        for part in parts(text):
            part.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{place} holds half of a surrogate pair in column {column!r}, which is no text.") from None
    return text


def without_column(path: str, column: str, columns: Sequence[str]) -> BadInput:
    """What to say of rows of which none has the column."""
    return BadInput(f"data.column: {path!r} has no column {column!r}; it has {', '.join(map(repr, columns))}.")


def _txt(path: Path, column: str) -> Iterator[str | LongText]:
    yield "".join(text_file(path)) if path.stat().st_size < LONG else LongText(path, lambda: text_file(path))


def _jsonl(path: Path, column: str) -> Iterator[str | LongText]:
    with open(path, "rb") as file:
        yield from _column(path, column, _lines(path, file))


def _lines(path: Path, file) -> Iterator[tuple[str, object]]:
    """(where it stands, value) of every line that is not blank."""
    for number in count(1):
        start, line = file.tell(), file.readline(LONG)
        if not line:
            return
        if number == 1 and line.startswith(codecs.BOM_UTF8):
            start = len(codecs.BOM_UTF8)
        place = f"{str(path)!r}, line {number:,},"
        if len(line) == LONG:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONG)
        elif line.isspace():
            continue
        try:
            if (stop := file.tell()) - start >= LONG:
                yield place, long_row(path, start, stop)
            else:
                yield place, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise BadInput(f"{place} cannot be read as .jsonl: it is not UTF-8 ({error.reason}).") from None
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{place} cannot be read as JSON ({error}).") from None


def _json(path: Path, column: str) -> Iterator[str | LongText]:
    values = enumerate(_objects(path), start=1)
    yield from _column(path, column, ((f"{str(path)!r}, row {number:,},", value) for number, value in values))


def _objects(path: Path) -> Iterator[dict]:
    """The objects of an array, or of several values one after another; only a piece of the file is in memory."""
    with open(path, "rb") as file:
        start = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    size = path.stat().st_size
    decoder, pieces, text, place = json.JSONDecoder(), decoded_bytes(path, start, size), "", 0
    # `start` is the byte at which `text` begins.

    def read_on() -> bool:
        """Drop what is before `place` and add a piece; whether there was one."""
        nonlocal text, place, start
        piece = next(pieces, "")
        start += len(text[:place].encode())
        text, place = text[place:] + piece, 0
        return bool(piece)

    def following() -> str:
        """The next character that is no space, where `place` then stands; empty at the end of the file."""
        nonlocal place
        while True:
            while place < len(text) and text[place] in " \t\r\n":
                place += 1
            if place < len(text) or not read_on():
                return text[place : place + 1]

    def broken(reason: str) -> BadInput:
        return BadInput(f"{str(path)!r} cannot be read as .json ({reason}).")

    array = following() == "["
    place += array
    first = True
    while (character := following()) and not (array and character == "]"):
        if array and not first:
            if character != ",":
                raise broken(f"{character!r} stands where a comma or the end of the array should")
            place += 1
            character = following()
        if character != "{":
            raise broken(f"{character!r} stands where an object should")
        first = False
        while True:
            is_long = len(text) - place >= LONG
            try:
                if is_long:
                    start += len(text[:place].encode())
                    text, place = "", 0
                    value, start = read_object(path, start, size)
                    pieces = decoded_bytes(path, start, size)
                else:
                    value, place = decoder.raw_decode(text, place)
                break
            except UnicodeDecodeError:
                raise
            except (ValueError, RecursionError) as error:
                if is_long or isinstance(error, RecursionError):
                    raise broken(str(error)) from None
                target = min(2 * (len(text) - place), LONG)  # an object may be longer than a piece
                if not read_on():
                    raise broken(str(error)) from None
                while len(text) < target and read_on():
                    pass
        yield value
    if array and character != "]":
        raise broken("the array does not end")
    place += array
    if rest := following():
        raise broken(f"{rest!r} stands after the end of the array")


def _column(path: Path, column: str, rows: Iterator[tuple[str, object]]) -> Iterator[str | LongText]:
    """The text of rows given as (where it stands, value)."""
    lacking: list[str] | None = None  # columns of the first row, until one has the column
    seen = False
    for place, row in rows:
        if not isinstance(row, dict):
            raise BadInput(f"{place} holds {type(row).__name__}; an object with column {column!r} is needed.")
        seen = seen or column in row
        lacking = lacking or list(row)
        yield text_of(row, column, place)
    if lacking is not None and not seen:
        raise without_column(str(path), column, lacking)


def _parquet(path: Path, column: str) -> Iterator[str | LongText]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, memory_map=True) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise without_column(str(path), column, names)
            # Rows are unpacked one at a time: any may be long, and a string that is stored once may be in many.
            numbered = pyarrow.types.is_dictionary(file.schema_arrow.field(column).type)
            batches = file.iter_batches(ROWS_TOGETHER if numbered else 1, columns=[column], use_threads=False)
            row = 0
            for batch in batches:
                for place in range(len(batch)):
                    row += 1
                    value = _value(path, batch.column(0), place)
                    yield text_of({column: value}, column, f"{str(path)!r}, row {row:,},")
                    if isinstance(value, LongText):
                        pyarrow.default_memory_pool().release_unused()
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the format's
            raise
        raise BadInput(f"{str(path)!r} cannot be read as .parquet ({first_line(error)}).") from None


def _value(path: Path, column, place: int) -> object:
    """A value of an array of Arrow as one of Python, a long string as a LongText of the array's own bytes."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type) and (number := column.indices[place].as_py()) is not None:
        return _value(path, column.dictionary, number)
    if (dtype := {"string": "<i4", "large_string": "<i8"}.get(str(column.type))) and column.null_count == 0:
        _, offsets, data = column.buffers()
        start, stop = np.frombuffer(offsets, dtype)[column.offset + place :][:2].tolist()
        if stop - start >= LONG:
            return LongText(path, lambda: decoded(memoryview(data)[start:stop]))
    return column[place].as_py()


READERS = {".txt": _txt, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
