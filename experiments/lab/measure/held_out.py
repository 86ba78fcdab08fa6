"""The text a checkpoint is measured on: its own corpus, or another text in its own tokens."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conf.base import BadInput, Settings
from conf.validation import validate

if TYPE_CHECKING:
    from conf.schema import Config
    from data.corpus import Corpus, Documents
    from data.settings import DataSettings


def trained_corpus(checkpoint: Path, config: "Config", record: dict, cache: str) -> "Corpus":
    """The corpus a checkpoint was trained on.

    Raises:
        BadInput: it is not available, or has changed since.
    """
    from data.corpus import prepare

    corpus = prepare(config.data, Path(cache), progress=False)
    if corpus.fingerprint != record["corpus"]:
        raise BadInput(f"data={config.data.name} has changed since checkpoint={checkpoint} was trained on it")
    return corpus


def other_corpus(checkpoint: Path, config: "Config", record: dict, data: dict, cache: str) -> "Corpus":
    """Another text in the tokens of a checkpoint.

    Args:
        data: plain settings as in conf/data, whose tokenizer plays no part.

    Raises:
        BadInput: the text or the checkpoint's tokenizer is not available.
    """
    from data.corpus import prepare

    corpus = prepare(text_settings(data), Path(cache), tokenizer=own_tokenizer(checkpoint, config, record, cache))
    if (corpus.vocabulary, corpus.separator) != (record["vocabulary"], record["separator"]):
        raise BadInput(
            f"data={corpus.name} has {corpus.vocabulary} tokens, and checkpoint={checkpoint} reads "
            f"{record['vocabulary']}: the text must be in its own tokens"
        )
    return corpus


def text_settings(data: dict) -> "DataSettings":
    """The settings of a text from plain values, as in conf/data.

    Raises:
        BadInput: one sentence for the first fault.
    """
    from data.settings import DataSettings

    class Text(Settings):
        data: DataSettings

    return validate(Text, {"data": data}).data


def own_tokenizer(checkpoint: Path, config: "Config", record: dict, cache: str) -> str:
    """The tokenizer a checkpoint was trained with, as the text that `prepare` takes: in its run, or with its text.

    Raises:
        BadInput: neither is there, or both have another tokenizer by now.
    """
    from data.corpus import prepare
    from data.tokenizer import BYTES, fingerprint_of
    from models.checkpoint_files import home

    settings, fingerprint = getattr(config.data, "tokenizer", None), record.get("tokenizer")
    if (settings is not None and settings.kind == "bytes") or fingerprint == fingerprint_of(BYTES):
        return BYTES
    kept = home(checkpoint) / "tokenizer.json"
    if fingerprint is not None and kept.is_file() and (text := _read(kept, fingerprint)) is not None:
        return text
    try:
        corpus = prepare(config.data, Path(cache), progress=False)
    except BadInput as error:
        raise BadInput(
            f"The tokenizer of checkpoint={checkpoint} is neither in {kept} nor to be had of its training text: {error}"
        ) from None
    if corpus.fingerprint != record["corpus"] and corpus.tokenizer_fingerprint != fingerprint:
        raise BadInput(
            f"data={config.data.name} has another tokenizer than checkpoint={checkpoint} was trained with, which is "
            f"not in {kept} either"
        )
    return corpus.tokenizer_text


def _read(path: Path, fingerprint: str) -> str | None:
    """The text of a tokenizer.json; None, which is printed, if it is not the one with this fingerprint."""
    from data.tokenizer import fingerprints_of

    with suppress(OSError, UnicodeDecodeError, BadInput):
        text = path.read_text(encoding="utf-8")
        if fingerprint in fingerprints_of(text):
            return text
    print(f"{path} is not the tokenizer that the run was trained with: that of its training text is looked for")
    return None


def count_trained_on(corpus: "Corpus", split: str, trained: "Corpus") -> int:
    """The number of documents of a split that are, in full, among the training documents of `trained`."""
    if corpus.fingerprint == trained.fingerprint:
        return len(corpus.split(split)) if split == "train" else 0
    return shared_documents(corpus.split(split), trained.split("train"))


def shared_documents(documents: "Documents", others: "Documents") -> int:
    """The number of documents that are also among the others, token by token."""
    lengths, other_lengths = np.diff(documents.offsets), np.diff(others.offsets)
    alike = {_digest(others[i]) for i in np.flatnonzero(np.isin(other_lengths, lengths)).tolist()}
    return sum(_digest(documents[i]) in alike for i in range(len(documents)))


def _digest(document: np.ndarray) -> bytes:
    return hashlib.blake2b(document.tobytes(), digest_size=16).digest()
