"""From claim to verdict: rules that give all three outcomes, exact bounds, and the engine end to end on tiny models."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from conf.base import BadInput
from experiments.lab.statistics import Comparison, Estimate, first_crossing
from experiments.reproduce import verdicts as engine
from experiments.reproduce.arms import arms_of
from experiments.reproduce.claim import Findings, adjusted
from experiments.reproduce.claims import CLAIMS, bound
from experiments.reproduce.claims.convergence import Convergence, log_share
from experiments.reproduce.claims.extrapolation import Extrapolation
from experiments.reproduce.claims.spacing import Spacing
from experiments.reproduce.claims.starting_positions import LARGE, StartingPositions, difference, moved
from experiments.reproduce.evidence import Evidence
from experiments.reproduce.page import plain, table
from experiments.reproduce.verdicts import require_seeds
from models.progress import Metrics
from tests.runs import reproduce_request, run_program
from train import Result

WORDS = ("reproduced", "not reproduced", "inconclusive")


def ratio(low, high, p=0.5):
    """A comparison whose ratio of perplexities lies between two numbers."""
    ends = math.log(low), math.log(high)
    return Comparison(Estimate(sum(ends) / 2, *ends), p=p, p_equivalent=1.0, seeds=5, documents=20)


def words(claim, results):
    return [entry.word for entry in claim().judge(results).values()]


@pytest.mark.parametrize(("share", "word"), list(zip([(0.7, 0.9), (0.97, 1.2), (0.8, 1.1)], WORDS, strict=True)))
def test_the_rule_of_convergence(share, word):
    row = {"position": "rope", "share of steps": ratio(*share), "perplexity ratio": ratio(0.9, 1.1)}
    assert words(Convergence, Findings([row])) == [word]


def beyond(raw, better, sooner, alibi):
    read = lambda position, options, **cells: {"position": position, "read by": options, "tokens": 128, **cells}  # noqa: E731
    rows = [
        read("rope", "none", **{"over one window": ratio(*raw)}),
        read("rope", "interpolate", **{"over extrapolation": ratio(*better)}),
        read("alibi", "none", **{"over one window": ratio(*alibi)}),
        {"contrast": "sinusoid's ratio over RoPE's", "over": ratio(*sooner)},
    ]
    return Findings(rows, {"window": 32})


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (beyond((4, 5), (0.5, 0.6), (2, 3), (0.98, 1.01)), ["reproduced", "reproduced"]),
        (beyond((4, 5), (1.2, 1.6), (0.5, 0.9), (0.98, 1.01)), ["not reproduced", "not reproduced"]),
        (beyond((1.2, 1.8), (0.5, 0.6), (2, 3), (1.2, 1.3)), ["not reproduced", "not reproduced"]),
        (beyond((4, 5), (0.9, 1.1), (0.9, 1.2), (0.98, 1.01)), ["inconclusive", "inconclusive"]),
        (beyond((1.8, 2.2), (0.5, 0.6), (2, 3), (1.0, 1.1)), ["inconclusive", "inconclusive"]),
    ],
)
def test_the_rules_of_extrapolation(results, expected):
    assert words(Extrapolation, results) == expected


@pytest.mark.parametrize(
    ("early", "more", "word"),
    [
        ((1.01, 1.03), (1.005, 1.02), "reproduced"),
        ((0.99, 1.004), (1.005, 1.02), "not reproduced"),
        ((1.01, 1.03), (0.97, 0.99), "not reproduced"),
        ((1.01, 1.03), (0.99, 1.02), "inconclusive"),
        ((0.99, 1.02), (1.005, 1.02), "inconclusive"),
    ],
)
def test_the_rule_of_starting_positions(early, more, word):
    cells = {"base": LARGE, "early": ratio(*early), "early over late": ratio(*more)}
    text = [{"position": scheme, **cells} for scheme in ("rope", "sinusoidal")]
    assert words(StartingPositions, Findings(text, {"window": 32})) == [word] * 2


@pytest.mark.parametrize(
    ("compared", "word"),
    [
        ([ratio(0.97, 0.99, p=0.001), ratio(0.99, 1.02)], "reproduced"),
        ([ratio(0.97, 0.999, p=0.03), ratio(0.99, 1.02)], "inconclusive"),  # of two, 0.03 is not enough
        ([ratio(0.996, 1.01), ratio(1.01, 1.02, p=0.001)], "not reproduced"),
    ],
)
def test_the_rule_of_spacing_counts_its_family(compared, word):
    rows = [{"spectrum": f"{i}", "over usual": entry, "over matched": entry} for i, entry in enumerate(compared)]
    rows = adjusted(
        [{"spectrum": "rope", "over usual": None, "over matched": None}, *rows], "over usual", "over matched"
    )
    assert words(Spacing, Findings(rows)) == [word] * 2


def test_bounds_hold_against_the_scores_they_bound():
    """Random h: the corrected bound holds and is nearly met by the worst case; the paper's is passed."""
    h = torch.randn(500, 16, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    h = h / h.abs().amax(1, keepdim=True)
    turned = torch.polar(
        torch.ones(()).double(), torch.tensor([[7.0], [7.5], [8.0]]).double() * bound.Geometric().table(32)
    )
    left, middle, right = (h @ turned.T).real.T
    error = (middle - (left + right) / 2).abs().max()
    assert error <= bound.worst_error(32) <= bound.bound_sum(32) / 8
    worst = (turned[1] - (turned[0] + turned[2]) / 2).abs().sum()
    assert worst.item() == pytest.approx(bound.worst_error(32))
    assert bound.paper_sum(32) / 8 < bound.worst_error(32)


def test_the_extrapolation_bound_is_its_double_loop():
    theta = [10_000 ** (-2 * j / 16) for j in range(8)]
    for s in (1, 77):
        sums = [abs(sum(np.exp(1j * s * entry) for entry in theta[:k])) for k in range(1, 9)]
        assert bound.extrapolation(16, torch.tensor([s])).item() == pytest.approx(sum(sums))


@pytest.mark.parametrize(
    ("jump", "times", "broken", "expected"),
    [
        (2000.0, 590.0, False, ["reproduced"] * 3),
        (5.0, 100.0, True, ["not reproduced"] * 3),
        (None, 400.0, False, ["inconclusive", "reproduced", "inconclusive"]),
    ],
)
def test_the_rules_of_the_bound(jump, times, broken, expected):
    row = {"channels": 128, "theorem 2.1": 0.4, "exact worst case": 0.5 if broken else 0.3}
    row |= {"corrected bound": 0.6, "times smaller": times}
    outside = [2000.0] * 3 + [5.0] if jump is None else [jump] * 4
    sizes = {"inside": [1.0] * 4, "between": [1.0] * 4, "beyond": outside}
    assert words(bound.Bound, Findings([row], {"fits": {("float32", 0.0): sizes, ("float64", 0.0): sizes}})) == expected


def test_the_share_of_steps_is_read_off_the_curves_and_antisymmetric():
    steps = np.array([10.0, 20, 30, 40])
    slow, fast = np.array([4.0, 3, 2, 1]), np.array([3.0, 1.5, 0.5, 0.25])
    assert first_crossing(steps, fast, 1.0) == pytest.approx(25)
    assert log_share(steps, fast, slow) == pytest.approx(math.log(25 / 40))
    assert log_share(steps, slow, fast) == -log_share(steps, fast, slow)
    assert log_share(steps, slow, slow) == 0


def curves_of(folder, **validated):
    """The Evidence of arms with a run for each list of steps at which it was validated, with the step as the loss."""
    arms = {}
    for arm, seeds in validated.items():
        arms[arm] = [Result(folder / f"{arm}-s{seed}", Path(), {}) for seed in range(len(seeds))]
        for run, steps in zip(arms[arm], seeds, strict=True):
            run.folder.mkdir()
            for step in steps:
                Metrics(run.folder / "metrics.jsonl").write({"step": step, "validation/nll": step / 10})
    return Evidence(arms, None, 1)


def test_curves_have_the_steps_at_which_all_runs_were_validated(tmp_path):
    evidence = curves_of(tmp_path, rope=[(10, 20, 30, 40), (20, 40)], none=[(20, 30, 40), (5, 20, 35, 40)])
    for arm in evidence.runs:
        steps, losses = evidence.curve(arm)
        assert steps.tolist() == [20, 40] and losses.tolist() == [[2, 4], [2, 4]]


def test_curves_without_a_step_in_common_are_refused(tmp_path):
    with pytest.raises(BadInput, match="the runs of rope, none share no step at which they were validated"):
        curves_of(tmp_path, rope=[(10,)], none=[(20,)]).curve("rope")


def test_differences_by_position_take_the_bins_asked_for():
    def reading(*nll):
        bins = zip([(1, 1), (2, 2), (3, 4), (5, 8)], nll, strict=True)
        rows = [{"low": a, "high": b, "document_nll": [n, 2 * n], "document_targets": [1.0, 2.0]} for (a, b), n in bins]
        return {"rows": rows}

    ours, theirs = [reading(9, 5, 4, 1), reading(9, 5, 4, 1)], [reading(0, 2, 2, 2)] * 2
    assert difference(ours, theirs, (1, 2, 4)).difference.value == pytest.approx((3 + 2) / 2)
    assert difference(ours, theirs, (1, 2, 4), (-1, 5, 8)).difference.value == pytest.approx(2.5 + 1)
    assert [moved(64, base, 8) for base in (100, 10_000, 1_000_000)] == [31, 16, 11]


def test_few_seeds_are_inconclusive_whatever_they_say():
    row = {"position": "rope", "share of steps": ratio(0.7, 0.9), "perplexity ratio": ratio(0.9, 1.1)}
    (message,) = require_seeds(Convergence().judge(Findings([row])), 2, 5).values()
    assert message.word == "inconclusive"
    assert "2 of the 5 seeds" in message.reason and "so far reproduced" in message.reason


@pytest.mark.slow
def test_a_name_stands_for_one_configuration_over_all_claims(tmp_path):
    """So claims share runs, and none of them trains the same thing twice."""
    configs = {}
    for name, claim in CLAIMS.items():
        for arm in arms_of(claim(), reproduce_request(tmp_path, name)).values():
            for config in arm:
                values = json.dumps(config.model_dump(mode="json", exclude={"name"}), sort_keys=True)
                assert configs.setdefault(config.name, values) == values
    assert len(set(configs.values())) == len(configs) > 30


class Small(Convergence):
    """Two arms are enough to see the engine work."""

    def arms(self, window):
        return {name: overrides for name, overrides in super().arms(window).items() if name in ("rope", "sinusoidal")}


@pytest.mark.slow
def test_a_claim_is_trained_measured_judged_and_picked_up_where_it_stopped(tmp_path, monkeypatch, capsys, one_thread):
    monkeypatch.setitem(CLAIMS, "convergence", Small)
    wanted, trained = reproduce_request(tmp_path, "convergence"), []
    import train

    original = train.train

    def breaking(config):
        trained.append(config.name)
        if len(trained) == 2:
            raise RuntimeError("a cable came loose")
        return original(config)

    monkeypatch.setattr(train, "train", breaking)
    with pytest.raises(BadInput, match=r"sinusoidal-nano-s2: .*a cable came loose[^$]*1 of 4 runs failed"):
        engine.reproduce(["convergence"], wanted, [])
    saved = {path: path.stat().st_mtime_ns for path in tmp_path.glob("claims-tiny/*/results.json")}
    assert len(trained) == 4 and len(saved) == 3, "one that fails stops no other"
    result = engine.reproduce(["convergence"], wanted, [])["convergence"]
    out = capsys.readouterr().out
    assert "4 runs, 0 fine-tuned from others; 3 are done, 1 to train: 0.00 M tokens, 1 at a time" in out
    assert {path: path.stat().st_mtime_ns for path in saved} == saved
    assert result["verdict"] in WORDS and f"{result['parts'][0]['part']}: {result['verdict'].upper()}" in out

    folder, summary = tmp_path / "claims" / "convergence-tiny", tmp_path / "results" / "convergence-tiny.json"
    full = json.loads((folder / "result.json").read_text())
    assert full["runs"] == [f"{scheme}-nano-s{seed}" for scheme in ("sinusoidal", "rope") for seed in (1, 2)]
    assert np.array(full["curves"]["rope"]["loss"]).shape == (2, 3)
    assert json.loads(summary.read_text()) == {k: v for k, v in full.items() if k not in ("curves", "runs")}
    assert full["rows"][1]["perplexity ratio"]["seeds"] == 2 and str(tmp_path) not in summary.read_text()
    assert (folder / "figure.png").stat().st_size > 5000 and summary.with_suffix(".svg").is_file()
    readings = {path: path.stat().st_mtime_ns for path in tmp_path.glob("claims-tiny/*/perplexity/*")}
    again = engine.reproduce(["convergence"], wanted, [])["convergence"]
    assert again["rows"] == result["rows"] and len(readings) == 8, "two of each run: its window, and the gate"
    assert {path: path.stat().st_mtime_ns for path in readings} == readings


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("claims")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["extrapolation", "spacing"])
def test_every_trained_claim_comes_to_a_verdict(name, shared, one_thread):
    """With one seed and shared base models; two seeds are what the engine's own test has."""
    wanted = reproduce_request(shared, name, "seeds=1", 'train=["steps=4","snapshots=[2]"]')
    result = engine.reproduce([name], wanted, [])[name]
    assert [part["word"] for part in result["parts"]] == ["inconclusive"] * 2 and result["scale"]["seeds"] == 1
    json.dumps(result, allow_nan=False)


def test_tables_and_json_show_what_has_no_end():
    endless = Comparison(Estimate(0.0, -math.inf, math.inf), p=1.0, p_equivalent=1.0, seeds=1, documents=0)
    assert plain(endless)["difference"] == {"value": 0.0, "low": None, "high": None}
    assert table([{"a": 1, "b": None}, {"a": 12.3456, "b": endless}]).splitlines()[-1].split()[0] == "12.35"


def test_a_wrong_name_is_one_sentence(tmp_path):
    status, _, err = run_program("claim=luck", f"runs={tmp_path}", module="experiments.reproduce")
    assert status == 1 and "claim=luck is not known; allowed: convergence" in err and "Traceback" not in err
    assert not list(Path(tmp_path).iterdir())
