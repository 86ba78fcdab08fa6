"""Documents from wherever they are: `texts()` yields them split by split, `identity()` says what they are.

Where files or a hub dataset come without a validation or test split, documents are held out from train by the hash
of their text, about 5 in 100 for each missing split: the choice depends on nothing else, and equal documents always
land on the same side.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from conf.base import BadInput
from data import files
from data.integrity import SPLITS, sha256
from data.long_text import LongText, is_blank, parts
from data.settings import Chains, Files, Hub, Sotu, Tasks
from data.tokenizer import STATES

HELD_OUT = 0.05
# Raise it whenever the texts of the same files would be others.
READING = 2


def identity(settings: Sotu | Files | Hub | Chains | Tasks, progress: bool = False) -> dict:
    """What the documents are, as plain values for a cache key, without reading more than bytes.

    Files count by content, and by whether it is one text or rows. A hub dataset cannot be hashed without fetching it,
    so it counts by its path, config, revision, splits and budget: pin `revision` where the dataset may change.
    """
    if isinstance(settings, Sotu):
        from data.sotu import SHA256, TEST, VALIDATION

        return {"sotu": SHA256, "validation": VALIDATION.split(), "test": TEST.split()}
    if isinstance(settings, Files):
        digests: dict[str, list[str]] = {}
        for split, paths in _files(settings).items():
            digests[split] = [_digest(path) for path in slowly(paths, f"looking at data.{split}", " files", progress)]
            trained = set(digests.get("train", ())) if split != "train" else set()
            for path, digest in zip(paths, digests[split], strict=True):
                if digest in trained and path.stat().st_size:
                    raise BadInput(f"data.{split}: {str(path)!r} has the content of a file in data.train.")
        return {"files": digests, "column": settings.column, "reading": READING}
    apart = {"name", "tokenizer", "isolate_documents", "retrieval", "streaming"}
    return settings.model_dump(include=set(type(settings).model_fields) - apart)


def texts(settings: Sotu | Files | Hub, progress: bool = False, empty: Counter | None = None):
    """Yield (split, text) for every document with any text in it, the given held-out splits first.

    empty: counts the rows without text by split, where it is wanted.
    """
    if isinstance(settings, Sotu):
        from data.sotu import documents

        return documents()
    if isinstance(settings, Files):
        paths = _files(settings)
        given = {split: _file_texts(paths[split], settings.column) for split in paths}
        missing = [split for split in SPLITS if split not in given] if "train" in given else []
        cuts = {}
        if missing:
            train = _file_texts(paths["train"], settings.column)
            cuts = _cuts_of(slowly(train, "looking at documents", " documents", progress), missing)
    else:
        from data.hub import rows

        names = {split: getattr(settings, split) for split in SPLITS if getattr(settings, split)}
        given = {split: _join(rows(settings, name), settings.heading) for split, name in names.items()}
        cuts = {split: (i + 1) * HELD_OUT for i, split in enumerate(s for s in SPLITS if s not in given)}
    return _dealt(given, cuts, Counter() if empty is None else empty)


def slowly(things: Iterable, what: str, unit: str, progress: bool) -> Iterable:
    """The same things, with a bar where going through them takes longer than a moment."""
    from tqdm import tqdm

    return tqdm(things, desc=what, unit=unit, delay=1, disable=not progress)


def _dealt(
    given: Mapping[str, Iterable[str | LongText]], cuts: dict[str, float], empty: Counter
) -> Iterator[tuple[str, str | LongText]]:
    """Label every document with its split; those of train below a cut go to the split of that cut."""
    for split in reversed(SPLITS):
        for text in given.get(split, ()):
            if is_blank(text):
                empty[split] += 1
            else:
                place = _place(text) if cuts else 1.0
                yield next((s for s, cut in cuts.items() if place < cut), split) if split == "train" else split, text


def _place(text: str | LongText) -> float:
    """Where the hash of a text falls between 0 and 1."""
    digest = hashlib.sha256()
    for part in parts(text):
        digest.update(part.encode())
    return int.from_bytes(digest.digest()[:6], "big") / 2**48


def _cuts_of(train: Iterable[str | LongText], missing: list[str]) -> dict[str, float]:
    """Cuts that give every missing split its share, and at least one document, however few there are."""
    places = np.unique(np.fromiter((_place(text) for text in train if not is_blank(text)), dtype=np.float64))
    share = max(1, round(len(places) * HELD_OUT))
    if len(places) <= share * len(missing):
        raise BadInput(
            f"data.train has {len(places)} different document(s), too few to hold any out for {' and '.join(missing)}: "
            "name files for data.validation and data.test."
        )
    return {split: float(places[(i + 1) * share]) for i, split in enumerate(missing)}


def _join(rows: Iterable[str], heading: str | None) -> Iterator[str]:
    """Rows as documents; with a heading, the rows from one that matches it up to the next."""
    if heading is None:
        yield from rows
        return
    begins = re.compile(heading)
    document: list[str] = []
    for row in rows:
        if begins.match(row) and document:
            yield "".join(document)
            document = []
        document.append(row)
    yield "".join(document)


def _files(settings: Files) -> dict[str, list[Path]]:
    """The files of each given split, in order and each once; BadInput where one cannot be read, or is in two splits."""
    paths: dict[str, list[Path]] = {}
    owners: dict[tuple[int, int], tuple[str, Path]] = {}
    for split in SPLITS:
        if (patterns := getattr(settings, split)) is None:
            continue
        paths[split] = files.find(f"data.{split}", patterns)
        for path in paths[split]:
            owner, other = owners.setdefault(files.file_id(path), (split, path))
            if owner != split:
                spelled = f", as {str(other)!r}" if other != path else ""
                raise BadInput(f"data.{split}: {str(path)!r} is in data.{owner} too{spelled}; a file has one split.")
    return paths


def _digest(path: Path) -> str:
    """What a file holds; the same bytes are other texts as a .txt than as rows."""
    try:
        return sha256(path) + (".txt" if path.suffix == ".txt" else "")
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read ({error.strerror}).") from None


def _file_texts(paths: list[Path], column: str) -> Iterator[str | LongText]:
    for path in paths:
        yield from files.read(path, column)


def separator_of(settings: Chains | Tasks) -> int:
    """The last token of a source whose tokens stand for no text; that of a task follows ASK and END."""
    from data.tasks import symbols

    return settings.states if isinstance(settings, Chains) else symbols(settings) + 2


def states_of(settings: Chains | Tasks) -> str:
    """What such a source has in place of the text of a tokenizer.json."""
    task = "" if isinstance(settings, Chains) else f" of {settings.task}"
    return f"{STATES} {separator_of(settings)}{task}"
