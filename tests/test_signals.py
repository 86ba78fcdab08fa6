"""Signals lose nothing and are answered at once, and no process outlives the command it trains for."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import distributed

from conf import signals
from conf.base import BadInput
from conf.compose import command_line, program
from models.checkpoint_files import numbered
from models.checkpoints import Checkpoints
from models.language_model import LanguageModel
from models.progress import Metrics
from tests.runs import ROOT, command, finish, tiny, tiny_claims
from tests.test_plan import KILLABLE
from train import compose, train


def rows(folder: Path) -> list[dict]:
    """What a run recorded, but its speed."""
    recorded = Metrics(folder / "metrics.jsonl").rows()
    return [{key: value for key, value in row.items() if not key.startswith("speed/")} for row in recorded]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_validation_which_is_made_up_for_on_resuming(tmp_path, monkeypatch, capfd, one_thread, number):
    words = tiny(tmp_path, "name=a", "checkpoint_every=100")
    whole = train(compose([*words, "group=whole"])).folder
    score, calls = LanguageModel.score, []

    def interrupted(self, windows):
        calls.append(len(windows))
        os.kill(os.getpid(), number)
        return score(self, windows)

    monkeypatch.setattr(LanguageModel, "score", interrupted)
    config, folder = compose([*words, "group=parts"]), tmp_path / "parts" / "a"
    with pytest.raises(SystemExit) as stopped:
        train(config)
    assert stopped.value.code == 128 + number and calls == [4], "one of the two passes, at the first validation"
    assert f"a: {number.name}: stopping after this step, then saving" in capfd.readouterr().err
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    assert [path.name for path in numbered(folder / "checkpoints")] == ["step-00000003.ckpt"]
    monkeypatch.setattr(LanguageModel, "score", score)
    train(config)
    assert rows(folder) == rows(whole)


def test_a_second_signal_says_what_is_waited_for_and_a_third_gives_up(tmp_path, capfd):
    saving = Checkpoints(tmp_path / "run" / "checkpoints", 1)
    saving._stop(signal.SIGTERM, None)
    assert saving.stopping()
    saving._busy = "writing step-00000001.ckpt"
    saving._stop(signal.SIGINT, None)
    with pytest.raises(SystemExit) as end:
        saving._stop(signal.SIGINT, None)
    assert end.value.code == 130 and saving.signal == signal.SIGTERM
    first, second = capfd.readouterr().err.splitlines()
    assert first == "run: SIGTERM: stopping after this step, then saving"
    assert second.startswith("run: SIGINT: still busy with writing step-00000001.ckpt; once more gives up")


@pytest.fixture
def one_of_several(tmp_path, monkeypatch):
    """The Checkpoints of a process that trains with others, to which no signal comes, and what it does to its Trainer:
    every step is kept and saved. `during` is called while the processes ask each other.
    """
    saving = Checkpoints(tmp_path / "run" / "checkpoints", 1, snapshots=(1, 2))
    saving._group = "others"
    monkeypatch.setattr(distributed, "all_reduce", lambda number, maximum, group: saving.during())
    saving.during = lambda: None
    trainer = SimpleNamespace(
        accumulate_grad_batches=1, global_step=1, max_steps=2, should_stop=False, is_global_zero=False
    )
    monkeypatch.setattr(saving, "_save", lambda *_, **__: None)
    return saving, trainer


def test_a_signal_amid_the_question_of_the_others_counts_the_next_time(one_of_several):
    saving, _ = one_of_several
    saving.during = lambda: saving._stop(signal.SIGTERM, None)
    assert not saving.stopping(), "the others do not know of it"
    saving.during = lambda: None
    assert saving.stopping() and saving.agreed == signal.SIGTERM


def test_a_signal_amid_saving_stops_no_process_alone(one_of_several, monkeypatch):
    saving, trainer = one_of_several
    monkeypatch.setattr(saving, "_save", lambda *_, **__: saving._stop(signal.SIGTERM, None))
    saving.on_train_batch_end(trainer, None, None, None, 0)
    assert not trainer.should_stop and saving.agreed is None
    monkeypatch.setattr(saving, "_save", lambda *_, **__: None)
    saving.on_train_batch_end(trainer, None, None, None, 1)
    assert trainer.should_stop and saving.agreed == signal.SIGTERM


def test_a_signal_amid_the_last_saving_leaves_a_finished_run_to_all(one_of_several, monkeypatch):
    saving, trainer = one_of_several
    trainer.global_step = 2
    monkeypatch.setattr(saving, "_save", lambda *_, **__: saving._stop(signal.SIGTERM, None))
    saving.on_train_batch_end(trainer, None, None, None, 1)
    assert saving.signal == signal.SIGTERM and saving.agreed is None


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_program_ends_on_a_signal_with_its_status_and_leaves_the_handlers(capfd, number):
    before = [signal.getsignal(each) for each in signals.SIGNALS]
    with pytest.raises(SystemExit) as end, program():
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert end.value.code == 128 + number and capfd.readouterr().err.count("\n") == 1
    assert [signal.getsignal(each) for each in signals.SIGNALS] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["train", "experiments.longrope"])
def test_a_signal_amid_the_first_imports_is_one_sentence(module, number):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", module], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    imported = iter(process.stderr)
    assert next((line for line in imported if "annotated_types" in line), None), "the first that takes a moment"
    process.send_signal(number)
    said = [line for line in imported if not line.startswith("import time:")]
    assert process.wait(60) == 128 + number
    assert said == [f"stopped by {number.name} before anything was begun\n"]


def test_a_signal_amid_a_later_import_waits_for_its_end(tmp_path, monkeypatch, capfd):
    (tmp_path / "takes_a_moment.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as end, program():
        import takes_a_moment

        time.sleep(5)
    assert end.value.code == 143 and takes_a_moment.whole
    assert capfd.readouterr().err == "stopped by SIGTERM; the same command goes on\n"
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_nohup_is_respected(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with program():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_pipe_is_silence(monkeypatch, tmp_path, capfd):
    with open(tmp_path / "out", "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as end, program():
            raise BrokenPipeError(32, "Broken pipe")
    assert end.value.code == 128 + signal.SIGPIPE and capfd.readouterr().err == ""


def test_a_stopped_multirun_ends_whole_and_leaves_no_file(tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "files"))
    monkeypatch.setattr(sys, "argv", ["report", "-m", "readme=a,b,c"])
    seen = []

    def stop(values, overrides):
        seen.append(values["readme"])
        raise SystemExit(143) if seen[-1] == "b" else BadInput("a cannot be")

    with pytest.raises(SystemExit) as end:
        command_line("report", stop)
    assert end.value.code == 143 and seen == ["a", "b"] and list((tmp_path / "files").iterdir()) == []


@pytest.mark.slow
def test_a_supervisor_hands_the_first_signal_on_and_waits(tmp_path, capfd):
    supervisor = signals.Supervisor(tmp_path / "plan" / "stop")
    with pytest.raises(SystemExit) as end, supervisor.watching():
        os.kill(os.getpid(), signal.SIGINT)
        assert supervisor.stop.exists()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert end.value.code == 130 and not supervisor.stop.exists()
    assert ["every run stops" in line for line in capfd.readouterr().err.splitlines()] == [True, False]


WORKER = """
import sys, time
from pathlib import Path
from conf import signals
folder = Path(sys.argv[2])
signals.serve(int(sys.argv[1]), str(folder / "stop"))
try:
    with signals.working():
        (folder / "working").touch()
        time.sleep(600)
except SystemExit:
    (folder / "stopped").touch()
try:
    with signals.working():
        (folder / "next").touch()
except SystemExit:
    (folder / "refused").touch()
time.sleep(600)
"""
PARENT = (
    "import subprocess, sys, os\nsubprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid()), sys.argv[2]])"
)


def wait_until(condition, seconds: float = 60.0) -> None:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to that")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the parent is killed", "the parent says so"])
def test_a_worker_saves_takes_up_nothing_further_and_ends_with_its_parent(tmp_path, how):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, WORKER, str(tmp_path)], cwd=ROOT)
    wait_until((tmp_path / "working").exists)
    ((worker,),) = [Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    if how == "the parent says so":
        (tmp_path / "stop").touch()
        wait_until((tmp_path / "refused").exists)
        assert (tmp_path / "stopped").exists() and not (tmp_path / "next").exists()
    parent.kill()  # not waited for: what has ended counts as gone
    wait_until(lambda: not signals._alive(int(worker)))
    parent.wait()
    assert (tmp_path / "working").exists() and not (tmp_path / "next").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGKILL, False)])
def test_runs_side_by_side_are_all_saved_whatever_ends_the_command(tmp_path, number, whole_group):
    """Ctrl-C, which reaches every process of the group, and a parent that is killed outright."""
    train_words = 'train=["steps=100000","checkpoint_every=100000","log_every=1","validate_every=100000"]'
    words = ["claim=pair", *tiny_claims(tmp_path), "seeds=1", "launcher=joblib", "launcher.jobs=2", train_words]
    process = command(*words, code=KILLABLE, MARK=str(tmp_path))
    folders = [tmp_path / "claims-tiny" / f"{scheme}-nano-s1" for scheme in ("rope", "alibi")]
    wait_until(lambda: all(map(rows, folders)) or process.poll() is not None, 300)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    status, _, err = finish(process)
    assert status == (130 if whole_group else -9), err
    for folder in folders:
        wait_until(lambda folder=folder: json.loads((folder / "status.json").read_text())["state"] == "interrupted")
        (checkpoint,) = numbered(folder / "checkpoints")
        assert int(checkpoint.stem[-8:]) == json.loads((folder / "status.json").read_text())["step"] > 0
        assert "Traceback" not in err
    recorded = json.loads((folders[0] / "config.json").read_text())
    assert recorded["steps"] == 100000
    wait_until(lambda: not any(_mentions(path, f"MARK={tmp_path}") for path in Path("/proc").glob("[0-9]*/environ")))


def _mentions(path: Path, text: str) -> bool:
    """Whether a process was started with this in its environment; not if it has ended."""
    try:
        return text in path.read_text(errors="replace")
    except OSError:
        return False
