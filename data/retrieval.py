"""Retrieval sequences: a key hidden in text and the question for it, to train on and to measure with.

    separator, preamble, text … needle … text, question | key, ending

A needle names a key, the question asks for it, and the answer is the key's digits. Letters: n digits of a key, one
token each; k the distance of a key, counted in tokens from the end of the prompt, so that the key's first digit is
prompt[-k] (where a needle says its key twice, the nearer one counts); T the window, in tokens read. A sequence of
length T reads its prompt and all but the last digit of its answer. Texts are tokenised in pieces, around every label
and key, so that all needles of a template are equally long and no digit merges with its surroundings.

Keys are either for training or held out, by a hash of the key: no key that is measured was ever trained on.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np
import torch

from conf.base import BadInput
from data.corpus import Corpus
from data.settings import Retrieval
from data.windows import Windows


@dataclass(frozen=True)
class Template:
    """The texts of a retrieval sequence; filler None stands for text of the corpus, else it is repeated."""

    preamble: str
    needle: str
    question: str
    ending: str
    filler: str | None


TEMPLATES = {
    # Takes 20 byte tokens with keys of 5 digits, so that small windows hold it; the other one takes 251.
    "compact": Template("", "<{label}>{key}</{label}>", "<{label}>", "</{label}>", None),
    # Mohtashami & Jaggi 2023 (Landmark Attention), used by Chen et al. 2023 (Position Interpolation, section 3.3).
    "passkey": Template(
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
        "about the important information there.\n",
        "The pass key is {key}. Remember it. {key} is the pass key.\n",
        "What is the pass key? The pass key is ",
        ".\n",
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ",
    ),
}
STREAM = 1  # tells the random numbers of retrieval sequences from those of the windows of the same seed
TRIES = 10_000  # keys drawn before the text is said to leave none


def held_out(key: str) -> bool:
    """Whether a key is for measuring, one in four; the others are for training."""
    return hashlib.sha256(b"retrieval key " + key.encode()).digest()[0] < 64


@dataclass(frozen=True)
class Trial:
    """A prompt (P,), its right key (n,), a wrong one (n,) to compare with, the distance k, and what ends the answer."""

    prompt: np.ndarray
    key: np.ndarray
    other: np.ndarray
    k: int
    ending: np.ndarray


class Task:
    """Builds retrieval sequences of one template for one tokenizer."""

    def __init__(self, settings: Retrieval, encode: Callable[[str], np.ndarray], separator: int):
        """Tokenise the template.

        Raises:
            BadInput: the tokenizer does not make one token of a digit or of a label.
        """
        template = TEMPLATES[settings.template]
        self.digits, self.keys, self.separator = settings.digits, settings.keys, separator

        def one_token(character: str) -> int:
            ids = encode(character)
            if len(ids) != 1:
                raise BadInput(f"retrieval needs a tokenizer with {character!r} as one token; here it is {len(ids)}")
            return int(ids[0])

        def pieces(text: str) -> list:
            """Literal texts as tokens, and "label" or "key" where these stand."""
            parts = re.split(r"\{(label|key)\}", text)
            return [part if place % 2 else encode(part) for place, part in enumerate(parts)]

        self._numerals = np.array([one_token(digit) for digit in "0123456789"])
        self._labels = np.array([one_token(letter) for letter in ascii_lowercase])
        self._preamble = np.concatenate(([separator], encode(template.preamble)))
        self._needle, self._question, self._ending = (
            pieces(text) for text in (template.needle, template.question, template.ending)
        )
        self._filler = None if template.filler is None else encode(template.filler)
        blank = np.zeros(self.digits, dtype=np.int64)
        last = max(place for place, piece in enumerate(self._needle) if isinstance(piece, str) and piece == "key")
        self._needle_length = len(_fill(self._needle, 0, blank))
        question_length = len(_fill(self._question, 0, blank))
        self.nearest = len(_fill(self._needle[last:], 0, blank)) + question_length  # the smallest k
        self._fixed = len(self._preamble) + self.keys * self._needle_length + question_length + self.digits - 1
        # With so much text between several needles, every k between the extremes can be had.
        self.shortest = self._fixed + (self._needle_length - 1 if self.keys > 1 else 0)

    def room(self, length: int) -> int:
        """Tokens of text in a sequence of this length; BadInput where the template does not fit."""
        if length < self.shortest:
            raise BadInput(f"a retrieval sequence takes at least {self.shortest} tokens here, and it is given {length}")
        return length - self._fixed

    def text_needed(self, length: int) -> int:
        """Tokens of a text that `trial` uses: its room, but none where the template has its own filler."""
        return self.room(length) if self._filler is None else 0

    def farthest(self, length: int) -> int:
        """The largest k in a sequence of this length: the needle stands before all text and all other needles."""
        return self.nearest + self.room(length) + (self.keys - 1) * self._needle_length

    def fits(self, length: int, depths: int) -> bool:
        """Whether a sequence of this length has so many different distances."""
        return length >= self.shortest and self.farthest(length) - self.nearest >= depths - 1

    def distances(self, length: int, depths: int) -> list[int]:
        """As many values of k, evenly spaced from the farthest (depth 0) to the nearest (depth 1), all different.

        Raises:
            BadInput: the length has fewer.
        """
        if not self.fits(length, depths):
            needed = max(self.shortest, self._fixed + depths - 1 - (self.keys - 1) * self._needle_length)
            raise BadInput(f"depths={depths} of a retrieval sequence need {needed} tokens or more here, not {length}")
        return np.linspace(self.farthest(length), self.nearest, depths).round().astype(int).tolist()

    def trial(self, text: np.ndarray, length: int, k: int, random: np.random.Generator, measured: bool) -> Trial:
        """One retrieval sequence.

        Args:
            text: at least text_needed(length) tokens without a separator, of which the first are used.
            measured: whether keys are of those held out, or of those to train on.
        """
        room = self.room(length)
        filler = text[:room] if self._filler is None else np.resize(self._filler, room)
        keys = self._draw_keys(filler, max(2, self.keys), random, measured)
        labels = random.permutation(self._labels)[: self.keys]
        needles = [_fill(self._needle, label, key) for label, key in zip(labels, keys, strict=False)]

        behind = k - self.nearest  # tokens of text and of other needles that follow the needle asked for
        fewest, most = max(0, -((room - behind) // self._needle_length)), behind // self._needle_length
        later = int(random.integers(fewest, min(most, self.keys - 1), endpoint=True))  # needles that follow it
        split = room - (behind - later * self._needle_length)  # text before it
        earlier = self.keys - 1 - later
        cuts = [*np.sort(random.integers(0, split, earlier, endpoint=True)), split]
        cuts += np.sort(random.integers(split, room, later, endpoint=True)).tolist()
        texts = np.split(filler, cuts)
        middle = [part for pair in zip(texts, needles, strict=False) for part in pair] + [texts[-1]]
        label, key = labels[earlier], keys[earlier]
        prompt = np.concatenate((self._preamble, *middle, _fill(self._question, label, key)))
        return Trial(prompt, key, keys[earlier - 1], k, _fill(self._ending, label, key))

    def _draw_keys(self, filler: np.ndarray, count: int, random: np.random.Generator, measured: bool) -> np.ndarray:
        """Different keys (count, n) that do not occur in the text, of those held out or of the others."""
        there = np.lib.stride_tricks.sliding_window_view(filler, self.digits) if len(filler) >= self.digits else None
        keys: dict[str, np.ndarray] = {}
        for _ in range(TRIES):
            key = f"{random.integers(10**self.digits):0{self.digits}d}"
            tokens = self._numerals[[int(digit) for digit in key]]
            if held_out(key) == measured and (there is None or not (there == tokens).all(axis=1).any()):
                keys[key] = tokens
            if len(keys) == count:
                return np.stack(list(keys.values()))
        raise BadInput(f"{count} keys of {self.digits} digits are not to be had: more digits leave more")

    def sequence(self, window: np.ndarray, random: np.random.Generator, reach: int | None = None) -> np.ndarray:
        """A training sequence from a window of T + 1 tokens, (T + 1,), its keys never those that are measured.

        Length and distance are drawn evenly from all that fit, the distance up to `reach` if it is given; the text is
        the window's, and goes on after the answer.
        """
        text = np.resize(window[window != self.separator], len(window))  # repeated where separators are gone
        length = int(random.integers(self.shortest, len(window) - 1, endpoint=True))
        farthest = self.farthest(length) if reach is None else min(self.farthest(length), reach)
        k = int(random.integers(self.nearest, farthest, endpoint=True))
        trial = self.trial(text, length, k, random, measured=False)
        return np.concatenate((trial.prompt, trial.key, trial.ending, text[self.room(length) :]))[: len(window)]


def _fill(pieces: list, label: int, key: np.ndarray) -> np.ndarray:
    """Pieces with their labels and keys in place."""
    values = {"label": np.array([label]), "key": key}
    return np.concatenate([values[piece] if isinstance(piece, str) else piece for piece in pieces])


class MixedWindows:
    """Windows of which a share, drawn by (seed, number of the window), are made into retrieval sequences."""

    def __init__(self, windows: Windows, task: Task, fraction: float, seed: int, reach: int | None = None):
        self._windows, self._task, self._fraction, self._seed, self._reach = windows, task, fraction, seed, reach

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> torch.Tensor:
        """As Windows.batch: a function of (seed, step), and shared out by ranks without a trace."""
        rows = self._windows.batch(step, rank, ranks)
        for number, row in enumerate(rows.numpy(), start=(step * ranks + rank) * len(rows)):
            random = np.random.default_rng([self._seed, number, STREAM])
            if random.random() < self._fraction:
                row[:] = self._task.sequence(row, random, self._reach)
        return rows


def mixed(
    windows: Windows, corpus: Corpus, settings: Retrieval, window: int, seed: int, reach: int | None = None
) -> Windows | MixedWindows:
    """The windows a model is trained on: as they are where no retrieval is asked for, else mixed with it.

    reach: the largest distance of a key, for a model that is fine-tuned on longer windows than it was first trained
    on: what it then finds farther away, it was never shown.

    Raises:
        BadInput: a window cannot hold a retrieval sequence.
    """
    if settings.fraction == 0:
        return windows
    task = Task(settings, corpus.encode, corpus.separator)
    room = min(window, reach or window)
    if room < task.shortest:
        raise BadInput(f"data.retrieval.fraction={settings.fraction} needs window={task.shortest} at least, not {room}")
    return MixedWindows(windows, task, settings.fraction, seed, reach)
