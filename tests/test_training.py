"""Training: it learns, it resumes bit for bit however it was stopped, and a multirun keeps its jobs apart."""

import gc
import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from conf.base import BadInput
from conf.compose import compose_values
from conf.load import load_model
from experiments.lab.launch import job
from models.checkpoint_files import latest, load_checkpoint
from models.gpt import GPT
from models.language_model import LanguageModel
from models.optimizers import Muon, Optimizer, learning_rate_scale, orthogonal
from models.progress import Metrics, Recorder
from tests.runs import command, finish, tiny
from train import _main, build_model, compose, train


def run(folder, *overrides):
    words = tiny(folder, *overrides)
    return train(compose(words), words)


def weights(result):
    return load_checkpoint(result.checkpoint)["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_loss_falls_on_real_text(tmp_path):
    result = run(tmp_path, "steps=60", "window=64", "batch=16", "optimizer.warmup=5", "validate_every=60")
    first = Metrics(result.folder / "metrics.jsonl").rows()[0]["train/loss"]
    assert first == pytest.approx(6.05, abs=0.3)  # ln 257 and half a nat: logits of variance one
    assert result.metrics["validation/nll"] < 3.4  # the bytes of English prose, by frequency alone, take about 3.1


def test_result_names_folder_checkpoint_and_metrics(tmp_path):
    result = run(tmp_path)
    assert result.checkpoint.is_file() and result.folder.name.startswith("rope-nano-")
    metrics = result.metrics
    assert metrics["validation/perplexity"] == pytest.approx(2.718281828 ** metrics["validation/nll"], rel=1e-6)
    assert metrics["validation/bits_per_byte"] == pytest.approx(metrics["validation/nll"] / 0.6931471806, rel=2e-2)
    assert metrics["tokens"] == 6 * 4 * 32
    for name in ("config.json", "environment.json", "results.json", "metrics.jsonl"):
        assert (result.folder / name).is_file()
    environment = json.loads((result.folder / "environment.json").read_text())
    assert environment["versions"]["torch"] and "overrides" in environment
    assert (environment["accelerator"], environment["precision"]) == ("cpu", "32-true")
    assert json.loads((result.folder / "status.json").read_text())["state"] == "done"


def test_a_finished_run_is_not_redone(tmp_path):
    first = run(tmp_path)
    written = first.checkpoint.stat().st_mtime_ns
    again = run(tmp_path)
    assert again.checkpoint.stat().st_mtime_ns == written and again.metrics == first.metrics


def test_a_folder_with_other_settings_is_refused_by_name(tmp_path):
    run(tmp_path, "name=a")
    with pytest.raises(BadInput, match=r"optimizer\.lr \(0\.002 there, 0\.001 here\)"):
        run(tmp_path, "name=a", "optimizer.lr=0.001")


def test_checkpoints_of_an_unknown_run_are_not_adopted(tmp_path):
    result = run(tmp_path, "name=a")
    (result.folder / "config.json").unlink()
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        run(tmp_path, "name=a", "optimizer.lr=0.001")


def test_a_folder_in_use_is_refused(tmp_path):
    import fcntl

    result = run(tmp_path, "name=a")
    with open(result.folder / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another process"):
            run(tmp_path, "name=a")


def test_validation_reads_as_many_windows_at_once_as_training(tmp_path, monkeypatch):
    score, read = LanguageModel.score, []
    monkeypatch.setattr(LanguageModel, "score", lambda self, windows: read.append(len(windows)) or score(self, windows))
    result = run(tmp_path, "trainer.accumulate=4", "validation_windows=5", "steps=1")
    assert read == [1] * 5
    whole = run(tmp_path, "name=whole", "validation_windows=5", "steps=1").metrics["validation/nll"]
    assert result.metrics["validation/nll"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_accumulation_changes_nothing_but_rounding(tmp_path):
    whole = weights(run(tmp_path, "name=whole"))
    parts = weights(run(tmp_path, "name=parts", "trainer.accumulate=2"))
    assert all(torch.allclose(whole[key], parts[key], atol=2e-4) for key in whole)


def test_arms_share_initial_weights_and_a_seed_changes_them(tmp_path):
    rope, sinusoidal, other = (
        build_model(compose(tiny(tmp_path, *words))).state_dict()
        for words in (("position=rope",), ("position=sinusoidal",), ("seed=2",))
    )
    assert equal(rope, sinusoidal)
    assert not torch.equal(rope["embedding.weight"], other["embedding.weight"])


def wait_for(path, process):
    for _ in range(120_000):
        if path.exists():
            return
        assert process.poll() is None, process.output()
        time.sleep(0.005)
    raise AssertionError(f"{path} never came")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_after_kill_and_sigterm_is_bit_equal(tmp_path, one_thread, optimizer):
    """Killed with SIGKILL, resumed, stopped with SIGTERM, resumed: weights and losses are the uninterrupted run's."""
    words = ("name=a", "steps=300", "checkpoint_every=10", "log_every=3", "validate_every=50")
    words = (*words, f"optimizer={optimizer}", "trainer.accumulate=2")  # slow: some are left to be stopped
    run(tmp_path, *words, "group=whole")
    folder, broken = tmp_path / "broken" / "a", tiny(tmp_path, *words, "group=broken")

    process = command(*broken)
    wait_for(folder / "checkpoints" / "step-00000050.ckpt", process)
    process.kill()
    process.wait()
    assert json.loads((folder / "status.json").read_text())["state"] == "running"

    process = command(*broken)
    wait_for(folder / "checkpoints" / "step-00000110.ckpt", process)
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 143, err
    assert "saved" in out and json.loads((folder / "status.json").read_text())["state"] == "interrupted"

    run(tmp_path, *words, "group=broken")
    name = "checkpoints/step-00000300.ckpt"
    ours, theirs = (load_checkpoint(tmp_path / group / "a" / name)["state_dict"] for group in ("broken", "whole"))
    assert equal(ours, theirs)
    rows = [Metrics(tmp_path / group / "a" / "metrics.jsonl").rows() for group in ("broken", "whole")]
    saved = [[{k: v for k, v in row.items() if not k.startswith("speed/")} for row in entry] for entry in rows]
    assert saved[0] == saved[1]


def test_a_truncated_checkpoint_is_reported_and_the_one_before_used(tmp_path):
    result = run(tmp_path, "steps=8")
    newest = result.checkpoint
    os.truncate(newest, newest.stat().st_size // 2)
    message = []
    assert latest(newest.parent, message.append).name == "step-00000006.ckpt"
    assert "step-00000008.ckpt" in message[0] and "cannot be read" in message[0]


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_crafted_checkpoint_runs_nothing(tmp_path):
    mark = tmp_path / "was-here"
    torch.save({"lab": Evil(mark), "state_dict": {}}, tmp_path / "evil.ckpt")
    with pytest.raises(BadInput, match="more than tensors"):
        compose(tiny(tmp_path, f"checkpoint={tmp_path / 'evil.ckpt'}"))
    with pytest.raises(BadInput, match="more than tensors"):
        load_model(tmp_path / "evil.ckpt")
    assert not mark.exists()


def test_a_crafted_config_in_a_checkpoint_runs_nothing(tmp_path):
    result = run(tmp_path)
    loaded = load_checkpoint(result.checkpoint)
    mark = tmp_path / "was-here"
    loaded["lab"]["config"]["extend"] = {"_target_": "builtins.open", "file": str(mark), "mode": "w"}
    torch.save(loaded, tmp_path / "evil.ckpt")
    with pytest.raises(BadInput, match="extend"):
        load_model(tmp_path / "evil.ckpt")
    assert not mark.exists()


@pytest.mark.slow
def test_fine_tuning_starts_from_the_weights_and_keeps_the_original_window(tmp_path):
    base = run(tmp_path, "name=base")
    words = tiny(tmp_path, "name=tuned", f"checkpoint={base.checkpoint}", "extend=interpolate", "extend.factor=2")
    words = [w for w in words if not w.startswith(("model.", "data."))]
    words = [*words, "window=64", "steps=2", "snapshots=[1]", "optimizer.lr=1e-9", "optimizer.warmup=0"]
    tuned = train(compose(words), words)
    before, after = weights(base), weights(tuned)
    assert all(torch.allclose(before[key], after[key], atol=1e-7) for key in before)
    model, config, _ = load_model(tuned.checkpoint)
    assert (config.window, config.original_window, config.extend.factor) == (64, 32, 2.0)
    assert model.position.extension.window == 32
    assert (tuned.folder / "checkpoints" / "snapshot-00000001.ckpt").is_file()
    _, config, _ = load_model(tuned.checkpoint, {"name": "none"})  # another reading is said, never implied
    assert config.extend.name == "none"
    with pytest.raises(BadInput, match="position comes from checkpoint"):
        compose([*words, "position=rope"])


def test_learning_rate_warms_up_then_falls_or_stays():
    common = {"lr": 1.0, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.0, "warmup": 4, "final": 0.1, "clip": 1.0}
    cosine, constant = (Optimizer(schedule=entry, **common) for entry in ("cosine", "constant"))
    assert [learning_rate_scale(step, 20, cosine) for step in range(4)] == [0.2, 0.4, 0.6, 0.8]
    assert learning_rate_scale(4, 20, cosine) == 1.0
    assert learning_rate_scale(12, 20, cosine) == pytest.approx(0.55)
    assert learning_rate_scale(20, 20, cosine) == pytest.approx(0.1)
    assert learning_rate_scale(19, 20, constant) == 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_learning_rate_that_is_recorded_is_the_one_of_the_step(tmp_path, optimizer):
    words = ("optimizer.lr=0.01", "optimizer.warmup=3", "optimizer.schedule=constant", "trainer.accumulate=2")
    result = run(tmp_path, f"optimizer={optimizer}", *words, "steps=4")
    rates = [row["train/lr"] for row in Metrics(result.folder / "metrics.jsonl").rows() if "train/lr" in row]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01])


@pytest.mark.parametrize("position", ["rope", "t5", "learned_rope"])
def test_weight_decay_is_on_matrices_only_and_frequencies_have_their_own_rate(tmp_path, position):
    more = ["position.learning_rate=0.5"] if position == "learned_rope" else []
    config = compose(tiny(tmp_path, f"position={position}", *more))
    module = LanguageModel(build_model(config), config.optimizer, 5, torch.ones(257), {})
    positional = {id(p) for p in module.gpt.position.parameters()}
    rates = set()
    for group in module.configure_optimizers()["optimizer"].param_groups:
        rates.add(group["initial_lr"])
        assert all((p.dim() >= 2 and id(p) not in positional) == (group["weight_decay"] > 0) for p in group["params"])
    assert len(rates) == (2 if position == "learned_rope" else 1)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(tmp_path):
    config = compose(tiny(tmp_path, "position=t5", "optimizer=muon", "optimizer.warmup=0"))
    module = LanguageModel(build_model(config), config.optimizer, 5, torch.ones(257), {})
    optimizer = module.configure_optimizers()["optimizer"]
    matrices, rest = ({id(p) for group in part.param_groups for p in group["params"]} for part in optimizer.parts)
    names = {id(p): name for name, p in module.gpt.named_parameters()}
    assert matrices | rest == set(names) and not matrices & rest
    assert all(names[entry].startswith("blocks.") and names[entry].endswith(".weight") for entry in matrices)
    assert len(matrices) == 2 * 4  # layers × (qkv, out, up, down)

    before = {name: p.detach().clone() for name, p in module.gpt.named_parameters()}
    module.training_step(torch.randint(0, 257, (4, 33)), 0).backward()
    optimizer.step()
    for name, p in module.gpt.named_parameters():
        step = (p - before[name]) / config.optimizer.lr + config.optimizer.weight_decay * before[name] * (p.dim() == 2)
        assert step.any(), name
        if id(p) in matrices:  # nearly orthogonal, and of AdamW's size
            values = torch.linalg.svdvals(step / (0.2 * max(p.shape) ** 0.5))
            assert ((values > 0.6) & (values < 1.3)).float().mean() > 0.9, name


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64)])
def test_a_matrix_is_made_orthogonal_as_the_polynomial_of_its_singular_values_has_it(shape):
    matrix = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    u, values, v = torch.linalg.svd(matrix[0].double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    wanted = u @ values.diag() @ v
    found = orthogonal(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7)[0]
    assert (found - wanted).norm() < 1e-4 * wanted.norm()


def test_matrices_in_batches_step_as_torchs_muon_takes_them_one_by_one(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # its precision, which on a CPU is not ours
    shapes = ((16, 16), (48, 16), (16, 64), (48, 16), (16, 16), (64, 16))
    draw = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    batched = Muon(ours, 1e-2, 0.1)
    single = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        before = [matrix.detach().clone() for matrix in theirs]
        for one, other in zip(ours[1:], theirs[1:], strict=True):  # the first has no gradient
            one.grad = other.grad = torch.randn(one.shape, generator=draw)
        batched.step()
        single.step()
        for one, other, was in zip(ours, theirs, before, strict=True):
            assert (one - other).norm() <= 1e-4 * (other - was).norm()
    assert torch.equal(ours[0], torch.ones(16, 16))
    single.load_state_dict(batched.state_dict())  # and the other way: a run that torch's began goes on


def test_positions_seen_reach_the_model_and_are_a_function_of_seed_and_batch(tmp_path):
    config = compose(tiny(tmp_path, "seen=skipwise", "seen.longest=500"))
    module = LanguageModel(build_model(config), config.optimizer, 5, torch.ones(257), {}, config.seen, config.seed)
    read = []
    module.gpt.position.prepare, prepare = lambda p: read.append(p) or prepare(p), module.gpt.position.prepare
    batch = torch.randint(0, 257, (4, 33))
    losses = [module.training_step(batch, index).item() for index in (0, 1, 0)]
    assert read[0].shape == (4, 32) and read[0].max() > 32
    assert torch.equal(read[0], read[2]) and losses[0] == losses[2] and not torch.equal(read[0], read[1])
    module.score(batch)
    assert torch.equal(read[3], torch.arange(32.0))  # measured where it stands


@pytest.mark.parametrize("way", ["skipwise", "randomized", "offset"])
@pytest.mark.parametrize(("ranks", "passes"), [(1, 2), (2, 1), (2, 2), (1, 4)])
def test_neither_passes_nor_processes_change_the_positions_seen(tmp_path, way, ranks, passes):
    config = compose(tiny(tmp_path, f"seen={way}", "seen.longest=500"))
    gpt = build_model(config)

    def positions(ranks: int, passes: int, step: int) -> torch.Tensor:
        module = LanguageModel(gpt, config.optimizer, 5, None, {}, config.seen, config.seed, ranks)
        batch = torch.zeros(8 // ranks // passes, 33)
        parts = []
        for turn in range(passes):
            for rank in range(ranks):
                module._trainer = SimpleNamespace(accumulate_grad_batches=passes, global_rank=rank)
                parts.append(module._positions(batch, step * passes + turn))
        return torch.cat(parts)

    for step in (0, 3):
        assert torch.equal(positions(ranks, passes, step), positions(1, 1, step))
    assert not torch.equal(positions(ranks, passes, 0), positions(ranks, passes, 1))


def test_separators_are_no_targets_of_validation(tmp_path):
    config = compose(tiny(tmp_path))
    module = LanguageModel(build_model(config), config.optimizer, 5, torch.ones(257), {"separator": 256})
    batch = torch.randint(0, 256, (3, 33))
    batch[0, 5] = batch[2, 1] = 256
    batch[1, 0] = 256  # an input only
    nll = module.gpt(batch[:, :-1], targets=batch[:, 1:])[1]
    nats, tokens, *_ = module.score(batch).tolist()
    assert tokens == 3 * 32 - 2
    assert nats == pytest.approx(float(nll.double().sum() - nll[0, 4] - nll[2, 0]), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_other_precisions_train_and_save(tmp_path, precision):
    result = run(tmp_path, f"trainer.precision={precision}", "steps=2")
    assert result.metrics["validation/nll"] == pytest.approx(6.0, abs=0.4)


@pytest.mark.slow
def test_compiled_and_eager_share_their_state_dict(tmp_path):
    """In-place compilation keeps names; what was saved compiled loads into an eager model."""
    model = build_model(compose(tiny(tmp_path)))
    names = set(model.state_dict())
    model.compile(backend="eager")
    model(torch.zeros(1, 4, dtype=torch.long))
    assert set(model.state_dict()) == names


def compiled_graphs(monkeypatch, train_model) -> list[int]:
    """How many graphs have been compiled after each step of a training run; there must be no break in any."""
    graphs, ends = [], Recorder.on_train_batch_end

    def counting(self, *words, **options):
        ends(self, *words, **options)
        graphs.append(counters["stats"]["unique_graphs"])

    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(Recorder, "on_train_batch_end", counting)
    monkeypatch.setattr(GPT, "compile", lambda self: torch.nn.Module.compile(self, backend="eager"))
    train_model()
    assert not counters["graph_break"]
    return graphs


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("seen=skipwise",),
        ("seen=curriculum",),
        ("longce.short=4",),
        ("extend=dynamic_ntk",),
        ("position=fire",),
    ],
    ids=str,
)
def test_nothing_is_compiled_again_after_the_first_step_and_validation(tmp_path, monkeypatch, more):
    """Whatever lengths validation ends with and positions do."""
    words = ["trainer.compile=true", "steps=8", "validate_every=2", "validation_windows=7", *more]
    graphs = compiled_graphs(monkeypatch, lambda: run(tmp_path, *words))
    kinds = 3 + ("longce.short=4" in more)  # which reads in short contexts too
    assert 1 <= graphs[0] <= graphs[1] == graphs[-1] <= kinds


def as_job(tmp_path, words):
    (tmp_path / "job.json").write_text(compose(words).model_dump_json())
    assert job(SimpleNamespace(threads=None, parent=None, run=str(tmp_path / "job.json"))) is None


def in_multirun(tmp_path, words):
    _main(compose_values("config", words), words)


@pytest.mark.slow
@pytest.mark.parametrize("train_one", [as_job, in_multirun])
def test_every_run_of_a_process_is_compiled_and_a_model_compiled_before_still_is(tmp_path, monkeypatch, train_one):
    """Though torch gives up on a method that it has compiled so often, here for a model and a run."""
    monkeypatch.setattr("train.in_multirun", lambda: True)
    torch._dynamo.reset()
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(GPT, "compile", lambda self: torch.nn.Module.compile(self, backend=backend))
    first = build_model(compose(tiny(tmp_path)))
    first.compile()
    text = torch.zeros(1, 4, dtype=torch.long)
    before = first(text)[0]
    compiled.clear()
    run(tmp_path, "trainer.compile=true", "steps=1", "name=beside")
    assert compiled, "the run is"
    compiled.clear()
    assert torch.equal(first(text)[0], before) and not compiled, "a call of train() forgets nothing of others"
    with torch._dynamo.config.patch(recompile_limit=3):
        for position in ("rope", "alibi"):
            compiled.clear()
            train_one(tmp_path, tiny(tmp_path, "trainer.compile=true", "steps=1", f"position={position}"))
            assert compiled, position
        compiled.clear()
        assert torch.equal(first(text)[0], before) and compiled


def test_numbers_too_small_to_matter_are_flushed(tmp_path):
    """ALiBi's softmax is full of them, and its training step takes half as long again where they are kept."""
    torch.set_flush_denormal(False)
    assert torch.tensor(1e-40) * 0.5 != 0
    model = build_model(compose(tiny(tmp_path, "position=alibi")))
    assert torch.tensor(1e-40) * 0.5 == 0 and model is not None


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_run_leaves_signals_as_it_found_them(tmp_path, monkeypatch, ends):
    """Or what comes after it in the process, reading for an hour, say, could not be stopped."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    if ends == "badly":
        monkeypatch.setattr(LanguageModel, "training_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path)
    else:
        run(tmp_path)
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.slow
def test_a_run_leaves_no_model_behind(tmp_path):
    """Or the jobs of a multirun, which share a process, would fill the memory with what is finished."""
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(entry, GPT) for entry in gc.get_objects())
        run(tmp_path)
        assert sum(isinstance(entry, GPT) for entry in gc.get_objects()) == before
    finally:
        gc.enable()


def test_csv_has_a_row_a_step(tmp_path):
    result = run(tmp_path, "logger=csv")
    lines = (result.folder / "metrics.csv").read_text().splitlines()
    assert len(lines) == 7 and "validation/nll" in lines[0]
