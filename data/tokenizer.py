"""Text to numbers and back: raw bytes, or a Hugging Face `tokenizers` tokenizer kept as tokenizer.json.

Both kinds encode *text* only: nothing in a document can produce the separator, which `token_files` writes between
documents, and no begin-of-text token is added.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from conf.base import BadInput
from data.long_text import LongText, parts
from data.settings import Tokenizer

# Names under which published tokenizers know the end of a text; the first present separates documents.
END_OF_TEXT = ("<|document|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]", "<｜end▁of▁sentence｜>")
DOCUMENT = END_OF_TEXT[0]
# The largest vocabulary there is room for, ids that stand for nothing included.
LARGEST = 2**22
# Bytes that are encoded together, on every core at once; each takes up to 250 bytes of memory while it is.
ENCODED_TOGETHER = 2 * 2**20
# Characters of a text that are encoded as a whole; ends of words, and how many are tried, near the end of a piece.
PIECE = 2**20
WORD_END = re.compile(r"[^\W_] (?=[^\W_])")
NEARBY, TRIED, CONTEXT = 4096, 32, 256
# What stands for a ByteTokenizer where others have the text of a tokenizer.json.
BYTES = "bytes"
# The same for tokens that are states of a chain, followed by how many there are; they stand for no text.
STATES = "states"
# The parts of a tokenizer.json that decide which ids a text gets, and which text some ids.
DECISIVE = ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder")


def fingerprints_of(text: str) -> set[str]:
    """The fingerprints of a tokenizer as it is written and as it is once opened, which may add what it leaves out."""
    if text == BYTES or text.startswith(STATES):
        return {fingerprint_of(text)}
    return {fingerprint_of(text), fingerprint_of(JsonTokenizer(text).text)}


def fingerprint_of(text: str) -> str:
    """SHA-256 over what a tokenizer does to text: vocabulary and ids, merges, normaliser, pre-tokeniser and decoder.

    It does not depend on how the JSON is laid out, nor on padding, truncation and templates, which are not used here.
    text: of a tokenizer.json, "bytes" or "states <number>". Raises BadInput where it is none.
    """
    if text == BYTES or text.startswith(STATES):
        return hashlib.sha256(text.encode()).hexdigest()
    try:
        content = json.loads(text)
        parts = {name: content[name] for name in DECISIVE}
        merges = parts["model"].get("merges", [])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput("tokenizer.path: this is not the text of a tokenizer.json.") from None
    # Older files write a merge as "a b", newer ones as ["a", "b"].
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    parts["model"] = {**parts["model"], "merges": pairs}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Encoder:
    """What both kinds of tokenizer do with texts."""

    def encode_parts(self, texts: Sequence[str | LongText]) -> Iterator[tuple[int, np.ndarray, int]]:
        """(number of a text, tokens of a part of it, UTF-8 bytes of the part), in order; no text is without a part."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str | LongText]) -> list[np.ndarray]:
        """The tokens of every text, int64, the separator never among them."""
        ids: list[list[np.ndarray]] = [[] for _ in texts]
        for number, part, _ in self.encode_parts(texts):
            ids[number].append(part)
        return [np.concatenate(each) if len(each) != 1 else each[0] for each in ids]


class ByteTokenizer(_Encoder):
    """The 256 byte values, and 256 for the separator."""

    vocabulary = 257
    separator = 256
    text = BYTES

    def encode_parts(self, texts: Sequence[str | LongText]) -> Iterator[tuple[int, np.ndarray, int]]:
        for number, text in enumerate(texts):
            for part in parts(text) if text else [""]:
                ids = np.frombuffer(part.encode(), dtype=np.uint8).astype(np.int64)
                yield number, ids, len(ids)

    def decode(self, ids: Sequence[int]) -> str:
        known = np.asarray(ids)
        return known[known != self.separator].astype(np.uint8).tobytes().decode(errors="replace")

    def bytes_per_token(self) -> np.ndarray:
        return np.array([1.0] * 256 + [0.0])


class JsonTokenizer(_Encoder):
    """A tokenizer.json, given as its text; a separator is added to it where it knows no end-of-text token."""

    def __init__(self, text: str):
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises a bare Exception
            raise BadInput(f"tokenizer.path: this tokenizer.json cannot be read ({error}).") from None
        known = [name for name in END_OF_TEXT if self._tokenizer.token_to_id(name) is not None]
        self.added_separator = not known
        if self.added_separator:
            self._tokenizer.add_special_tokens([DOCUMENT])
        self.separator: int = self._tokenizer.token_to_id((known or [DOCUMENT])[0])
        self.vocabulary: int = max(self._tokenizer.get_vocab().values()) + 1
        if self.vocabulary > LARGEST:
            raise BadInput(f"tokenizer.path: this tokenizer.json has ids up to {self.vocabulary - 1}, above {LARGEST}.")
        self.text = self._tokenizer.to_str()
        # A document that spells out the separator must not become one. (Not kept in the JSON: set after every load.)
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if getattr(self._tokenizer.model, "dropout", None):
            self._tokenizer.model.dropout = None  # or a text would have other tokens every time

    def encode_parts(self, texts: Sequence[str | LongText]) -> Iterator[tuple[int, np.ndarray, int]]:
        """As said above; a text of more than PIECE characters goes in pieces (`_pieces`), and few pieces at a time, so
        that memory is bounded whatever the texts are.
        """
        group: list[tuple[int, str, int]] = []
        together = 0
        for number, text in enumerate(texts):
            for piece, size in self._pieces(text):
                group.append((number, piece, size))
                together += 500 + size  # an encoding takes some memory however short it is
                if together >= ENCODED_TOGETHER:
                    yield from self._encode_group(group)
                    group, together = [], 0
        yield from self._encode_group(group)

    def coverage(self, texts: list[str]) -> tuple[int, int]:
        """Of the characters of some texts that are no spaces, how many are part of a known token, and all."""
        unknown = self._unknown
        covered = total = 0
        with _encoding():
            encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            known = np.zeros(len(text) + 1, dtype=bool)
            for i, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
                known[start:stop] |= i != unknown
            marks = np.array([not character.isspace() for character in text], dtype=bool)
            covered += int(known[: len(text)][marks].sum())
            total += int(marks.sum())
        return covered, total

    @cached_property
    def _unknown(self) -> int | None:
        """The token that stands for what the vocabulary lacks, if there is one."""
        model = json.loads(self.text)["model"]
        return model["unk_id"] if "unk_id" in model else self._tokenizer.token_to_id(model.get("unk_token") or "")

    def _encode_group(self, group: list[tuple[int, str, int]]) -> Iterator[tuple[int, np.ndarray, int]]:
        """(number of its text, its tokens, its bytes) of each (number of its text, piece, its bytes)."""
        with _encoding():
            encodings = self._tokenizer.encode_batch_fast([piece for _, piece, _ in group], add_special_tokens=False)
        for (number, piece, size), encoding in zip(group, encodings, strict=True):
            ids = np.array(encoding.ids, dtype=np.int64)
            yield number, self._without_separator(piece) if (ids == self.separator).any() else ids, size

    def _without_separator(self, text: str) -> np.ndarray:
        """The tokens of a text that spells the separator, with this spelling cut in two."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        spelled = [place for i, place in zip(encoding.ids, encoding.offsets, strict=True) if i == self.separator]
        if not spelled:
            return np.array(encoding.ids, dtype=np.int64)
        start, stop = spelled[0]
        if stop - start < 2:
            raise BadInput(
                f"This tokenizer makes its separator, token {self.separator}, of {text[start:stop]!r}: no text can be "
                "told from the end of one."
            )
        cuts = [0, *((start + stop) // 2 for start, stop in spelled if stop - start > 1), len(text)]
        return np.concatenate([self._without_separator(text[a:b]) for a, b in pairwise(cuts)])

    def _pieces(self, text: str | LongText) -> Iterator[tuple[str, int]]:
        """A text in pieces of at most PIECE characters, with the UTF-8 bytes that each stands for.

        It is cut where the tokens around are those of the text whole. That is looked for among the last word ends of a
        piece, and then, in text without any, among its last characters. A tokenizer that puts a space before every text
        gets the piece after a word end without its own. Where no place will do, the cut is at PIECE characters.
        """
        ahead = ""
        for part in parts(text):
            ahead += part
            while len(ahead) > PIECE + CONTEXT:
                stop, after = self._seam(ahead, PIECE)
                yield ahead[:stop], _bytes(ahead[:after])
                ahead = ahead[after:]
        while len(ahead) > PIECE:
            stop, after = self._seam(ahead, PIECE)
            yield ahead[:stop], _bytes(ahead[:after])
            ahead = ahead[after:]
        yield ahead, _bytes(ahead)

    def _seam(self, text: str, limit: int) -> tuple[int, int]:
        """Where a piece may end, and the next begin."""
        ends = [match.start() + 1 for match in WORD_END.finditer(text, limit - NEARBY, limit)][-TRIED:]
        tried = [(end, after) for end in reversed(ends) for after in (end, end + 1)]
        tried += [(end, end) for end in range(limit, limit - TRIED, -1)]
        for end, after in tried:
            left, right = text[end - CONTEXT : end], text[end : end + CONTEXT]
            whole, *apart = self._tokenizer.encode_batch_fast(
                [left + right, left, text[after : end + CONTEXT]], add_special_tokens=False
            )
            if whole.ids == apart[0].ids + apart[1].ids:
                return end, after
        return limit, limit

    def decode(self, ids: Sequence[int]) -> str:
        known = np.asarray(ids)
        return self._tokenizer.decode(known[known != self.separator].tolist(), skip_special_tokens=False)

    def bytes_per_token(self) -> np.ndarray | None:
        """UTF-8 bytes of each token, (vocabulary,); None unless the tokenizer is byte-level, where they are exact."""
        decoder = json.loads(self.text)["decoder"] or {}
        if "ByteLevel" not in {part["type"] for part in decoder.get("decoders", [decoder]) if "type" in part}:
            return None
        lengths = np.zeros(self.vocabulary)
        added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        for token, i in self._tokenizer.get_vocab().items():
            # Byte-level vocabularies spell each byte as one printable character; added tokens are spelled as they are.
            lengths[i] = len(token.encode()) if token in added else len(token)
        lengths[self.separator] = 0
        return lengths


@contextmanager
def _encoding() -> Iterator[None]:
    """Refuse what a tokenizer cannot encode inside the block, as an unknown word where there is no token for these."""
    try:
        yield
    except Exception as error:  # the library raises a bare Exception
        raise BadInput(f"This tokenizer cannot encode the text ({error}).") from None


def _bytes(text: str) -> int:
    """Its UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode())


def read_json(settings: Tokenizer) -> str:
    """The text of the tokenizer.json that `settings` (kind file or hub) name."""
    if settings.kind == "hub":
        from data.hub import fetch_tokenizer

        return fetch_tokenizer(settings.path)
    try:
        return Path(os.path.expanduser(settings.path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise BadInput(f"tokenizer.path: {settings.path!r} cannot be read ({reason}); name a tokenizer.json.") from None
