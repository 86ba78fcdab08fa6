"""The claims on fine-tuned arms: rules that give all three outcomes, and each end to end on tiny models."""

import json
import math

import pytest

from conf.base import BadInput
from experiments.lab.statistics import Estimate
from experiments.reproduce import verdicts as engine
from experiments.reproduce.arms import arms_of
from experiments.reproduce.claim import Findings, adjusted
from experiments.reproduce.claims import CLAIMS, effective_window, finetuning, position_free, search, turn
from experiments.reproduce.claims.effective_window import EffectiveWindow
from experiments.reproduce.claims.finetuning import Finetuning
from experiments.reproduce.claims.position_free import PositionFree
from experiments.reproduce.claims.search import SearchClaim
from experiments.reproduce.page import plain
from experiments.reproduce.tuning import crossing, tuned
from tests.runs import reproduce_request
from tests.test_plan import Chain, plan_of
from tests.test_reproduce import ratio, words

BELOW, WITHIN, ABOVE = ratio(0.9, 0.95, p=0.0001), ratio(0.97, 1.02), ratio(1.03, 1.05, p=0.0001)
REPRODUCED, NOT, OPEN = "reproduced", "not reproduced", "inconclusive"


def tuned_rows(short, long, inside):
    """What the rule of fine-tuning reads: PI over direct after 32 and 128 steps, and its cost within the window."""
    rows = [
        {"windows": factor, "positions": "interpolate", "steps": steps, "over direct": item,
         "in one window, over control": inside}
        for steps, pair in ((32, short), (128, long))
        for factor, item in zip(finetuning.FACTORS, pair, strict=True)
    ]  # fmt: skip
    crossings = [{"windows": factor, "curves cross": "interpolate and direct", "steps": "never"} for factor in (4, 8)]
    return Findings(adjusted(rows, "over direct") + crossings)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (tuned_rows((BELOW, BELOW), (BELOW, BELOW), ratio(0.99, 1.01)), [REPRODUCED] * 3),
        (tuned_rows((BELOW, BELOW), (BELOW, ABOVE), ratio(1.03, 1.05)), [REPRODUCED, NOT, NOT]),
        (tuned_rows((BELOW, WITHIN), (ratio(0.996, 1.0), BELOW), ratio(0.99, 1.03)), [OPEN, NOT, OPEN]),
        # Of four, 0.03 is not enough.
        (tuned_rows((BELOW, ratio(0.97, 0.999, p=0.03)), (WITHIN, WITHIN), ratio(0.9, 1.03)), [OPEN] * 3),
    ],
)
def test_the_rules_of_fine_tuning(results, expected):
    assert words(Finetuning, results) == expected


def windows(pi, direct, gain, base=5):
    """k_max of five seeds: those of PI at the end of each window, direct's mean, and the gain of PI by distance."""
    rows = [{"positions": "as trained", "at the end": base, "seeds": 5, "by seed": "26", "farthest": 26}]
    for factor, end in ((2, 58), (4, 122)):
        cells = {"tokens": 32 * factor, "steps": effective_window.STEPS[-1], "seeds": 5, "farthest": end, "k_max": 30.0}
        rows.append(cells | {"positions": "interpolate", "at the end": pi, "over direct, share": Estimate(0, *gain)})
        rows.append(cells | {"positions": "direct", "mean k_max": Estimate(0, *direct)})
    return Findings(rows, {"window": 32})


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (windows(5, (26, 39), (0.2, 0.5)), [REPRODUCED] * 2),
        (windows(3, (26, 41), (0.01, 0.5)), [REPRODUCED, OPEN]),
        (windows(2, (41, 60), (0.2, 0.5)), [OPEN, NOT]),
        (windows(5, (41, 60), (-0.2, 0.09)), [NOT, NOT]),
        (windows(0, (26, 39), (0.2, 0.5)), [NOT, REPRODUCED]),
        (windows(5, (26, 39), (-0.1, 0.5)), [OPEN, REPRODUCED]),
        (windows(5, (26, 39), (0.2, 0.5), base=4), [OPEN] * 2),  # the gate
    ],
)
def test_the_rules_of_the_effective_window(results, expected):
    assert words(EffectiveWindow, results) == expected


def test_k_max_is_asked_of_the_longest_length_and_paired_by_seed():
    def read(value):
        lengths = [{"length": n, "k_max_20%": {"value": value - 40 * (n < 64)}, "k_max_80%": {"value": 0},
                    "exact": {"value": 0.5}} for n in (32, 64)]  # fmt: skip
        cells = [{"length": n, "k": k} for n, ks in ((32, (10, 26)), (64, (10, 58))) for k in ks]
        return {"lengths": lengths, "cells": cells, "passkey_context": 32}

    row = EffectiveWindow().row([read(58), read(40)], {}, [read(29), read(40)])
    assert row["by seed"] == "58 40" and row["farthest"] == 58 and row["at the end"] == 1
    assert row["over direct, share"].value == pytest.approx((29 / 58 + 0) / 2) and row["mean k_max"].value == 49


def searches(rival, dims, steps):
    whole = [
        {"factor": factor, "searched": "dims and start", "best rival": "yarn", "over the best rival": item,
         "over dims": other, "over extrapolation": WITHIN, "overfit gap": WITHIN}
        for factor, item, other in zip(search.FACTORS, rival, dims, strict=True)
    ]  # fmt: skip
    once = [
        {"tuned": method, "over at once": item} for method, item in zip(("interpolate", "yarn"), steps, strict=True)
    ]
    return Findings(adjusted(whole, "over the best rival", "over dims") + adjusted(once, "over at once"))


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (searches((BELOW, BELOW), (BELOW, BELOW), (BELOW, BELOW)), [REPRODUCED] * 3),
        (searches((BELOW, ABOVE), (BELOW, ratio(0.996, 1.001)), (ABOVE, BELOW)), [NOT] * 3),
        (searches((BELOW, WITHIN), (WITHIN, WITHIN), (ratio(0.97, 0.999, p=0.03), BELOW)), [OPEN, OPEN, REPRODUCED]),
        (searches((BELOW, BELOW), (BELOW, BELOW), (ratio(0.97, 0.999, p=0.06), BELOW)), [REPRODUCED, REPRODUCED, OPEN]),
    ],
)
def test_the_rules_of_the_search(results, expected):
    assert words(SearchClaim, results) == expected


def test_rivals_are_chosen_by_seed_on_the_text_that_was_searched_on():
    """Seed 1's rival is YaRN though PI is better on held-out text; the gap is how much of the gain was luck."""

    def text(nats):
        cells = {"token_set": "t", "documents": [0, 1], "document_nll": [nats, nats], "document_tokens": [1, 1]}
        return cells | {"perplexity": math.exp(nats)}

    def results(search, held_out):
        names = ("found", "interpolate", "ntk", "yarn", "extrapolation")
        pairs = zip(names, search, held_out, strict=True)
        methods = {name: {"search": text(a), "held out": text(b)} for name, a, b in pairs}
        return {"rivals": ["interpolate", "ntk", "yarn"], "methods": methods}

    item = [
        results((1.0, 1.5, 1.6, 1.2, 3), (1.1, 1.0, 2, 1.2, 3)),
        results((1.0, 1.2, 1.6, 1.5, 3), (1.1, 1.2, 2, 1.0, 3)),
    ]
    row = SearchClaim().gain(item, item, "dims")
    assert row["best rival"] == "interpolate yarn" and row["over dims"] is None
    assert row["there"].difference.value == pytest.approx(-0.2)
    assert row["over the best rival"].difference.value == pytest.approx(-0.1)
    assert row["overfit gap"].difference.value == pytest.approx(0.1)


def without(farther, again, spared, cost, beyond):
    rows = [
        {"arm": arm, "rival": rival, "over the rival": item}
        for arm, rival, item in (("dropped", "control", again), ("p-RoPE 0.75", "rope", spared), ("none", "rope", cost))
    ]
    there = [
        {"arm": arm, "tokens": tokens, "over it there": beyond, "over its YaRN": item}
        for arm in ("dropped", "none")
        for tokens, item in zip((64, 128), farther, strict=True)
    ]
    return Findings(adjusted(rows, "over the rival") + adjusted(there, "over its YaRN"), {"window": 32})


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (without((BELOW, BELOW), ratio(1.0, 1.01), ratio(0.99, 1.004), ABOVE, BELOW), [REPRODUCED] * 4),
        (without((BELOW, ABOVE), ratio(1.03, 1.05), ratio(1.001, 1.01), BELOW, BELOW), [NOT] * 4),
        (without((BELOW, WITHIN), ratio(1.0, 1.03), ratio(0.99, 1.01), WITHIN, BELOW), [OPEN] * 4),
        (without((BELOW, BELOW), ratio(1.0, 1.03), ratio(0.99, 1.01), ABOVE, ABOVE), [REPRODUCED, OPEN, OPEN, NOT]),
    ],
)
def test_the_rules_of_models_without_positions(results, expected):
    assert words(PositionFree, results) == expected


def ends(*triples):
    return [Estimate(*item) for item in triples]


def test_curves_cross_where_their_ratio_passes_one_and_their_interval_does():
    falling = ends((4, 2, 8), (2, 1, 4), (0.5, 0.25, 1), (0.25, 0.125, 0.5))  # at 0, 1, 3 and 7 steps
    results = crossing((0, 1, 3, 7), falling)
    assert (results.value, results.low, results.high) == pytest.approx((2**1.5 - 1, 1, 3))
    rising = [Estimate(1 / item.value, 1 / item.high, 1 / item.low) for item in falling]
    assert crossing((0, 1, 3, 7), rising) == results
    assert crossing((0, 1), falling[:2]) is None
    open_end = crossing((0, 1, 3), ends((2, 0.5, 4), (1.5, 0.5, 3), (0.5, 0.2, 2)))
    assert open_end.low == 0 and open_end.high == math.inf and 1 < open_end.value < 3


def test_an_arm_is_tuned_from_the_snapshot_nearest_to_a_share_of_anothers_training(tmp_path, monkeypatch):
    class Early(Chain):
        def arms(self, window):
            return {
                "base": ["position=rope", "steps=8", "snapshots=[2,5]"],
                "early": tuned("base/0.25", window, "interpolate", 2, (1, 3)),
                "late": tuned("base", window, "interpolate", 2, (1, 3)),
            }

    wanted = reproduce_request(tmp_path, "early", "seeds=1")
    runs = arms_of(Early(), wanted)
    early, late = (runs[arm][0] for arm in ("early", "late"))
    assert early.checkpoint.endswith("snapshot-00000002.ckpt") and late.checkpoint.endswith("step-00000008.ckpt")
    assert early.name != late.name and early.window == late.window == 64 and early.steps == 3

    monkeypatch.setitem(CLAIMS, "early", Early)
    both = plan_of(["early"], wanted)
    assert both.bases == {run.name: runs["base"][0].name for run in (early, late)}, "the base is waited for"

    class Missing(Early):
        def arms(self, window):
            return super().arms(window) | {"base": ["position=rope", "snapshots=[]"]}

    with pytest.raises(BadInput, match="needs snapshots="):
        arms_of(Missing(), reproduce_request(tmp_path, "convergence", "seeds=1"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture
def brief(monkeypatch):
    """A few steps and candidates are enough to see a claim work."""
    for module in (finetuning, effective_window, position_free, turn):
        monkeypatch.setattr(module, "STEPS", (1, 3))
    monkeypatch.setattr(turn, "FACTORS", (2,))
    monkeypatch.setattr(turn, "SHARES", (0.5, 1))
    for name, value in {"DEPTHS": 2, "TRIALS": 2}.items():
        monkeypatch.setattr(effective_window, name, value)
    for name, value in {"STEPS": 4, "TOKENS": 512, "HELD_OUT": 2}.items():
        monkeypatch.setattr(search, name, value)
    monkeypatch.setattr(search, "BUDGET", search.BUDGET | {"population": 4, "generations": 1})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parts"), [("finetuning", 3), ("effective_window", 2), ("turn", 3)])
def test_every_claim_on_tuned_models_comes_to_a_verdict(name, parts, shared, brief, one_thread):
    wanted = reproduce_request(shared, name, "seeds=1", 'train=["steps=4","snapshots=[1,2]"]')
    result = engine.reproduce([name], wanted, [])[name]
    assert [part["word"] for part in result["parts"]] == [OPEN] * parts
    text = json.dumps(result, allow_nan=False)
    assert str(shared) not in text
    assert (shared / "claims" / f"{name}-tiny-s1" / "figure.png").stat().st_size > 5000
    if name == "finetuning":
        tuned_on = {row["windows"] for row in result["rows"] if "positions" in row}
        assert tuned_on == {4, 8} and {row["base trained for"] for row in result["rows"] if "of" in row} == {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parts", "columns"),
    [
        ("search", 3, {"effective context", "effective context, dims and start", "effective context, yarn"}),
        ("position_free", 4, {"effective context", "effective context by its YaRN", "effective context of control"}),
        ("locality", 2, {"effective context in the window", "interpolate, effective context"}),
        ("starting_positions", 2, {"effective context after 5 to 8", "effective context after 17 to 32"}),
    ],
)
def test_on_chains_claims_tell_how_much_context_is_used(name, parts, columns, tmp_path, brief, one_thread):
    chains = '"data.length=256","data.documents={train: 8, validation: 8, test: 8}"'
    changes = f'train=["steps=4","snapshots=[1,2]",{chains}]'
    result = engine.reproduce([name], reproduce_request(tmp_path, name, "seeds=1", "corpus=chains", changes), [])[name]
    assert [part["word"] for part in result["parts"]] == [OPEN] * parts
    json.dumps(result, allow_nan=False)
    told = {column: value for row in result["rows"] for column, value in row.items() if "effective context" in column}
    assert columns <= set(told) and all(1 <= value <= 256.01 for value in told.values())


def test_estimates_are_plain_and_told():
    assert plain({"a": Estimate(1.0, 0.5, math.inf)}) == {"a": {"value": 1.0, "low": 0.5, "high": None}}
