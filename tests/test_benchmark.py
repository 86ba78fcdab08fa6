"""The benchmark: what it counts and divides is right, everybody is in the table; how fast anything is, is not asked."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from conf.base import BadInput
from conf.compose import compose_values
from conf.overrides import choices
from conf.validation import validate
from experiments.benchmark import compiled, evaluation, levers, peers, profile, search_speed, seeds, step, timing
from experiments.benchmark.__main__ import run_sections
from experiments.benchmark.memory import peak_bytes
from experiments.benchmark.settings import Benchmark
from experiments.benchmark.workbench import Workbench
from experiments.longrope.candidates import Texts
from experiments.schemes import hooks
from models.positions import EXTENSIONS, SCHEMES
from tests.runs import CACHE, command, finish, run_program
from train import compose

CPU = torch.device("cpu")
WAYS = (search_speed.ONE, "batched")
TINY = [
    f"cache={CACHE}",
    "data.tokenizer.kind=bytes",
    "data.tokenizer.vocabulary=null",
    "step_at=[nano/16]",
    "schemes_at=[nano/16]",
    "levers_at=[nano/16]",
    "compiled_at=[nano/16]",
    "seeds_at=[nano/16]",
]
TINY += [
    "sections=[ceiling,step,schemes,extensions,attention,profile,evaluation]",
    "read_at=[nano/64]",
    "readers=[rope,alibi]",
]
TINY += ["tokens=32", "bounded=64", "repeats=1", "seconds=0.001"]


def settings(*overrides):
    values = compose_values("benchmark", [*TINY, *overrides])
    options = {"schemes": values["schemes"] or choices("position"), "extensions": choices("extend")}
    return validate(Benchmark, {**values, **options})


@pytest.fixture
def bench(one_thread):
    return Workbench.set_up(settings())


@pytest.mark.slow
def test_every_section_and_scheme_is_in_the_table_and_the_numbers(tmp_path):
    status, out, err = run_program(*TINY, f"folder={tmp_path}", module="experiments.benchmark")
    assert status == 0, err
    saved = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in settings().sections}
    for name, item in saved.items():
        printed = (tmp_path / f"{name}.txt").read_text()
        assert printed.splitlines()[0] == item["command"] and "experiments.benchmark" in item["command"]
        assert item["versions"]["torch"] and item["device"] and item["threads"] == 1
        assert printed.split("\n\n", 1)[1].strip() in out
    rows = {name: item["rows"] for name, item in saved.items()}
    assert rows["ceiling"][0]["matmul_flops_per_second"] > rows["ceiling"][0]["copy_bytes_per_second"] > 0
    assert {row["name"] for row in rows["schemes"]} == set(SCHEMES)
    assert {row["name"] for row in rows["extensions"]} == set(EXTENSIONS)
    for row in (*rows["schemes"], *rows["extensions"]):
        for part in (row["forward"], row["step"]):
            assert part["failure"] is None and len(part["seconds"]) == 1 and part["peak"] > 0
            assert 0 < part["mfu"]["median"] < 1.5
    assert [row["contestant"] for row in rows["step"]] == [
        step.BARE,
        "ours, train.py",
        *peers.PEERS,
        step.MODERN,
    ]
    assert all(row["failure"] is None and 0 < row["mfu"]["median"] < 1.5 for row in rows["step"])
    speeds = {(row["scheme"], row["protocol"]) for row in rows["evaluation"] if row["kind"] == "speed"}
    assert {("rope", "windows"), ("alibi", "fixed_targets"), ("rope", evaluation.PLAIN)} < speeds
    bounded = {row["scheme"] for row in rows["evaluation"] if row["kind"] == "bounded"}
    assert bounded == {name for name, scheme in SCHEMES.items() if "bias" in hooks(scheme)}


def scripted(cost, rounds=(1,) * 9, calls=None, name=None):
    """A contestant that costs so much a step, and so many times that in each round; notes when it is called."""
    factors = iter([1, *rounds])  # a step of warm-up comes first

    def run(steps):
        if calls is not None:
            calls.append((name, steps))
        return steps * cost * next(factors)

    return lambda: run


def compared(builders, **options):
    return timing.compare("test", builders, CPU, **{"repeats": 3, "seconds": 0.3, "budget": 60} | options)


def test_a_ratio_is_paired_by_round():
    """The machine is 1, 2 and 3 times slower, the ratio 4, 3 and 1.5: that of the medians would be 2.25."""
    result = compared({"a": scripted(0.1, [4, 6, 4.5]), "b": scripted(0.1, [1, 2, 3])})
    ratio = timing.ratio(result["a"], result["b"])
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((2.25, 3, 3.5))
    assert result["b"].seconds == pytest.approx([0.1, 0.2, 0.3])
    rate = result["b"].rate(5)
    assert (rate.low, rate.median, rate.high) == pytest.approx(((5 / 0.3 + 25) / 2, 25, 37.5))


def test_rounds_alternate_and_a_timing_has_the_steps_it_needs():
    calls = []
    compared({name: scripted(cost, calls=calls, name=name) for name, cost in (("a", 0.1), ("b", 1.0))})
    a, b = ("a", 3), ("b", 1)
    assert calls == [("a", 1), ("b", 1), a, b, b, a, a, b]


def test_steps_before_the_clock_are_done_and_not_counted(monkeypatch):
    ticks, seen = iter((10.0, 13.0)), []
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: seen.append("tick") or next(ticks)))
    assert timing.timed_loop(lambda: seen.append("step"), CPU, before=2)(3) == 3.0
    assert seen == ["step", "step", "tick", "step", "step", "step", "tick"]


def test_quartiles():
    assert timing.spread([4, 1, 2, 3, 5]) == timing.Spread(3, 2, 4)


def test_no_round_begins_after_the_budget_and_the_first_always_does(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(clock), monotonic=lambda: 0.0))
    for budget, done in ((1, 1), (15, 2)):
        result = compared({"only": scripted(1.0)}, repeats=9, budget=budget)
        assert len(result["only"].seconds) == done


def test_who_cannot_start_or_runs_out_of_memory_says_so_and_the_others_go_on():
    def missing():
        raise ImportError("No module named 'elsewhere'")

    def grows(steps):
        calls.append(steps)
        if len(calls) > 3:
            raise torch.OutOfMemoryError("out of memory\nand much more")
        return 1.0

    calls = []
    result = compared({"missing": missing, "grows": lambda: grows, "well": scripted(1.0)})
    assert result["missing"].failure == "ImportError: No module named 'elsewhere'"
    assert result["grows"].failure == "OutOfMemoryError: out of memory" and len(calls) == 4
    assert len(result["well"].seconds) == 3 and result["well"].failure is None


@pytest.mark.slow
def test_a_lever_changes_one_thing_and_what_the_step_learns_not_at_all(bench, monkeypatch):
    """Every change leaves the weights of the step as it is, but Muon, which is another optimizer."""
    config, options, ends = bench.config("nano", "rope", 16), [], {}
    saved, trained, compile = Workbench.module, Workbench.training_loop, torch.compile

    def module(self, config):
        options.append(saved(self, config))
        return options[-1]

    def loop(self, model, loss, optimizer, window, compiled=None, read_loss=False):
        group = optimizer.param_groups[0]
        seen.update(compiled=compiled, read=read_loss, adamw=(group.get("fused"), group.get("foreach")))
        return trained(self, model, loss, optimizer, window, compiled, read_loss)

    monkeypatch.setattr(Workbench, "module", module)
    monkeypatch.setattr(Workbench, "training_loop", loop)
    monkeypatch.setattr(torch, "compile", lambda loss: compile(loss, backend="eager"))
    changed = {levers.AS_IT_IS: lambda: bench.lab_loop(config), **levers.changes(bench, config)}
    output = {}
    for name, build in changed.items():
        seen = {}
        build()(2)
        output[name] = seen | {"recompute": options[-1].gpt.recompute}
        ends[name] = torch.cat([item.detach().flatten() for item in options[-1].gpt.parameters()])
    usual = {"compiled": None, "read": False, "adamw": (True, None), "recompute": False}
    different = {
        levers.AS_IT_IS: {},
        "compiled": {"compiled": True},
        "loss read in every step": {"read": True},
        "logits whole": {},
        "AdamW one tensor at a time": {"adamw": (False, False)},
        "AdamW in lists of tensors": {"adamw": (False, True)},
        "activation checkpointing": {"recompute": True},
        "rotation left to autograd": {},
    }
    for name, changes in different.items():
        seen = output[name]
        assert seen == usual | changes, name
        assert torch.allclose(ends[name], ends[levers.AS_IT_IS], atol=1e-4), name
    for name in ("Muon", "GELU by tanh"):
        assert not torch.equal(ends[name], ends[levers.AS_IT_IS])


def test_the_share_of_the_ceiling_counts_a_reading_as_a_third_of_a_step(bench):
    config = bench.config("nano", "rope", 16)
    weights = 12 * 128**2 * 4 + bench.vocabulary * 128
    operations = 32 * (6 * weights + 6 * 4 * 128 * 16)
    at = Workbench(bench.settings, CPU, bench.vocabulary, operations / 2)  # half of it a second
    outcome = timing.Outcome(seconds=[1.0, 2.0, 4.0])
    assert at.mfu(config, outcome, 32, 16) == timing.Spread(*map(pytest.approx, (1.0, 0.75, 1.5)))
    assert at.mfu(config, outcome, 32, 16, reading=True).median == pytest.approx(1 / 3)


def test_all_queries_at_once_holds_for_the_run_alone(bench):
    from models.positions import base

    seen, saved = [], base.ROWS_IN_TRAINING
    run = lambda steps: seen.append((steps, base.rows_at_once(4096, CPU))) or 1.0  # noqa: E731
    run = levers.with_another(base, "ROWS_IN_TRAINING", 2**62, run)
    assert run(3) == 1.0 and seen == [(3, 4096)] and base.ROWS_IN_TRAINING == saved < 4096


def test_what_was_compared_is_kept_when_a_section_does_not_end(tmp_path, monkeypatch):
    def run(bench):
        yield [{"contestant": "first"}]
        raise KeyboardInterrupt

    monkeypatch.setattr(step, "run", run)
    (tmp_path / "step.json").write_text("an earlier one")
    with pytest.raises(KeyboardInterrupt):
        run_sections(settings("sections=[step]", f"folder={tmp_path}"), [])
    assert json.loads((tmp_path / "step.part.json").read_text())["rows"] == [{"contestant": "first"}]
    assert (tmp_path / "step.json").read_text() == "an earlier one"


@pytest.mark.slow
def test_a_profile_shares_out_all_the_time(bench):
    [rows] = profile.run(bench)
    assert sum(row["share"] for row in rows) == pytest.approx(1) and all(row["seconds"] > 0 for row in rows)
    assert [row["operation"] for row in rows][-1] == "others" and len(rows) == profile.LISTED + 1
    (product,) = (row for row in rows if row["operation"] == "aten::mm")
    assert product["calls"] == 51  # three for each of 16 matrices, and for the head
    assert "aten::mm" in profile.table(rows)


def test_compiled_or_not_is_as_asked_and_else_the_devices(bench):
    assert not bench.compiled and not bench.config("nano", "rope", 16).trainer.compile
    options = Workbench(settings("compile=true"), CPU, bench.vocabulary, 1.0)
    assert options.compiled and options.config("nano", "rope", 16).trainer.compile
    on_gpu = Workbench(settings(), torch.device("cuda"), bench.vocabulary, 1.0)
    assert on_gpu.compiled


@pytest.mark.slow
def test_everybody_is_compiled(bench, monkeypatch):
    """Our training run and a peer included, by a compiler that changes nothing."""
    monkeypatch.setattr(step, "PEERS", {"litgpt": peers.litgpt})
    graphs, compile_function = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda work, **more: compile_function(work, **more | {"backend": backend}))
    torch._dynamo.reset()
    [rows] = compiled.run(bench)
    assert [row["contestant"] for row in rows] == [step.BARE, "ours, train.py", "litgpt", step.MODERN]
    assert len(graphs) >= len(rows) and all(row["failure"] is None and row["until_ready"] > 0 for row in rows)
    assert "s until ready" in compiled.table(rows)


def test_seeds_in_one_step_are_a_batch_of_as_many_times_the_texts(bench, monkeypatch):
    batches = []
    monkeypatch.setattr(Workbench, "lab_loop", lambda self, config: batches.append(self.sequences(16)) or (lambda n: n))
    [rows] = seeds.run(bench)
    assert batches == [2, 4, 8, 16] == [row["batch"] for row in rows]
    assert [row["seeds"] for row in rows] == [1, 2, 4, 8] and "at least" in seeds.table(rows)


@pytest.mark.slow
def test_peers_that_are_not_installed_leave_their_line(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "x_transformers", None)
    monkeypatch.setitem(sys.modules, "litgpt", None)
    rows = {row["contestant"]: row for row in next(step.run(bench))}
    assert all("ModuleNotFoundError" in rows[name]["failure"] for name in peers.PEERS)
    assert rows["ours, train.py"]["tokens_per_second"]["median"] > 0
    assert all(name in step.table(list(rows.values())) for name in peers.PEERS)


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_has_our_shape(name, one_thread):
    shape, vocabulary = compose(["model=nano"]).model, 2048
    model, logits = peers.PEERS[name](shape, vocabulary, 16)
    ours = 12 * shape.layers * shape.width**2 + vocabulary * shape.width  # tied
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(ours, rel=0.05)
    tokens = torch.randint(vocabulary, (2, 8))
    changed = torch.cat((tokens[:, :-1], (tokens[:, -1:] + 1) % vocabulary), dim=1)
    first, second = logits(tokens), logits(changed)
    assert first.shape == (2, 8, vocabulary)
    assert torch.allclose(first[:, :-1], second[:, :-1], atol=1e-5) and not torch.allclose(first, second)


def test_peak_memory_sees_what_was_alive_at_once():
    earlier = []
    peak_bytes(lambda: earlier.append(torch.ones(10**6)), CPU)

    def work():
        earlier.clear()  # released here, but not allocated here
        first = torch.ones(10**6)
        second = first + 1  # 8 MB
        del first
        return second + 1  # 8 MB again

    assert peak_bytes(work, CPU) == pytest.approx(8 * 10**6, abs=1000)
    assert peak_bytes(lambda: None, CPU) == 0


@pytest.mark.slow
def test_memory_beyond_the_bound_is_an_error_and_not_the_end():
    """In a process of its own, which goes on after it."""
    words = "import torch; from experiments.benchmark.memory import bound_memory; bound_memory(0.1); "
    words += "size = int(0.2 * __import__('os').sysconf('SC_PAGE_SIZE') * __import__('os').sysconf('SC_PHYS_PAGES'))\n"
    words += "try: torch.empty(size, dtype=torch.uint8)\nexcept RuntimeError as error: print('refused', error)\n"
    words += "print(torch.ones(10).sum())"
    status, out, err = finish(command(code=words))
    assert status == 0 and "refused" in out and "tensor(10.)" in out, err


def test_the_memory_of_a_training_step_holds_weights_gradients_and_both_moments(bench):
    """And the activations: twice the batch costs more, by less than twice."""
    config = bench.config("nano", "rope", 16)
    weights = sum(p.numel() for p in bench.module(config).gpt.parameters()) * 4
    small = peak_bytes(lambda: bench.lab_loop(config)(2), CPU)
    large = peak_bytes(lambda: bench.lab_loop(bench.config("nano", "rope", 64))(2), CPU)
    assert 4 * weights < small < 5 * weights and small < large < 2 * small


@pytest.mark.slow
def test_a_bias_scheme_reads_long_texts_without_its_dense_bias(bench, monkeypatch):
    """The same reading with all scores at once is the proof that the measure would have seen it."""
    import models.positions.base as base

    options = settings("schemes=[alibi]", "bounded=1024")
    peaks = []
    for at_once in (2**14, 2**22):
        monkeypatch.setattr(base, "SCORES_AT_ONCE", at_once)
        (row,) = evaluation._bounded(Workbench(options, CPU, bench.vocabulary, 1.0), "nano", 1024)
        peaks.append(row["peak"])
    assert row["dense"] == 4 * 1024**2 * 4
    assert peaks[0] < row["dense"] / 1.5 < 1.5 * row["dense"] < peaks[1]


@pytest.mark.parametrize(
    "override, message",
    [
        ("step_at=[huge/256]", "step_at.*huge/256 must be a model and tokens, such as nano/256; models: .*nano"),
        ("read_at=[nano]", "read_at.*nano must be a model and tokens"),
        ("schemes=[rope,roop]", "schemes: roop is not known; allowed: .*rope"),
        ("sections=[step,stop]", "sections.*'stop'.*'step'"),
        ("repeats=0", "repeats=0 .*greater than or equal to 1"),
        ("seconds=-1", "seconds=-1 .*greater than 0"),
    ],
)
def test_a_bad_option_is_one_sentence(override, message):
    with pytest.raises(BadInput, match=message) as caught:
        settings(override)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_search_scores_the_same_in_batches_and_one_at_a_time(one_thread):
    """Three texts of 64 tokens: at 500 tokens a pass two candidates share one, at 64 a candidate takes three."""
    small = ["search_speed.window=16", "search_speed.factor=4", "search_speed.candidates=16", "search_speed.texts=[3]"]
    bench = Workbench(settings(*small, "search_speed.batch_tokens=[64,500]"), CPU, 256, 1.0)
    texts = Texts(list(bench.tokens(3, 65).numpy()), [0, 1, 2], 64)
    candidates = search_speed.first_generation([1.0 / 4**i for i in range(16)], bench.settings.search_speed)
    assert len(set(candidates)) > 9 and {item.n_hat for item in candidates} > {0}
    methods = (search_speed.batched, search_speed.one_at_a_time)
    scores = [way(bench, "nano", texts, tokens)(candidates) for way in methods for tokens in (64, 500)]
    for item in scores[1:]:
        assert item == pytest.approx(scores[0], rel=1e-5)
    assert len(set(scores[0])) > 9
    [rows] = search_speed.run(bench)
    assert [(row["way"], row["batch_tokens"]) for row in rows] == [(w, t) for t in (64, 500) for w in WAYS]
    assert all(row["failure"] is None and row["candidates_per_second"]["median"] > 0 for row in rows)
    assert [row.get("speed_over_one") is not None for row in rows] == [False, True, False, True]
    assert search_speed.table(rows).count("3 x 64") == 4
