"""Writing a corpus: every document of a source through a tokenizer into the token files of a folder."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conf.base import BadInput
from data.integrity import SPLITS, digest_of, fingerprint, sha256
from data.settings import Chains, Files, Hub, Sotu
from data.sources import texts
from data.token_files import FORMAT, SplitWriter
from data.tokenizer import BYTES, STATES, ByteTokenizer, JsonTokenizer, fingerprint_of, read_json, train_bpe

# Texts are encoded this many characters at a time, so that a tokenizer can use every core.
ENCODED_TOGETHER = 4 * 2**20


def write_corpus(
    folder: Path, settings: Sotu | Files | Hub | Chains, given: str | None, about: dict, progress: bool
) -> None:
    """Fill an empty folder with the tokens of every split, the tokenizer and, last, meta.json.

    Args:
        given: the text of the tokenizer, or None for that of the settings; with it, splits may be empty.
        about: the first entries of meta.json.

    Raises:
        BadInput: the source or the tokenizer cannot be had, or a split has no text.
    """
    if isinstance(settings, Chains):
        counted = _write_states(folder, settings)
        _write_meta(folder, about, settings.states + 1, settings.states, counted, STATES)
        return
    tokenizer = _tokenizer(settings, given, progress)
    writers = {split: SplitWriter(folder, split, tokenizer.vocabulary, tokenizer.separator) for split in SPLITS}
    _tokenise(settings, tokenizer, writers, progress)
    counted = {split: writer.close() for split, writer in writers.items()}
    empty = [split for split, count in counted.items() if not count["documents"]]
    if empty and (given is None or len(empty) == len(SPLITS)):
        raise BadInput(f"data.{empty[0]}: the {settings.name!r} source has no text for it; name other files or splits.")

    lengths = tokenizer.bytes_per_token()
    if lengths is None:
        of = counted["train"] if counted["train"]["documents"] else next(c for c in counted.values() if c["documents"])
        lengths = np.full(tokenizer.vocabulary, of["bytes"] / max(1, of["tokens"] - of["documents"]))
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


def _write_meta(folder: Path, about: dict, vocabulary: int, separator: int, counted: dict, tokenizer: str) -> None:
    """Say in meta.json what the folder holds; tokenizer: its text, which the fingerprint covers too."""
    meta = {
        "format": FORMAT,
        **about,
        "vocabulary": vocabulary,
        "separator": separator,
        "fingerprint": fingerprint(folder, tokenizer),
        "tokenizer_fingerprint": fingerprint_of(f"{STATES} {separator}" if tokenizer == STATES else tokenizer),
        "splits": counted,
        "files": {path.name: sha256(path) for path in sorted(folder.iterdir())},
    }
    meta["digest"] = digest_of(meta)
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _tokenizer(settings: Sotu | Files | Hub, given: str | None, progress: bool) -> ByteTokenizer | JsonTokenizer:
    """The tokenizer given, or that of the settings, trained if need be."""
    wanted = settings.tokenizer
    if given is not None:
        return ByteTokenizer() if given == BYTES else JsonTokenizer(given)
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
