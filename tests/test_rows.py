"""Scores that sharpen with the row: the published forms, what they leave alone, and what a learned one needs."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from conf.base import BadInput
from conf.load import load_model
from experiments.lab.finetuning import existing_base, fine_tuned
from experiments.lab.measure.subject import open_subject
from models import attention
from models.positions.rows import ROWS, Llama4, Ministral, SSMax, Su
from models.restore import make_position
from tests.cases import WINDOW, Case, tokens
from tests.lawbook import moved, same
from tests.laws import LAWS
from tests.runs import CACHE, tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")
FAR = torch.tensor([0, 1, 5, 8190, 8191, 8192, 16382, 16383, 16384, 100_000], dtype=torch.float64)
READ = [("none", {"rows": name}) for name in ROWS] + [("yarn", {"factor": 3.0, "rows": "ministral"})]
SHARP = {"llama4": {"name": "llama4", "every": 5}}  # which are sharper within texts of this length


def case(extend: str, knobs: dict, scheme: str = "rope") -> Case:
    rows = SHARP.get(knobs["rows"], knobs["rows"])
    return Case(scheme, read=(extend, knobs | {"rows": rows}))


def test_llama4_and_ministral_are_those_of_transformers():
    pytest.importorskip("transformers")
    from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale

    theirs = get_llama_4_attn_scale(FAR[None], 0.1, 8192)[0, 0, :, 0]
    same(Ministral().sharpness(FAR, 8192), theirs, 1e-12)
    same(Llama4().sharpness(FAR, 16), get_llama_4_attn_scale(FAR[None] + 1, 0.1, 8192)[0, 0, :, 0], 1e-12)


def test_su_begins_at_the_window_and_ssmax_starts_as_large_as_without():
    positions = torch.arange(4 * 64, dtype=torch.float64)
    su = Su().sharpness(positions, 64)
    assert (su[:64] == 1).all() and (su[64:].diff() > 0).all() and su[64] > 1
    same(su[-1:], torch.tensor([8 / 6], dtype=torch.float64), 1e-12)  # log 256 / log 64
    same((SSMax().start(64) * SSMax().sharpness(positions[:64], 64)).mean(), torch.tensor(1.0).double(), 1e-12)
    assert abs(SSMax().start(1024) - 0.168) < 1e-3


@pytest.mark.parametrize(("extend", "knobs"), READ, ids=str)
@pytest.mark.parametrize("law", ["prefix_consistent", "chunks_are_the_whole", "batched_positions_are_rows",
                                 "attention_is_what_the_twin_says"])  # fmt: skip
def test_every_form_obeys_the_laws(extend, knobs, law):
    LAWS[law](case(extend, knobs))


@pytest.mark.parametrize("law", ["causal", "every_parameter_learns", "past_the_window", "trains_in_chunks",
                                 pytest.param("compiles_whole", marks=pytest.mark.slow)])  # fmt: skip
def test_the_learned_form_obeys_the_others(law):
    LAWS[law](case("none", {"rows": "ssmax"}))


def test_a_document_counts_from_its_own_start():
    model = case("none", {"rows": "ssmax"}).model().double()
    one, other = torch.tensor([[0, 3, 4, 5, 6]]), torch.tensor([[0, 7, 8]])
    model.separator = 0
    same(model(torch.cat((one, other), dim=1))[:, 5:], model(other), 1e-10)


def test_a_plan_sharpens_the_layers_that_say_so():
    position = make_position(compose(["layers=llama4"]))
    far = torch.arange(3.0) * 8192 + 8191
    assert [position.layer(layer).sharpness_at(far, layer) is not None for layer in range(4)] == [False] * 3 + [True]
    same(position.layer(3).sharpness_at(far, 3).flatten(), 1 + 0.1 * torch.log(torch.tensor([2.0, 3.0, 4.0])), 1e-6)


def test_rows_are_free_on_the_fast_path():
    """Queries are scaled, and the kernel is asked for the same as without."""
    options, real = [], F.scaled_dot_product_attention

    def spy(*given, **names):
        options.append(names)
        return real(*given, **names)

    with patch.object(attention.F, "scaled_dot_product_attention", spy):
        for read in (("none", {}), ("none", {"rows": "su"})):
            logits = Case("rope", read=read).model()(tokens(3 * WINDOW))
    assert all(item == options[0] and item["is_causal"] for item in options)
    plain = Case("rope").model()(tokens(3 * WINDOW))
    assert torch.equal(logits[:, :WINDOW], plain[:, :WINDOW])
    moved(logits[:, WINDOW:], plain[:, WINDOW:])


def test_runs_without_rows_are_written_as_ever():
    assert "rows" not in compose([]).model_dump(mode="json")["extend"]
    assert compose(["extend=yarn", "extend.factor=2", "extend.rows=ministral"]).extend.rows == Ministral()


@pytest.mark.slow
def test_rows_come_after_training_too_but_not_a_learned_one(tmp_path):
    done = train(compose(tiny(tmp_path, "name=a", "steps=2")))
    words = [word for word in tiny(tmp_path, f"checkpoint={done.checkpoint}") if not word.startswith(("model", "data"))]
    words.remove("window=32")
    assert compose([*words, "extend.rows=su"]).extend.rows == Su()
    assert train(compose([*words, "extend.rows=su", "name=b", "steps=2"])).metrics
    with pytest.raises(BadInput, match=r"lacks position\.row_scale"):
        train(compose([*words, "extend.rows=ssmax", "name=c", "steps=2"]))


@pytest.mark.slow
def test_another_extension_sharpens_as_the_model_was_trained_unless_it_says_how(tmp_path):
    done = train(compose(tiny(tmp_path, "extend.rows=ssmax", "name=a", "steps=2")))
    yarn = {"name": "yarn", "factor": 2.0}
    assert load_model(done.checkpoint, yarn)[1].extend.rows == SSMax()
    subject = open_subject(done.checkpoint, yarn, str(CACHE))
    assert subject.config.extend.rows == SSMax() and subject.model().position.row_scale is not None
    with pytest.raises(BadInput, match=r"one weight too many, position\.row_scale"):
        open_subject(done.checkpoint, yarn | {"rows": None}, str(CACHE)).model()
    base = existing_base(done.checkpoint)
    tuned = fine_tuned(base, done.checkpoint, {"extend": yarn, "steps": 2, "window": 64, "name": "b"})
    assert tuned.extend.rows == SSMax() and tuned.extend.factor == 2


SENTENCES = {
    ("extend.rows=sue",): "extend.rows: sue is not known; allowed: llama4, ministral, ssmax, su",
    ("extend.rows={name: llama4, beta: -1}",): "extend.rows: llama4 cannot take beta=-1",
    ("extend=switch", "extend.factor=2", "extend.over={name: yarn, rows: su}"): "for the switch to have: extend.rows",
}


@pytest.mark.parametrize("overrides", SENTENCES, ids=" ".join)
def test_what_cannot_be_is_one_sentence(tmp_path, overrides):
    with pytest.raises(BadInput) as refusal:
        compose(tiny(tmp_path, *overrides))
    assert SENTENCES[overrides] in str(refusal.value) and "\n" not in str(refusal.value)
