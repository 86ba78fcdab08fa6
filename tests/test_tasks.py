"""data=tasks: samples are what their definitions say, the same on every machine, and answers alone are learned."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from conf.base import BadInput
from data.corpus import open_corpus, prepare
from data.settings import DataSettings
from data.tasks import (
    EQUALS,
    READ,
    TASKS,
    WRITE,
    answered,
    documents,
    lengths_of,
    longest_document,
    question_length,
    symbols,
)
from data.training import training_windows, validation_windows
from data.windows import Samples

COUNTS = {"train": 400, "validation": 40, "test": 60}
# Over the samples of every task below, in order; the tokens of one seed are the same everywhere.
SHA256 = "bb993430050e6c732dca567daf72bcc67d38157fbffe29165c5836a23fb5632f"


def task(name: str, **values):
    """Settings of a task with short questions."""
    small = {"source": "tasks", "name": name, "task": name, "lengths": [12, 20, 30], "documents": COUNTS}
    return TypeAdapter(DataSettings).validate_python({**small, **values})


def read(settings, tokens: np.ndarray) -> tuple[list[int], list[int]]:
    """Question and answer of a sample with ASK and END, by hand."""
    count = symbols(settings)
    ask = EQUALS if settings.task == "addition" else count
    tokens = tokens.tolist()
    place = tokens.index(ask)
    assert tokens[-1] == count + 1 and tokens.count(count + 1) == 1
    return tokens[: place + (settings.task == "addition")], tokens[place + 1 : -1]


def majority(bits: list[int]) -> int:
    (first, count), *rest = Counter(bits).most_common()
    assert not rest or rest[0][1] < count
    return first


def binary(bits: list[int]) -> int:
    assert set(bits) <= {0, 1} and bits and (bits[0] == 1 or len(bits) == 1)
    return sum(bit << place for place, bit in enumerate(reversed(bits)))


def answer_by_hand(name: str, question: list[int]) -> list[int]:
    """The answer to a question by the plainest rule."""
    if name in ("bin_majority", "majority"):
        return [majority(question)]
    if name == "interleaved_majority":
        return [majority(question[start::3]) for start in range(3)]
    if name == "sort":
        return sorted(question)
    if name in ("unique_copy", "repeat_copy"):
        return question
    if name == "parity":
        return [3 if sum(question) % 2 else 2]
    plus = question.index(2)
    total = binary(question[:plus]) + binary(question[plus + 1 : -1])
    return [int(digit) for digit in bin(total)[2:]]


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("flip_flop", "mqar")])
def test_answers_are_those_of_the_plainest_rule(name):
    settings = task(name)
    for _, tokens in documents(settings):
        question, answer = read(settings, tokens)
        assert answer == answer_by_hand(name, question)
        assert max(question + answer) < symbols(settings)
        assert name not in ("sort", "unique_copy") or len(set(question)) == len(question)


def test_a_read_has_the_bit_of_the_last_write():
    instructions = Counter()
    for _, tokens in documents(task("flip_flop")):
        kinds, bits = tokens[::2].tolist(), tokens[1::2].tolist()
        assert (kinds[0], kinds[-1]) == (WRITE, READ)
        memory = None
        for kind, bit in zip(kinds, bits, strict=True):
            memory = bit if kind == WRITE else memory
            assert kind != READ or bit == memory
        instructions.update(kinds[1:-1])
    total = sum(instructions.values())
    for kind, share in ((2, 0.1), (3, 0.1), (4, 0.8)):
        assert instructions[kind] / total == pytest.approx(share, abs=5 * (share * (1 - share) / total) ** 0.5)


def test_every_key_is_asked_for_once_and_has_its_value():
    settings = task("mqar")
    half, shuffled = symbols(settings) // 2, False
    for _, tokens in documents(settings):
        question, answer = read(settings, tokens)
        pairs, again = (list(zip(part[::2], part[1::2], strict=True)) for part in (question, answer))
        assert sorted(pairs) == sorted(again)
        keys, values = zip(*pairs, strict=True)
        assert len(set(keys)) == len(keys) and max(keys) < half <= min(values) and max(values) < 2 * half
        shuffled = shuffled or pairs != again
    assert shuffled


@pytest.mark.parametrize("name", TASKS)
def test_lengths_are_uniform_and_no_range_has_those_of_another(name):
    settings = task(name)
    by_range = [lengths_of(settings, place) for place in range(3)]
    assert by_range[0][-1] <= 12 < by_range[1][0] and by_range[1][-1] <= 20 < by_range[2][0]
    found: dict[str, list] = {"train": [], "validation": [], "test": []}
    for split, tokens in documents(settings):
        n = len(tokens) if name == "flip_flop" else len(read(settings, tokens)[0])
        assert question_length(settings, np.array([symbols(settings) + 2, *tokens])) == n
        found[split].append(n)
    assert len(found["test"]) == 3 * COUNTS["test"]
    for place, lengths in enumerate(by_range):
        some = found["test"][place * COUNTS["test"] : (place + 1) * COUNTS["test"]]
        assert set(some) <= set(lengths) and {lengths[0], lengths[-1]} <= set(some)
    assert set(found["train"]) == set(found["validation"]) | set(found["train"]) == set(by_range[0])
    share = 1 / len(by_range[0])
    for n in by_range[0]:
        spread = (share * (1 - share) / COUNTS["train"]) ** 0.5
        assert found["train"].count(n) / COUNTS["train"] == pytest.approx(share, abs=5 * spread)


@pytest.mark.parametrize("name", TASKS)
def test_the_longest_document_is_as_long_as_is_said(name):
    settings = task(name, lengths=[6, 9, 12], documents={"train": 3000, "validation": 1, "test": 1})
    longest = max(1 + len(tokens) for split, tokens in documents(settings) if split == "train")
    assert longest == longest_document(settings, 0)


def test_counts_of_ones_are_uniform():
    for name in ("bin_majority", "parity"):
        settings = task(name, lengths=[4, 7, 10], documents={"train": 4000, "validation": 1, "test": 1})
        ones = Counter(
            sum(read(settings, tokens)[0])
            for split, tokens in documents(settings)
            if split == "train" and len(read(settings, tokens)[0]) == 4
        )
        expected = {0, 1, 3, 4} if name == "bin_majority" else {0, 1, 2, 3, 4}
        assert set(ones) == expected  # no ties
        mean = sum(ones.values()) / len(ones)
        assert all(abs(count - mean) < 5 * mean**0.5 for count in ones.values())


def test_samples_are_a_function_of_seed_split_range_and_number_and_those_recorded():
    def all_of(**values):
        return [tuple(tokens.tolist()) for _, tokens in documents(task("sort", **values))]

    some, more = all_of(), all_of(documents={**COUNTS, "train": 401, "test": 61})
    assert more[:400] == some[:400] and more[401:441] == some[400:440]
    assert more[441:501] == some[440:500] and more[502:562] == some[500:560]
    assert not set(some[440:]) & set(all_of(seed=1)[440:])
    digest = hashlib.sha256()
    for name in TASKS:
        for _, tokens in documents(task(name)):
            digest.update(tokens.astype("<i8").tobytes())
    assert digest.hexdigest() == SHA256


def test_splits_share_no_sample_that_is_long():
    by_split: dict[str, set] = {"train": set(), "validation": set(), "test": set()}
    for split, tokens in documents(task("unique_copy")):
        if len(tokens) > 10:  # of four numbers out of thirty and more
            by_split[split].add(tuple(tokens.tolist()))
    assert not by_split["train"] & by_split["validation"] and not by_split["test"] & by_split["train"]
    assert all(by_split.values())


@pytest.mark.parametrize("name", TASKS)
def test_answers_alone_are_learned(name):
    settings = task(name)
    separator, count = symbols(settings) + 2, symbols(settings)
    for _, tokens in list(documents(settings))[::7]:
        row = [separator, *tokens.tolist(), *[separator] * 5]
        (counted,) = answered(settings, torch.tensor([row])).tolist()
        learned = {place + 1 for place, right in enumerate(counted) if right}
        if name == "flip_flop":
            expected = {place + 1 for place, token in enumerate(row) if token == READ}
        else:
            ask = row.index(EQUALS if name == "addition" else count)
            expected = (
                set(range(ask + 2, len(tokens) + 1, 2)) if name == "mqar" else set(range(ask + 1, len(tokens) + 1))
            )
        assert learned == expected


def test_a_batch_has_each_sample_once_in_an_epoch_and_is_shared_out_without_a_trace(tmp_path):
    corpus = prepare(task("sort", documents={"train": 30, "validation": 5, "test": 2}), tmp_path, progress=False)
    documents_ = corpus.split("train")
    window = longest_document(corpus.task, 0) - 1
    batches = Samples(documents_, window, 6, 3, corpus.separator)
    rows = [row.tolist() for step in range(10) for row in batches.batch(step)]
    whole = {tuple(documents_[i].tolist()) for i in range(30)}
    for epoch in (rows[:30], rows[30:]):
        assert {tuple(row[: 1 + len(row[1:]) - _padding(row, corpus.separator)]) for row in epoch} == whole
    assert rows[:30] != rows[30:]
    again = Samples(documents_, window, 6, 3, corpus.separator)
    assert torch.equal(again.batch(7), batches.batch(7))
    assert torch.equal(torch.cat([batches.batch(2, rank, 3) for rank in range(3)]), batches.batch(2))
    with pytest.raises(BadInput, match="window=20 is too short for a sample"):
        Samples(documents_, 20, 30, 3, corpus.separator).batch(0)


def _padding(row: list[int], separator: int) -> int:
    return row[1:].count(separator)


def test_a_corpus_of_a_task_has_answers_and_no_text(tmp_path):
    corpus = prepare(task("parity"), tmp_path, progress=False)
    assert (corpus.vocabulary, corpus.separator) == (7, 6)
    assert corpus.task == task("parity") and corpus.language is None and corpus.bytes_per_token("train") is None
    assert open_corpus(corpus.folder).fingerprint == corpus.fingerprint
    with pytest.raises(BadInput, match="states for tokens, not text"):
        corpus.encode("text")
    other = prepare(task("addition"), tmp_path, progress=False)  # as many tokens, of another meaning
    assert other.vocabulary == corpus.vocabulary and other.tokenizer_fingerprint != corpus.tokenizer_fingerprint
    with pytest.raises(BadInput, match="a model of other tokens cannot read them"):
        prepare(task("addition"), tmp_path, progress=False, tokenizer=corpus.tokenizer_text)
    held_out = validation_windows(corpus, 15, 7)
    assert held_out.shape == (7, 16) and torch.equal(held_out, validation_windows(corpus, 15, 8)[:7])
    with pytest.raises(BadInput, match="samples of 16 tokens: window must be 15"):
        training_windows(corpus, 14, 4, 1, corpus.task.retrieval, 14)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"task": "riddle"}, "bin_majority"),
        ({"lengths": [20, 12]}, "each above the one before it"),
        ({"lengths": [3]}, "from 4 to 10000"),
        ({"lengths": []}, "at least 1"),
        ({"lengths": [12, 13]}, "three or more apart"),
        ({"retrieval": {"fraction": 0.5}}, "needs text to hide keys in"),
        ({"isolate_documents": True}, "nothing to isolate"),
        ({"documents": {"train": 0, "validation": 1, "test": 1}}, "greater than or equal to 1"),
    ],
)
def test_impossible_tasks_are_refused_in_a_sentence(values, sentence):
    with pytest.raises(ValidationError, match=sentence):
        task("sort", **values)
