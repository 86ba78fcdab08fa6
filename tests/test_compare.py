"""Runs beside each other: a run says the same from its folder and from W&B, and only what differs is told."""

import json
import math
import shutil
import subprocess
import sys

import pytest

from conf.base import BadInput
from conf.compose import compose_values
from conf.files import write_json
from experiments import perplexity
from experiments.compare.recorded import Point, Recorded, json_lines, read
from experiments.compare.table import columns, compare, contexts, differences, draw, finals, letters, notes, text
from tests.runs import CACHE, command, finish, tiny

READING = "none, fixed_targets, test, step 6, 64 targets"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two runs that differ in the base alone, each read at three contexts; everything logged offline too."""
    from train import compose, train

    place, folders, offline = tmp_path_factory.mktemp("runs"), [], []

    def logged():
        """The offline run since the last look: two that begin within a second have names in no order."""
        offline.extend(set((place / "wandb").glob("offline-run-*")) - set(offline))

    for name, base in (("usual", 10_000), ("small", 500)):
        words = tiny(place, "logger=wandb", "logger.mode=offline", f"name={name}", f"frequencies.base={base}")
        folders.append(train(compose(words)).folder)
        logged()
        options = [f"checkpoint={folders[-1]}", f"runs={place}", f"cache={CACHE}", "logger.mode=offline", "segments=8"]
        perplexity.run_command(compose_values("perplexity", [*options, "contexts=[16,32,64]", "stride=8"]), [])
        logged()
    return (
        folders,
        [item for item in offline if "default-" in item.name],
        [e for e in offline if "default-" not in e.name],
    )


@pytest.mark.slow
def test_a_folder_and_its_offline_run_say_the_same(recorded):
    folders, trained, readings = recorded
    folder, offline, reading = (read(str(item[0])) for item in (folders, trained, readings))
    assert folder.name == offline.name == "usual" and folder.state == offline.state == "done"
    assert folder.config == offline.config == reading.config and folder.config["frequencies.base"] == 10_000
    assert set(folder.final) == set(offline.final) and "validation/nll" in folder.final
    for key, value in folder.final.items():
        assert offline.final[key] == pytest.approx(value)
    for curve, points in ((6, "train/loss"), (2, "validation/nll")):
        assert len(folder.curves[points]) == curve and folder.curves[points][-1][0] == 6 * 4 * 32
        assert offline.curves[points] == folder.curves[points]
    ((name, ours),), ((_, theirs),) = folder.readings.items(), reading.readings.items()
    assert name == READING and list(reading.readings) == ["none-fixed_targets"]
    assert [(p.context, p.perplexity) for p in ours] == [(p.context, pytest.approx(p.perplexity)) for p in theirs]
    assert [p.context for p in ours] == [16, 32, 64] and all(p.low < p.perplexity < p.high for p in ours)


def test_on_chains_the_effective_context_stands_beside_perplexity(tmp_path):
    def run(name, **effective):
        points = [Point(length, 9.0, effective=effective.get(f"at{length}")) for length in (16, 32)]
        return Recorded(name, name, "done", {}, {}, {}, {"none": points})

    chains, text_alone = run("chains", at16=8.25, at32=20.5), run("text")
    assert contexts([text_alone, chains], "effective") == {"tokens of context": [16, 32], "B none": [8.25, 20.5]}
    assert "Effective context" in text([text_alone, chains]) and "Effective" not in text([text_alone])
    used = draw([text_alone, chains]).figure.axes[-1]
    assert [list(line.get_ydata()) for line in used.lines] == [[16, 32], [8.25, 20.5]]
    assert len(draw([text_alone]).figure.axes) == 1
    (legend,) = draw([text_alone, chains]).figure.legends
    assert [entry.get_text() for entry in legend.get_texts()] == ["A, none", "B, none"], "one for both panels"


def test_effective_context_is_read_from_wandb(tmp_path, monkeypatch):
    rows = [{"context/length": 16, "context/perplexity": 9.0, "context/effective": 8.25}]
    rows += [{"context/length": 32, "context/perplexity": 7.0, "context/effective": 20.5}]
    records = [{"run": {"run_id": "x"}}, *({"history": {"item": row}} for row in rows)]
    monkeypatch.setattr("experiments.compare.recorded.offline_records", lambda file: (records, ""))
    (tmp_path / "run-x.wandb").touch()
    ((_, points),) = read(str(tmp_path)).readings.items()
    assert [(point.context, point.effective) for point in points] == [(16, 8.25), (32, 20.5)]


def test_a_legend_names_what_tells_readings_apart():
    points = [Point(16, 9.0)]
    run = Recorded("a", "a", "done", {}, {}, {}, {f"{way}, windows, test, step 6": points for way in ("none", "yarn4")})
    (legend,) = draw([run]).figure.legends
    assert [entry.get_text() for entry in legend.get_texts()] == ["A, none", "A, yarn4"]


@pytest.mark.slow
def test_only_what_differs_is_told_and_the_table_has_the_numbers(recorded, tmp_path):
    folders, _, readings = recorded
    sources = [*map(str, folders), str(readings[1])]
    runs = [read(source) for source in sources]
    assert differences(runs) == {"frequencies.base": [10_000, 500, 500]}
    printed = compare(sources, tmp_path / "new" / "c")
    metrics = json.loads((folders[1] / "results.json").read_text())["metrics"]
    assert f"{metrics['validation/perplexity']:.5g}" in printed and "seed" not in printed
    for point in runs[0].readings[READING]:
        assert f"{point.perplexity:.5g}" in printed
    assert finals(runs)["tokens"] == [768, 768, None]
    assert len(contexts(runs)) == 4 and contexts(runs)["tokens of context"] == [16, 32, 64]
    assert (tmp_path / "new" / "c.txt").read_text() == printed + "\n"
    assert (tmp_path / "new" / "c.png").stat().st_size > 10_000 and (tmp_path / "new" / "c.svg").is_file()
    losses, reading = draw(runs).figure.axes
    assert len(losses.lines) == 4 and [line.get_xdata()[-1] for line in losses.lines] == [768] * 4
    assert len(reading.lines) == 3 + 1 and len(reading.collections) == 2, "three curves, the window; two bands"


@pytest.mark.slow
def test_a_killed_run_is_read_as_far_as_it_came(recorded, tmp_path):
    folders, trained, _ = recorded
    copy = tmp_path / "killed"
    shutil.copytree(folders[0], copy)
    (copy / "results.json").unlink()
    (copy / "status.json").write_text('{"state": "running"}')
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join([*lines[:3], lines[3][:20]]))
    run = read(str(copy))
    assert run.final["step"] == 3 and len(run.curves["train/loss"]) == 3 and run.state == "running"
    (file,) = trained[0].glob("*.wandb")
    torn = tmp_path / file.name
    torn.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    half = read(str(torn))
    assert half.state == "running" and 0 < len(half.curves["train/loss"]) < 6
    assert "These runs are not finished and are shown so far: killed, usual." in notes([run, half])


def made(name="a", targets="x", state="done", count=64, **config):
    return Recorded(name, name, state, config, {}, {}, {"r": [Point(8, 2.0, 1.0, 3.0, targets, count)]})


def test_what_cannot_be_compared_is_said():
    (message,) = notes([made(targets="x"), made(targets="y")])
    assert message.startswith("Some readings scored different targets")
    (message,) = notes([made(targets="x"), made(targets="y", count=512)])
    assert message.startswith("Readings of as many targets"), "whose names tell them apart"
    assert notes([made(targets="x"), made(targets="x")]) == []
    (message,) = notes([made(**{"data.name": "a"}), made(**{"data.name": "b"})])
    assert message.startswith("The runs differ in their data")
    (message,) = notes([made(window=32, validation_windows=8), made(window=64, validation_windows=4)])
    assert message.startswith("The runs differ in window and validation_windows: their validation losses")
    assert not notes([made(**{"data.retrieval.fraction": 0.0}), made(**{"data.retrieval.fraction": 0.5})])
    assert not notes([made(), made()]) and "No setting differs." in text([made(), made()])


def test_other_texts_under_the_same_paths_are_said(tmp_path):
    sources = []
    for name, texts in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", {"model": {}, "position": {}, "data": {}})
        write_json(tmp_path / name / "status.json", {"state": "done"})
        write_json(tmp_path / name / "inputs.json", {"texts": texts, "tokenizer": "x"})
        sources.append(read(str(tmp_path / name)))
    assert notes(sources[:2]) == []
    (message,) = notes(sources[1:])
    assert message.startswith("The runs differ in their data")


def test_where_a_run_is_kept_is_no_difference():
    runs = [made(name, runs=name, cache=name, **{"logger.mode": name, "seed": 1}) for name in "ab"]
    assert differences(runs) == {}
    assert differences([made(seed=1), made(steps=2)]) == {"seed": [1, None], "steps": [None, 2]}


def test_tables_and_letters():
    assert letters(28)[-3:] == ["Z", "A2", "B2"]
    assert columns({"": ["A", "B"], "loss": [1 / 3, None]}) == "            A  B\nloss  0.33333  -"
    assert list(json_lines('{"a": 1}\n3\nnot\n{"b"')) == [{"a": 1}]
    assert math.isclose(next(json_lines('{"a": NaN, "b": 2}'))["b"], 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nowhere", "nowhere: there is no such run folder or offline run, and it is no entity/project/id of W&B"),
        (".", "is no run: it has neither a config.json nor a run-"),
        ("torn.wandb", "torn.wandb cannot be read as an offline run"),
    ],
)
def test_what_is_no_run_is_one_sentence(source, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torn.wandb").write_bytes(b"nothing")
    with pytest.raises(BadInput) as printed:
        read(source)
    assert sentence in str(printed.value) and "\n" not in str(printed.value)


@pytest.mark.slow
def test_a_server_without_a_key_is_one_sentence(tmp_path):
    words = ("entity/project/id", "a/b/c")
    status, out, err = finish(command(*words, module="experiments.compare", WANDB_API_KEY="", HOME=str(tmp_path)))
    assert status == 1 and not out
    assert err.startswith("entity/project/id: there is no such run folder") and "No API key configured" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_help_needs_neither_torch_nor_wandb():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['wandb'] = sys.modules['matplotlib'] = None\n"
        "sys.argv = ['compare', '--help']; from experiments.compare.table import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "a W&B path" in done.stdout, done.stderr


@pytest.mark.slow
def test_readings_whole_and_as_decoded_have_names_of_their_own(recorded, tmp_path):
    folder = shutil.copytree(recorded[0][0], tmp_path / "both")
    (whole,) = (folder / "perplexity").glob("*.json")
    for other in ("fixed_targets-decoded-0123456789", "fixed_targets-9876543210"):
        shutil.copy(whole, whole.with_name(f"step-00000006-none-{other}.json"))
    names = set(read(str(folder)).readings)
    assert {READING, READING.replace("targets", "targets, as decoded", 1)} < names and len(names) == 3


@pytest.mark.slow
def test_a_torn_reading_is_left_out_and_named(recorded, tmp_path, capsys):
    folder = shutil.copytree(recorded[0][0], tmp_path / "torn")
    (reading,) = (folder / "perplexity").glob("*.json")
    reading.write_text(reading.read_text()[:100])
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(b"\xff{\n" + metrics.read_bytes())
    whole, torn = read(str(recorded[0][0])), read(str(folder))
    assert reading.name in capsys.readouterr().err
    assert torn.readings == {} and torn.final == whole.final and torn.curves == whole.curves
    (folder / "status.json").write_text("")
    assert read(str(folder)).state == "done"
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    (folder / "config.json").write_text("")
    with pytest.raises(BadInput, match=r"config\.json is torn"):
        read(str(folder))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_shown_and_drawn(tmp_path, value):
    """Of a run that diverged, or a model whose losses overflow."""
    losses = {"validation/nll": [(1, value), (2, value)]}
    points = {"none": [Point(16, value, value, value), Point(32, value, value, value)]}
    runs = [
        Recorded("a", "a", "done", {"x": 1}, {"validation/nll": value}, losses, points),
        Recorded("b", "b", "done", {"x": 2}, {}, {"train/loss": [(1, 2.0)]}, {"none": [Point(16, 3.0, 2.0, 4.0)]}),
    ]
    assert str(value) in text(runs)
    draw(runs).figure.savefig(tmp_path / "drawn.svg")


@pytest.mark.slow
def test_files_are_named_as_they_were_asked_for(recorded, tmp_path):
    """A dot in a name is no suffix."""
    folders, *_ = recorded
    compare(list(map(str, folders)), tmp_path / "cmp.v1")
    assert {path.name for path in tmp_path.iterdir()} == {"cmp.v1.txt", "cmp.v1.png", "cmp.v1.svg"}


@pytest.mark.parametrize("broken", ["", "[1, 2]", '{"label": "none"}'])
def test_a_broken_file_is_named(recorded, tmp_path, broken):
    (folder, _), *_ = recorded
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoints"))
    (copy / "perplexity" / "z.json").write_text(broken)
    if broken.startswith("{"):
        with pytest.raises(BadInput, match=r"z.json is no reading: it lacks rows, split, step"):
            read(str(copy))
    else:
        assert len(read(str(copy)).readings) == 1
