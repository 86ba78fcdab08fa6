"""How much context is used: gains on the same targets, the gate, and how far back the best reader would look."""

import dataclasses
import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.lab.measure import by_position, context, longppl
from experiments.lab.measure.optimum import optimum
from experiments.lab.measure.perplexity import (
    Measurement,
    by_document,
    format_table,
    measure_checkpoint,
    measure_perplexity,
    notes,
)
from experiments.lab.statistics import Estimate
from experiments.longrope import Search, search_factors
from experiments.longrope import table as search_table
from experiments.longrope.searching import Progress
from experiments.reproduce.evidence import Evidence
from tests.runs import tiny
from tests.test_chains import chains
from tests.test_optimum import drawn, losses_of
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")

LANGUAGE = chains(states=8, alpha=0.3)
REGION = 64
DOCUMENTS = drawn(LANGUAGE, documents=60, length=REGION)
OWNERS = [i // 2 for i in range(60)]  # two segments of each document


def rows_of(nll_at, contexts=(16, REGION)):
    """Rows by document, with the optimum, of a reader given as (losses without nll) → nll (D, N)."""
    losses = [losses_of("fixed_targets", REGION, length, 8, DOCUMENTS) for length in contexts]
    losses = [dataclasses.replace(item, nll=nll_at(item)) for item in losses]
    rows = []
    for item in losses:
        row = {"context": item.context, "tokens": item.nll.size, "documents": list(range(len(item.nll)))}
        row |= {"document_nll": item.nll.sum(axis=1).tolist(), "document_tokens": [8] * len(item.nll)}
        rows.append(by_document(row, OWNERS))
    return context.with_optimum(rows, losses, DOCUMENTS, OWNERS, LANGUAGE)


def back(limit):
    """The best reader that looks back no more than `limit` tokens."""
    return lambda losses: optimum(LANGUAGE, DOCUMENTS, losses, limit)


def test_effective_context_of_a_perfect_reader_is_how_far_it_looks_back():
    for limit in (6, 11, 16, 23, 45):
        rows = rows_of(back(limit))
        read = rows[1]["effective_context"]
        assert read["low"] <= read["value"] <= read["high"]
        assert read["value"] == pytest.approx(limit, rel=1e-6)
    between = rows_of(lambda losses: (back(16)(losses) + back(23)(losses)) / 2)[1]["effective_context"]["value"]
    assert between == pytest.approx(math.sqrt(16 * 23), rel=1e-6)  # half way in the logarithm of the length


def test_effective_context_ends_at_none_and_at_all_that_was_read():
    perfect, blind = rows_of(back(None)), rows_of(lambda losses: np.full(losses.nll.shape, 9.0))
    assert [row["effective_context"]["value"] for row in perfect] == pytest.approx([16, 64])
    assert [row["effective_context"]["value"] for row in blind] == [1, 1]
    assert context.format_length(Estimate(**perfect[1]["effective_context"]), 64).startswith("≥64 [")
    assert context.format_length(Estimate(12.4, 9.6, 64.0), 64) == "12 [10, ≥64]"


def test_the_optimum_stands_beside_what_was_measured():
    for row, length in zip(rows_of(back(5)), (16, REGION), strict=True):
        best = back(None)(losses_of("fixed_targets", REGION, length, 8, DOCUMENTS))
        assert row["optimum"]["document_nll"] == pytest.approx(best.sum(axis=1).reshape(30, 2).sum(axis=1).tolist())
        assert row["optimum"]["perplexity"] == pytest.approx(math.exp(best.mean()))
        assert row["excess"]["value"] == pytest.approx(
            (back(5)(losses_of("fixed_targets", REGION, length, 8, DOCUMENTS)) - best).mean()
        )


def beats(rows):
    return context.beats_the_optimum({row["context"]: row["excess"] for row in rows})


def test_no_reader_beats_the_optimum_by_more_than_chance():
    assert beats(rows_of(back(None))) is None
    assert beats(rows_of(back(11))) is None
    random = np.random.default_rng(0)

    def lucky(losses):  # three standard errors
        noise = random.normal(size=losses.nll.shape)
        return back(None)(losses) + 0.5 * (noise - noise.mean()) - 3 * 0.5 / math.sqrt(noise.size)

    def cheating(losses):
        return back(None)(losses) - 0.1 * random.random(losses.nll.shape)

    assert beats(rows_of(lucky)) is None
    assert "nats a token below the optimum" in beats(rows_of(cheating))


def test_chance_is_not_known_from_few_documents():
    """A single one has no spread, and five standard errors of two are no rare thing."""
    lucky = np.array([-0.1, -0.11, -0.1, -0.1, -0.1, -0.11, -0.1, -0.1])
    for count, judged in ((1, False), (2, False), (7, False), (8, True)):
        excess = context.excess(8 * lucky[:count], np.full(count, 8))
        assert excess["value"] == pytest.approx(lucky[:count].mean())
        assert (excess["standard_error"] is not None) == judged == bool(context.beats_the_optimum({8: excess}))


def test_a_single_document_passes_nothing_and_no_interval_is_shown():
    rows = [
        {"context": length, "document_nll": [nats], "document_tokens": [8], "documents": [0], "token_set": "same"}
        for length, nats in ((32, 24.0), (64, 16.0))
    ]
    gate = context.gate([rows], 64)
    assert gate == {"from": 32, "to": 64, "value": 1.0, "low": None, "high": None, "passed": False}
    assert "it gains 1.000 nats a token, in a single document" in context.gate_sentence(gate, 64)
    known = context.effective_context([5.0], [4.0], np.array([[8.0], [6.0], [4.0]])[:, :1], 2)
    assert "[" not in context.format_length(known, 2)
    assert context.format_length(Estimate(1.0, 1.0, 1.0), 1) == "1 [1, 1]"
    assert context.format_length(Estimate(2.0, 1.5, 2.0), 2) == "≥2 [2, ≥2]"


def test_gains_are_paired_and_the_gate_asks_the_last_doubling_inside_the_window():
    random = np.random.default_rng(0)
    hard = random.normal(3, 1, size=40)  # documents differ by far more than contexts do

    def row(length, nats):
        return {"context": length, "document_nll": (8 * (hard + nats)).tolist(), "document_tokens": [8] * 40} | {
            "documents": list(range(40)),
            "token_set": "same",
        }

    small = random.normal(0, 0.01, size=40)
    rows = [row(16, 0.0), row(64, -0.06 + small), row(32, -0.05)]
    assert [(gain["from"], gain["to"]) for gain in context.gains(rows)] == [(16, 32), (32, 64)]
    assert context.gains(rows)[0]["value"] == pytest.approx(0.05)
    passed = context.gate([rows], 64)
    failed = context.gate([[row(16, 0.0), row(32, small - small.mean() - 0.0005)]], 32)
    assert (passed["from"], passed["to"], passed["passed"]) == (32, 64, True)
    assert 0 < passed["low"] < passed["value"] < passed["high"] < 0.02
    assert (failed["passed"], failed["low"] < 0 < failed["value"]) == (False, True)
    assert context.gate([rows], 128) is None
    alone = {"documents": [0], "document_tokens": [8], "token_set": "same"}
    alone = [{**alone, "context": 16, "document_nll": [8.0]}, {**alone, "context": 32, "document_nll": [1.0]}]
    assert not context.gate([alone], 32)["passed"]
    several = context.gate([alone, alone, alone], 32)
    assert several["value"] > 0 and several["low"] is None and not several["passed"], "seeds are no documents"
    assert context.gate([[row(1, 0.0)]], 1)["value"] == 0, "half of a single token is that token"
    assert "uses all 64 tokens: from 32 on it gains" in context.gate_sentence(passed, 64)
    assert "shows no use of the second half of 32 tokens" in context.gate_sentence(failed, 32)
    assert "name 64 and 128" in context.gate_sentence(None, 128)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    words = [item for item in tiny(folder) if not item.startswith(("data.", "cache="))]
    words += [
        f"cache={folder}/cache",
        "data=chains",
        "data.length=256",
        "data.documents={train: 4, validation: 2, test: 9}",
    ]
    return train(compose(words), words), f"{folder}/cache"


def test_programs_are_warned_of_a_reading_that_beats_the_optimum(base, monkeypatch):
    result, cache = base
    settings = Measurement(contexts=(16, 32), stride=8, segments=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure_checkpoint(result.checkpoint, None, settings, cache)
    monkeypatch.setattr(context, "optimum", lambda *args: 9.0 + optimum(*args))
    with pytest.warns(UserWarning, match=r"At a context of 16 the loss is .* below the optimum"):
        measure_checkpoint(result.checkpoint, None, settings.model_copy(update={"segments": 9}), cache)


def test_a_claim_is_warned_of_losses_by_position_below_the_optimum(base, monkeypatch):
    result, cache = base
    evidence = Evidence({"rope": [result]}, SimpleNamespace(window=16, cache=cache), 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evidence.by_position("rope", context=16)
    monkeypatch.setattr(by_position, "optimum", lambda *args: 9.0 + optimum(*args))
    with pytest.warns(UserWarning, match=r"At a context of 1 the loss is .* below the optimum"):
        evidence.by_position("rope", context=32)


def test_longppl_of_chains_is_held_to_the_optimum_of_the_same_targets(base):
    """All targets from K on, read whole, are those of fixed_targets with as large a region."""
    result, cache = base
    settings = longppl.LongPPL(length=64, short=16, stride=4, segments=12, gain=0.01)
    read, _ = longppl.measure_longppl(result.checkpoint, None, settings, cache)
    same = Measurement(contexts=(64,), stride=64 - 16 + 1, segments=12, batch_tokens=settings.batch_tokens)
    (row,) = measure_checkpoint(result.checkpoint, None, same, cache)["rows"]
    assert read["all"]["nll"] == pytest.approx(row["nll"])
    assert read["all"]["optimum"] == pytest.approx(row["optimum"]["perplexity"])
    assert read["all"]["excess"] == pytest.approx(row["excess"]) and read["all"]["excess"]["value"] > 0
    assert "The best reader has " in longppl.format_table(read)
    read["all"]["excess"] = {"value": -1.0, "standard_error": 0.01}
    assert "no reader can do that" in longppl.format_table(read)


def test_a_search_on_chains_has_the_effective_context_of_the_same_targets(base):
    result, cache = base
    evolution = {"population": 4, "parents": 2, "mutations": 1, "crossovers": 1, "generations": 1, "probability": 0.3}
    settings = Search(**evolution, seed=0, tokens=128, segments=9, factor=2.0)
    found, _ = search_factors(
        result.checkpoint, settings, cache, Progress(SimpleNamespace(update=int, set_postfix=dict))
    )
    windows = Measurement(protocol="windows", contexts=(64,), stride=1, segments=9, batch_tokens=settings.batch_tokens)
    (row,) = measure_checkpoint(result.checkpoint, None, windows, cache)["rows"]
    held_out = found["methods"]["extrapolation"]["held out"]
    assert held_out["effective_context"] == pytest.approx(row["effective_context"])
    assert held_out["excess"] == pytest.approx(row["excess"])
    table = search_table.format_table(found)
    assert "effective context" in table and "The best reader has " in table and "no reader can" not in table
    held_out["excess"] = {"value": -1.0, "standard_error": 0.01}
    assert "\nextrapolation, held out: At a context of 64 the loss is 1.0000 nats" in search_table.format_table(found)


@pytest.mark.slow
def test_a_reading_of_chains_has_the_optimum_and_the_effective_context(base):
    result, cache = base
    for protocol in ("fixed_targets", "windows", "sliding"):
        options = Measurement(protocol=protocol, contexts=(16, 32, 64), stride=8, segments=12)
        read, place = measure_perplexity(result.checkpoint, None, options, cache)
        assert json.loads(place.read_text()) | {"read_back": False} == read
        for row in read["rows"]:
            assert row["bits_per_byte"] is None
            assert row["optimum"]["nll"] < row["nll"]
            assert 1 <= row["effective_context"]["value"] <= row["context"]
            assert len(row["optimum"]["document_nll"]) == len(row["document_nll"]) == 9
        assert [gain["to"] for gain in read["gains"]] == [32, 64]
        text = format_table(read["rows"], read["gains"])
        assert "effective context" in text and "optimum" in text and "bits/byte" not in text
        assert ("gate" in read) == (protocol == "fixed_targets")
        assert len(notes(read)) == (protocol == "fixed_targets")
    assert read["rows"][0]["documents"] == [*range(9)]
    context.figure({"none": read["rows"]}, 32, "a title", place.with_suffix(""))
    assert place.with_suffix(".png").stat().st_size > 10_000


def test_readings_from_before_gains_were_measured_still_print(base):
    result, cache = base
    read, _ = measure_perplexity(result.checkpoint, None, Measurement(contexts=(16, 32), stride=8, segments=4), cache)
    old = {
        "rows": [{key: row[key] for key in ("context", "perplexity", "tokens", "documents")} for row in read["rows"]]
    }
    old["rows"] = [{**row, "bits_per_byte": 2.5} for row in old["rows"]]
    assert "2.5000" in format_table(old["rows"]) and notes(old) == []
