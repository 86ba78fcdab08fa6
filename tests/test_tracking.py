"""Weights & Biases, offline: what was logged can be read back, and jobs of a multirun do not share a run."""

import json
import os
import subprocess
import sys
from fnmatch import fnmatchcase
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from conf.base import BadInput
from conf.compose import check_logger, compose_values
from conf.schema import Logger
from conf.tracking import _start, check_wandb, offline_records, tracked
from conf.validation import validate
from experiments import dashboard
from experiments.compare.recorded import from_server
from tests.runs import command, finish, run_program, tiny
from train import compose, train


def inspect(folder):
    """Every record of an offline run, as `wandb leet` reads it."""
    (file,) = folder.glob("*.wandb")
    return offline_records(file)[0]


@pytest.mark.slow
def test_a_multirun_isolates_its_jobs_and_what_was_logged_is_read_back(tmp_path):
    words = tiny(tmp_path, "logger=wandb", "group=sweep", "extend=interpolate", "extend.factor=2")
    status, _, err = run_program("-m", *words, "position=rope,none,sinusoidal", module="train")
    assert status == 1
    assert err.splitlines()[-1] == "1 job(s) of the multirun failed"
    assert "position=none" in err.splitlines()[-2] and "has no positions" in err.splitlines()[-2]
    done = {path.parent.name.split("-")[0] for path in (tmp_path / "sweep").glob("*/results.json")}
    assert done == {"rope", "sinusoidal"}

    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 2
    for folder in runs:
        records = inspect(folder)
        text = json.dumps(records)
        name = folder.name.split("-", 3)[3]
        assert name.startswith("sweep-") and "interpolate2" in text and '"sweep"' in text
        history = [
            record for record in records if "train/loss" in json.dumps(record) and "history" in json.dumps(record)
        ]
        assert len(history) >= 6
        assert "validation/perplexity" in text and '"tokens"' in text


@pytest.mark.slow
def test_an_unreachable_server_never_stops_a_run(tmp_path):
    """Online without a key: one line, and the run goes on offline."""
    words = tiny(tmp_path, "logger=wandb", "logger.mode=online", "name=a")
    status, out, err = finish(command(*words, WANDB_API_KEY="", HOME=str(tmp_path)))
    assert status == 0, err
    assert out.count("W&B is out of reach") == 1
    assert (tmp_path / "default" / "a" / "results.json").is_file()
    assert list((tmp_path / "wandb").glob("offline-run-*")) and not list((tmp_path / "wandb").glob("run-*"))


@pytest.mark.slow
def test_training_needs_neither_wandb_nor_datasets(tmp_path):
    """With logger=none and prepared tokens, both may be missing."""
    code = (
        "import sys; sys.modules['wandb'] = sys.modules['datasets'] = None\n"
        "import train\n"
        f"words = {tiny(tmp_path, 'name=b')!r}\n"
        "print(train.train(train.compose(words)).metrics['validation/nll'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_curves_overlay_on_one_x_axis_each(tmp_path):
    """Of two runs: points over context have no tokens beside them, and no metric falls under two patterns."""
    logger = validate(Logger, compose_values("perplexity", ["checkpoint=none", "logger.mode=offline"])["logger"])
    for name in ("first", "second"):
        with tracked(logger, tmp_path, id=name, name=name, group="g", job_type="eval", tags=[], config={}) as run:
            run.log({"tokens": 64, "train/loss": 2.0, "speed/mfu": 0.1})
            run.log({"tokens": 64, "validation/perplexity": 9.0})
            for length in (16, 32):
                run.log({"context/length": length, "context/perplexity": 2.0 * length})
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    for records in map(inspect, folders):
        rows = [record["history"]["item"] for record in records if "history" in record]
        rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
        assert rows[2:] == [{"context/length": entry, "context/perplexity": 2 * entry} for entry in (16, 32)]
        defined = [record["metric"] for record in records if "metric" in record]
        axes = {entry["glob_name"]: entry["step_metric"] for entry in defined if "glob_name" in entry}
        for key in (key for row in rows for key in row if key not in axes.values()):
            (axis,) = [axis for pattern, axis in axes.items() if fnmatchcase(key, pattern)]
            assert axis == ("context/length" if key.startswith("context/") else "tokens")


@pytest.mark.slow
def test_rows_that_died_with_their_process_are_logged_again_on_resuming(tmp_path, monkeypatch, one_thread):
    """Killed before W&B wrote its file out: what the run's own metrics have is there again, and once."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = compose(tiny(tmp_path, "logger=wandb", "name=a"))
    folder = train(config).folder
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    everything = logged(file.parent)
    while len(logged(file.parent)) > len(everything) / 2:
        os.truncate(file, file.stat().st_size - 1024)
    (folder / "results.json").unlink()
    (folder / "checkpoints" / "step-00000006.ckpt").unlink()
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "state": "running"}))
    train(config)
    first, second = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert first.name.partition("default")[2] == second.name.partition("default")[2], "one id, whose points join"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = sorted((row["tokens"], key) for row in rows for key in row if key not in ("step", "tokens"))
    assert logged(first) and sorted(logged(first) + logged(second)) == sorted(everything) == expected


def logged(folder):
    """(tokens, metric) of every point of an offline run."""
    items = [record["history"]["item"] for record in inspect(folder) if "history" in record]
    return [(item["tokens"], key) for item in items for key in item if "/" in key and key != "trainer/global_step"]


LOGGER = {"name": "wandb", "project": "positions", "mode": "auto", "tags": []}


@pytest.mark.parametrize(
    ("variables", "settings", "words"),
    [
        ({"WANDB_MODE": "nonsense"}, {}, ["WANDB_MODE='nonsense'", "'offline'"]),
        ({"WANDB_BASE_URL": "nonsense"}, {}, ["WANDB_BASE_URL='nonsense'", "URL"]),
        ({"WANDB_SILENT": "maybe"}, {}, ["WANDB_SILENT='maybe'", "boolean"]),
        ({"WANDB_API_KEY": "abc"}, {}, ["WANDB_API_KEY", "40"]),
        ({}, {"project": "a/b:c"}, ["project=a/b:c", "'/'"]),
        ({}, {"project": ""}, ["project=''"]),
        ({}, {"tags": ["x" * 65]}, ["tags.0", "64"]),
        ({}, {"tags": [""]}, ["tags.0=''"]),
        ({}, {"mode": "onlin"}, ["mode='onlin'", "'online'"]),
    ],
)
def test_what_wandb_does_not_take_is_one_sentence_before_anything_is_computed(monkeypatch, variables, settings, words):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as caught:
        check_logger({"logger": LOGGER | settings})
    message = str(caught.value)
    assert "\n" not in message and "pydantic" not in message and all(word in message for word in words), message


def test_the_mode_of_an_earlier_run_in_this_process_decides_nothing(monkeypatch, capfd):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    assert wandb.setup().settings.mode == "offline"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    with pytest.raises(BadInput, match="WANDB_API_KEY"):
        check_logger({"logger": LOGGER})
    assert "Unable to verify" not in capfd.readouterr().err


def test_wandb_that_is_not_installed_names_what_needs_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadInput, match=r"wandb, which is not installed: take logger=csv or logger=none"):
        check_logger({"logger": LOGGER})
    check_logger({"logger": {"name": "csv"}})


def test_the_environment_of_wandb_is_respected(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_DISABLED", "true")
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    logger = compose(["position=rope"]).logger
    assert check_wandb(logger) == "disabled" and logger.project == "elsewhere"
    assert check_wandb(logger.model_copy(update={"mode": "offline"})) == "offline", "what is set goes before"
    assert compose(["logger.project=mine"]).logger.project == "mine"


def test_an_error_that_says_nothing_is_named(tmp_path, monkeypatch, capsys):
    """By its kind, wherever the first line of what it says would be shown."""
    import wandb

    def refuse(*_, mode="online", **__):
        if mode == "online":
            raise wandb.Error("")

    monkeypatch.setattr(wandb, "Api", refuse)
    with pytest.raises(BadInput, match=r"W&B says: Error$"):
        from_server("a/b/c")
    monkeypatch.setattr(dashboard, "workspace", lambda *_: SimpleNamespace(save=refuse))
    with pytest.raises(BadInput, match="was not saved: Error; dry_run=true"):
        dashboard.run_command(compose_values("dashboard", ["entity=me"]), [])
    monkeypatch.setattr("conf.tracking.check_wandb", lambda logger: "online")
    monkeypatch.setattr(wandb, "init", refuse)
    _start(validate(Logger, {"name": "wandb"}), tmp_path, {"id": "x"})
    assert "W&B is out of reach (Error); logging offline" in capsys.readouterr().out


def test_a_long_name_makes_a_tag_that_wandb_takes(tmp_path, monkeypatch):
    logger, taken = validate(Logger, {"name": "wandb", "mode": "offline"}), []
    monkeypatch.setattr(
        "conf.tracking._start", lambda logger, runs, identity: taken.append(identity["tags"]) or MagicMock()
    )
    for end in "ab":
        with tracked(logger, tmp_path, tags=["rope", "n" * 70 + end, ""]):
            pass
    assert taken[0] != taken[1] and all(0 < len(tag) <= 64 for tags in taken for tag in tags) and taken[0][0] == "rope"
