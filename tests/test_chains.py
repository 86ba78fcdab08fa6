"""data=chains: the tokens are those of Markov chains, the same on every machine, and stand for no text."""

import hashlib
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

import data.chains
from conf.base import BadInput
from data.chains import documents, rows, walk
from data.corpus import open_corpus, prepare
from data.settings import DataSettings
from tests.runs import tiny

ROOT = Path(__file__).resolve().parent.parent
COUNTS = {"train": 3, "validation": 2, "test": 2}


def chains(**values):
    """Settings of a small language."""
    small = {"source": "chains", "name": "chains", "states": 3, "alpha": 0.5, "length": 40, "documents": COUNTS}
    return TypeAdapter(DataSettings).validate_python({**small, **values})


def slow_walk(settings, raw):
    """One document, token by token, with exact fractions."""
    alpha, followed, tokens = Fraction(str(settings.alpha)), {}, []
    for t, number in enumerate(map(int, raw)):
        if t < settings.reach:
            tokens.append(number % settings.states)
            continue
        state = tuple(tokens[t - settings.reach : t - settings.lag + 1])
        urn = followed.setdefault(state, [alpha] * settings.states)
        unit = alpha.denominator  # draws are whole numbers of 1/unit
        rest = Fraction(number % int(sum(urn) * unit), unit)
        token = 0
        while rest >= urn[token]:
            rest -= urn[token]
            token += 1
        urn[token] += 1
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("knobs", [{}, {"order": 2}, {"lag": 3, "alpha": 0.3}, {"order": 2, "lag": 2, "alpha": 2}])
def test_a_walk_is_that_of_exact_fractions(knobs):
    settings = chains(**knobs)
    raw = np.random.PCG64(5).random_raw((4, 60))
    np.testing.assert_array_equal(walk(settings, raw), [slow_walk(settings, item) for item in raw])


def test_a_row_is_named_by_the_tokens_that_end_a_lag_before():
    tokens = np.array([0, 1, 2, 2, 0, 1])
    assert rows(chains(order=2, lag=2), tokens).tolist() == [3, 7, 8]  # 10, 21, 22 in base 3, for tokens 3, 4, 5
    assert rows(chains(order=1, lag=1), tokens).tolist() == [0, 1, 2, 2, 0]
    assert rows(chains(order=1, lag=6), tokens).tolist() == []


def test_successors_are_distributed_as_of_dirichlet_rows():
    """Of a Dirichlet row p, E Σp² = (1 + α)/(1 + Sα): two successors of a state agree that often, whichever two."""
    settings = chains(states=4, alpha=0.5, length=4000)
    raw = np.random.PCG64(1).random_raw((300, settings.length))
    agree = []
    for tokens in walk(settings, raw):
        counts = np.zeros((4, 4))
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
        total = counts.sum(axis=1)
        agree.append(((counts * (counts - 1)).sum(axis=1) / (total * (total - 1)))[total > 100].mean())
    assert np.mean(agree) == pytest.approx(1.5 / 3, abs=5 * np.std(agree) / 300**0.5)
    assert np.std(agree) > 0.01  # every document has rows of its own


@pytest.mark.slow
def test_the_default_corpus_is_the_recorded_one(tmp_path):
    settings = yaml.safe_load((ROOT / "conf/data/chains.yaml").read_text())
    corpus = prepare(TypeAdapter(DataSettings).validate_python(settings), tmp_path, progress=False)
    digest = hashlib.sha256()
    for split in data.chains.SPLITS:
        digest.update((corpus.folder / f"{split}.tokens").read_bytes())
    assert digest.hexdigest() == data.chains.SHA256
    for split in data.chains.SPLITS:
        held = corpus.split(split)
        row = re.search(rf"\| {split} +\| ([\d,]+) +\| ([\d,]+) +\|", data.chains.__doc__)
        assert [int(item.replace(",", "")) for item in row.groups()] == [len(held), len(held.tokens)]
        assert set(np.diff(held.offsets)) == {settings["length"] + 1}


def test_a_document_is_a_function_of_seed_split_and_number(monkeypatch):
    def all_of(settings):
        return [(split, tokens.tolist()) for split, tokens in documents(settings)]

    some = all_of(chains())
    more = all_of(chains(documents={**COUNTS, "train": 5}))
    assert more[:3] == some[:3]
    assert more[5:] == some[3:]
    monkeypatch.setattr(data.chains, "WEIGHTS", 1)  # one document at a time
    assert all_of(chains()) == some
    every = [tuple(tokens) for _, tokens in some + all_of(chains(seed=1))]
    assert len(set(every)) == len(every)


def test_the_corpus_has_states_and_neither_text_nor_bytes(tmp_path):
    corpus = prepare(chains(), tmp_path, progress=False)
    assert (corpus.vocabulary, corpus.separator) == (4, 3)
    for split, count in COUNTS.items():
        held = corpus.split(split)
        assert [len(held[i]) for i in range(len(held))] == [41] * count
        assert np.array_equal(np.flatnonzero(held.tokens == corpus.separator), held.offsets[:-1])
    assert corpus.bytes_per_token("test") is None
    assert sorted(path.name for path in corpus.folder.iterdir() if path.suffix not in (".tokens", ".offsets")) == [
        "meta.json"
    ]
    for use in (lambda: corpus.encode("text"), lambda: corpus.decode([1, 2])):
        with pytest.raises(BadInput, match="states for tokens, not text"):
            use()
    assert open_corpus(corpus.folder).fingerprint == corpus.fingerprint
    assert prepare(chains(), tmp_path, progress=False).folder == corpus.folder
    assert prepare(chains(alpha=0.25), tmp_path, progress=False).folder != corpus.folder


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"states": 1}, "greater than or equal to 2"),
        ({"states": 200, "order": 2}, r"states\^\(order \+ 1\) <= 2\^20"),
        ({"alpha": 1 / 3}, "at most six decimals"),
        ({"alpha": 0.0}, "greater than 0"),
        ({"length": 4, "lag": 3, "order": 2}, r"above lag \+ order - 1, here 4"),
        ({"retrieval": {"fraction": 0.5}}, "needs text to hide keys in"),
    ],
)
def test_impossible_languages_are_refused_in_a_sentence(knobs, sentence):
    with pytest.raises(ValidationError, match=sentence):
        chains(**knobs)


@pytest.mark.slow
def test_a_run_on_states_has_no_bits_per_byte(tmp_path, monkeypatch, capsys):
    import train

    overrides = [item for item in tiny(tmp_path) if not item.startswith(("data.", "cache="))]
    overrides += ["data=chains", "data.length=200", "data.documents={train: 2, validation: 2, test: 2}"]
    overrides += [f"cache={tmp_path}", "name=chains"]
    monkeypatch.setattr("sys.argv", ["train.py", *overrides])
    train.main()
    assert re.search(r"chains: validation perplexity \d+\.\d\d after 768 tokens; see", capsys.readouterr().out)
    metrics = train.train(train.compose(overrides)).metrics
    assert "validation/perplexity" in metrics
    assert not [key for key in metrics if "bits" in key]
