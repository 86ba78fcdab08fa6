"""Checks that a folder of tokens is as it was written: sizes, digests and consistent numbers.

Every file is hashed once in a process, when its corpus is first opened, and again only if it changes: a second of one
core for about 1.1 GB. SHA-256, because that is what a corpus is named by (`fingerprint`): folders older than the
digests of single files are checked all the same. Digests find what is torn or changed by accident; that ids are in the
vocabulary and offsets in the file is looked at beside them, for folders that come from elsewhere.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conf.base import BadInput
from data.token_files import FORMAT, token_dtype
from data.tokenizer import BYTES, STATES

SPLITS = ("train", "validation", "test")
READ_TOGETHER = 4 * 2**20  # bytes


class Counts(BaseModel):
    """The counts of a split: documents, tokens with their separators, UTF-8 bytes of the texts, documents left out."""

    model_config = ConfigDict(frozen=True, strict=True)

    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    bytes: int = Field(ge=0)
    empty: int = Field(0, ge=0)  # rows without text, which are no documents


class Meta(BaseModel):
    """The contents of a folder's meta.json; entries that only people read are not listed."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    tokenizer: dict
    source: dict = {}  # what the documents are
    vocabulary: int = Field(ge=2, lt=2**32)
    separator: int = Field(ge=0)
    fingerprint: str  # SHA-256 over the tokenizer and the tokens of every split
    tokenizer_fingerprint: str | None = None
    splits: dict[str, Counts]
    # SHA-256 of the other files by name, and of all the above; neither is in older folders.
    files: dict[str, str] | None = None
    digest: str | None = None

    @property
    def kind(self) -> str:
        """What the tokenizer is: bytes, bpe, file, hub, given or states."""
        return self.tokenizer["kind"]


def digest_of(meta: dict) -> str:
    """SHA-256 of what meta.json says, itself aside."""
    content = {key: value for key, value in meta.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint(folder: Path, tokenizer: str) -> str:
    """SHA-256 over the text of a tokenizer and the token files of a folder: what a corpus is, in one number."""
    digest = hashlib.sha256(tokenizer.encode())
    for split in SPLITS:
        for kind in ("tokens", "offsets"):
            digest.update(bytes.fromhex(sha256(folder / f"{split}.{kind}")))
    return digest.hexdigest()


def check(folder: Path) -> Meta:
    """Check a folder against its meta.json and return what that says.

    Raises:
        BadInput: it is no folder of tokens, or a file is missing, unreadable, cut short, not what was written, or holds
            what cannot be: ids outside the vocabulary, offsets outside the file, lengths that are no numbers.
    """
    meta = _read_meta(folder)
    try:
        _check_files(folder, meta)
    except OSError as error:
        raise BadInput(f"{str(error.filename or folder)!r} cannot be read ({error.strerror or error}).") from None
    return meta


def _read_meta(folder: Path) -> Meta:
    path = folder / "meta.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{str(folder)!r} is not a folder of prepared tokens: it has no meta.json.") from None
    except UnicodeDecodeError:
        raise BadInput(f"{str(path)!r} is torn or no JSON; {_remedy(folder)}.") from None
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read ({error.strerror}).") from None
    try:
        values = json.loads(text)
        written = values["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{str(path)!r} is torn or no JSON of prepared tokens; {_remedy(folder)}.") from None
    if written != FORMAT:
        raise BadInput(f"{str(folder)!r} was prepared in format {written}; this version reads {FORMAT}, prepare again.")
    try:
        meta = Meta.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise BadInput(f"{str(path)!r}: {key}: {fault['msg']}; {_remedy(folder)}.") from None
    sound = set(meta.splits) == set(SPLITS) and isinstance(meta.tokenizer.get("kind"), str)
    if not sound or meta.separator >= meta.vocabulary or meta.digest not in (None, digest_of(values)):
        raise BadInput(f"{str(path)!r} is not what was written; {_remedy(folder)}.")
    return meta


def _check_files(folder: Path, meta: Meta) -> None:
    dtype = np.dtype(token_dtype(meta.vocabulary))
    sizes: dict[str, int | None] = {}
    for split, counts in meta.splits.items():
        sizes[f"{split}.tokens"] = counts.tokens * dtype.itemsize
        sizes[f"{split}.offsets"] = (counts.documents + 1) * 8
    if meta.kind != STATES:
        sizes["bytes_per_token.npy"] = None
    if meta.kind not in (BYTES, STATES):
        sizes["tokenizer.json"] = None
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or size not in (None, path.stat().st_size):
            raise BadInput(f"{str(path)!r} is missing or cut short; {_remedy(folder)}.")

    for name, written in (meta.files or {}).items():
        if name in sizes and sha256(folder / name) != written:
            raise BadInput(f"{str(folder / name)!r} is not what was written; {_remedy(folder)}.")
    try:
        tokenizer = (folder / "tokenizer.json").read_bytes().decode() if "tokenizer.json" in sizes else meta.kind
    except UnicodeDecodeError:
        tokenizer = ""
    if fingerprint(folder, tokenizer) != meta.fingerprint:
        raise BadInput(f"The tokens in {str(folder)!r} are not those that were written; {_remedy(folder)}.")
    for split, counts in meta.splits.items():
        _check_split(folder, split, counts, meta, dtype)
    if "bytes_per_token.npy" in sizes:
        _check_lengths(folder / "bytes_per_token.npy", meta)


def _check_split(folder: Path, split: str, counts: Counts, meta: Meta, dtype: np.dtype) -> None:
    """Every id in the vocabulary, and every document where the offsets say, begun by the separator."""
    path = folder / f"{split}.tokens"
    if (largest := _largest(path, dtype)) >= meta.vocabulary:
        raise BadInput(f"{str(path)!r} holds token {largest}, and the vocabulary has {meta.vocabulary}.")
    offsets = np.fromfile(folder / f"{split}.offsets", dtype="<i8")
    whole = offsets[0] == 0 and offsets[-1] == counts.tokens and (np.diff(offsets) > 0).all()
    if whole and counts.tokens:
        whole = (np.memmap(path, dtype, mode="r")[offsets[:-1]] == meta.separator).all()
    if not whole:
        raise BadInput(f"{folder / split!s}.offsets are not where the documents of {split}.tokens begin.")


def _check_lengths(path: Path, meta: Meta) -> None:
    try:
        lengths = np.load(path, mmap_mode="r")
        sound = lengths.shape == (meta.vocabulary,) and lengths.dtype == np.float64
        sound = sound and bool((np.isfinite(lengths) & (lengths >= 0)).all()) and lengths[meta.separator] == 0
    except OSError:
        raise
    except Exception:  # a broken header has as many errors as there are ways to break it
        sound = False
    if not sound:
        raise BadInput(f"{str(path)!r} does not hold the length of every token in bytes; {_remedy(path.parent)}.")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; of one that has not changed since, from memory."""
    return _sha256(path, *_version(path))


def _version(path: Path) -> tuple[int, ...]:
    """Values that change when a file does, even if its times are set back."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=4096)
def _sha256(path: Path, *_version: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _largest(path: Path, dtype: np.dtype) -> int:
    """The largest id in a file of tokens, -1 if it is empty; from memory like sha256."""
    return _maximum(path, dtype, *_version(path))


@lru_cache(maxsize=4096)
def _maximum(path: Path, dtype: np.dtype, *_version: int) -> int:
    largest = -1
    with open(path, "rb") as file:
        while len(part := np.fromfile(file, dtype, READ_TOGETHER // dtype.itemsize)):
            largest = max(largest, int(part.max()))
    return largest


def _remedy(folder: Path) -> str:
    return f"delete {str(folder)!r} and prepare it again"
