"""Every command refuses every kind of mistake in one sentence that names the key or the place, and exits with 1."""

from pathlib import Path

import pytest
import torch

from conf.base import BadInput
from conf.compose import command_line
from experiments.explore.measured import _longrope, measured
from experiments.longrope.searching import _read_history
from experiments.report.gather import gather
from tests.bad_input import COMMANDS, INTERNALS, mistyped, refusal
from tests.mistakes import cases
from tests.runs import CACHE, run_program, tiny


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the words in braces of mistakes stand for."""
    from train import compose, train

    folder = tmp_path_factory.mktemp("places")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("no yaml: [a\n" * 20)
    (folder / "page").mkdir()
    (folder / "page" / "README.md").write_text("# Something else")
    (folder / "blank.txt").write_text(" \n")
    (folder / "link").symlink_to(folder / "nowhere")
    result = train(compose(tiny(folder / "runs", "name=base")))
    whole = result.checkpoint.read_bytes()
    (folder / "torn.ckpt").write_bytes(whole[: len(whole) // 2])
    names = {
        "file": "text.txt",
        "readme": "page",
        "blank": "blank.txt",
        "empty": "empty",
        "torn": "torn.ckpt",
        "link": "link",
        "nothing": "nothing",
    }
    results = {name: str(folder / file) for name, file in names.items()}
    results |= {"run": str(result.folder), "checkpoint": str(result.checkpoint), "cache": str(CACHE)}
    return results | {"scratch": str(folder / "scratch")}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch, one_thread):
    """W&B neither asks nor is asked; what a command writes where it stands, it writes here."""
    monkeypatch.setenv("WANDB_MODE", "offline")


def assert_one_sentence(message: str, word: str) -> None:
    assert word in message and not any(internal in message for internal in INTERNALS) and len(message) < 900, message


@pytest.mark.parametrize(("command", "override"), mistyped())
def test_a_wrong_type_is_refused(command, override, places):
    *group, name = override.partition("=")[0].split(".")
    message = refusal(command, (override,), places)
    assert_one_sentence(message, name if name in message else ".".join(group) or name)


@pytest.mark.parametrize(("command", "overrides", "word"), cases())
def test_a_mistake_is_refused(command, overrides, word, places):
    for name, place in places.items():
        word = word.replace(f"{{{name}}}", place)
    assert_one_sentence(refusal(command, overrides, places), word)


def test_every_command_is_tried_with_many():
    every = [*mistyped(), *cases()]
    assert len(every) >= 800 and len(COMMANDS) >= 15
    assert all(sum(case[0] == command for case in every) >= 7 for command in COMMANDS)


@pytest.mark.parametrize(
    ("module", "words", "word"),
    [
        ("train", ["windw=16"], "did you mean window?"),
        ("train", ["=3"], "'=3' is no setting"),
        ("train", ["model=null"], "model=null is not known"),
        ("train", ["runs=a#b"], "'runs=\"a#b\"'"),
        ("train", ["-m", "window=1,2", "seed=1", "seed2=3"], "seed2 is not a setting"),
        ("experiments.perplexity", [], "checkpoint must be given"),
        ("experiments.perplexity", ["checkpoint=nowhere", "extend=null"], "checkpoint=nowhere"),
        ("experiments.explore", ["out=/dev/null/x"], "/dev/null/x: Not a directory"),
        ("experiments.reproduce", ["claim=3"], "claim=3 should be text"),
        ("experiments.schemes", ["position=rope"], "position=rope"),
        ("experiments.compare", ["{run}"], "two runs or more"),
        ("experiments.compare", ["{run}", "{nothing}"], "{nothing}"),
        ("experiments.compare", ["{run}", "{empty}"], "{empty} is no run"),
        ("experiments.compare", ["{run}", "{file}"], "{file} is no run"),
        ("experiments.compare", ["{run}", "{run}", "--out", ""], "--out"),
        ("experiments.compare", ["{run}", "{run}", "--out", "/dev/null/x"], "/dev/null"),
    ],
)
def test_a_program_prints_the_sentence_and_nothing_else(module, words, word, places):
    for name, place in places.items():
        words, word = [item.replace(f"{{{name}}}", place) for item in words], word.replace(f"{{{name}}}", place)
    status, out, err = run_program(*words, module=module)
    assert (status, out) == (1, "") and err.count("\n") == 1, err
    assert_one_sentence(err.strip(), word)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied", "runs/x"), "runs/x: Permission denied"),
        (OSError(28, "No space left on device"), "the system refused to read or write: No space left on device"),
        (OSError(30, "Read-only file system", ".cache/a", None, "b"), ".cache/a → b: Read-only file system"),
        (NotADirectoryError(20, "Not a directory", Path("/dev/null/x")), "/dev/null/x: Not a directory"),
        (MemoryError(), "there is not enough memory: take a smaller model, window or batch"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\nand much more"),
            "there is not enough memory for 2.00 GiB at once: take a smaller model, window or batch",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes."),
            "there is not enough memory for 12 bytes at once: take a smaller model, window or batch",
        ),
    ],
)
def test_whatever_the_system_refuses_is_a_sentence(monkeypatch, capsys, error, sentence):
    def refuse(values, overrides):
        raise error

    monkeypatch.setattr("sys.argv", ["report"])
    with pytest.raises(SystemExit) as end:
        command_line("report", refuse)
    assert end.value.code == 1 and capsys.readouterr().err == sentence + "\n"


def test_an_error_of_the_programs_own_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("sys.argv", ["report"])
    with pytest.raises(ZeroDivisionError):
        command_line("report", lambda *_: 1 / 0)


@pytest.mark.parametrize("content", ["", "[1]", '{"rows": 3}', "\xff"])
@pytest.mark.parametrize("torn", ["study/summary.json", "claims/bound.json", "claims/spacing-pico.json"])
def test_results_that_are_none_are_named_and_no_page_is_made_of_them(tmp_path, torn, content):
    for name in {torn, "claims/spacing-pico.json"}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(BadInput, match="holds no results that go on the page"):
        measured(tmp_path)
    with pytest.raises(BadInput, match=r"is no result of experiments\.reproduce"):
        gather(tmp_path / "claims")


@pytest.mark.parametrize("content", ["", "[1]", "factor: 4", "long: [1", "\xff"])
def test_factors_that_are_none_are_named(tmp_path, content):
    (tmp_path / "factors.yaml").write_text(content, encoding="latin-1")
    with pytest.raises(BadInput, match=r"factors\.yaml holds no results that go on the page"):
        _longrope(tmp_path)


def test_a_torn_history_of_a_search_is_named_and_begun_anew(tmp_path, capsys):
    path = tmp_path / "history.json"
    assert _read_history(path) == [] and capsys.readouterr().out == ""
    for content in ("", '[[{"score": 1.0', "[[1]]", '[[{"score": 1.0}]]', "3"):
        path.write_text(content)
        assert _read_history(path) == [] and f"{path} is torn" in capsys.readouterr().out
