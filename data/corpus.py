"""A tokenised corpus: prepared once into memory-mapped files, then only opened."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from conf.base import BadInput
from data.integrity import SPLITS, Meta, check
from data.settings import Chains, Files, Hub, Prepared, Sotu, Tasks, Tokenizer
from data.sources import identity, states_of
from data.tasks import answered
from data.token_files import FORMAT, locked, new_folder, token_dtype
from data.tokenizer import BYTES, STATES, ByteTokenizer, JsonTokenizer, fingerprint_of, fingerprints_of, read_json

SUMMED_TOGETHER = 2**20  # tokens


@dataclass(frozen=True)
class Documents:
    """One split: all its tokens in a row, (N,), and where each of its n documents begins, (n + 1,), the end last."""

    tokens: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        """The tokens of document i, its leading separator included."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"document {i} of {len(self)}")
        i %= len(self)
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def at_least(self, length: int) -> list[int]:
        """Indices of the documents with at least `length` tokens, separator included."""
        return np.flatnonzero(np.diff(self.offsets) >= length).tolist()


class Corpus:
    """Three splits of tokens and the tokenizer that made them. Only encode() and decode() need `tokenizers`.

    Tokens of data=chains and data=tasks are states and stand for no text: nothing encodes or decodes them, and they
    have no bytes.
    """

    def __init__(self, folder: Path, meta: Meta):
        self.folder = folder
        self.name = meta.name
        # Tokens in the vocabulary, separator included.
        self.vocabulary = meta.vocabulary
        # The token that begins every document.
        self.separator = meta.separator
        # SHA-256 over the tokenizer and the tokens of every split.
        self.fingerprint = meta.fingerprint
        self._kind = meta.kind
        self._bytes = {split: counts.bytes for split, counts in meta.splits.items()}
        # What the documents are, for a corpus of chains, which has an optimum, and one of a task, which has answers.
        states = meta.source.get("source") if meta.kind == STATES else None
        self.language = Chains(name=meta.name, **meta.source) if states == "chains" else None
        self.task = Tasks(name=meta.name, **meta.source) if states == "tasks" else None
        # Of the tokenizer alone: equal tokenizers give every text the same ids. Older folders do not record it.
        self.tokenizer_fingerprint = meta.tokenizer_fingerprint or fingerprint_of(self.tokenizer_text)

    def split(self, name: str) -> Documents:
        """The documents of train, validation or test."""
        if name not in SPLITS:
            raise BadInput(f"split: there is no {name!r}; there are {', '.join(SPLITS)}.")
        path, dtype = self.folder / f"{name}.tokens", token_dtype(self.vocabulary)
        # Nothing cannot be mapped.
        tokens = np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
        return Documents(tokens, np.fromfile(self.folder / f"{name}.offsets", dtype="<i8"))

    def bytes_per_token(self, split: str) -> np.ndarray | None:
        """UTF-8 bytes each token of a split stands for, (vocabulary,) float64; over the split, those of its texts.

        Bytes and byte-level BPE say how long every token is. Other tokenizers do not, and every token counts alike; and
        those that change a text before they cut it, by normalising it, with a space before it or where a character is
        unknown, have all lengths scaled to the bytes that the texts had. The separator counts 0. None where tokens
        stand for no text.
        """
        if self._kind == STATES:
            return None
        lengths, documents = np.load(self.folder / "bytes_per_token.npy"), self.split(split)
        parts = range(0, len(documents.tokens), SUMMED_TOGETHER)
        counted = sum(float(lengths[documents.tokens[i : i + SUMMED_TOGETHER]].sum()) for i in parts)
        if counted:
            return lengths * (self._bytes[split] / counted)
        alike = np.full(self.vocabulary, self._bytes[split] / max(1, len(documents.tokens) - len(documents)))
        alike[self.separator] = 0
        return alike

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, int64, without a separator."""
        return self._tokenizer.encode([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens; separators vanish, and a character cut in half becomes the replacement character."""
        return self._tokenizer.decode(ids)

    @property
    def answered(self) -> Callable | None:
        """Tokens of rows of samples (B, T + 1) → which of their targets are answers, (B, T); None where all count."""
        return None if self.task is None else partial(answered, self.task)

    @property
    def tokenizer_json(self) -> str | None:
        """The text of its tokenizer.json; None of bytes and states, which have none."""
        if self._kind in (BYTES, STATES):
            return None
        return (self.folder / "tokenizer.json").read_text(encoding="utf-8")

    @cached_property
    def tokenizer_text(self) -> str:
        """The tokenizer, for `prepare` to tokenise another text with: a tokenizer.json as text, "bytes" or "states"."""
        states = self.language or self.task
        return states_of(states) if states else self.tokenizer_json or BYTES

    @cached_property
    def _tokenizer(self) -> ByteTokenizer | JsonTokenizer:
        if self._kind == STATES:
            raise BadInput(
                f"data={self.name} has states for tokens, not text: nothing can be encoded in it or decoded."
            )
        return ByteTokenizer() if self._kind == BYTES else JsonTokenizer(self.tokenizer_text)


def open_corpus(folder: Path) -> Corpus:
    """The corpus in a folder that prepare() wrote; BadInput where there is none, or it is not what was written."""
    folder = Path(os.path.expanduser(folder))
    return Corpus(folder, check(folder))


def prepare(
    settings: Sotu | Files | Hub | Chains | Tasks | Prepared,
    cache: Path,
    progress: bool = True,
    tokenizer: str | None = None,
) -> Corpus:
    """Tokenise a source once, and from then on only open what was written, in a folder under `cache`.

    The folder is keyed by the content of the source and of the tokenizer, appears whole or not at all, and is written
    by one process while others that want it wait. An existing one is opened without `datasets` and `tokenizers`.

    To measure a model on another text, give the tokenizer of the corpus it was trained on:

        trained = prepare(config.data, cache)
        other = prepare(settings, cache, tokenizer=trained.tokenizer_text)

    The vocabulary, the separator and tokenizer_fingerprint of `other` are those of `trained`; its name and fingerprint
    say what it is, and where the texts are the same, the fingerprints are.

    Args:
        settings: where the text comes from and how it is tokenised, as in conf/data.
        tokenizer: the text of a tokenizer to use in place of settings.tokenizer: `Corpus.tokenizer_text`, or the
            content of any tokenizer.json. Nothing is trained on such a corpus: of data=files any one split is enough
            (data.train may be null), and a split without text is empty rather than refused.

    Raises:
        BadInput: the source or the tokenizer cannot be had, a split has no text, or data=prepared names tokens of a
            tokenizer other than the one given.
    """
    if isinstance(settings, Prepared):
        return _prepared(settings, tokenizer)
    if isinstance(settings, Files) and settings.train is None and tokenizer is None:
        raise BadInput("data.train must name files to train on.")
    key = _tokenizer_key(settings, tokenizer)
    about = {"name": settings.name, "tokenizer": key, "source": identity(settings, progress)}
    digest = hashlib.sha256(json.dumps([FORMAT, about["source"], key], sort_keys=True).encode()).hexdigest()[:12]
    target = Path(os.path.expanduser(cache)) / f"{settings.name}-{key['kind']}{key['vocabulary'] or ''}-{digest}"
    try:
        if not target.exists():
            _write(target, settings, tokenizer, about, progress)
    except OSError as error:
        place = f" of {str(error.filename)!r}" if error.filename else ""
        raise BadInput(
            f"The tokens of data={settings.name} cannot be kept in cache={cache} ({error.strerror or error}{place}); "
            "set cache= to a folder that can be written and has room."
        ) from None
    return open_corpus(target)


def _write(
    target: Path, settings: Sotu | Files | Hub | Chains | Tasks, tokenizer: str | None, about: dict, progress: bool
):
    """Fill the folder `target`, unless another process did so while this one waited for it."""
    from data.tokenise import write_corpus

    with locked(target):
        if not target.exists():
            with new_folder(target) as folder:
                write_corpus(folder, settings, tokenizer, about, progress)
                if identity(settings, progress) != about["source"]:
                    raise BadInput(f"data={settings.name}: the files changed while they were read; do the same again.")


def describe_source(settings: Sotu | Files | Hub | Chains | Tasks | Prepared) -> dict[str, object]:
    """What a corpus would be made of, texts and tokenizer, as plain values that count files by content.

    Nothing is tokenised. A run of other texts or another tokenizer is another run, wherever the files lie.
    """
    if isinstance(settings, Prepared):
        corpus = open_corpus(Path(settings.folder))
        return {"texts": corpus.fingerprint, "tokenizer": corpus.tokenizer_fingerprint}
    return {"texts": identity(settings), "tokenizer": _tokenizer_key(settings, None)}


def _tokenizer_key(settings: Sotu | Files | Hub | Chains | Tasks, given: str | None) -> dict:
    """What the tokenizer is, as plain values for a cache key; a file counts by content, not by where it lies."""
    if isinstance(settings, Chains | Tasks):
        if given not in (None, states := states_of(settings)):
            raise BadInput(f"data={settings.name} has {states} for tokens: a model of other tokens cannot read them.")
        return {"kind": STATES, "vocabulary": None}
    if given is None:
        key = settings.tokenizer.model_dump()
        if settings.tokenizer.kind == "file":
            key["path"] = hashlib.sha256(read_json(settings.tokenizer).encode()).hexdigest()
        return key
    if given.startswith(STATES):
        raise BadInput(f"data={settings.name} is text: a model of {given} cannot read it.")
    if given == BYTES:
        return Tokenizer(kind="bytes").model_dump()
    return {"kind": "given", "vocabulary": None, "sha256": fingerprint_of(given)}


def _prepared(settings: Prepared, tokenizer: str | None) -> Corpus:
    """The corpus of data=prepared, under the name it is given here; BadInput unless `tokenizer`, if any, made it."""
    corpus = open_corpus(Path(settings.folder))
    corpus.name = settings.name
    if tokenizer is not None and corpus.tokenizer_fingerprint not in fingerprints_of(tokenizer):
        raise BadInput(
            f"data.folder: the tokens in {settings.folder!r} are those of another tokenizer; name the texts "
            "themselves, with data=files, to have them tokenised anew."
        )
    return corpus
