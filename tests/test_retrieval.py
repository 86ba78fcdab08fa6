"""Retrieval sequences: the key is where it is said to be, within the window, and never one that is measured."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from conf.base import BadInput
from data.bpe import train_bpe
from data.retrieval import MixedWindows, Task, held_out, mixed
from data.settings import Retrieval
from data.tokenizer import ByteTokenizer, JsonTokenizer
from data.windows import Windows
from tests.runs import tiny
from train import compose, train

BYTES = ByteTokenizer()
TEXT = np.frombuffer(b"Fellow citizens of the Senate and of the House of Representatives; " * 9, np.uint8)
NEEDLE = re.compile(r"<([a-z])>(\d+)</\1>")


def task(tokenizer=BYTES, **settings):
    return Task(Retrieval(**settings), lambda text: tokenizer.encode([text])[0], tokenizer.separator)


def read(trial):
    """What a person sees in a compact prompt: the needles (label → key), the question's label, the text alone."""
    assert trial.prompt[0] == BYTES.separator and BYTES.separator not in trial.prompt[1:]
    said = BYTES.decode(trial.prompt)
    needles = {match[1]: match[2] for match in NEEDLE.finditer(said)}
    asked = re.search(r"<([a-z])>$", said)[1]
    return needles, asked, NEEDLE.sub("", said)[:-3]


@pytest.mark.parametrize("keys", [1, 2, 5])
@pytest.mark.parametrize("digits", [3, 5])
def test_every_distance_that_fits_is_had_exactly(keys, digits):
    builder = task(keys=keys, digits=digits)
    for length in (builder.shortest, builder.shortest + 1, builder.shortest + 90):
        for k in range(builder.nearest, builder.farthest(length) + 1):
            trial = builder.trial(TEXT, length, k, np.random.default_rng(k), measured=True)
            assert len(trial.prompt) + digits - 1 == length
            needles, asked, text = read(trial)
            assert len(needles) == keys == len(set(needles.values()))
            assert needles[asked] == BYTES.decode(trial.key) == BYTES.decode(trial.prompt[-k:][:digits])
            assert text == BYTES.decode(TEXT[: builder.room(length)])
            assert BYTES.decode(trial.other) != needles[asked]
            assert keys == 1 or BYTES.decode(trial.other) in needles.values()


def test_the_extremes_are_the_ends_of_the_text_and_distances_lie_evenly_between():
    builder = task()
    length = 100
    first, last = (
        builder.trial(TEXT, length, k, np.random.default_rng(0), measured=True)
        for k in (builder.farthest(length), builder.nearest)
    )
    assert BYTES.decode(first.prompt).startswith("<") and re.search(r"</[a-z]><[a-z]>$", BYTES.decode(last.prompt))
    ks = builder.distances(length, 5)
    assert (ks[0], ks[-1]) == (first.k, last.k) and max(np.diff(ks)) - min(np.diff(ks)) <= 1
    assert builder.distances(21, 2) == [13, 12]
    with pytest.raises(BadInput, match=r"depths=3 .* 22 tokens or more here, not 21"):
        builder.distances(21, 3)


def test_training_sequences_stay_in_the_window_and_never_show_a_held_out_key():
    builder, window = task(digits=3, keys=2), 96
    seen, lengths, distances = set(), [], []
    for seed in range(400):
        row = TEXT[seed % 60 :][: window + 1].astype(np.int64)
        sequence = builder.sequence(row, np.random.default_rng(seed))
        assert len(sequence) == window + 1 and sequence[0] == BYTES.separator
        said = BYTES.decode(sequence)
        answers = list(re.finditer(r"<([a-z])>(\d{3})(?=<|$)", re.sub(r"(</[a-z]>)", "<", said)))
        needles = {match[1]: match[2] for match in list(NEEDLE.finditer(said))[:2]}
        last = list(re.finditer(r"<([a-z])>(\d{3})", said))[2]  # the third time a label opens is the question
        assert needles[last[1]] == last[2] and len(answers) >= 2
        seen |= set(needles.values())
        lengths.append(1 + last.end() - 1)
        distances.append(1 + last.start(2) - (1 + said.index(last[2])))
    assert not any(held_out(key) for key in seen) and len(seen) > 300
    assert min(lengths) < builder.shortest + 8 and window - 3 <= max(lengths) <= window
    assert min(distances) == builder.nearest and builder.farthest(window) - 8 < max(distances) < window


def test_held_out_keys_are_a_quarter_and_are_all_that_is_measured():
    assert np.mean([held_out(f"{key:05d}") for key in range(20_000)]) == pytest.approx(0.25, abs=0.01)
    builder = task(digits=3)
    trials = [builder.trial(TEXT, 60, 20, np.random.default_rng(seed), measured=True) for seed in range(100)]
    assert all(held_out(BYTES.decode(key)) for trial in trials for key in (trial.key, trial.other))


def test_a_key_that_the_text_contains_is_not_used():
    *others, first, second = [f"{key:02d}" for key in range(100) if held_out(f"{key:02d}")]
    text = np.frombuffer(" ".join(others).encode(), np.uint8)
    builder = task(digits=2)
    length = builder.shortest + len(text)
    trial = builder.trial(text, length, builder.nearest, np.random.default_rng(0), measured=True)
    assert {BYTES.decode(trial.key), BYTES.decode(trial.other)} == {first, second}
    with pytest.raises(BadInput, match="more digits"):
        full = np.concatenate((text, np.frombuffer(f" {first}".encode(), np.uint8)))
        builder.trial(full, builder.shortest + len(full), builder.nearest, np.random.default_rng(0), measured=True)


def test_the_papers_template_in_bpe():
    speech = ["The pass key is the grass 1862 and 48213 are green and gone. " * 20]
    tokenizer = JsonTokenizer(train_bpe(speech, 300, progress=False))
    builder = task(tokenizer, template="passkey", digits=5)
    length = builder.shortest + 80
    for k in builder.distances(length, 7):
        trial = builder.trial(np.empty(0, np.int64), length, k, np.random.default_rng(k), measured=True)
        said, key = tokenizer.decode(trial.prompt), tokenizer.decode(trial.key)
        assert f"The pass key is {key}. Remember it. {key} is the pass key.\n" in said and len(trial.key) == 5
        assert said.startswith("There is an important info") and said.endswith("The pass key is ")
        assert "The grass is green" in said and len(trial.prompt) + 4 == length
        assert tokenizer.decode(trial.prompt[-k:]).startswith(f"{key} is the pass key.\n")


def test_in_bytes_the_papers_template_does_not_fit_small_windows_and_the_compact_one_does():
    assert task(template="passkey").shortest > 246 and task().shortest == 20
    with pytest.raises(BadInput, match="at least"):
        task(template="passkey").room(246)


def test_a_tokenizer_without_single_digits_is_a_sentence():
    with pytest.raises(BadInput, match="one token"):
        Task(Retrieval(), lambda text: np.zeros(2 * len(text), np.int64), 0)


def corpus():
    return SimpleNamespace(encode=lambda text: BYTES.encode([text])[0], separator=BYTES.separator)


def windows(batch=8, seed=3):
    tokens = np.random.default_rng(0).integers(97, 123, 5000)
    tokens[::500] = BYTES.separator
    return Windows(tokens, 64, batch, seed)


def test_no_share_leaves_the_windows_as_they_are():
    plain = windows()
    assert mixed(plain, corpus(), Retrieval(), 64, 3) is plain


def test_the_share_asked_for_is_mixed_in_and_the_rest_is_untouched():
    plain, mixture = windows(), mixed(windows(), corpus(), Retrieval(fraction=0.3), 64, 3)
    changed = 0
    for step in range(60):
        before, after = plain.batch(step), mixture.batch(step)
        different = (before != after).any(dim=1)
        changed += int(different.sum())
        for row in after[different]:
            assert NEEDLE.search(BYTES.decode(row)) and row[0] == BYTES.separator not in row[1:].tolist()
    assert changed / 480 == pytest.approx(0.3, abs=0.07)


def test_fine_tuning_on_longer_windows_shows_no_distance_beyond_the_first_one(monkeypatch):
    asked = []
    trial = Task.trial
    monkeypatch.setattr(
        Task, "trial", lambda self, *given, **more: asked.append(given[1:3]) or trial(self, *given, **more)
    )
    mixture = mixed(windows(), corpus(), Retrieval(fraction=1.0), 64, 3, reach=30)
    for step in range(30):
        mixture.batch(step)
    lengths, distances = zip(*asked, strict=True)
    assert max(lengths) > 60 and 25 < max(distances) <= 30
    with pytest.raises(BadInput, match=r"window=20 at least, not 19"):
        mixed(windows(), corpus(), Retrieval(fraction=0.5), 64, 3, reach=19)


def test_a_mixed_batch_depends_on_seed_and_step_alone_and_ranks_share_it_out():
    first, second = (mixed(windows(), corpus(), Retrieval(fraction=0.5), 64, 3) for _ in range(2))
    assert isinstance(first, MixedWindows)
    late = second.batch(7)
    for step in (0, 7, 400):
        whole = first.batch(step)
        parts = [second.batch(step, rank, 4) for rank in range(4)]
        assert (whole == np.concatenate(parts)).all()
    assert (first.batch(7) == late).all() and (first.batch(8) != late).any()
    other = mixed(windows(), corpus(), Retrieval(fraction=0.5), 64, 4)
    assert (other.batch(7) != late).any()


def test_impossible_settings_are_a_sentence():
    with pytest.raises(BadInput, match=r"window=20 at least, not 19"):
        mixed(windows(), corpus(), Retrieval(fraction=0.5), 19, 3)
    with pytest.raises(ValidationError, match="no labels"):
        Retrieval(template="passkey", keys=2)
    with pytest.raises(BadInput, match=r"data\.retrieval\.fraction"):
        compose(["data.retrieval.fraction=1.5"])


@pytest.mark.slow
def test_training_takes_the_mixture_and_validates_on_text_alone(tmp_path, monkeypatch, one_thread):
    import models.progress

    validated = []
    original = models.progress.Recorder.__init__

    def remember(self, *arguments, **named):
        validated.append(arguments[3])
        original(self, *arguments, **named)

    monkeypatch.setattr(models.progress.Recorder, "__init__", remember)
    words = tiny(tmp_path, "steps=2")
    plain = train(compose([*words, "name=plain"])).metrics
    mixture = train(compose([*words, "name=mixed", "data.retrieval.fraction=1.0"])).metrics
    assert plain["train/loss"] != mixture["train/loss"]
    assert (validated[0] == validated[1]).all()
