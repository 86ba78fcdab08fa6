"""Algorithmic tasks on which positions decide whether a model reads lengths it never saw: a question, then its answer.

Every document is one sample. Eight tasks are those of Huang et al. (2024, arXiv 2410.02140, appendix E):

    separator, question, ASK, answer, END

| task                 | question of n tokens                       | answer                                     |
|----------------------|--------------------------------------------|--------------------------------------------|
| bin_majority         | bits, as often k ones for every k          | the bit that is more frequent; no ties     |
| majority             | letters of 26, uniform                     | the most frequent letter; no ties          |
| interleaved_majority | three bin_majority questions, bit by bit   | the three answers                          |
| sort                 | different numbers below the longest length | the same in ascending order                |
| unique_copy          | different numbers below the longest length | the same                                   |
| repeat_copy          | letters of two, uniform                    | the same                                   |
| parity               | bits, as often k ones for every k          | whether the ones are even or odd in number |
| addition             | a binary number, +, another, =             | their sum                                  |

In two more there are several questions, each answered by the token after it:

- flip_flop (Liu et al. 2023, arXiv 2306.00946): n/2 instructions with a bit each. The first is write, the last read;
  of the others 8 in 10 are ignore, the rest read or write. The bit of a read is that of the last write, others are
  uniform. A read asks for its bit.
- mqar, multi-query associative recall (Zoology: Arora et al. 2023, arXiv 2312.04927): n/2 pairs of a key and a value,
  ASK, and the same pairs in another order, where a key asks for its value. Keys differ, values may not; there are as
  many of each as the longest question has tokens. Zoology spreads the second keys over fillers.

n is uniform over the lengths of a range that a task can have: all, even ones, multiples of three. Draws are remainders
and orders of the raw 64-bit numbers of PCG64, so that samples are the same on every machine: sample i of a split and
range is a function of (seed, split, range, i). In the authors' code training never sees a sample twice but by chance;
here the training split is as long as `documents.train`, and short questions are in every split, as there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.integrity import SPLITS  # in the order of their streams of random numbers
from data.settings import Tasks

if TYPE_CHECKING:
    from torch import Tensor

WRITE, READ, IGNORE = 2, 3, 4  # of flip_flop, after the two bits
PLUS, EQUALS = 2, 3  # of addition, after the two digits
LETTERS = 26


class Draws:
    """Random draws from the raw numbers of one PCG64."""

    def __init__(self, *seed: int):
        self._raw = np.random.PCG64(seed).random_raw

    def below(self, limit: int, count: int | None = None):
        """A whole number from 0 to limit - 1, or (count,) of them."""
        if count is None:
            return int(self._raw()) % limit
        return (np.asarray(self._raw(count)) % np.uint64(limit)).astype(np.int64)

    def order(self, count: int) -> np.ndarray:
        """The numbers 0 … count - 1 in random order, (count,)."""
        return np.argsort(self._raw(count), kind="stable")

    def bits(self, count: int, ones: int) -> np.ndarray:
        """So many bits in random order, so many of them ones, (count,)."""
        return (self.order(count) < ones).astype(np.int64)


@dataclass(frozen=True)
class Task:
    """One task.

    symbols: tokens beside ASK, END and the separator, by the longest question; sample: (draws, n, symbols) → question
    and answer, the latter None where the question has its answers inside; step, shortest: what n is a multiple of,
    and at least.
    """

    symbols: Callable[[int], int]
    sample: Callable[[Draws, int, int], tuple[np.ndarray, np.ndarray | None]]
    step: int = 1
    shortest: int = 1


def _bin_majority(draws: Draws, n: int, symbols: int):
    ones = draws.below(n + 1)
    while 2 * ones == n:
        ones = draws.below(n + 1)
    return draws.bits(n, ones), np.array([2 * ones > n], dtype=np.int64)


def _majority(draws: Draws, n: int, symbols: int):
    while True:
        letters = draws.below(LETTERS, n)
        counts = np.bincount(letters, minlength=LETTERS)
        most = np.flatnonzero(counts == counts.max())
        if len(most) == 1:
            return letters, most


def _interleaved_majority(draws: Draws, n: int, symbols: int):
    questions, answers = zip(*(_bin_majority(draws, n // 3, symbols) for _ in range(3)), strict=True)
    return np.stack(questions, axis=1).flatten(), np.concatenate(answers)


def _sort(draws: Draws, n: int, symbols: int):
    numbers = draws.order(symbols)[:n]
    return numbers, np.sort(numbers)


def _unique_copy(draws: Draws, n: int, symbols: int):
    numbers = draws.order(symbols)[:n]
    return numbers, numbers


def _repeat_copy(draws: Draws, n: int, symbols: int):
    letters = draws.below(2, n)
    return letters, letters


def _parity(draws: Draws, n: int, symbols: int):
    ones = draws.below(n + 1)
    return draws.bits(n, ones), np.array([2 + ones % 2])


def _addition(draws: Draws, n: int, symbols: int):
    first = 1 + draws.below(n - 3)  # digits of the first number; n counts + and =
    numbers = [draws.below(2, digits) for digits in (first, n - 2 - first)]
    for digits in numbers:
        if len(digits) > 1:
            digits[0] = 1
    total = sum(int("".join(map(str, digits)), 2) for digits in numbers)
    return np.concatenate((numbers[0], [PLUS], numbers[1], [EQUALS])), np.array([int(digit) for digit in f"{total:b}"])


def _flip_flop(draws: Draws, n: int, symbols: int):
    kinds = np.array([WRITE, READ, *[IGNORE] * 8])[draws.below(10, n // 2)]
    kinds[0], kinds[-1] = WRITE, READ
    bits = draws.below(2, n // 2)
    written = np.maximum.accumulate(np.where(kinds == WRITE, np.arange(n // 2), 0))  # place of the last write
    bits = np.where(kinds == READ, bits[written], bits)
    return np.stack((kinds, bits), axis=1).flatten(), None


def _mqar(draws: Draws, n: int, symbols: int):
    kinds = symbols // 2
    pairs = np.stack((draws.order(kinds)[: n // 2], kinds + draws.below(kinds, n // 2)), axis=1)
    return pairs.flatten(), pairs[draws.order(n // 2)].flatten()


TASKS = {
    "bin_majority": Task(lambda longest: 2, _bin_majority),
    "majority": Task(lambda longest: LETTERS, _majority),
    "interleaved_majority": Task(lambda longest: 2, _interleaved_majority, step=3, shortest=3),
    "sort": Task(lambda longest: longest, _sort),
    "unique_copy": Task(lambda longest: longest, _unique_copy),
    "repeat_copy": Task(lambda longest: 2, _repeat_copy),
    "parity": Task(lambda longest: 4, _parity),
    "addition": Task(lambda longest: 4, _addition, shortest=4),
    "flip_flop": Task(lambda longest: 5, _flip_flop, step=2, shortest=4),
    "mqar": Task(lambda longest: 2 * longest, _mqar, step=2, shortest=2),
}


def symbols(settings: Tasks) -> int:
    """Tokens of a task beside ASK, END and the separator, which follow in this order."""
    return TASKS[settings.task].symbols(settings.lengths[-1])


def lengths_of(settings: Tasks, place: int) -> range:
    """The lengths n of questions in a range: the first is that of training."""
    task = TASKS[settings.task]
    low = max(task.shortest, settings.lengths[place - 1] + 1 if place else 1)
    return range(-(-low // task.step) * task.step, settings.lengths[place] + 1, task.step)


def longest_document(settings: Tasks, place: int) -> int:
    """Tokens that a document of a range has at most, its separator among them."""
    n = lengths_of(settings, place)[-1]
    answer = {"sort": n, "unique_copy": n, "repeat_copy": n, "mqar": n, "interleaved_majority": 3, "addition": n - 2}
    return (
        n + 1 if settings.task == "flip_flop" else n + answer.get(settings.task, 1) + 2 + (settings.task != "addition")
    )


def documents(settings: Tasks) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (split, tokens) for every sample, int64, without its separator; test has all ranges, one after another."""
    for stream, split in enumerate(SPLITS):
        for place in range(len(settings.lengths) if split == "test" else 1):
            for i in range(getattr(settings.documents, split)):
                yield split, sample(settings, Draws(settings.seed, stream, place, i), place)


def sample(settings: Tasks, draws: Draws, place: int) -> np.ndarray:
    """The tokens of one sample from a range of lengths, without its separator."""
    choices, count = lengths_of(settings, place), symbols(settings)
    question, answer = TASKS[settings.task].sample(draws, choices[draws.below(len(choices))], count)
    if answer is None:
        return question
    ask = [] if settings.task == "addition" else [count]  # = asks
    return np.concatenate((question, ask, answer, [count + 1])).astype(np.int64)


def answered(settings: Tasks, tokens: "Tensor") -> "Tensor":
    """Which of the targets of rows of samples, tokens (B, T + 1), are answers, END too, (B, T) bool.

    A row is a document with its separator, filled up with separators.
    """
    before, targets, count = tokens[:, :-1], tokens[:, 1:], symbols(settings)
    if settings.task == "flip_flop":
        return before == READ
    asked = (before == (EQUALS if settings.task == "addition" else count)).cumsum(1) > 0
    if settings.task == "mqar":
        return asked & (targets >= count // 2) & (targets < count)
    return asked & (targets != count + 2)


def question_length(settings: Tasks, document: np.ndarray) -> int:
    """The length n of the question in a document with its separator."""
    if settings.task == "flip_flop":
        return len(document) - 1
    if settings.task == "addition":
        return int(np.argmax(document == EQUALS))  # = is in the question
    return int(np.argmax(document == symbols(settings))) - 1
