"""Weights & Biases, offline: what was logged can be read back, and jobs of a multirun do not share a run."""

import json
import subprocess
import sys
from fnmatch import fnmatchcase

from conf.compose import compose_values
from conf.schema import Logger, validate
from conf.tracking import tracked
from tests.runs import command, finish, tiny


def inspect(folder):
    """Every record of an offline run, as `wandb leet` reads it."""
    (file,) = folder.glob("*.wandb")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_a_multirun_isolates_its_jobs_and_what_was_logged_is_read_back(tmp_path):
    words = tiny(tmp_path, "logger=wandb", "group=sweep", "extend=interpolate", "extend.factor=2")
    status, _, err = finish(command("-m", *words, "position=rope,none,sinusoidal"))
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


def test_an_unreachable_server_never_stops_a_run(tmp_path):
    """Online without a key: one line, and the run goes on offline."""
    words = tiny(tmp_path, "logger=wandb", "logger.mode=online", "name=a")
    status, out, err = finish(command(*words, WANDB_API_KEY="", HOME=str(tmp_path)))
    assert status == 0, err
    assert out.count("W&B is out of reach") == 1
    assert (tmp_path / "default" / "a" / "results.json").is_file()
    assert list((tmp_path / "wandb").glob("offline-run-*"))


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
        assert rows[2:] == [{"context/length": each, "context/perplexity": 2 * each} for each in (16, 32)]
        defined = [record["metric"] for record in records if "metric" in record]
        axes = {each["glob_name"]: each["step_metric"] for each in defined if "glob_name" in each}
        for key in (key for row in rows for key in row if key not in axes.values()):
            (axis,) = [axis for pattern, axis in axes.items() if fnmatchcase(key, pattern)]
            assert axis == ("context/length" if key.startswith("context/") else "tokens")
