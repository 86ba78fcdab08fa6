"""Above every verdict: whether the models use their window; beside perplexity: how much of a context they use."""

import json
from types import SimpleNamespace

import pytest

from conf.base import BadInput
from experiments.report.gather import gates
from experiments.reproduce import verdicts as engine
from experiments.reproduce.arms import arms_of
from experiments.reproduce.claim import Findings, Verdict
from experiments.reproduce.claims import CLAIMS
from experiments.reproduce.gate import describe_gate, measure_gate
from tests.runs import reproduce_request
from tests.test_reproduce import Small

CHAINS = 'train=["steps=4","snapshots=[2]","data.length=256","data.documents={train: 8, validation: 8, test: 8}"]'


def row(arm, low, high):
    return {"arm": arm, "from": 32, "to": 64, "value": (low + high) / 2, "low": low, "high": high, "passed": low > 0}


def test_a_gate_that_fails_is_said_in_capitals_and_names_the_models():
    uses, does_not = row("rope", 0.2, 0.3), row("none", -0.01, 0.02)
    holds = describe_gate({"arms": [uses, row("alibi", 0.1, 0.2)]})
    assert holds.startswith("The gate holds") and "from 32 to 64 tokens" in holds and "0.150 [0.100, 0.200]" in holds
    some, none = describe_gate({"arms": [uses, does_not]}), describe_gate({"arms": [does_not]})
    assert some.startswith("THE GATE FAILS for none:") and "holds for the other 1" in some
    assert none.startswith("THE GATE FAILS: no model") and "0.005 [-0.010, 0.020]" in none
    assert "none: 0.005" in describe_gate({"arms": [row("rope", 0.001, 0.003), does_not]}), "of those that fail"
    assert describe_gate(None) == ""


def test_the_gate_of_one_model_and_one_document_has_no_interval_and_fails():
    def read(arm, step, contexts):
        counts = {"document_tokens": [10], "token_set": "same"}
        return {context: [{"context": context, "document_nll": [600 / context], **counts}] for context in contexts}

    runs = {"rope": [SimpleNamespace(checkpoint=None, window=64)]}
    gate = json.loads(json.dumps(measure_gate(SimpleNamespace(perplexity=read), runs), allow_nan=False))
    (row,) = gate["arms"]
    assert (row["from"], row["to"], row["low"], row["high"]) == (32, 64, None, None)
    assert row["value"] == pytest.approx(0.9375)
    assert not gate["passed"] and "0.938 nats a token" in describe_gate(gate)


def test_the_turn_asks_every_age_of_its_bases_whether_it_uses_its_window():
    """The youngest loses by the second half of its window, here 128 to 256 tokens."""
    nats = {(250, 128): 4.0, (250, 256): 4.1, (1000, 128): 3.0, (1000, 256): 2.9, (None, 128): 2.0, (None, 256): 1.9}

    def read(arm, step, contexts):
        counts = {"document_tokens": [10, 10], "token_set": "same"}
        nll = {length: [10 * nats[step, length]] * 2 for length in contexts}
        return {length: [{"context": length, "document_nll": nll[length], **counts}] * 2 for length in contexts}

    base = SimpleNamespace(checkpoint=None, window=256, batch=16, steps=4000, snapshots=[250, 500, 1000, 2000])
    arms = {"rope": [base], "tuned": [SimpleNamespace(checkpoint="a base")]}
    gate = CLAIMS["turn"]().measure_gate(SimpleNamespace(perplexity=read, config=base), arms)
    assert [(item["arm"], item["passed"]) for item in gate["arms"]] == [
        ("rope after 1.02 M tokens", False),
        ("rope after 4.1 M tokens", True),
        ("rope", True),
    ]
    assert "FAILS for rope after 1.02 M tokens" in describe_gate(gate)


def test_a_report_has_the_gate_of_each_scale_over_all_claims():
    scale = {"name": "pico", "data": "chains", "window": 64}
    result = {"claim": "x", "scale": scale, "gate": {"arms": [row("rope", 0.2, 0.3), row("learned", 0.2, 0.3)]}}
    arms = [row("rope", 0.2, 0.3), row("none", -0.1, 0.1), row("learned", -0.3, 0.1)]
    other = {"claim": "y", "scale": scale, "gate": {"arms": arms}}
    old = {"scale": {"name": "nano", "data": "sotu", "window": 32}}
    results = gates({"a": other, "b": result, "c": old, "bound": {"scale": None}})
    assert list(results) == ["pico on chains, windows of 64", "nano on sotu, windows of 32"]
    assert "FAILS for none; learned (y):" in (text := results["pico on chains, windows of 64"])
    assert "the other 2" in text, "two models of one name"
    assert "not measured" in results["nano on sotu, windows of 32"]


@pytest.mark.slow
def test_on_chains_effective_context_stands_beside_perplexity_and_the_gate_above_the_verdict(
    tmp_path, monkeypatch, capsys, one_thread
):
    monkeypatch.setitem(CLAIMS, "convergence", Small)
    request = reproduce_request(tmp_path, "convergence", "corpus=chains", "seeds=1", CHAINS)
    result = engine.reproduce(["convergence"], request, [])["convergence"]
    assert [0.99 < row["effective context"] < 32.01 for row in result["rows"]] == [True, True]
    assert [row["arm"] for row in result["gate"]["arms"]] == ["sinusoidal", "rope"]
    out = capsys.readouterr().out
    assert out.index("GATE FAILS") < out.index("RoPE takes fewer steps than the sinusoid: ")
    assert "corpus=chains" in result["command"] and result["scale"]["data"] == "chains"
    assert json.loads((tmp_path / "results" / "convergence-tiny-chains-s1.json").read_text())["gate"] == result["gate"]


@pytest.mark.slow
def test_one_word_changes_the_corpus_of_all_runs_and_a_claim_keeps_to_the_one_it_needs(tmp_path):
    def corpora(claim, *words):
        request = reproduce_request(tmp_path, claim, "seeds=1", *words)
        return {(run.group, run.data.name) for (run,) in arms_of(CLAIMS[claim](), request).values()}

    assert corpora("convergence") == {("claims-tiny", "sotu")}
    assert corpora("convergence", "corpus=chains") == {("claims-tiny-chains", "chains")}
    assert corpora("effective_window", "corpus=chains") == {("claims-tiny-chains", "sotu")}, "keys are hidden in text"
    assert corpora("convergence", "scale=pico", "corpus=chains") == {("claims-pico", "chains")}, "its own corpus"
    run = next(iter(arms_of(CLAIMS["effective_window"](), reproduce_request(tmp_path, "a", "scale=pico")).values()))[0]
    assert (run.data.name, run.data.tokenizer.kind, run.steps, run.window) == ("sotu", "bytes", 1500, 64)
    with pytest.raises(BadInput, match="data=chain"):
        corpora("convergence", "corpus=chain")


def test_a_rule_that_was_rewritten_and_code_that_was_changed_are_told_apart(monkeypatch):
    class Rewritten(CLAIMS["bound"]):
        rewritten = "after 32 steps, not 16"

    monkeypatch.setattr(engine, "environment", lambda _: {"versions": {}, "commit": "abc", "changed": False})
    verdicts = {"a part": Verdict("reproduced", "found")}
    result = engine.record("bound", Rewritten(), None, None, Findings([]), verdicts, [])
    assert (result["rewritten"], result["commit"], result["changed"]) == ("after 32 steps, not 16", "abc", False)
