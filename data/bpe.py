"""Byte-level BPE trained on texts of any shape, in bounded time and memory."""

import re
from collections.abc import Iterable, Iterator

from data.long_text import LongText, parts
from data.tokenizer import DOCUMENT, NEARBY, WORD_END

# BPE counts pairs over at most this many characters from the head of the train split: enough for any vocabulary here.
TRAINING_TEXT = 256 * 2**20
# And over at most this many bytes of different words, each of which it keeps in memory at about 120 bytes for one.
DIFFERENT_WORDS = 12 * 2**20
TRAINING_PIECE = 2**17
LONGEST_WORD = 1000
WORD = re.compile(r"\w+|[^\w\s]+")


def train_bpe(texts: Iterable[str], vocabulary: int, progress: bool) -> str:
    """The text of a tokenizer.json: byte-level BPE with `vocabulary` tokens, or as many as the text gives.

    It is trained on the head of `texts`: TRAINING_TEXT characters, or as far as the first DIFFERENT_WORDS bytes of
    different words. What the pre-tokeniser would hand over as one word is cut after LONGEST_WORD characters, in
    training only: counting pairs takes time with the square of a word's length.
    """
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

    # The pattern of GPT-2, which ByteLevel has within, with an end to every repetition.
    most = f"{{1,{LONGEST_WORD}}}"
    pattern = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}{most}| ?\p{{N}}{most}| ?[^\s\p{{L}}\p{{N}}]{most}"
    pattern += rf"|\s{most}(?!\S)|\s{most}"
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=progress,
    )
    tokenizer.train_from_iterator(_training_text(texts), trainer=trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def _training_text(texts: Iterable[str | LongText]) -> Iterator[str]:
    """The texts to train on, in pieces: the library takes hundreds at once into memory."""
    words: set[int] = set()  # hashes of them
    characters = different = 0
    for text in texts:
        for piece in _training_pieces(text):
            yield piece
            characters += len(piece)
            for word in set(WORD.findall(piece)):
                if (number := hash(word)) not in words:
                    words.add(number)
                    different += len(word.encode())
            if different >= DIFFERENT_WORDS:
                return
        if characters >= TRAINING_TEXT:
            return


def _training_pieces(text: str | LongText) -> Iterator[str]:
    """A text in pieces of about TRAINING_PIECE characters, cut at word ends, where no pre-token goes on, if it can."""
    ahead = ""
    for part in parts(text):
        ahead, start = ahead + part, 0
        while len(ahead) > (stop := start + TRAINING_PIECE):
            ends = [match.start() + 1 for match in WORD_END.finditer(ahead, stop - NEARBY, stop)]
            stop = ends[-1] if ends else stop
            yield ahead[start:stop]
            start = stop
        ahead = ahead[start:]
    if ahead:
        yield ahead
