"""Passkey retrieval: a copying model scores all, a blind one chance, a short-sighted one as far as it sees."""

import json
import math
import re
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from conf.base import BadInput
from data.retrieval import Task
from data.settings import Retrieval
from data.tokenizer import ByteTokenizer
from experiments.lab.measure.passkey import Passkey, format_table, measure_passkey
from experiments.lab.measure.retrieval import (
    Cell,
    k_max,
    k_max_interval,
    make_trials,
    passkey_context,
    score_trials,
    summarise,
    summarise_cell,
)
from tests.runs import CACHE, run_program, tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")
BYTES = ByteTokenizer()


def task(**settings):
    return Task(Retrieval(**settings), lambda text: BYTES.encode([text])[0], BYTES.separator)


class Held:
    """Held-out documents of letters, each opened by its separator."""

    def __init__(self, *lengths):
        random = np.random.default_rng(0)
        self.documents = [np.r_[BYTES.separator, random.integers(97, 123, n - 1)].astype(np.uint16) for n in lengths]

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, i):
        return self.documents[i]

    def at_least(self, length):
        return [i for i, document in enumerate(self.documents) if len(document) >= length]


class Reader(nn.Module):
    """A model given by a function from a text so far to logits (V,) of its next token."""

    def __init__(self, function):
        super().__init__()
        self.function, self.anchor = function, nn.Parameter(torch.zeros(1))

    def hidden(self, tokens):
        rows = [[self.function(BYTES.decode(row[: t + 1])) for t in range(len(row))] for row in tokens.numpy()]
        return torch.tensor(np.array(rows), dtype=torch.float32)

    def logits(self, hidden):
        return hidden


def says(character, certainty=30.0):
    logits = np.zeros(BYTES.vocabulary)
    if character is not None:
        logits[ord(character)] = certainty
    return logits


def copy(text, reach=10**6, heeds_labels=True):
    """The next digit of the key that the end of the text asks for, where it is within reach, else None."""
    question = re.search(r"<([a-z])>(\d*)$", text)
    if question is None:
        return None
    label, start = (question[1] if heeds_labels else "[a-z]"), question.start()
    near = max(0, question.end(1) + 1 - reach)  # the prompt ends behind the label
    results = re.search(rf"<{label}>(\d+)</", text[:start][max(0, near - 3) :])
    return results[1][len(question[2])] if results and len(question[2]) < len(results[1]) else None


def noise(text):
    return np.random.default_rng(zlib.crc32(text.encode())).normal(size=BYTES.vocabulary)


def blind(text):
    """Digits out of the air, the same for the same text."""
    logits = noise(text)
    logits[48:58] += 20
    return logits


def grid(model, lengths, depths, trials, **settings):
    builder, cells = task(**settings), []
    for length in lengths:
        for depth, k in enumerate(builder.distances(length, depths)):
            answers = score_trials(model, make_trials(builder, Held(900, 700), length, k, trials, seed=1))
            cells.append(summarise_cell(length, depth / (depths - 1), k, answers, builder.digits))
    return cells


@pytest.mark.parametrize("keys", [1, 3])
def test_a_copying_model_scores_all(keys):
    cells = grid(Reader(lambda text: says(copy(text))), [62, 90], 4, 5, keys=keys, digits=3)
    assert {entry.exact for entry in cells} == {1} and {entry.preferred for entry in cells} == {1}
    assert max(entry.needle_perplexity for entry in cells) == pytest.approx(1, abs=1e-6)
    assert min(entry.gap for entry in cells) >= 29
    message = summarise(cells)
    assert [row["k_max_20%"]["value"] for row in message["lengths"]] == [
        task(keys=keys, digits=3).farthest(n) for n in (62, 90)
    ]
    assert (message["passkey_context"], message["passkey_accuracy"]) == (90, 1)


@pytest.mark.slow
def test_a_blind_model_scores_chance():
    builder = task(digits=2)
    answers = score_trials(Reader(blind), make_trials(builder, Held(900), 24, 15, 1500, seed=3))
    one = summarise_cell(24, 0.5, 15, answers, 2)
    assert one.low < 0.01 < one.high < 0.03
    assert one.preferred == pytest.approx(0.5, abs=0.05) and one.gap == pytest.approx(0, abs=0.15)
    assert 9 < one.needle_perplexity < 20  # ten digits, guessed with some wrong confidence


def test_a_reader_that_does_not_heed_labels_gets_one_key_in_so_many():
    (low, *_, high) = grid(Reader(lambda text: says(copy(text, heeds_labels=False))), [90], 3, 20, keys=4, digits=3)
    assert low.depth == 0 and low.exact == 1 and high.exact < 0.2  # it takes the first key it finds
    assert high.preferred < 0.5 + 0.3


@pytest.mark.parametrize("reach", [12, 20, 31, 50])
def test_a_short_sighted_model_reaches_as_far_as_it_sees(reach):
    cells = grid(Reader(lambda text: says(copy(text, reach))), [70], 12, 2)
    ks = sorted(entry.k for entry in cells)
    assert k_max(cells) == max([k for k in ks if k <= reach], default=0)
    assert k_max_interval(cells) == (k_max(cells), k_max(cells))  # nothing was left to chance


def test_equals_decoding_token_by_token_whatever_the_batching():
    """A model that is often wrong, against a plain greedy loop and a plain sum of log-probabilities."""

    def faulty(text):
        logits = 3 * noise(text)
        certain = says(copy(text), 14.0)
        return logits + certain

    model, builder = Reader(faulty), task(digits=2)
    trials = make_trials(builder, Held(900), 40, 20, 24, seed=5)
    answers, single = score_trials(model, trials), score_trials(model, trials, batch_tokens=1)
    np.testing.assert_array_equal(answers.exact, single.exact)
    np.testing.assert_allclose(answers.nll, single.nll)
    for trial, exact, nll, other in zip(trials, answers.exact, answers.nll, answers.other_nll, strict=True):
        message = trial.prompt.tolist()
        for _ in trial.key:
            message.append(int(model.hidden(torch.tensor([message]))[0, -1].argmax()))
        assert exact == (message[-2:] == trial.key.tolist())
        for key, summed in ((trial.key, nll), (trial.other, other)):
            seen, total = trial.prompt.tolist(), 0.0
            for token in key.tolist():
                total -= model.hidden(torch.tensor([seen]))[0, -1].double().log_softmax(-1)[token].item()
                seen.append(token)
            assert summed == pytest.approx(total, rel=1e-4, abs=1e-4)
    assert 0.2 < answers.exact.mean() < 0.9
    cell = summarise_cell(40, 0.5, 20, answers, 2)
    assert cell.needle_perplexity == pytest.approx(math.exp(answers.nll.mean() / 2), rel=1e-6)


class Lengthwise(Reader):
    """Early logits that depend on how long the whole text is, as with dynamic NTK."""

    def hidden(self, tokens):
        return super().hidden(tokens) + 3 * torch.tensor(noise(str(tokens.shape[1])), dtype=torch.float32)


def test_as_decoded_every_digit_is_read_from_a_text_that_ends_before_it():
    """Against a plain greedy loop, which the reading of a whole text then does not equal."""
    model, builder = Lengthwise(lambda text: 3 * noise(text) + says(copy(text), 17.0)), task(digits=3)
    trials = make_trials(builder, Held(900), 40, 20, 24, seed=5)
    decoded, whole = score_trials(model, trials, as_decoded=True), score_trials(model, trials)
    for trial, exact, nll in zip(trials, decoded.exact, decoded.nll, strict=True):
        message, seen, total = trial.prompt.tolist(), trial.prompt.tolist(), 0.0
        for digit in trial.key.tolist():
            message.append(int(model.hidden(torch.tensor([message]))[0, -1].argmax()))
            total -= model.hidden(torch.tensor([seen]))[0, -1].double().log_softmax(-1)[digit].item()
            seen.append(digit)
        assert exact == (message[-3:] == trial.key.tolist()) and nll == pytest.approx(total, rel=1e-4, abs=1e-4)
    assert 0.2 < decoded.exact.mean() < 0.95 and np.median(np.abs(decoded.nll - whole.nll)) > 0.1
    steady = Reader(model.function)
    decoded, whole = score_trials(steady, trials, as_decoded=True), score_trials(steady, trials)
    np.testing.assert_allclose(decoded.nll, whole.nll, rtol=1e-5, atol=1e-6)


def test_trials_are_a_function_of_the_seed_their_text_is_held_out_and_has_no_separator():
    builder, held = task(), Held(80, 300, 20)
    first, again, other = (make_trials(builder, held, 70, 30, 20, seed) for seed in (0, 0, 1))
    prompts = [[trial.prompt.tolist() for trial in trials] for trials in (first, again, other)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert len({tuple(prompt) for prompt in prompts[0]}) == 20
    sources = [BYTES.decode(document) for document in held.documents]
    used = set()
    for prompt in prompts[0]:
        assert prompt.count(BYTES.separator) == 1
        before, after = re.split(r"<[a-z]>\d+</[a-z]>", BYTES.decode(prompt)[:-3])
        used.add(next(i for i, source in enumerate(sources) if before + after in source))
    assert used == {0, 1}
    with pytest.raises(BadInput, match="lengths=400 needs documents of 381 tokens, and the longest has 300"):
        make_trials(builder, held, 400, 30, 1, 0)


def made(length, k, correct, trials=50):
    return Cell(length, 0.0, k, "1" * correct + "0" * (trials - correct), correct / trials, 0, 1, 1.0, 0.0, 0.5)


def test_the_papers_rules_on_made_up_cells():
    """PI: every smaller k must succeed too, and 20 % is enough. YaRN: the longest length that succeeds on the whole."""
    cells = [made(64, 10, 50), made(64, 20, 10), made(64, 30, 9), made(64, 40, 50)]
    assert k_max(cells) == 20 and k_max(cells, 0.8) == 10 and k_max(cells, 0.1) == 40
    assert k_max([made(64, 10, 9)]) == 0
    assert k_max_interval(cells)[0] == 10 and k_max_interval(cells)[1] == 40  # 20 % twice hangs on a trial or two
    rows = [
        made(64, 10, 50),
        made(64, 20, 45),
        made(128, 10, 50),
        made(128, 20, 0),
        made(256, 10, 40),
        made(256, 20, 40),
    ]
    assert passkey_context(rows) == (256, pytest.approx(np.mean([0.95, 0.5, 0.8])))
    assert passkey_context(rows[:4]) == (64, pytest.approx(0.95))
    assert passkey_context(rows[2:4]) == (0, 0)


def test_k_max_equals_its_definition_read_literally():
    random = np.random.default_rng(0)
    for _ in range(300):
        ks = random.permutation(np.arange(1, 9) * 7)
        cells = [made(64, int(k), int(random.integers(0, 51))) for k in ks]
        shares = {entry.k: entry.exact for entry in cells}
        good = [k for k in shares if all(shares[smaller] >= 0.2 for smaller in shares if smaller <= k)]
        assert k_max(cells) == max(good, default=0)


@pytest.mark.slow
def test_the_command_measures_draws_keeps_and_reads_back(tmp_path):
    words = tiny(tmp_path, "name=base", "steps=2", "data.retrieval.digits=3", "data.retrieval.fraction=0.5")
    folder = train(compose(words)).folder
    options = [f"checkpoint={folder}", f"cache={CACHE}", f"runs={tmp_path}", "logger=none", "depths=3", "trials=4"]
    status, out, err = run_program(*options, module="experiments.passkey")
    assert status == 0, err
    assert "k_max_20%" in out and "passkey context 0" in out and "1e-03" in out
    (place,) = (folder / "passkey").glob("*.json")
    result = json.loads(place.read_text())
    assert sorted({entry["length"] for entry in result["cells"]}) == [32, 64, 128, 256]  # 16 has one depth
    assert len(result["cells"]) == 12 and result["digits"] == 3
    assert place.with_suffix(".png").stat().st_size > 5000 and place.with_suffix(".svg").is_file()
    assert format_table(result) in out

    checkpoint = folder / "checkpoints" / "step-00000002.ckpt"
    options = Passkey(template="compact", digits=3, keys=2, lengths=(64,), depths=2, trials=3)
    first, path = measure_passkey(checkpoint, {"name": "interpolate", "factor": 2.0}, options, str(CACHE))
    path.write_text(json.dumps(first | {"read": "back"}))
    assert measure_passkey(checkpoint, {"name": "interpolate", "factor": 2.0}, options, str(CACHE))[0]["read"] == "back"
    assert "50% without heeding labels" in format_table(first)
    for change, message in (({"lengths": (20,)}, "depths=2 .* not 20"), ({"template": "passkey"}, "no labels")):
        with pytest.raises(BadInput, match=message):
            measure_passkey(checkpoint, None, options.model_copy(update=change), str(CACHE))
