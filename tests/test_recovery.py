"""Recovery: factors for texts within the window, of a tiny model that was fine-tuned with factors for longer ones."""

import json
import math
import re

import pytest
import yaml

from conf.base import BadInput
from conf.compose import compose_values
from conf.load import load_model
from experiments.lab.measure.perplexity import Measurement, measure_checkpoint
from experiments.longrope import candidates, recovery
from experiments.longrope.__main__ import run_command
from experiments.longrope.recovery import Recovery, recover, recovery_sentence
from experiments.longrope.search import Search, search_factors, search_settings
from experiments.longrope.searching import Progress
from experiments.longrope.table import format_table
from experiments.pretrained import ship_run
from tests.runs import CACHE, tiny
from train import compose, train

LONG = [1.0, 1.1, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0]  # width 32 in two heads: eight pairs
FACTOR, N_HAT, TEMPERATURE = 4.0, 2, 0.9
SMALL = {"population": 7, "parents": 4, "mutations": 3, "crossovers": 3, "generations": 2, "probability": 0.3}
SMALL |= {"seed": 0, "tokens": 256, "segments": 4}


class Bar:
    def update(self, count):
        pass

    def set_postfix(self, **_):
        pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base run, a file of long factors, and a run that was fine-tuned with them on windows four times as long."""
    folder = tmp_path_factory.mktemp("runs")
    words = tiny(folder, "name=base", "steps=4")
    base = train(compose(words), words)
    file = folder / "factors.yaml"
    file.write_text(yaml.safe_dump({"factor": FACTOR, "n_hat": N_HAT, "temperature": TEMPERATURE, "long": LONG}))
    words = [*tiny(folder, "name=tuned", "steps=2", "window=128", "batch=2"), f"checkpoint={base.checkpoint}"]
    words = [word for word in words if not word.startswith(("model.", "data."))]
    words += ["extend=longrope", f"extend.path={file}", f"extend.factor={FACTOR}"]
    return base, train(compose(words), words), file


def recovered(runs, tell=None, **changes):
    _, tuned, file = runs
    return recover(tuned.checkpoint, file, Recovery(**SMALL | changes), str(CACHE), tell or Progress(Bar()))


def read(checkpoint, extend, context=32, length=32):
    options = Measurement(protocol="windows", contexts=(context,), stride=1, segments=4)
    assert context == length  # one protocol, one region
    return measure_checkpoint(checkpoint, extend, options, str(CACHE))["rows"][0]


@pytest.mark.slow
def test_recovery_keeps_long_and_finds_short_and_both_are_read_by_length(runs):
    base, tuned, file = runs
    result, folder = recovered(runs)
    held = yaml.safe_load((folder / "factors.yaml").read_text())
    assert held["long"] == LONG and held["short"] == result["vectors"]["found"]
    assert (held["factor"], held["n_hat"], held["temperature"]) == (FACTOR, N_HAT, TEMPERATURE)
    extend, alone = ({"name": "longrope", "path": str(path)} for path in (folder / "factors.yaml", file))
    rows = {name: item["held out"] for name, item in result["methods"].items()}
    ones = {"name": "longrope", "factor": 1.0, "long": [1.0] * 8, "temperature": TEMPERATURE}
    readings = {"found": (tuned, extend), "long": (tuned, None), "ones": (tuned, ones), "base": (base, None)}
    assert set(rows) == set(readings)
    for name, (run, options) in readings.items():
        again = read(run.checkpoint, options)
        assert rows[name]["perplexity"] == pytest.approx(again["perplexity"], rel=1e-6)
        assert rows[name]["token_set"] == again["token_set"]
    assert len({row["perplexity"] for row in rows.values()}) == 4
    longer = [read(tuned.checkpoint, options, 64, 64)["perplexity"] for options in (extend, alone)]
    assert longer[0] == longer[1]  # beyond the window the long factors alone
    assert load_model(tuned.checkpoint, extend)[0].position.extension.depends_on_length


@pytest.mark.slow
def test_recovered_factors_start_from_what_is_known_and_stay_below_the_smaller_bound(runs):
    """r is half of s: λ up to 2.5. Among the seeds all ones, and λ^(ln 2 / ln 4) = √λ, the long factors scaled down."""
    result, folder = recovered(runs)
    history = json.loads((folder / "history.json").read_text())
    everybody = [item for generation in history for item in generation]
    assert len(everybody) == result["evaluations"] == 7 + 2 * 6
    assert result["bounds"] == [1.0, 2.5] and {item["n_hat"] for item in everybody} == {N_HAT}
    for item in everybody:
        assert item["long"] == sorted(item["long"]) and item["long"][0] >= 1 and item["long"][-1] <= 2.5
    seeds = [item["long"] for item in history[0]]
    assert seeds[:3] == [[1.0] * 8, [round(math.sqrt(x), 2) for x in LONG], [min(x, 2.5) for x in LONG]]
    assert [2.0] * 8 in seeds[3:]  # PI at r
    assert everybody[0]["score"] == pytest.approx(result["methods"]["ones"]["search"]["perplexity"], rel=1e-6)
    assert result["score"] <= min(item["score"] for item in history[0])
    assert recovered(runs, factor=4.0)[0]["bounds"] == [1.0, 5.0]


@pytest.mark.slow
def test_a_known_best_is_recovered(runs, monkeypatch):
    """With the distance from known factors in place of perplexity, the search ends within a tenth of them."""
    target = [1.0, 1.0, 1.2, 1.3, 1.6, 1.6, 2.0, 2.4]

    def fitness(*_):
        return lambda people: [math.dist(item.long, target) for item in people]

    monkeypatch.setattr(candidates, "Fitness", fitness)
    result, _ = recovered(runs, population=32, parents=16, mutations=12, crossovers=12, generations=40)
    assert result["score"] < 0.1
    assert result["vectors"]["found"] == pytest.approx(target, abs=0.1)


@pytest.mark.slow
def test_a_recovery_is_a_function_of_its_seed_and_goes_on_where_it_was_stopped(runs):
    whole, folder = recovered(runs, seed=3)
    saved = (folder / "history.json").read_text()
    (folder / "results.json").unlink()
    (folder / "history.json").write_text(json.dumps(json.loads(saved)[:2]))
    progress = Progress(Bar())
    again, _ = recovered(runs, progress, seed=3)
    assert progress.done == 6 and (folder / "history.json").read_text() == saved
    assert again["methods"] == whole["methods"]
    (folder / "results.json").unlink()
    (folder / "history.json").unlink()
    assert recovered(runs, seed=3)[0]["methods"] == whole["methods"]
    assert recovered(runs, seed=4)[0]["history"] != whole["history"]


@pytest.mark.slow
def test_the_command_recovers_draws_and_says_what_it_gave(runs, capsys):
    _, tuned, file = runs
    words = [f"checkpoint={tuned.folder}", f"recover={file}", f"cache={CACHE}", "logger=none", "length=16"]
    words += [f"{key}={value}" for key, value in SMALL.items()]
    run_command(compose_values("longrope", words), words)
    result, folder = recovered(runs, length=16)
    out = capsys.readouterr().out
    assert result["longer"] == 16 and set(result["methods"]["found"]) >= {"search", "held out", "at 8"}
    assert (
        format_table(result) in out and recovery_sentence(result) in out and f"extend.path={folder}/factors.yaml" in out
    )
    assert re.search(r"the extension costs \d\.\d+ .* of the base model, \d\.\d+ .* before", recovery_sentence(result))
    assert (folder / "figure.png").stat().st_size > 100


@pytest.mark.slow
def test_a_tuned_model_is_searched_on_from_the_factors_it_knows(runs):
    _, tuned, _ = runs
    options = Search(**SMALL, factor=8.0, temperature=TEMPERATURE)
    result, folder = search_factors(tuned.checkpoint, options, str(CACHE), Progress(Bar()))
    rows = {name: item["at 32"]["perplexity"] for name, item in result["methods"].items()}
    again = Measurement(protocol="windows", contexts=(256,), stride=1, segments=4)
    (whole,) = measure_checkpoint(tuned.checkpoint, None, again, str(CACHE))["rows"]
    assert result["methods"]["tuned"]["held out"]["perplexity"] == pytest.approx(whole["perplexity"], rel=1e-6)
    first = json.loads((folder / "history.json").read_text())[0]
    known = {name: next(item for item in first if item["long"] == long) for name, long in
             {"tuned": LONG, "again": [2 * x for x in LONG]}.items()}  # fmt: skip
    assert {item["n_hat"] for item in known.values()} == {N_HAT}
    for name, item in known.items():
        assert item["score"] == pytest.approx(result["methods"][name]["search"]["perplexity"], rel=1e-5)
    assert result["rivals"] == ["interpolate", "ntk", "yarn", "tuned", "again"] and len(set(rows.values())) == 7
    base, *_ = runs
    plain, _ = search_factors(base.checkpoint, options, str(CACHE), Progress(Bar()))
    assert plain["rivals"] == ["interpolate", "ntk", "yarn"]


def test_a_base_model_may_be_a_folder(runs, tmp_path):
    base, tuned, _ = runs
    ship_run(base.folder, tmp_path / "shipped", str(CACHE))
    assert recovery._base(tuned.checkpoint, {"checkpoint": str(tmp_path / "shipped")}) == tmp_path / "shipped"
    assert recovery._base(tuned.checkpoint, {"checkpoint": str(tmp_path / "gone")}) is None


def test_what_cannot_be_recovered_is_one_sentence(runs, tmp_path):
    _, tuned, file = runs
    whole = yaml.safe_load(file.read_text())
    wrong = {
        "no long": ({"factor": 4.0, "short": LONG}, "must hold a mapping with `long`"),
        "no factor": ({"long": LONG}, "does not say the factor"),
        "too few": (whole | {"long": LONG[:3]}, "extend.long lists 3 factors for 8 pairs"),
        "a zero": (whole | {"long": [0.0] * 8}, "greater than 0"),
    }
    for held, message in wrong.values():
        (tmp_path / "factors.yaml").write_text(yaml.safe_dump(held))
        with pytest.raises(BadInput, match=message) as caught:
            recover(tuned.checkpoint, tmp_path / "factors.yaml", Recovery(**SMALL), str(CACHE), Progress(Bar()))
        assert "\n" not in str(caught.value)
    for changes, message in {
        "factor": ({"factor": 5.0}, "factor=5 must not be above that of recover=.*, which is for 4"),
        "length": ({"length": 33}, "length=33 must be from 2 to the window of 32 tokens"),
    }.values():
        with pytest.raises(BadInput, match=message):
            recovered(runs, **changes)
    with pytest.raises(BadInput, match="nowhere\\.yaml cannot be read"):
        recover(tuned.checkpoint, tmp_path / "nowhere.yaml", Recovery(**SMALL), str(CACHE), Progress(Bar()))
    words = tiny(tmp_path, "position=alibi", "name=bare", "steps=2")
    bare = train(compose(words), words)
    with pytest.raises(BadInput, match="position=alibi has no frequencies"):
        recover(bare.checkpoint, file, Recovery(**SMALL), str(CACHE), Progress(Bar()))
    for words, message in {
        ("length=16",): "length=16 is for recover=",
        ("recover=x", "n_hats=[0]"): "n_hats cannot be set with recover=x",
        ("recover=x", "critical=true"): "critical cannot be set with recover=x",
        ("recover=x", "temperature=0.5"): "temperature cannot be set with recover=x",
        ("recover=x", "factor=0.5"): "factor=0.5",
        ("recover=[1]",): "recover=.* must be the path",
        ("factor=1",): "factor=1",
    }.items():
        values = compose_values("longrope", ["checkpoint=x", *words])
        for key in ("checkpoint", "logger", "cache", "runs"):
            del values[key]
        with pytest.raises(BadInput, match=message):
            search_settings(values, words)
