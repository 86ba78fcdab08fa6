"""The targets: which number of which row is held to which bound, on rows made up for it."""

import json

import pytest

from experiments.benchmark import targets


def spread(median):
    return {"median": median, "low": 0.0, "high": 9.0}


def contestant(model, window, name, over, mfu=0.5):
    row = {"model": model, "window": window, "contestant": name}
    return row if over is None else row | {"speed_over_bare": spread(over), "mfu": spread(mfu)}


def beside(name, over, reference="rope", forward=1.0):
    step, forward = ({} if ratio is None else {"seconds_over_reference": spread(ratio)} for ratio in (over, forward))
    row = {"model": "micro", "window": 1024, "reference": reference, "name": name}
    return row | {"step": step, "forward": forward}


def reading(context, protocol, over):
    row = {"kind": "speed", "model": "nano", "context": context, "scheme": "rope", "protocol": protocol}
    return row | {"speed_over_plain": spread(over)}


ROWS = {
    "step": [
        contestant("nano", 256, "ours, bare loop", 1.0),
        contestant("nano", 256, "ours, train.py", 0.98),
        contestant("nano", 256, "litgpt", 0.5),
        contestant("nano", 256, "transformers Llama", 0.8),
        contestant("nano", 1024, "ours, train.py", 0.96),
        contestant("micro", 256, "ours, bare loop", 1.0, mfu=0.83),
        contestant("micro", 256, "ours, train.py", 0.5, mfu=0.1),
        contestant("micro", 256, "x-transformers", 0.9),
        contestant("micro", 256, "litgpt", None),
        contestant("micro", 1024, "ours, bare loop", 1.0, mfu=0.81),
    ],
    "schemes": [
        beside("rope", 1.0),
        beside("fire", 1.4),
        beside("alibi", 1.2),
        beside("cope", 4.0),
        beside("t5", None),
    ],
    "extensions": [
        beside("none", 1.0, "none"),
        beside("yarn", 1.02, "none"),
        beside("rerope", 4.0, "none", 1.2),
        beside("dca", 3.0, "none", 1.4),
        beside("drop", 1.05, "none"),
    ],
    "evaluation": [
        reading(8192, "windows", 0.1),
        reading(32_768, "plain forward", 0.2),
        reading(32_768, "windows", 0.95),
        reading(32_768, "fixed_targets", 1.1),
        {"kind": "bounded", "model": "nano", "context": 32_768, "scheme": "alibi"},
    ],
    "time_to_loss": [
        {"kind": "run", "optimizer": "adamw"},
        {"kind": "best", "optimizer": "adamw", "seconds_over_reference": 1.0},
        {"kind": "best", "optimizer": "muon", "seconds_over_reference": 0.6},
        {"kind": "best", "optimizer": "other", "seconds_over_reference": 0.9},
        {"kind": "best", "optimizer": "lost", "seconds_over_reference": None},
    ],
    "compiled": [contestant("nano", 256, "ours, bare loop", 1.0), contestant("nano", 256, "litgpt", 1.01)],
    "sweep": [
        {"kind": "rate", "failure": None},
        {"kind": "part", "part": "importing torch", "failure": None, "seconds": [1.0, 2.0]},
        {"kind": "part", "part": "first step", "failure": None, "seconds": [2.0, 0.5]},
        {"kind": "part", "part": "finishing", "failure": None, "seconds": [9.0, 9.0]},
        {"kind": "help", "failure": None, "seconds": [1.2, 1.1]},
    ],
}


def saved(folder, rows):
    for name, item in rows.items():
        (folder / f"{name}.json").write_text(json.dumps({"rows": item}))
    return [line.split("  ") for line in targets.table(folder).splitlines()[1:]]


def test_the_row_that_decides_is_the_worst_and_for_the_optimizers_the_best():
    result = [target.judge(ROWS[target.section]) for target in targets.TARGETS if not target.gpu]
    assert [(place, pytest.approx(value), met) for place, value, met in result] == [
        ("nano at 1024", 0.96, False),
        ("micro at 256, x-transformers", 1 / 0.9, True),
        ("nano at 256, transformers Llama", 1 / 0.8, True),
        ("nano at 256, litgpt", 1 / 1.01, False),
        ("micro at 1024", 0.81, True),
        ("micro at 1024, fire", 1.4, True),
        ("micro at 1024, drop", 1.05, False),
        ("micro at 1024, dca", 1.4, False),
        ("nano, 32768 tokens, rope, windows", 0.95, True),
        ("muon over adamw", 0.6, True),
        ("the best job", 2.5, True),
        ("the best of --help", 1.1, False),
    ]


@pytest.mark.parametrize("over, met", [(0.97, True), (0.969, False)])
def test_a_bound_is_met_on_the_bound(over, met):
    (target,) = (item for item in targets.TARGETS if item.limit == 0.97)
    assert target.judge([contestant("nano", 256, "ours, train.py", over)])[2] is met


def test_a_line_says_what_was_measured_and_what_was_not(tmp_path):
    lines = saved(tmp_path, {"step": ROWS["step"][:4], "sweep": [{"kind": "rate"}]})
    message = ["met", "met", "met", *["not measured"] * 9]
    assert len(lines) == len(message) and all(word in line for word, line in zip(message, lines, strict=True))
    assert any("nano at 256, transformers Llama" in item for item in lines[1])


def test_rows_of_another_version_are_to_be_rerun_and_hide_no_other(tmp_path):
    lines = saved(tmp_path, {"step": ROWS["step"][:4], "schemes": [{"scheme": "fire", "step": {}}]})
    message = ["met", "met", "met", *["not measured"] * 2, "to be rerun", *["not measured"] * 6]
    assert all(word in line for word, line in zip(message, lines, strict=True))


def test_a_gpu_has_bounds_of_its_own(tmp_path):
    rows = [contestant("small", 1024, "ours, bare loop", 1.0, mfu=0.4), contestant("small", 1024, "litgpt", 0.8)]
    for name, item in {"step": rows, "schemes": ROWS["schemes"]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"precision": "bf16 autocast", "rows": item}))
    lines = [line for line in targets.table(tmp_path).splitlines()[1:] if "not measured" not in line]
    wanted = ("1.20", "1.250", "met"), ("0.50", "0.400", "missed"), ("1.15", "cope", "missed")
    for line, words in zip(lines, wanted, strict=True):
        assert all(word in line for word in words)


def test_a_folder_without_sections_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(targets.sys, "argv", ["targets", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        targets.main()
    assert "holds no section of the benchmark, such as" in capsys.readouterr().err
