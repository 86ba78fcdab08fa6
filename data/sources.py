"""Documents from wherever they are: `texts()` yields them split by split, `identity()` says what they are.

Where files or a hub dataset come without a validation or test split, documents are held out from train by the hash
of their text, about 5 in 100 for each missing split: the choice depends on nothing else, and equal documents always
land on the same side.
"""

import glob
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from conf.base import BadInput
from data.integrity import SPLITS
from data.settings import Chains, Files, Hub, Sotu

HELD_OUT = 0.05
BUILDERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def identity(settings: Sotu | Files | Hub | Chains) -> dict:
    """What the documents are, as plain values for a cache key, without reading more than bytes.

    Files count by content. A hub dataset cannot be hashed without fetching it, so it counts by its path, config,
    revision, splits and budget: pin `revision` where the dataset may change.
    """
    if isinstance(settings, Sotu):
        from data.sotu import SHA256, TEST, VALIDATION

        return {"sotu": SHA256, "validation": VALIDATION.split(), "test": TEST.split()}
    if isinstance(settings, Files):
        files = {split: [_sha256(path) for path in paths] for split, paths in _files(settings).items()}
        return {"files": files, "column": settings.column}
    apart = {"name", "tokenizer", "isolate_documents", "retrieval", "streaming"}
    return settings.model_dump(include=set(type(settings).model_fields) - apart)


def texts(settings: Sotu | Files | Hub) -> Iterator[tuple[str, str]]:
    """Yield (split, text) for every document with any text in it, the given held-out splits first."""
    if isinstance(settings, Sotu):
        from data.sotu import documents

        return documents()
    if isinstance(settings, Files):
        files = _files(settings)
        given = {split: _file_texts(paths, settings.column) for split, paths in files.items()}
        missing = [split for split in SPLITS if split not in given] if "train" in given else []
        cuts = _cuts_of(_file_texts(files["train"], settings.column), missing) if missing else {}
    else:
        from data.hub import rows

        names = {split: getattr(settings, split) for split in SPLITS if getattr(settings, split)}
        given = {split: _join(rows(settings, name), settings.heading) for split, name in names.items()}
        cuts = {split: (i + 1) * HELD_OUT for i, split in enumerate(s for s in SPLITS if s not in given)}
    return _dealt(given, cuts)


def _dealt(given: Mapping[str, Iterable[str]], cuts: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Label every document with its split; those of train below a cut go to the split of that cut."""
    for split in reversed(SPLITS):
        for text in given.get(split, ()):
            if text.strip():
                place = _place(text)
                yield next((s for s, cut in cuts.items() if place < cut), split) if split == "train" else split, text


def _place(text: str) -> float:
    """Where the hash of a text falls between 0 and 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _cuts_of(train: Iterable[str], missing: list[str]) -> dict[str, float]:
    """Cuts that give every missing split its share, and at least one document, however few there are."""
    places = sorted({_place(text) for text in train if text.strip()})
    share = max(1, round(len(places) * HELD_OUT))
    if len(places) <= share * len(missing):
        raise BadInput(
            f"data.train has {len(places)} different document(s), too few to hold any out for {' and '.join(missing)}: "
            "name files for data.validation and data.test."
        )
    return {split: places[(i + 1) * share] for i, split in enumerate(missing)}


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
    """The files of each given split, in order; BadInput where one is missing, of a wrong type, or in two splits."""
    found: dict[str, list[Path]] = {}
    for split in SPLITS:
        patterns = getattr(settings, split)
        if patterns is None:
            continue
        found[split] = list(chain.from_iterable(_matches(f"data.{split}", pattern) for pattern in patterns))
        for earlier in list(found)[:-1]:
            for path in found[split]:
                if path in found[earlier]:
                    raise BadInput(f"data.{split}: {str(path)!r} is in data.{earlier} too; a file has one split.")
    return found


def _matches(key: str, pattern: str) -> list[Path]:
    paths = [Path(path) for path in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))]
    if not paths:
        raise BadInput(f"{key}: no file matches {pattern!r} (seen from {str(Path.cwd())!r}).")
    for path in paths:
        if path.is_dir():
            raise BadInput(f"{key}: {str(path)!r} is a folder; name the files in it, such as {str(path / '*.txt')!r}.")
        if path.suffix not in BUILDERS:
            raise BadInput(f"{key}: {str(path)!r} is none of the types that can be read ({', '.join(BUILDERS)}).")
    return paths


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_texts(paths: list[Path], column: str) -> Iterator[str]:
    """The documents of local files through HF `datasets`, streamed: no second copy is made on disk."""
    from datasets import load_dataset

    for path in paths:
        builder = BUILDERS[path.suffix]
        options = {"sample_by": "document"} if builder == "text" else {}
        wanted = "text" if builder == "text" else column
        try:
            # glob.escape: a file name is data here, not one more pattern.
            for row in load_dataset(
                builder, data_files=glob.escape(str(path)), split="train", streaming=True, **options
            ):
                yield text_of(row, wanted, f"data.column: {str(path)!r}")
        except BadInput:
            raise
        except Exception as error:  # every reader has its own errors; all of them mean the file is at fault
            reason = str(error.__cause__ or error).splitlines() or [type(error).__name__]
            raise BadInput(f"{str(path)!r} cannot be read as {path.suffix} ({reason[0]}).") from error


def text_of(row: dict, column: str, where: str) -> str:
    """The text of one row, empty where it is null; BadInput where there is no such column or it holds no text."""
    if column not in row:
        raise BadInput(f"{where} has no column {column!r}; it has {', '.join(map(repr, row))}.")
    text = row[column]
    if text is not None and not isinstance(text, str):
        raise BadInput(f"{where} holds {type(text).__name__} in column {column!r}; a column of text is needed.")
    return text or ""
