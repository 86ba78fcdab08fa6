"""The switch: what fits the window is read as first trained, what does not with the other extension."""

import pytest
import torch

from conf.base import BadInput
from conf.resolve import _overlaid
from models.positions import EXTENSIONS
from tests.cases import WINDOW, Case, readings, tokens
from tests.lawbook import moved, same
from tests.runs import tiny
from train import compose

pytestmark = pytest.mark.usefixtures("one_thread")

LONG = 3 * WINDOW
SWITCHED = [
    (name, knobs)
    for name, knobs in readings()
    if name not in ("none", "dynamic_interpolate", "dynamic_ntk", "switch")
    and not knobs["rows"]  # which have no switch, or are one
]
SWITCHED += [("yarn", {"factor": 3.0, "temperature": 0.5})]
POSITIONS = [  # schemes without frequencies, and with several tables
    ("sinusoidal", "yarn", {"factor": 3.0}),
    ("learned", "interpolate", {"factor": 3.0}),
    ("learned_rope", "ntk", {"factor": 3.0}),
    ("p_rope", "resonance", {"factor": 3.0}),
    ("fope", "yarn", {"factor": 3.0}),
    ("pope", "yarn", {"factor": 3.0}),
    ("alibi", "interpolate", {"factor": 3.0}),
    ("fire", "interpolate", {"factor": 3.0}),
    ("mixture", "yarn", {"factor": 3.0}),
]
CASES = [("rope", name, knobs) for name, knobs in SWITCHED] + POSITIONS


def switched(case: Case, name: str, knobs: dict):
    factor = {"factor": knobs["factor"]} if "factor" in knobs else {"factor": 1.0}
    return case.model(extend="switch", over={"name": name, **knobs}, **factor)


@pytest.mark.parametrize(("scheme", "name", "knobs"), CASES, ids=str)
def test_short_texts_are_read_as_first_trained_and_long_ones_with_the_extension(scheme, name, knobs):
    case = Case(scheme)
    model, plain, extended = switched(case, name, knobs), case.model(), case.model(extend=name, **knobs)
    regroups = bool(extended.position.extension.moved(torch.zeros(1)))  # whose bias takes another kernel
    for length in (1, WINDOW - 1, WINDOW):
        text = tokens(length, batch=2)
        if regroups:
            same(model(text), plain(text), 1e-5)
        else:
            assert torch.equal(model(text), plain(text))
    for length in (WINDOW + 1, LONG):
        text = tokens(length, batch=2)
        same(model(text), extended(text), 1e-5)
    assert torch.equal(model(tokens(3)), switched(case, name, knobs)(tokens(3)))  # nothing is remembered


@pytest.mark.parametrize(("scheme", "name", "knobs"), CASES, ids=str)
def test_every_text_of_a_batch_switches_by_itself(scheme, name, knobs):
    """Of the same tokens in the same slots, one row ends within the window and the other beyond it."""
    model, text = switched(Case(scheme), name, knobs), tokens(WINDOW, batch=1).expand(2, -1)
    rows = torch.stack((torch.arange(WINDOW), 2 * torch.arange(WINDOW)))
    together = model(text, rows)
    for row in range(2):
        same(together[row], model(text[row : row + 1], rows[row])[0], 1e-5)
    moved(together[0], together[1])


def test_a_long_text_in_chunks_has_its_temperature():
    from unittest.mock import patch

    from models.positions import base

    model, text = switched(Case("mixture"), "yarn", {"factor": 3.0}), tokens(LONG, batch=2)
    rows = torch.stack((torch.arange(LONG), torch.arange(LONG) // 3))  # the second is short
    whole = model(text, rows)
    with patch.object(base, "SCORES_AT_ONCE", 5 * LONG), torch.no_grad():
        same(model(text, rows), whole)


def test_the_label_and_the_settings_are_those_of_the_other():
    knobs = EXTENSIONS["switch"].Knobs
    assert knobs(factor=8.0).label == "yarn8-switch"
    assert knobs(factor=8.0, over={"name": "ntk", "form": "critical"}).label == "ntk8-critical-switch"
    assert knobs(factor=1.0, over="drop").label == "drop-switch"
    given = knobs(factor=8.0, over={"name": "yarn", "beta_slow": 2.0})
    assert given.over.factor == 8 and given.over.beta_slow == 2
    assert knobs.model_validate(given.model_dump(mode="json")) == given


SENTENCES = {
    ("extend.over=none",): "extend.over=none has nothing to switch",
    ("extend.over=dynamic_ntk",): "extend.over=dynamic_ntk reads texts by their length itself",
    ("extend.over=switch",): "switch is not known; allowed: none, interpolate",
    ("extend.over={name: longrope, short: [1,1,1,1,1,1,1,1]}",): "extend.over=longrope reads texts by their length",
    ("extend.over=banana",): "extend.over: banana is not known; allowed: none, interpolate",
    ("extend.over={name: yarn, ramp: steps}",): "extend.over: yarn cannot take ramp=steps",
    ("extend.over={name: yarn, banana: 1}",): "extend.over: yarn cannot take banana=1",
    ("extend.over={name: yarn, factor: 2}",): "yarn has factor=2, and the switch has factor=4",
    ("extend.factor=0.5",): "extend.factor=0.5",
    ("position=alibi",): "extend=switch changes frequencies, and position=alibi has no frequencies",
    ("position=none",): "extend=switch changes frequencies",
    ("extend.over=yarn", "position=cope"): "extend=switch changes frequencies",
    ("extend.over={name: yarn, ramp: index}", "frequencies=linear"): "frequencies=geometric",
}


def test_factors_of_another_file_replace_those_of_the_checkpoint():
    trained = {
        "name": "switch",
        "factor": 4.0,
        "over": {"name": "longrope", "factor": 4.0, "path": "a", "long": [1, 2]},
    }
    given = {"name": "switch", "factor": 2.0, "over": {"path": "b"}}
    over = {"name": "longrope", "path": "b"}
    assert _overlaid(trained, given, [["over", "path"]]) == trained | {"over": over}
    assert _overlaid(trained, given, [["factor"], ["over", "path"]]) == trained | {"factor": 2.0, "over": over}


@pytest.mark.parametrize("overrides", SENTENCES, ids=" ".join)
def test_what_cannot_be_is_one_sentence(tmp_path, overrides):
    with pytest.raises(BadInput) as refusal:
        compose(tiny(tmp_path, "extend=switch", *overrides))
    assert SENTENCES[overrides] in str(refusal.value) and "\n" not in str(refusal.value)
