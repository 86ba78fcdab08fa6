"""Texts too long to be a str, which takes up to four bytes for a character: they are decoded part by part.

What reads texts takes either kind: `parts` goes through a str and through a LongText alike.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from conf.base import BadInput

LONG = 16 * 2**20  # bytes from which a text is not held as a str
PART = 2**20  # bytes, or characters, of a part


class LongText:
    """A text that is read from where it lies whenever it is gone through."""

    def __init__(self, path: Path, read: Callable[[], Iterator[str]]):
        """path: of the file it is in; read: its parts, anew each time."""
        self._path, self._read = path, read

    def __iter__(self) -> Iterator[str]:
        with readable(self._path):
            yield from self._read()


def parts(text: str | LongText) -> Iterator[str]:
    """A text in parts of about a million characters; none of an empty one."""
    if isinstance(text, LongText):
        yield from text
    else:
        for start in range(0, len(text), PART):
            yield text[start : start + PART]


def is_blank(text: str | LongText) -> bool:
    """Whether a text is empty or nothing but space."""
    return all(not part or part.isspace() for part in parts(text))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Refuse what cannot be read of a file inside the block, or is no UTF-8; BadInput names the file."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read ({error.strerror or error}).") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{str(path)!r} cannot be read as {path.suffix}: it is not UTF-8 ({error.reason}).") from None


def text_file(path: Path) -> Iterator[str]:
    """The parts of a text file, line ends made newlines and a byte-order mark left out."""
    with open(path, encoding="utf-8-sig") as file:
        while part := file.read(PART):
            yield part


def decoded(data) -> Iterator[str]:
    """The parts of a text whose UTF-8 bytes are in memory, as anything that slices into bytes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), PART):
        yield decoder.decode(data[start : start + PART], final=start + PART >= len(data))


def decoded_bytes(path: Path, start: int, stop: int) -> Iterator[str]:
    """The parts of what stands between two bytes of a file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        file.seek(start)
        while start < stop:
            data = file.read(min(PART, stop - start))
            if not data:
                return
            start += len(data)
            if part := decoder.decode(data, final=start == stop):  # not the first bytes of a character alone
                yield part


def long_row(path: Path, start: int, stop: int) -> dict[str, object]:
    """The JSON object between two bytes of a file, with a LongText for every string in it.

    Raises:
        ValueError: it is no such object.
    """
    row, end = read_object(path, start, stop)
    if rest := _JsonObject(decoded_bytes(path, end, stop)).peek():
        raise ValueError(f"{rest!r} stands after the end of the object")
    return row


def read_object(path: Path, start: int, stop: int) -> tuple[dict[str, object], int]:
    """The JSON object that begins at a byte of a file, as of `long_row`, and the byte after it; stop: the last byte.

    Raises:
        ValueError: there is no such object.
    """
    row, reader = {}, _JsonObject(decoded_bytes(path, start, stop))
    for number, (key, value) in enumerate(reader.members()):
        row[key] = LongText(path, _member(path, start, stop, number)) if isinstance(value, Iterator) else value
    return row, start + reader.bytes_read


def _member(path: Path, start: int, stop: int, number: int) -> Callable[[], Iterator[str]]:
    def read() -> Iterator[str]:
        for place, (_, value) in enumerate(_JsonObject(decoded_bytes(path, start, stop)).members()):
            if place == number and isinstance(value, Iterator):
                yield from value
                return

    return read


class _JsonObject:
    """A JSON object that is read from parts of its text."""

    # Whole characters and escapes of a string, both halves of a surrogate pair together.
    UNITS = re.compile(
        r'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?![dD][89abAB])[\da-fA-F]{4}'
        r"|\\u[dD][89abAB][\da-fA-F]{2}(?:\\u[\da-fA-F]{4}|(?=[^\\]|\\[^u])))*+"
    )

    def __init__(self, parts: Iterator[str]):
        self._parts, self._text, self._place, self._dropped = parts, "", 0, 0

    @property
    def bytes_read(self) -> int:
        """Bytes of UTF-8 up to where it is read."""
        return self._dropped + len(self._text[: self._place].encode())

    def members(self) -> Iterator[tuple[str, object]]:
        """(key, value) in order; a string is an iterator of its parts, which is over when the next is asked for."""
        self._expect("{")
        if self.peek() != "}":
            while True:
                key = "".join(self._string())
                self._expect(":")
                if self.peek() == '"':
                    value = self._string()
                    yield key, value
                    for _ in value:
                        pass
                else:
                    yield key, self._value()
                if self.peek() != ",":
                    break
                self._expect(",")
        self._expect("}")

    def _more(self) -> bool:
        """Read on; whether there was anything."""
        part, self._dropped = next(self._parts, ""), self.bytes_read
        self._text, self._place = self._text[self._place :] + part, 0
        return bool(part)

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._text) or not self._more():
                return self._text[self._place : self._place + 1]

    def _expect(self, character: str) -> None:
        if (other := self.peek()) != character:
            raise ValueError(f"{other!r} stands where {character!r} should")
        self._place += 1

    def _string(self) -> Iterator[str]:
        self._expect('"')
        while self._text[self._place : self._place + 1] != '"':
            stop = self.UNITS.match(self._text, self._place).end()
            if stop > self._place:
                yield json.loads(f'"{self._text[self._place : stop]}"')
                self._place = stop
            elif not self._more():
                raise ValueError("a string does not end, or holds what a string cannot")
        self._place += 1

    def _value(self) -> object:
        """Anything but a string."""
        while True:
            try:
                value, stop = json.JSONDecoder().raw_decode(self._text, self._place)
                left = len(self._text) - stop
                if left or not self._more():  # else a number may go on
                    self._place = len(self._text) - left
                    return value
            except ValueError:
                target = 2 * (len(self._text) - self._place)  # or every part would be gone through for every further
                if not self._more():
                    raise
                while len(self._text) < target and self._more():
                    pass
