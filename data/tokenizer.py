"""Text to numbers and back: raw bytes, or a Hugging Face `tokenizers` tokenizer kept as tokenizer.json.

Both kinds encode *text* only: nothing in a document can produce the separator, which `token_files` writes between
documents, and no begin-of-text token is added.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from conf.base import BadInput
from data.settings import Tokenizer

# Names under which published tokenizers know the end of a text; the first present separates documents.
END_OF_TEXT = ("<|document|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
DOCUMENT = END_OF_TEXT[0]
# BPE counts pairs over at most this much text from the head of the train split: enough for any vocabulary here.
TRAINING_TEXT = 256 * 2**20
# What stands for a ByteTokenizer where others have the text of a tokenizer.json.
BYTES = "bytes"
# The same for tokens that are states of a chain, followed by how many there are; they stand for no text.
STATES = "states"
# The parts of a tokenizer.json that decide which ids a text gets, and which text some ids.
DECISIVE = ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder")


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


class ByteTokenizer:
    """The 256 byte values, and 256 for the separator."""

    vocabulary = 257
    separator = 256
    text = BYTES

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        known = np.asarray(ids)
        return known[known != self.separator].astype(np.uint8).tobytes().decode(errors="replace")

    def bytes_per_token(self) -> np.ndarray:
        return np.array([1.0] * 256 + [0.0])


class JsonTokenizer:
    """A tokenizer.json, given as its text; a separator is added to it where it knows no end-of-text token."""

    def __init__(self, text: str):
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises a bare Exception
            raise BadInput(f"tokenizer.path: this tokenizer.json cannot be read ({error}).") from None
        known = [name for name in END_OF_TEXT if self._tokenizer.token_to_id(name) is not None]
        if not known:
            self._tokenizer.add_special_tokens([DOCUMENT])
        self.separator: int = self._tokenizer.token_to_id((known or [DOCUMENT])[0])
        self.vocabulary: int = max(self._tokenizer.get_vocab().values()) + 1
        self.text = self._tokenizer.to_str()
        # A document that spells out the separator must not become one. (Not kept in the JSON: set after every load.)
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

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


def train_bpe(texts: Iterable[str], vocabulary: int, progress: bool) -> str:
    """The text of a tokenizer.json: byte-level BPE with `vocabulary` tokens, trained on the head of `texts`."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    def head():
        size = 0
        for text in texts:
            yield text
            size += len(text)
            if size >= TRAINING_TEXT:
                return

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=progress,
    )
    tokenizer.train_from_iterator(head(), trainer=trainer)
    return tokenizer.to_str()


def read_json(settings: Tokenizer) -> str:
    """The text of the tokenizer.json that `settings` (kind file or hub) name."""
    if settings.kind == "hub":
        from data.hub import fetch_tokenizer

        return fetch_tokenizer(settings.path)
    try:
        return Path(settings.path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"tokenizer.path: {settings.path!r} cannot be read ({error}); name a tokenizer.json.") from None
