"""A tokenised corpus: prepared once into memory-mapped files, then only opened."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from conf.base import BadInput
from data.settings import Chains, Files, Hub, Prepared, Sotu, Tokenizer
from data.sources import SPLITS, identity, texts
from data.token_files import SplitWriter, locked, new_folder, token_dtype
from data.tokenizer import ByteTokenizer, JsonTokenizer, read_json, train_bpe

# Raise it whenever the same source and tokenizer would be written differently.
FORMAT = 1
# Texts are encoded this many characters at a time, so that a tokenizer can use every core.
ENCODED_TOGETHER = 4 * 2**20
# The kind of "tokenizer" of a corpus whose tokens are the states of a chain.
STATES = "states"


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

    Tokens of data=chains are states and stand for no text: nothing encodes or decodes them, and they have no bytes.
    """

    def __init__(self, folder: Path, meta: dict):
        self.folder = folder
        self.name: str = meta["name"]
        # Tokens in the vocabulary, separator included.
        self.vocabulary: int = meta["vocabulary"]
        # The token that begins every document.
        self.separator: int = meta["separator"]
        # SHA-256 over the tokenizer and the tokens of every split.
        self.fingerprint: str = meta["fingerprint"]
        self._kind: str = meta["tokenizer"]["kind"]

    def split(self, name: str) -> Documents:
        """The documents of train, validation or test."""
        if name not in SPLITS:
            raise BadInput(f"split: there is no {name!r}; there are {', '.join(SPLITS)}.")
        tokens = np.memmap(self.folder / f"{name}.tokens", dtype=token_dtype(self.vocabulary), mode="r")
        return Documents(tokens, np.fromfile(self.folder / f"{name}.offsets", dtype="<i8"))

    @cached_property
    def bytes_per_token(self) -> np.ndarray | None:
        """UTF-8 bytes each token stands for, (vocabulary,) float64: exact for bytes and byte-level BPE.

        Other tokenizers do not say, and every token counts as the average of the train split. The separator counts 0.
        None where tokens stand for no text.
        """
        return None if self._kind == STATES else np.load(self.folder / "bytes_per_token.npy")

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, int64, without a separator."""
        return self._tokenizer.encode([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens; separators vanish, and a character cut in half becomes the replacement character."""
        return self._tokenizer.decode(ids)

    @cached_property
    def _tokenizer(self) -> ByteTokenizer | JsonTokenizer:
        if self._kind == STATES:
            raise BadInput(
                f"data={self.name} has states for tokens, not text: nothing can be encoded in it or decoded."
            )
        path = self.folder / "tokenizer.json"
        return JsonTokenizer(path.read_text(encoding="utf-8")) if path.exists() else ByteTokenizer()


def open_corpus(folder: Path) -> Corpus:
    """The corpus in a folder that prepare() wrote; BadInput where there is none, or a part of it is missing."""
    folder = Path(folder).expanduser()
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        written = meta["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{str(folder)!r} is not a folder of prepared tokens: it has no readable meta.json.") from None
    if written != FORMAT:
        raise BadInput(f"{str(folder)!r} was prepared in format {written}; this version reads {FORMAT}, prepare again.")
    width = np.dtype(token_dtype(meta["vocabulary"])).itemsize
    sizes = {} if meta["tokenizer"]["kind"] == STATES else {"bytes_per_token.npy": None}
    if meta["tokenizer"]["kind"] not in ("bytes", STATES):
        sizes["tokenizer.json"] = None
    for split, counted in meta["splits"].items():
        sizes[f"{split}.tokens"] = counted["tokens"] * width
        sizes[f"{split}.offsets"] = (counted["documents"] + 1) * 8
    for file, size in sizes.items():
        path = folder / file
        if not path.exists() or size not in (None, path.stat().st_size):
            raise BadInput(f"{str(path)!r} is missing or cut short; delete {str(folder)!r} and prepare it again.")
    return Corpus(folder, meta)


def prepare(settings: Sotu | Files | Hub | Chains | Prepared, cache: Path, progress: bool = True) -> Corpus:
    """Tokenise a source once, and from then on only open what was written, in a folder under `cache`.

    The folder is keyed by the content of the source and the tokenizer settings, appears whole or not at all, and is
    written by one process while others that want it wait. An existing one is opened without `datasets` and
    `tokenizers`. Raises BadInput where the source or the tokenizer cannot be had.
    """
    if isinstance(settings, Prepared):
        corpus = open_corpus(Path(settings.folder))
        corpus.name = settings.name
        return corpus
    tokenizer = (
        {"kind": STATES, "vocabulary": None} if isinstance(settings, Chains) else settings.tokenizer.model_dump()
    )
    if tokenizer["kind"] == "file":
        # By content, not by where it lies.
        tokenizer["path"] = hashlib.sha256(read_json(settings.tokenizer).encode()).hexdigest()
    source = identity(settings)
    key = hashlib.sha256(json.dumps([FORMAT, source, tokenizer], sort_keys=True).encode()).hexdigest()[:12]
    label = tokenizer["kind"] + str(tokenizer["vocabulary"] or "")
    target = Path(cache).expanduser() / f"{settings.name}-{label}-{key}"
    if not target.exists():
        with locked(target):
            if not target.exists():
                with new_folder(target) as folder:
                    _write(
                        folder, settings, {"name": settings.name, "tokenizer": tokenizer, "source": source}, progress
                    )
    return open_corpus(target)


def _write(folder: Path, settings: Sotu | Files | Hub | Chains, about: dict, progress: bool):
    """Fill an empty folder with the tokens of every split, the tokenizer and, last, meta.json."""
    if isinstance(settings, Chains):
        _write_meta(folder, about, settings.states + 1, settings.states, _write_states(folder, settings), STATES)
        return
    tokenizer = _tokenizer(settings.tokenizer, settings, progress)
    writers = {split: SplitWriter(folder, split, tokenizer.vocabulary, tokenizer.separator) for split in SPLITS}
    _tokenise(settings, tokenizer, writers, progress)
    counted = {split: writer.close() for split, writer in writers.items()}
    for split, count in counted.items():
        if not count["documents"]:
            raise BadInput(
                f"data.{split}: the {settings.name!r} source has no text for it; name other files or splits."
            )

    lengths = tokenizer.bytes_per_token()
    if lengths is None:
        train = counted["train"]
        lengths = np.full(tokenizer.vocabulary, train["bytes"] / max(1, train["tokens"] - train["documents"]))
        lengths[tokenizer.separator] = 0
    np.save(folder / "bytes_per_token.npy", lengths)
    if not isinstance(tokenizer, ByteTokenizer):
        (folder / "tokenizer.json").write_text(tokenizer.text, encoding="utf-8")
    _write_meta(folder, about, tokenizer.vocabulary, tokenizer.separator, counted, tokenizer.text)


def _write_states(folder: Path, settings: Chains) -> dict[str, dict[str, int]]:
    """Write the documents of every split; returns what each holds."""
    from data.chains import documents

    writers = {split: SplitWriter(folder, split, settings.states + 1, settings.states) for split in SPLITS}
    for split, tokens in documents(settings):
        writers[split].add(tokens, 0)
    return {split: writer.close() for split, writer in writers.items()}


def _write_meta(folder: Path, about: dict, vocabulary: int, separator: int, counted: dict, tokenizer: str):
    """Say in meta.json what the folder holds; tokenizer: its text, which the fingerprint covers too."""
    digest = hashlib.sha256(tokenizer.encode())
    for split in SPLITS:
        for kind in ("tokens", "offsets"):
            with open(folder / f"{split}.{kind}", "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    meta = {
        "format": FORMAT,
        **about,
        "vocabulary": vocabulary,
        "separator": separator,
        "fingerprint": digest.hexdigest(),
        "splits": counted,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _tokenizer(wanted: Tokenizer, settings: Sotu | Files | Hub, progress: bool) -> ByteTokenizer | JsonTokenizer:
    if wanted.kind == "bytes":
        return ByteTokenizer()
    if wanted.kind == "bpe":
        # The held-out splits must not shape the vocabulary that measures them.
        train = (text for split, text in texts(settings) if split == "train")
        return JsonTokenizer(train_bpe(train, wanted.vocabulary, progress))
    return JsonTokenizer(read_json(wanted))


def _tokenise(settings, tokenizer, writers: dict[str, SplitWriter], progress: bool):
    """Write every document, up to the token budget of the train split if there is one."""
    from tqdm import tqdm

    budget = getattr(settings, "token_budget", None)
    with tqdm(desc=f"tokenising {settings.name}", unit=" tokens", unit_scale=True, disable=not progress) as bar:
        for batch in _batches(texts(settings)):
            encoded = tokenizer.encode([text for _, text in batch])
            for (split, text), ids in zip(batch, encoded, strict=True):
                size = len(text.encode())
                if budget is not None and split == "train":
                    left = budget - writers["train"].tokens
                    if left <= len(ids) + 1:
                        # The last document is cut to the budget, and counts its bytes in proportion.
                        size = round(size * (left - 1) / max(1, len(ids)))
                        writers["train"].add(ids[: left - 1], size)
                        bar.update(left)
                        return
                writers[split].add(ids, size)
                bar.update(len(ids) + 1)


def _batches(documents: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Consecutive documents in groups of about ENCODED_TOGETHER characters."""
    group, size = [], 0
    for document in documents:
        group.append(document)
        size += len(document[1])
        if size >= ENCODED_TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group
