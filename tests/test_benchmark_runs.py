"""The benchmark's runs: when a loss curve reaches a target, who is over whom, and that no second of a job is lost."""

import json
import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conf.base import BadInput
from conf.compose import compose_values
from conf.validation import validate
from data.windows import fixed_windows
from experiments.benchmark import sweep, time_to_loss, time_to_optimum
from experiments.benchmark.job import Ledger
from experiments.benchmark.settings import Benchmark
from experiments.benchmark.time_to_loss import arms, compare_optimizers
from experiments.lab.measure.optimum import optimal_losses
from tests.runs import CACHE, TINY, tiny
from train import compose, open_data

MODEL = [
    item for item in TINY if item.split("=")[0] not in ("steps", "log_every", "validate_every", "trainer", "cache")
]


def settings(*overrides):
    return validate(
        Benchmark, {**compose_values("benchmark", list(overrides)), "schemes": ["rope"], "extensions": ["none"]}
    )


def listed(*words):
    return "[" + ",".join(f'"{word}"' for word in words) + "]"


def curve(optimizer, lr, losses, seconds, diverged=False):
    tokens = [100 * (i + 1) for i in range(len(losses))]
    row = {"kind": "run", "optimizer": optimizer, "lr": lr, "steps": 3, "tokens_per_step": 10, "diverged": diverged}
    return row | {"tokens": tokens, "nll": losses, "seconds_per_step": seconds}


def test_the_best_of_each_is_over_the_best_of_the_first():
    """Muon's quickest run is not the one that ends lowest; its steps take 1.5 times as long, by the median of all."""
    runs = [
        curve("adamw", 1e-3, [5.0, 4.0, 3.0, 2.5], [2.0, 2.0]),
        curve("adamw", 4e-3, [5.0, 3.0, 2.4, 2.0], [2.0, 9.0]),
        curve("muon", 1e-2, [5.0, 3.0, 1.0, 0.5], [3.0, 3.0]),
        curve("muon", 2e-2, [2.5, 1.5, 1.2, 1.1], [1.0, 3.0]),
    ]
    rows = compare_optimizers(runs, None)
    adamw, muon = (row for row in rows if row["kind"] == "best")
    assert adamw["target"] == 2.0 and (adamw["lr"], adamw["tokens_to_target"]) == (4e-3, 400)
    assert adamw["seconds_to_target"] == 400 / 10 * 2.0
    assert (muon["lr"], muon["tokens_to_target"], muon["seconds_to_target"]) == (2e-2, 150, 45.0)
    assert adamw["tokens_over_reference"] == adamw["seconds_over_reference"] == 1
    assert muon["tokens_over_reference"] == 150 / 400 and muon["seconds_over_reference"] == 45 / 80
    assert [row["tokens_to_target"] for row in rows if row["kind"] == "run"] == [None, 400, 250, 150]
    printed = time_to_loss.table(rows)
    assert "2.0000 nats" in printed and "0.38, 0.56" in printed and printed.count("0.001 ") == 1


def test_who_never_gets_there_has_no_ratio_and_a_reference_that_diverges_is_one_sentence():
    runs = [curve("adamw", 1e-3, [5.0, 3.5], [2.0], diverged=True), curve("muon", 1e-2, [5.0, 3.0], [3.0])]
    rows = compare_optimizers(runs, 4.0)
    adamw, muon = (row for row in rows if row["kind"] == "best")
    assert adamw["lr"] is None and muon["tokens_to_target"] == 150 and muon["tokens_over_reference"] is None
    assert "adamw    reaches it at none" in time_to_loss.table(rows)
    with pytest.raises(BadInput, match=r"rates\.adamw: every run diverged"):
        compare_optimizers(runs, None)


def test_runs_too_short_to_be_timed_have_tokens_and_no_seconds():
    rows = compare_optimizers([curve("adamw", 1e-3, [3.0], []), curve("muon", 1e-2, [2.0], [])], None)
    assert rows[-1]["tokens_to_target"] == 100 and rows[-1]["seconds_to_target"] is None
    assert re.search(r"muon +0\.01 +3 +100 +-", time_to_loss.table(rows))


def test_optimizers_take_turns():
    result = arms({"adamw": (1.0, 2.0, 3.0), "muon": (4.0,)}, (10, 20))
    assert result[:4] == [("adamw", 1.0, 10), ("muon", 4.0, 10), ("adamw", 2.0, 10), ("adamw", 3.0, 10)]
    assert len(result) == 8 and {steps for *_, steps in result[4:]} == {20}


@pytest.mark.parametrize("section", ["time_to_loss", "sweep"])
def test_the_runs_are_those_that_the_recorded_numbers_are_of(section):
    """Named by their own settings: an experiment that changes would change what is measured."""
    config = compose(list(getattr(settings(), section).run))
    assert (config.model.name, config.window, config.batch) == ("nano", 64, 32)
    assert config.data.source == "sotu" and config.data.tokenizer.kind == "bytes"


@pytest.mark.slow
def test_a_small_race(one_thread):
    options = settings(
        f"time_to_loss.run={listed(*MODEL, 'trainer=cpu')}",
        "time_to_loss.rates={adamw:[4e-3,1e30],muon:[1e-2,2e-2]}",
        "time_to_loss.steps=[6]",
        "time_to_loss.every=2",
        f"cache={CACHE}",
    )
    [rows] = time_to_loss.run(SimpleNamespace(settings=options))
    runs = [row for row in rows if row["kind"] == "run"]
    lost = runs.pop(1)
    assert [(row["optimizer"], row["lr"]) for row in runs] == [("adamw", 4e-3), ("muon", 1e-2), ("muon", 2e-2)]
    assert lost["lr"] == 1e30 and lost["diverged"] and lost["tokens_to_target"] is None, "and takes nothing with it"
    json.dumps(rows, allow_nan=False)
    for row in runs:
        assert row["tokens"] == [256, 512, 768] and row["tokens_per_step"] == 128
        assert len(row["seconds_per_step"]) == 2 and min(row["seconds_per_step"]) > 0
    first, *_ = runs
    assert first["target"] == first["nll"][-1] and first["tokens_to_target"] == 768
    assert len({tuple(row["nll"]) for row in runs}) == 3
    assert "muon" in (printed := time_to_loss.table(rows)) and re.search(r"adamw +1e\+30 +6 +diverged", printed)


@pytest.mark.slow
def test_time_to_optimum_trains_peers_on_the_same_batches_towards_the_best_reader(tmp_path, one_thread):
    chains = ["data=chains", "data.length=256", "data.documents={train: 8, validation: 8, test: 8}", "model.layers=1"]
    chains += ["model.heads=2", "model.width=32", "window=16", "batch=4", "validation_windows=64", "trainer=cpu"]
    options = settings(f"time_to_optimum.run={listed(*chains)}", f"cache={tmp_path}", "time_to_optimum.every=2",
                       "time_to_optimum.steps=[6]", "time_to_optimum.within=0.5")  # fmt: skip
    few = {"rates": {"adamw": (4e-3,)}, "peers": {"transformers Llama": (4e-3,)}}
    options = options.model_copy(update={"time_to_optimum": options.time_to_optimum.model_copy(update=few)})
    bench = SimpleNamespace(settings=options, device=torch.device("cpu"), autocast=nullcontext)
    [rows] = time_to_optimum.run(bench)
    runs, best = ([row for row in rows if row["kind"] == kind] for kind in ("run", "best"))
    assert [row["optimizer"] for row in runs] == ["adamw", "transformers Llama"] == [row["optimizer"] for row in best]
    for row in runs:
        assert row["tokens"] == [128, 256, 384] and len(row["seconds_per_step"]) == 2
        assert 0 < row["optimum"] < min(row["nll"]) and row["target"] == pytest.approx(1.5 * row["optimum"])
    assert f"the best reader: {rows[0]['optimum']:.4f}" in time_to_optimum.table(rows)
    config = time_to_loss.arm_config(options.time_to_optimum, str(tmp_path), "adamw", 4e-3, 6)
    language = open_data(config).language
    texts = fixed_windows(open_data(config).split("validation").tokens, 16, 64).numpy()
    losses, crossed = [], 0
    for text in texts:
        (ends,) = np.nonzero(text[1:] == language.states)
        crossed += len(ends)
        for first, last in zip((0, *ends + 1), (*ends + 1, 17), strict=True):
            seen = np.arange(1, last - first)
            losses += optimal_losses(language, text[None, first:last], seen, seen)[0].tolist()
    assert crossed and len(losses) == 64 * 16 - crossed
    assert rows[0]["optimum"] == pytest.approx(np.mean(losses))
    with pytest.raises(BadInput, match="no optimum that is known"):
        time_to_optimum.best_loss(compose(tiny(tmp_path)))


def test_a_ledger_books_every_second_once():
    times = iter([1.0, 3.0, 6.0, 10.0, 15.0, 21.0, 28.0, 36.0])
    ledger = Ledger(0.0, lambda: next(times))

    class Work:
        def inner(self):
            return "done"

        def outer(self):
            return self.inner()

    ledger.around(Work, "inner", "inside", "way in", "way in again")
    ledger.around(Work, "outer", "way out", "before")
    assert Work().outer() == "done"  # before 1, way in 2, inside 3, way out 4
    Work().outer()  # before 5, way in again 6, inside 7, way out 8
    assert ledger.seconds == {"before": 6, "way in": 2, "inside": 10, "way out": 12, "way in again": 6}
    assert sum(ledger.seconds.values()) == ledger.last == 36


def test_runs_per_hour_once_going_leave_the_first_of_every_process_out():
    assert sweep.steady_rate([100, 10, 40, 70], at_once=1) == 3600 / 30
    assert sweep.steady_rate([20, 22, 31, 32], at_once=2) == 3600 * 2 / 10


@pytest.mark.slow
def test_a_small_sweep(one_thread):
    """One process, two jobs; then one job alone, all of whose time is in a part."""
    options = settings(
        f"sweep.run={listed(*MODEL, 'trainer=cpu', 'steps=3', 'logger=none')}",
        "sweep.at_once=[1]",
        f"cache={CACHE}",
        "sweep.alone=1",
    )
    [rate], alone, [asked] = sweep.run(SimpleNamespace(settings=options))
    assert rate["failure"] is None and (rate["runs"], rate["steps"]) == (2, 3)
    assert rate["runs_per_hour"] == pytest.approx(3600 * 2 / rate["seconds"])
    assert rate["runs_per_hour_going"] > 0
    parts = {row["part"]: row["seconds"][0] for row in alone}
    wanted = ["starting Python", "importing hydra", "importing torch", "importing lightning", "importing the lab"]
    wanted += ["composing", "run folder, logger", "opening the corpus", "building the model", "building the Trainer"]
    wanted += ["measuring the ceiling", "first step", "recording, validation", "further steps", "finishing"]
    assert list(parts) == [*wanted, "leaving Python"]
    assert min(parts.values()) >= 0
    assert asked["kind"] == "help" and 0 < asked["seconds"][0] < rate["seconds"]
    printed = sweep.table([rate, *alone, asked])
    assert all(words in printed for words in ("once going", "start-up, first step in", "train.py --help"))


def test_a_job_that_fails_says_why_in_the_table():
    message = sweep.error_line(
        "a warning\nfailed: RuntimeError: out of memory\nTraceback\n1 job(s) of the multirun failed\n"
    )
    assert message == "failed: RuntimeError: out of memory"
    rate = {"kind": "rate", "at_once": 8, "runs": 16, "steps": 3, "failure": message}
    part = {"kind": "part", "part": "one job", "failure": "no logger"}
    printed = sweep.table([rate, part])
    assert message in printed and "no logger" in printed


@pytest.mark.parametrize(
    "override, message",
    [
        ("+time_to_loss.rates.adam=[1e-3]", "rates: adam is not known; allowed: adamw, muon"),
        ("time_to_loss.rates.adamw=[0]", "time_to_loss.rates.adamw.0=0 .*greater than 0"),
        ("time_to_loss.every=300", "every=300 must be at most half of every run's steps, here 200"),
        ("sweep.rounds=1", "sweep.rounds=1 .*greater than or equal to 2"),
    ],
)
def test_a_bad_option_is_one_sentence(override, message):
    with pytest.raises(BadInput, match=message) as caught:
        settings(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", [time_to_loss, sweep])
def test_what_train_would_refuse_is_refused_before_anything_runs(section, monkeypatch):
    monkeypatch.setattr(time_to_loss, "train_curve", None)
    monkeypatch.setattr(sweep, "run_python", None)
    with pytest.raises(BadInput, match="position=roap is not known; allowed: alibi"):
        next(
            section.run(SimpleNamespace(settings=settings(f'{section.__name__.split(".")[-1]}.run=["position=roap"]')))
        )
