"""Configuration: every choice works, and every mistake gets its sentence."""

import ast
import atexit
import gc
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module

import pytest
import torch

from conf.base import BadInput
from conf.compose import compose_values, program
from conf.help import help_text
from conf.names import run_name
from conf.overrides import FOLDER, choices
from conf.start import begin
from models.lightning import uncollected
from tests.runs import CACHE, ROOT, command, finish, run_program, tiny
from train import build_model, compose

HUB = [name for name in choices("data") if "source: hub" in (FOLDER / "data" / f"{name}.yaml").read_text()]


def takes_a_step(config):
    model = build_model(config)
    tokens = torch.randint(0, 257, (1, 9))
    logits = model(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    assert logits.shape[:2] == (1, 8) and torch.isfinite(loss)


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (g, c)
        for g in ("position", "frequencies", "layers", "seen", "optimizer", "trainer", "logger")
        for c in choices(g)
    ],
)
def test_every_choice_composes_builds_and_takes_a_step(tmp_path, group, choice):
    more = []
    if (group, choice) == ("frequencies", "file"):  # the one choice that needs to be told something
        (tmp_path / "list.yaml").write_text(str([1.0 / 2**k for k in range(8)]))
        more = [f"frequencies.path={tmp_path / 'list.yaml'}"]
    if (group, choice) == ("seen", "mixed"):  # the one choice that is for fine-tuning alone (tests/test_mixed.py)
        with pytest.raises(BadInput, match="so window=32 must be two or more of them"):
            compose(tiny(tmp_path, "seen=mixed"))
        return
    takes_a_step(compose(tiny(tmp_path, f"{group}={choice}", *more)))


@pytest.mark.parametrize("choice", choices("extend"))
def test_every_extension_composes_builds_and_takes_a_step(tmp_path, choice):
    takes_a_step(compose(tiny(tmp_path, "position=rope", f"extend={choice}")))


@pytest.mark.parametrize(
    ("choice", "millions"),
    [
        ("pico", (0.1, 0.13)),
        ("nano", (0.7, 1.3)),
        ("micro", (10, 12)),
        ("mini", (25, 32)),
        pytest.param("small", (84, 125), marks=pytest.mark.slow),
        ("nano_modern", (0.7, 2)),
    ],
)
def test_every_model_has_its_size_and_takes_a_step(tmp_path, choice, millions):
    overrides = [o for o in tiny(tmp_path) if not o.startswith("model.")]
    config = compose([*overrides, f"model={choice}"])
    takes_a_step(config)
    count = sum(p.numel() for p in build_model(config).parameters()) / 1e6
    assert millions[0] < count < millions[1]


def test_model_choices_are_all_tested():
    sizes = ["micro", "mini", "nano", "pico", "small"]
    assert choices("model") == sorted([*sizes, *(f"{size}_modern" for size in sizes)])


@pytest.mark.parametrize("choice", HUB)
def test_hub_presets_compose(tmp_path, choice):
    overrides = [o for o in tiny(tmp_path) if not o.startswith("data.")]
    assert compose([*overrides, f"data={choice}"]).data.source == "hub"


@pytest.mark.parametrize("choice", choices("experiment"))
def test_every_experiment_also_describes_a_base_run(tmp_path, choice):
    """What it asks of its models afterwards is no setting of theirs."""
    config = compose([f"runs={tmp_path}", f"experiment={choice}", *(["data=sotu"] if choice != "demo" else [])])
    assert config.group == choice


SENTENCES = {
    "optimizer.lrr=1": ("optimizer.lrr", "lr", "warmup"),
    "+optimizer.lrr=1": ("optimizer.lrr", "lr", "warmup"),
    "model=tinny": ("model=tinny", "nano", "small"),
    "experiment=abll": ("experiment=abll",),
    "position=ropee": ("position=ropee", "rope", "sinusoidal"),
    "window=abc": ("window='abc'", "integer"),
    "window=0": ("window=0", "greater than or equal to 1"),
    "steps=1.5": ("steps=1.5", "integer"),
    "model.heads=3": ("width=32", "heads=3"),
    "trainer.accumulate=3": ("batch=4", "3"),
    "trainer.precision=fp8": ("trainer.precision", "bf16-mixed"),
    "optimizer.lr=-1": ("optimizer.lr=-1", "greater than 0"),
    "+position.banana=1": ("position.banana", "fraction"),
    "position.fraction=0": ("position.fraction=0", "greater than 0"),
    "position.fraction=0.01": ("position.fraction=0.01",),
    "checkpoint=nowhere.ckpt": ("nowhere.ckpt", "no such file"),
    "group=a/b": ("group", "a/b"),
    "snapshots=[7]": ("snapshots", "steps=6"),
    "+original_window=8": ("original_window", "not a setting"),
    "extend.factor=2": ("extend.factor",),
    "+extend._target_=os.getcwd": ("extend._target_", "not a setting"),
}


@pytest.mark.parametrize("override", SENTENCES)
def test_a_mistake_is_one_sentence_naming_key_and_what_is_allowed(tmp_path, override):
    with pytest.raises(BadInput) as caught:
        compose(tiny(tmp_path, override))
    message = str(caught.value)
    assert "\n" not in message
    for word in SENTENCES[override]:
        assert word in message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("position=none", "extend=interpolate"), ("extend=interpolate", "position=none", "no positions")),
        (("extend=interpolate", "extend.factor=0.5"), ("extend.factor=0.5", "greater than or equal to 1")),
        (("seen=skipwise", "seen.longest=16"), ("seen.longest=16", "window=32")),
        (("position=none", "frequencies.base=500"), ("position=none", "no frequencies")),
    ],
)
def test_an_impossible_pair_is_one_sentence(tmp_path, overrides, words):
    with pytest.raises(BadInput) as caught:
        compose(tiny(tmp_path, *overrides))
    assert all(word in str(caught.value) for word in words)


def test_a_config_is_frozen(tmp_path):
    config = compose(tiny(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        config.window = 3


def test_whole_floats_are_counts(tmp_path):
    assert compose(tiny(tmp_path, "steps=1e2")).steps == 100


@pytest.mark.parametrize(
    ("override", "key"), [("optimizer.lrr=1", "optimizer.lrr"), ("window=0", "window=0"), ("data=files", "data.train")]
)
def test_the_command_line_says_the_sentence_and_nothing_else(override, key):
    status, out, err = run_program(override, module="train")
    assert status == 1 and out == "" and len(err.splitlines()) == 1 and key in err


@pytest.mark.parametrize("name", ["reproduce", "longrope", "perplexity", "progressive"])
def test_a_wrong_key_is_named_also_where_another_must_be_given(name):
    with pytest.raises(BadInput, match=r"^fator is not a setting; allowed there: .*(claim|checkpoint)"):
        compose_values(name, ["fator=2"])


@pytest.mark.slow
def test_help_and_cfg_import_nothing_heavy():
    """--help answers at once because neither torch nor the rest is imported before a run starts."""
    code = "import sys, train; print([m for m in ('torch', 'lightning', 'wandb', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    status, out, _ = finish(command("--cfg", "job"))
    assert status == 0 and "window: " in out


@pytest.mark.slow
@pytest.mark.parametrize("first", ["models.processes", "models.language_model", "models.sharding"])
def test_a_run_imports_nothing_that_happens_to_be_installed(first):
    """Lightning and its metrics would import these for nothing: a third of the seconds before the first step."""
    seen = "print([m for m in ('matplotlib', 'rich', 'transformers', 'wandb', 'datasets') if m in sys.modules])"
    code = f"import sys, {first}; import models.checkpoints, models.progress, models.restore, conf.schema; {seen}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_wandb_is_imported_before_torch():
    """Once torch is there, what W&B imports takes three seconds more."""
    code = "import sys; from conf.compose import check_logger, compose_values\n"
    code += "check_logger(compose_values('config', ['logger.mode=offline'])); names = list(sys.modules)\n"
    code += "print(names.index('wandb.apis.public') < names.index('torch'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.slow
def test_a_reading_imports_neither_what_trains_nor_what_compiles(tmp_path):
    """They are half of the seconds that a reading of a small model takes."""
    unread = shutil.ignore_patterns("perplexity")
    base = shutil.copytree(ROOT / "experiments/bases/rope-nano", tmp_path / "base", ignore=unread)
    words = [f"checkpoint={base}", "contexts=[16]", "segments=1", "logger=none"]
    words += [f"runs={tmp_path}", f"cache={CACHE}"]
    seen = "print([m for m in ('lightning', 'torch._dynamo', 'matplotlib') if m in sys.modules])"
    code = f"import runpy, sys; runpy.run_module('experiments.perplexity', run_name='__main__'); {seen}"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_garbage_is_looked_for_again_once_a_program_works(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(atexit, "register", lambda *_: None)
    try:
        begin()
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the program has not begun to work"
        with program():
            assert gc.isenabled() and gc.get_freeze_count()
            gc.unfreeze()
            with suppress(ImportError), uncollected():
                assert not gc.isenabled()
                raise ImportError
            assert gc.isenabled() and gc.get_freeze_count()
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.slow
def test_help_opens_with_what_the_program_does():
    """With the comment of its YAML file, the groups that it has and no others, and its settings."""
    status, out, err = run_program("--help", module="experiments.by_position")
    first = (FOLDER / "by_position.yaml").read_text().splitlines()[0]
    assert status == 0 and err == "" and out.splitlines()[0] == first.removeprefix("# ")
    assert "\n  extend: base, " in out and "\n  optimizer: " not in out and "\nsegments: 512\n" in out
    assert "\n  model/blocks: modern, plain\n" in help_text("extend_study")  # whose defaults build on config.yaml


@pytest.mark.slow
def test_help_says_what_was_chosen_and_wins_over_other_flags():
    status, out, err = run_program("-h", "window=48", "--cfg", "hydra", module="experiments.by_position")
    assert status == 1 and "window is not a setting" in err
    status, out, err = run_program("--help", "extend=nothing", module="experiments.by_position")
    assert status == 1 and "extend=nothing is not known" in err and out == "", "the sentence alone"
    status, out, err = finish(command("-m", "--help", "window=48"))
    assert (status, err) == (0, "") and "\nwindow: 48\n" in out and "\nhydra:" not in out


def test_every_command_opens_with_how_it_is_called():
    for path in [*(ROOT / "experiments").glob("*/__main__.py"), *(ROOT / "experiments").glob("[a-z]*.py")]:
        name = path.parent.name if path.stem == "__main__" else path.stem
        assert f"python -m experiments.{name}" in ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("name", ["schemes", "benchmark.targets"])
def test_commands_without_settings_have_help_too(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    import_module(f"experiments.{name}").main()
    assert f"python -m experiments.{name}" in capsys.readouterr().out


def test_names_say_what_a_run_is(tmp_path):
    name = compose(tiny(tmp_path, "extend=interpolate", "extend.factor=8", "seed=3")).name
    assert name.startswith("rope-interpolate8-nano-") and name.endswith("-s3")
    plain = compose(["position=sinusoidal"])
    assert plain.name == "sinusoidal-nano-s1"
    assert run_name(plain, ["position=sinusoidal", "optimizer.lr=1e-3"]) == "sinusoidal-nano-lr1e_3-s1"
    assert run_name(plain, ["steps=" + "9" * 200]) != run_name(plain, ["steps=" + "9" * 201])
