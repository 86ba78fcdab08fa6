"""The claim of length generalisation: its rule, its gate and its runs."""

import pytest

from experiments.reproduce.arms import arms_of
from experiments.reproduce.claim import Findings
from experiments.reproduce.claims.length_generalization import SCHEMES, TASKS, LengthGeneralization
from experiments.reproduce.gate import describe_gate
from experiments.tasks import PUBLISHED
from tests.runs import reproduce_request
from tests.test_reproduce import words
from tests.test_task_runs import ranges_of


def findings(**changes) -> Findings:
    """The paper's table as if it were ours; changes: by task, share, low, high and learned seeds of both ways."""
    rows = []
    for task in TASKS:
        for scheme in SCHEMES:
            paper = PUBLISHED[task][scheme].exact[2]
            share, low, high, learned = changes.get(task, (paper, max(0, paper - 0.02), min(1, paper + 0.02), 5))
            row = {"task": task, "positions": SCHEMES[scheme], "seeds": 5, "that learned it": learned}
            row |= {"to 150": share, "to 150, low": low, "to 150, high": high, "paper to 150": paper}
            rows.append(row)
    return Findings(rows)


@pytest.mark.parametrize(
    ("results", "whole", "sort"),
    [
        (findings(), "reproduced", "reproduced"),
        (findings(sort=(0.3, 0.2, 0.4, 5)), "not reproduced", "not reproduced"),
        (findings(sort=(0.8, 0.7, 0.9, 5)), "inconclusive", "inconclusive"),
        (findings(sort=(0.3, 0.2, 0.4, 2)), "inconclusive", "inconclusive"),  # most seeds have not learned it
        (findings(sort=(None, None, None, 0)), "inconclusive", "inconclusive"),
        (findings(repeat_copy=(0.9, 0.85, 0.95, 3)), "not reproduced", "reproduced"),
    ],
)
def test_the_rule_of_length_generalisation(results, whole, sort):
    verdicts = words(LengthGeneralization, results)
    assert len(verdicts) == 1 + 2 * len(TASKS)
    assert verdicts[0] == whole and verdicts[1 + 2 * TASKS.index("sort")] == sort


class Read:
    """Evidence of arms that have learned their range but for sorting without positions, by three seeds of five."""

    def exact(self, arm):
        parts = ranges_of(1, 0.9, 0.8, seeds=5)
        if arm == "sort, none":
            parts[0].exact[:3] = 0
        return parts


def test_only_seeds_that_learned_the_task_count_and_the_gate_says_which():
    claim = LengthGeneralization()
    gate = claim.measure_gate(Read(), claim.arms(64))
    assert not gate["passed"] and len(gate["arms"]) == 2 * len(TASKS)
    assert describe_gate(gate) == ("THE GATE FAILS for sort, none: most seeds have not learned the range of training.")
    others = {"arms": [row for row in gate["arms"] if row["passed"]]}
    assert describe_gate(others).startswith("The gate holds: on every task")
    rows = claim.measure(Read()).rows
    row = next(row for row in rows if (row["task"], row["positions"]) == ("sort", "none"))
    assert (row["seeds"], row["that learned it"], row["to 50"]) == (5, 2, pytest.approx(0.4))
    assert row["to 150"] == pytest.approx(0.8) and row["to 150, low"] < 0.8 < row["to 150, high"]
    assert row["paper to 150"] == 0.8060
    findings = claim.measure(Read())
    drawing = claim.draw(findings, claim.judge(findings))
    assert drawing.figure.get_suptitle().startswith(f"Claim: {claim.title}\n"), "and its verdict, not as a finding"


@pytest.mark.slow
def test_its_runs_are_on_tasks_at_the_scale_s_settings(tmp_path):
    def runs(*overrides):
        arms = arms_of(LengthGeneralization(), reproduce_request(tmp_path, "a", "seeds=1", *overrides))
        return {arm: run for arm, (run,) in arms.items()}

    pico = runs("scale=pico")
    assert len(pico) == 2 * len(TASKS) and {run.data.source for run in pico.values()} == {"tasks"}
    sort, copy = pico["sort, absolute"], pico["unique_copy, none"]
    assert (sort.window, sort.steps, sort.model.layers, sort.seen.name, sort.stop_at) == (102, 6000, 2, "offset", 1.0)
    assert (copy.model.layers, copy.position.name, pico["unique_copy, absolute"].model.layers) == (4, "none", 2)
    assert runs("scale=pico", "train=['steps=70']")["sort, none"].steps == 70
    assert {run.steps for run in runs().values()} == {6}  # tiny
    assert len({run.name for run in pico.values()}) == len(pico)
