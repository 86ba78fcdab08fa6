"""Several processes train as one does: the same curve and weights, one folder, one voice, however they are started."""

import json
import signal
import threading

import pytest
import torch

from conf.base import BadInput
from conf.load import load_model
from models.checkpoint_files import SHARDED, latest, load_checkpoint, save_part
from models.processes import place
from models.progress import Metrics
from tests.programs import Program
from tests.runs import command, finish, tiny, torchrun
from tests.test_training import run, wait_for
from train import compose

# Thirteen validation windows by six: two processes share the last pass unequally, and one of them has none of it.
SHORT = ("name=a", "batch=6", "validation_windows=13", "steps=6", "log_every=2", "checkpoint_every=4")


def launch(method: str, processes: int, *words: str) -> list[Program]:
    """So many processes, the first one first: Lightning starts the others, torchrun starts them, or this test as
    torchrun would."""
    if method == "as torchrun":
        return torchrun(processes, *words)
    words = (*words, "trainer.accelerator=cpu", f"trainer.devices={processes}")
    if method == "directly":
        return [command(*words)]
    count = f"--nproc-per-node={processes}"
    return [command("--standalone", count, "train.py", *words, module="torch.distributed.run")]


def rows(folder) -> list[dict]:
    """What a run said, but its speed."""
    rows = Metrics(folder / "metrics.jsonl").rows()
    return [{key: value for key, value in row.items() if not key.startswith("speed/")} for row in rows]


def assert_same(one, other, tolerance: float):
    """Two runs said the same and ended in the same weights."""
    first, second = rows(one), rows(other)
    assert len(first) == len(second) > 0
    for own_result, theirs in zip(first, second, strict=True):
        assert own_result == pytest.approx(theirs, rel=tolerance)
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert results[0]["checkpoint"] == results[1]["checkpoint"]
    models = [load_model(folder / results[0]["checkpoint"])[0].state_dict() for folder in (one, other)]
    for key, value in models[0].items():
        assert torch.allclose(value, models[1][key], atol=tolerance), key


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, trainer, more",
    [
        ("directly", "ddp", ("logger=csv", "seen=skipwise", "seen.longest=500")),
        ("as torchrun", "ddp", ("logger=wandb", "trainer.accumulate=3", "position=fire")),
        ("as torchrun", "fsdp", ("snapshots=[2]", "position=fire")),
    ],
)
def test_two_processes_train_as_one_does(tmp_path, method, trainer, more):
    """To rounding; and the folder, W&B and the last word are the first process's alone."""
    one = run(tmp_path, *SHORT, "group=one", *(word for word in more if word[:6] != "logger"))
    words = tiny(tmp_path, *SHORT, "group=two", f"trainer={trainer}", *more)
    ends = list(map(finish, launch(method, 2, *words)))
    assert all(status == 0 for status, _, _ in ends), ends
    out = "".join(out for _, out, _ in ends)
    assert out.count("validation perplexity") == 1
    folder = tmp_path / "two" / "a"
    assert_same(one.folder, folder, tolerance=2e-4)
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    assert (folder / "metrics.csv").exists() == ("logger=csv" in more)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == ("logger=wandb" in more)
    assert all(path.is_file() for path in (folder / "checkpoints").glob("snapshot-*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("trainer, method, steps, then", [("ddp", "torchrun", 90, 1), ("fsdp", "directly", 25, 3)])
def test_a_signal_stops_all_after_the_same_step_and_another_number_goes_on(tmp_path, trainer, method, steps, then):
    """Two processes are stopped, directly the first alone; one goes on, or three with rows of other heights."""
    long = ("name=a", f"steps={steps}", "checkpoint_every=10", "log_every=7", "optimizer.lr=1e-3")
    long = (*long, "batch=48", "trainer.accumulate=8")  # slow steps: torchrun takes a while to pass the signal on
    whole = run(tmp_path, *long, "group=whole")
    words = tiny(tmp_path, *long, "group=parts", f"trainer={trainer}")
    folder = tmp_path / "parts" / "a"
    (process,) = launch(method, 2, *words)
    wait_for(folder / "checkpoints" / "step-00000010.ckpt", process)
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == (143 if method == "directly" else 1), err  # torchrun has a status of its own
    stopped = json.loads((folder / "status.json").read_text())
    assert stopped["state"] == "interrupted" and 10 <= stopped["step"] < steps
    newest = folder / "checkpoints" / f"step-{stopped['step']:08d}.ckpt"
    assert latest(newest.parent) == newest and newest.is_dir() == (trainer == "fsdp")

    ends = list(map(finish, launch("as torchrun", then, *words)))
    assert all(status == 0 for status, _, _ in ends), ends
    assert_same(whole.folder, folder, tolerance=2e-3)


def write_parts(path, ranks: int) -> dict:
    """A sharded checkpoint of so many processes at once; returns it whole."""
    weights, moments = torch.arange(21.0).view(7, 3), torch.arange(7.0)
    barrier = threading.Barrier(ranks)

    def part(rank: int) -> None:
        shares = [torch.tensor_split(item, ranks)[rank] for item in (weights, moments)]
        optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": shares[1]}}, "param_groups": [{"lr": 0.1}]}
        own = {"state_dict": {"weight": shares[0]}, "optimizer_states": [optimizer], "rank": rank}
        save_part(path, own, rank, ranks, barrier.wait)

    threads = [threading.Thread(target=part, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"weight": weights, "exp_avg": moments}


@pytest.mark.parametrize("ranks", [1, 3, 11])
def test_parts_are_put_together_in_order(tmp_path, ranks):
    path = tmp_path / "step-00000001.ckpt"
    (path.with_suffix(".tmp") / "part-0-of-99.ckpt").mkdir(parents=True)  # left by a kill
    for _ in range(2):  # the second replaces the first
        whole = write_parts(path, ranks)
    read = load_checkpoint(path)
    assert read["rank"] == 0 and set(read) == {*SHARDED, "rank"}
    assert torch.equal(read["state_dict"]["weight"], whole["weight"])
    state = read["optimizer_states"][0]["state"][0]
    assert torch.equal(state["exp_avg"], whole["exp_avg"]) and state["step"] == 3


def test_a_checkpoint_that_lacks_a_part_is_set_aside(tmp_path):
    first, second = (tmp_path / f"step-0000000{n}.ckpt" for n in (1, 2))
    write_parts(first, 2)
    write_parts(second, 2)
    (second / "part-1-of-2.ckpt").unlink()
    lines = []
    assert latest(tmp_path, lines.append) == first and "it lacks part-1-of-2.ckpt" in lines[0]
    with pytest.raises(BadInput, match="no such file"):
        load_checkpoint(tmp_path)  # a folder, but not of parts


TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "GROUP_RANK": "1"}
SLURM = {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "6", "SLURM_JOB_NAME": "train"}
BATCH = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}  # one task of Slurm, in which Lightning starts the processes


@pytest.mark.parametrize(
    "environ, devices, nodes, rank",
    [
        ({}, 1, 1, 0),
        ({}, 2, 1, 0),
        ({"LOCAL_RANK": "1"}, 2, 1, 1),
        ({"LOCAL_RANK": "1", "NODE_RANK": "2"}, 4, 3, 9),
        (TORCHRUN, 4, 2, 5),
        (SLURM, 4, 2, 6),
        (SLURM, 1, 1, 0),  # eight runs side by side, not one of eight processes
        (BATCH | {"LOCAL_RANK": "3"}, 4, 1, 3),
        (SLURM | TORCHRUN, 4, 2, 5),
    ],
)
def test_the_rank_comes_from_whoever_started_the_process(monkeypatch, environ, devices, nodes, rank):
    for name in {*TORCHRUN, *SLURM, "NODE_RANK"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    local = place(devices, nodes)
    assert (local.rank, local.ranks, local.chief) == (rank, devices * nodes, rank == 0)
    external = local.environment.creates_processes_externally
    assert external == ("LOCAL_RANK" in environ or (environ == SLURM and devices > 1))
    if external and (environ.get("SLURM_NTASKS") == "8" or "RANK" in environ):
        assert local.environment.global_rank() == rank and local.environment.world_size() == local.ranks


@pytest.mark.parametrize(
    "environ, message",
    [
        (TORCHRUN, r"torchrun started 8 process\(es\), and trainer.devices x trainer.nodes is 2 x 1"),
        (SLURM, "Slurm started 8 tasks, .* --nodes=1 --ntasks-per-node=2"),
    ],
)
def test_another_number_of_processes_than_asked_for_is_refused(monkeypatch, environ, message):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=message):
        place(2, 1)


@pytest.mark.parametrize(
    "words, message",
    [
        (("trainer=fsdp", "optimizer=muon"), "optimizer=muon needs whole matrices"),
        (("trainer=ddp", "trainer.nodes=3"), "batch=4 must be a multiple of .*, here 6"),
        (("trainer.strategy=zero",), "strategy='zero' should be 'auto', 'ddp' or 'fsdp'"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, words, message):
    with pytest.raises(BadInput, match=message):
        compose(tiny(tmp_path, *words))
