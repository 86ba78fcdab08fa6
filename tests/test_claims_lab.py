"""The claims of the lab's own: rules that give all three outcomes, and the numbers they rest on."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.lab.statistics import holm
from experiments.reproduce import verdicts as engine
from experiments.reproduce.arms import arms_of
from experiments.reproduce.claim import Findings, adjusted
from experiments.reproduce.claims import CLAIMS, dependency_width, locality, spacing, turn
from experiments.reproduce.claims.dependency_width import DependencyWidth, lowest, middle_frequency
from experiments.reproduce.claims.locality import FAST, PI, PLAIN, SLOW, Locality, readings
from experiments.reproduce.claims.turn import Turn, crossing_of, rank_correlation
from models.positions import SPECTRA
from models.positions.frequencies import Geometric
from tests.runs import reproduce_request
from tests.test_reproduce import ratio, words

BELOW, WITHIN, ABOVE = ratio(0.9, 0.95, p=0.0001), ratio(0.97, 1.01), ratio(1.03, 1.05, p=0.0001)
REPRODUCED, NOT, OPEN = "reproduced", "not reproduced", "inconclusive"


def divided(damage, cost, plain, whole):
    inside, beyond = "over as trained in the window", f"over as trained at {locality.FACTOR} windows"
    fast = {"divided": FAST, "over slow alone": damage, inside: ABOVE, beyond: ABOVE, "over interpolation": WITHIN}
    slow = {"divided": SLOW, "over slow alone": None, inside: cost, beyond: plain, "over interpolation": whole}
    return Findings([fast, slow])


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (divided(ABOVE, WITHIN, BELOW, BELOW), [REPRODUCED, REPRODUCED]),
        (divided(BELOW, WITHIN, ABOVE, BELOW), [NOT, NOT]),
        (divided(ABOVE, ABOVE, BELOW, WITHIN), [OPEN, OPEN]),
        (divided(WITHIN, WITHIN, BELOW, ABOVE), [OPEN, NOT]),
    ],
)
def test_the_rules_of_locality(result, expected):
    assert words(Locality, result) == expected


def test_fast_and_slow_pairs_are_all_pairs_and_quarters_too():
    frequencies = Geometric().table(32)
    methods = readings(frequencies.tolist(), 64)
    divisors = {name: np.array(way["long"]) for name, way in methods.items() if "long" in way}
    assert np.array_equal(divisors[FAST] * divisors[SLOW], np.full(16, 4.0)), "every pair in one of the two"
    assert [omega * 64 >= 2 * math.pi for omega in frequencies.tolist()] == (divisors[FAST] == 4).tolist()
    assert np.array_equal(np.prod([divisors[f"quarter {n} alone"] for n in (1, 2, 3, 4)], axis=0), np.full(16, 4.0))
    assert all(methods[name]["temperature"] == 1.0 for name in divisors) and set(methods) > {PLAIN, PI, "ntk", "yarn"}


def test_pairs_are_fast_by_the_frequencies_of_the_model_that_is_asked():
    model, read = SimpleNamespace(channels=64, heads=2), []
    config = SimpleNamespace(model=model, frequencies=Geometric(base=100))
    evidence = SimpleNamespace(config=config, window=64, perplexity=lambda arm, method, contexts: read.append(method))
    with pytest.raises(TypeError):  # nothing was read
        Locality().measure(evidence)
    assert read == [*readings(Geometric(base=100).table(32).tolist(), 64).values()]
    assert read != [*readings(Geometric().table(32).tolist(), 64).values()]


def turning(failed, early, late, crossings, other=None, lost=("0.1", "0.5", "0.9")):
    """Three cases at 2, 4 and 8 windows; by case: extrapolation over one window, PI over direct early and late.

    crossings, other: of two seeds, by case.
    """
    rows, cases, crossings = [], [], zip(crossings, other or crossings, strict=True)
    for factor, raw, first, last, by_seed, nats in zip(turn.FACTORS, failed, early, late, crossings, lost, strict=True):
        for step in turn.STEPS:
            row = {"base, M tokens": 1.0, "windows": factor, "steps": step, "positions": "interpolate"}
            rows.append(row | {"over direct": last if step == turn.STEPS[-1] else first})
        case = {"base, M tokens": 1.0, "factor": factor, "extrapolation over one window": raw}
        cases.append(case | {"by seed": "{} {}".format(*by_seed), "failed by seed": f"{nats} {nats}"})
    return Findings([*adjusted(rows, "over direct"), *cases])


FAILS, HOLDS = ratio(2.5, 3.5), ratio(1.2, 1.8)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (turning([HOLDS, FAILS, FAILS], [ABOVE, BELOW, BELOW], [ABOVE, WITHIN, ABOVE], (0, 9, 30)), [REPRODUCED] * 3),
        (turning([HOLDS, FAILS, FAILS], [BELOW, ABOVE, WITHIN], [WITHIN] * 3, (30, 9, 0)), [NOT, OPEN, NOT]),
        (turning([HOLDS, FAILS, FAILS], [BELOW, BELOW, WITHIN], [BELOW] * 3, (30, 9, 0)), [OPEN, NOT, NOT]),
        (turning([FAILS, FAILS, FAILS], [ABOVE, BELOW, BELOW], [ABOVE, BELOW, ABOVE], (9, 30, 0)), [OPEN, OPEN, NOT]),
        (turning([HOLDS, HOLDS, FAILS], [BELOW] * 3, [ABOVE] * 3, (0, 9, 30)), [OPEN] * 3),
        (turning([FAILS] * 3, [BELOW] * 3, [ABOVE] * 3, (9, 0, 12)), [REPRODUCED, REPRODUCED, REPRODUCED]),
        (turning([FAILS] * 3, [BELOW] * 3, [ABOVE] * 3, (0, 9, 30), (30, 9, 12)), [REPRODUCED, REPRODUCED, OPEN]),
        (turning([FAILS] * 3, [BELOW] * 3, [ABOVE] * 3, (0, 9, 30), (0, 30, 9)), [REPRODUCED, REPRODUCED, OPEN]),
    ],
)
def test_the_rules_of_the_turn(result, expected):
    assert words(Turn, result) == expected


class Told:
    """Evidence of two seeds whose mean loss is 1 nat in one window and, in longer ones, what `far` says."""

    window, config = 64, SimpleNamespace(steps=16, batch=2, window=64, snapshots=[1, 4])

    def __init__(self, far):
        self.runs, self.far = {turn.BASE: [None, None]}, far

    def perplexity(self, arm, extend=None, factor=1, step=None, contexts=(), segments=0):
        if arm == turn.BASE:  # untuned; step is that of a snapshot of the base
            method, factor, age, step = extend, contexts[1] // contexts[0], step or 16, 0
        else:
            words = arm.replace(",", "").split()
            method, factor, age = words[0], int(words[1]), round(16 * float(words[2]))
            assert contexts == (64, 64 * factor), "tuned and read at the same window"
        method = "direct" if method == turn.DIRECT else method
        noise = np.random.default_rng([ord(method[0]), factor, age, step]).normal(0, 0.05, (2, 6))
        losses = dict(zip(contexts, (1.0, self.far[method](age, step)), strict=True))
        return {context: [told(loss + by_seed) for by_seed in noise] for context, loss in losses.items()}


def told(documents):
    """A reading of six documents of ten targets each, of these mean losses."""
    nll = 10 * documents
    counts = {"tokens": 60, "document_tokens": [10] * 6, "token_set": "same"}
    return {"nll": float(nll.sum()), "document_nll": nll.tolist(), **counts}


def test_the_turn_pairs_methods_at_every_age_factor_and_step_and_corrects_what_its_rule_asks_apart():
    far = {
        "direct": lambda age, step: 3.0 - 0.1 * step,
        "interpolate": lambda age, step: 2.0 + age / 100,
        "yarn": lambda age, step: 1.5,
    }
    findings = Turn().measure(Told(far))
    cases = [row for row in findings.rows if "factor" in row]
    assert [(case["base, M tokens"] * 1e6, case["factor"]) for case in cases] == [
        (128 * age, factor) for age in (1, 4, 16) for factor in turn.FACTORS
    ]
    assert cases[0]["extrapolation over one window"].difference.value == pytest.approx(2, abs=0.1)
    # Interpolation is at 2.01 throughout, where direct is at 2.6 after 4 steps and at 1.4 after 16.
    place = math.log2(5) + 0.59 / 1.2 * (math.log2(17) - math.log2(5))
    crossings = [float(steps) for steps in cases[0]["by seed"].split()]
    assert crossings == pytest.approx([2**place - 1] * 2, rel=0.2)

    rows = [row for row in findings.rows if row.get("positions", "direct") != "direct"]
    assert len({(row["base, M tokens"], row["windows"], row["positions"], row["steps"]) for row in rows}) == 90
    for row in rows:
        age = round(row["base, M tokens"] * 1e6 / 128)
        expected = far[row["positions"]](age, row["steps"]) - far["direct"](age, row["steps"])
        assert row["over direct"].difference.value == pytest.approx(expected, abs=0.1)
    for asked in (True, False):
        family = [row for row in rows if (row["positions"] == "interpolate" and row["steps"] in (1, 4, 64)) == asked]
        assert len(family) == (27 if asked else 63)
        assert [row["over direct: p"] for row in family] == holm([row["over direct"].p for row in family])


def test_the_turn_is_where_direct_fine_tuning_has_caught_up_for_good():
    def pairs(*gaps):
        return [[{"nll": gap, "tokens": 1}, {"nll": 0.0, "tokens": 1}] for gap in gaps]

    assert crossing_of(pairs(1, 1, 1, 1, 1)) == 0 and crossing_of(pairs(-1, -1, -1, -1, -1)) == 128
    assert crossing_of(pairs(-1, 1, 1, 1, 1)) == pytest.approx(2**0.5 - 1)
    assert crossing_of(pairs(1, -1, -1, 1, 1)) == pytest.approx(math.sqrt(5 * 17) - 1), "behind at first is no matter"
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([5.0, 5, 9])) == pytest.approx(math.sqrt(3) / 2)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([9.0, 5, 1])) == -1
    assert rank_correlation(np.array([1.0, 2]), np.array([3.0, 3])) == 0


def widths(low, high, reads=("9.0 6.1", "9.0 7.1", "9.0 9.1")):
    rows = [
        {"best at lag": lag, "reads by seed": seeds} for lag, seeds in zip(dependency_width.LAGS, reads, strict=True)
    ]
    difference = ratio(math.exp(low), math.exp(high))
    return Findings(rows, {"slope": difference})


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (widths(-1.5, -0.5), [REPRODUCED, REPRODUCED]),
        (widths(-0.05, 0.5), [NOT, NOT]),
        (widths(-0.5, -0.2), [REPRODUCED, NOT]),
        (widths(-1.5, 0.5), [OPEN, OPEN]),
        (widths(-1.5, -0.5, reads=("9.0 6.1", "9.0 7.1", "20.0 8.7")), [OPEN, OPEN]),  # 8.7 without any order
    ],
)
def test_the_rules_of_dependency_width(result, expected):
    assert words(DependencyWidth, result) == expected


def test_the_best_base_is_where_a_parabola_is_lowest_within_the_bases():
    places = np.log(dependency_width.BASES)
    assert lowest((places - math.log(100)) ** 2) == pytest.approx(100)
    assert lowest((places - math.log(2)) ** 2) == pytest.approx(10) and lowest(-places) == pytest.approx(10_000)
    assert middle_frequency(100, 4) == pytest.approx(100**-0.25)


@pytest.mark.slow
def test_dependency_width_comes_to_a_verdict_on_chains_whatever_the_scale(tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr(dependency_width, "LAGS", (1, 2))
    little = 'train=["steps=2","snapshots=[]","data.length=256","data.documents={train: 8, validation: 8, test: 8}"]'
    request = reproduce_request(tmp_path, "dependency_width", "seeds=1", "corpus=chains", little)
    parts = engine.reproduce(["dependency_width"], request, [])["dependency_width"]["parts"]
    assert [part["word"] for part in parts] == [OPEN] * 2 and "not learned at lag" in parts[0]["reason"]


def test_spacings_of_the_same_ends_have_them(window=64):
    """Harmonic and log-uniform ones end elsewhere, so the second part of the claim leaves them out."""
    ends = {name: SPECTRA[name](slowest=1 / window).table(32)[[0, -1]] for name in ("geometric", *spacing.SAME_ENDS)}
    for name, both in ends.items():
        torch.testing.assert_close(both, torch.tensor([1.0, 1 / window], dtype=torch.float64), msg=name)
    compared = {name for name in spacing.Spacing().arms(window) if name not in ("rope", "learned", "geometric")}
    assert compared - set(spacing.SAME_ENDS) == {"harmonic", "log_uniform"}


def test_a_trial_does_not_take_the_place_of_a_verdict(tmp_path):
    """Fewer seeds, and a group of its own, as `train=` wants one, are in the name of the results."""
    labels = {
        reproduce_request(tmp_path, "spacing", "scale=nano", *words).results_label
        for words in ([], ["seeds=1"], ["group=mine"], ["group=claims-nano-64"], ["corpus=chains", "seeds=2"])
    }
    assert labels == {"nano", "nano-s1", "nano-mine", "nano-64", "nano-chains-s2"}
    assert reproduce_request(tmp_path, "spacing", "scale=nano", "seeds=9").results_label == "nano"


@pytest.mark.slow
def test_claims_that_a_scale_cannot_settle_are_not_of_all_and_names_tell_corpora_apart(tmp_path):
    assert "pico" in Turn.not_at
    request = reproduce_request(tmp_path, "turn", "scale=pico", "seeds=1")
    known: dict = {}
    names = {run.name for name in ("locality", "turn") for (run,) in arms_of(CLAIMS[name](), request, known).values()}
    assert {"rope-pico-s1", "rope-pico-sotu-s1"} <= names
