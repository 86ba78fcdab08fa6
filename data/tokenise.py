"""Writing a corpus: every document of a source through a tokenizer into the token files of a folder."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from conf.base import BadInput
from data.bpe import train_bpe
from data.integrity import SPLITS, digest_of, fingerprint, sha256
from data.long_text import LongText, parts
from data.settings import Chains, Files, Hub, Sotu, Tasks
from data.sources import separator_of, states_of, texts
from data.token_files import FORMAT, SplitWriter
from data.tokenizer import BYTES, STATES, ByteTokenizer, JsonTokenizer, fingerprint_of, read_json

# Characters of documents that are in memory at once, unless a single document has more.
TAKEN_TOGETHER = 4 * 2**20
# Documents of these, and characters of each, on which it is tried how much of a text the tokenizer keeps.
SAMPLED, SAMPLE = 64, 512


def write_corpus(
    folder: Path, settings: Sotu | Files | Hub | Chains | Tasks, given: str | None, about: dict, progress: bool
) -> None:
    """Fill an empty folder with the tokens of every split, the tokenizer and, last, meta.json.

    Args:
        given: the text of the tokenizer, or None for that of the settings; with it, splits may be empty.
        about: the first entries of meta.json.

    Raises:
        BadInput: the source or the tokenizer cannot be had, or a split has no text.
    """
    if isinstance(settings, Chains | Tasks):
        _write_states(folder, settings, about)
        return
    tokenizer = _tokenizer(settings, given, progress)
    lengths = tokenizer.bytes_per_token()
    with ExitStack() as opened:
        writers = {
            split: opened.enter_context(SplitWriter(folder, split, tokenizer.vocabulary, tokenizer.separator))
            for split in SPLITS
        }
        notes = _tokenise(settings, tokenizer, lengths, writers, progress)
    counted = {split: writer.close() | {"empty": notes.empty[split]} for split, writer in writers.items()}
    blank = [split for split, count in counted.items() if not count["documents"]]
    if blank and (given is None or len(blank) == len(SPLITS)):
        missing = next((split for split in SPLITS if getattr(settings, split, None) and split in blank), blank[0])
        raise BadInput(f"data.{missing}: the {settings.name!r} source has no text for it; name other files or splits.")
    if all(count["tokens"] == count["documents"] for count in counted.values()):
        raise BadInput(f"data={settings.name}: the tokenizer leaves nothing of the text.")
    for sentence in notes.sentences():
        print(f"data={settings.name}: {sentence}", file=sys.stderr)

    if lengths is None:
        of = counted["train"] if counted["train"]["documents"] else next(c for c in counted.values() if c["documents"])
        lengths = np.full(tokenizer.vocabulary, of["bytes"] / max(1, of["tokens"] - of["documents"]))
        lengths[tokenizer.separator] = 0
    np.save(folder / "bytes_per_token.npy", lengths)
    if not isinstance(tokenizer, ByteTokenizer):
        (folder / "tokenizer.json").write_text(tokenizer.text, encoding="utf-8")
    _write_meta(folder, about, tokenizer.vocabulary, tokenizer.separator, counted, tokenizer.text)


def _write_states(folder: Path, settings: Chains | Tasks, about: dict) -> None:
    """Write the documents of every split and meta.json, of a source whose tokens stand for no text."""
    from data.chains import documents as walks
    from data.tasks import documents as samples

    separator = separator_of(settings)
    documents = walks(settings) if isinstance(settings, Chains) else samples(settings)
    writers = {split: SplitWriter(folder, split, separator + 1, separator) for split in SPLITS}
    for split, tokens in documents:
        writers[split].begin()
        writers[split].add(tokens, 0)
    counted = {split: writer.close() for split, writer in writers.items()}
    _write_meta(folder, about, separator + 1, separator, counted, STATES, states_of(settings))


def _write_meta(
    folder: Path, about: dict, vocabulary: int, separator: int, counted: dict, tokenizer: str, states: str | None = None
) -> None:
    """Say in meta.json what the folder holds; tokenizer: its text, which the fingerprint covers too, or `states`."""
    meta = {
        "format": FORMAT,
        **about,
        "vocabulary": vocabulary,
        "separator": separator,
        "fingerprint": fingerprint(folder, tokenizer),
        "tokenizer_fingerprint": fingerprint_of(states or tokenizer),
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
        train = (text for split, text in texts(settings, progress) if split == "train")
        trained = JsonTokenizer(train_bpe(train, wanted.vocabulary, progress))
        if trained.vocabulary < wanted.vocabulary:
            print(
                f"data={settings.name}: the text gives a vocabulary of {trained.vocabulary:,} tokens, not the "
                f"{wanted.vocabulary:,} of data.tokenizer.vocabulary: there are no more pairs to merge.",
                file=sys.stderr,
            )
        return trained
    return JsonTokenizer(read_json(wanted))


def _tokenise(settings, tokenizer, lengths, writers: dict[str, SplitWriter], progress: bool) -> "Notes":
    """Write every document, up to the token budget of the train split if there is one.

    lengths: bytes of every token, (V,), or None where they are not known.
    """
    from tqdm import tqdm

    notes, budget = Notes(), getattr(settings, "token_budget", None)
    documents = texts(settings, progress, notes.empty)
    with tqdm(desc=f"tokenising {settings.name}", unit=" tokens", unit_scale=True, disable=not progress) as bar:
        for batch in _batches(documents):
            notes.take(batch, tokenizer)
            begun = -1
            for number, ids, size in tokenizer.encode_parts([text for _, text in batch]):
                split = batch[number][0]
                writer = writers[split]
                if number != begun:
                    writer.begin()
                    begun = number
                if budget is not None and split == "train" and (left := budget - writer.tokens) <= len(ids):
                    # The last document is cut to the budget; where tokens have no length, it is in proportion.
                    cut = ids[:left]
                    size = round(size * len(cut) / max(1, len(ids)) if lengths is None else lengths[cut].sum())
                    writer.add(cut, size)
                    bar.update(left)
                    return notes
                writer.add(ids, size)
                bar.update(len(ids))
            batch.clear()  # or its texts were in memory beside the next
    return notes


def _batches(documents: Iterator[tuple[str, str | LongText]]) -> Iterator[list[tuple[str, str | LongText]]]:
    """Consecutive documents in groups of about TAKEN_TOGETHER characters."""
    group, size = [], 0
    for split, text in documents:
        group.append((split, text))
        # An object takes some memory however short it is.
        size += TAKEN_TOGETHER if isinstance(text, LongText) else len(text) + 500
        if size >= TAKEN_TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group


class Notes:
    """What to know of a corpus: rows left out, texts in two splits, text that the tokenizer loses."""

    def __init__(self):
        self.empty = Counter()  # rows without text, by split
        self._held_out: dict[int, str] = {}  # hash of a document → its split; held-out splits come first
        self._trained_on = Counter()
        self._looked_at = self._covered = 0  # characters of a sample that are no spaces

    def take(self, batch: list[tuple[str, str | LongText]], tokenizer: ByteTokenizer | JsonTokenizer) -> None:
        """Look at some documents, as (split, text)."""
        for split, text in batch:
            content = hash(tuple(map(hash, parts(text))) if isinstance(text, LongText) else text)
            if split != "train":
                self._held_out[content] = split
            elif (other := self._held_out.get(content)) is not None:
                self._trained_on[other] += 1
        if isinstance(tokenizer, JsonTokenizer):
            every = max(1, len(batch) // SAMPLED)
            samples = [next(parts(text))[:SAMPLE] for _, text in batch[::every]]
            covered, characters = tokenizer.coverage(samples)
            self._covered += covered
            self._looked_at += characters

    def sentences(self) -> Iterator[str]:
        """What is out of the ordinary."""
        for split, count in self.empty.items():
            if count:
                yield f"{count:,} rows of {split} have no text and are left out."
        for split, count in self._trained_on.items():
            yield f"{count:,} documents of train are in {split} too: what is measured on these was trained on."
        lost = 1 - self._covered / max(1, self._looked_at)
        if self._looked_at and lost > 0.001:
            yield (
                f"the tokenizer loses {lost:.1%} of the text (unknown to it, or left out), which bits per byte count "
                "though no model has to predict it."
            )
