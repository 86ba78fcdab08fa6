"""Activation checkpointing: the same gradients from fewer activations, and no other run."""

import json

import pytest
import torch
import torch.nn.functional as F

from conf.base import BadInput
from experiments.benchmark.memory import peak_bytes
from models.gpt import GPT, Shape
from models.positions import Geometry, NoPE
from models.positions.extensions import Extension
from models.positions.frequencies import Geometric
from tests.cases import VOCABULARY, WINDOW, Case, tokens
from tests.runs import finish, tiny, torchrun
from tests.test_training import equal, run, weights

pytestmark = pytest.mark.usefixtures("one_thread")

SWITCHED = {"over": {"name": "yarn"}, "factor": 2.0}
CASES = [
    Case(name) for name in ("rope", "learned", "learned_rope", "pope", "fope", "t5", "fire", "cope", "fox", "mixture")
]
CASES += [Case("rope", read=("switch", SWITCHED)), Case("rope", read=("self_extend", {"factor": 2.0}))]


def gradients(model: GPT, length: int, recompute: bool) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.recompute, text = recompute, tokens(length + 1, batch=2)
    F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case}-{case.read[0]}")
def test_gradients_are_the_same_bits(case, isolated):
    model = case.model()
    model.separator = 3 if isolated else None
    length = WINDOW if case.name == "learned" else 2 * WINDOW
    assert equal(gradients(model, length, False), gradients(model, length, True))


@pytest.mark.slow
def test_compiled_in_place_the_gradients_are_the_same():
    model = Case("t5").model()
    eager = gradients(model, WINDOW, False)
    torch._dynamo.reset()
    model.compile(backend="aot_eager")
    for key, gradient in gradients(model, WINDOW, True).items():
        torch.testing.assert_close(gradient, eager[key], rtol=1e-5, atol=1e-6)


def test_blocks_keep_their_inputs_alone():
    """Of six blocks, less than half is live at once; and read only, nothing is recomputed."""
    shape = Shape(name="deep", layers=6, heads=2, width=32)
    geometry = Geometry(32, 2, 6, WINDOW)
    position = NoPE(NoPE.Knobs(), geometry, Geometric(), Extension(Extension.Knobs(), WINDOW))
    model = GPT(shape, VOCABULARY, position, seed=0)
    gradients(model, 512, False)  # what is allocated once
    saved, recomputed = (
        peak_bytes(lambda item=item: gradients(model, 512, item), torch.device("cpu")) for item in (False, True)
    )
    assert recomputed < 0.5 * saved
    model.recompute = True
    with torch.no_grad():
        model(tokens(8))  # read only, nothing is checkpointed


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_is_the_same_with_and_without_and_may_change_its_mind(tmp_path, optimizer):
    words = (f"optimizer={optimizer}", "position=t5", "name=a", "trainer.accumulate=2")
    without = weights(run(tmp_path, *words, "group=without"))
    made = run(tmp_path, *words, "group=with", "trainer.activation_checkpointing=true")
    assert equal(without, weights(made))
    again = run(tmp_path, *words, "group=with")  # the finished run is this one
    assert again.checkpoint == made.checkpoint
    with pytest.raises(BadInput, match="accumulate"):
        run(tmp_path, *words, "group=with", "trainer.accumulate=1")


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_processes_recompute_too(tmp_path, trainer):
    words = ("name=a", "position=fire", "steps=4", "checkpoint_every=4")
    one = weights(run(tmp_path, *words, "group=one"))
    more = tiny(tmp_path, *words, "group=two", f"trainer={trainer}", "trainer.activation_checkpointing=true")
    ends = list(map(finish, torchrun(2, *more)))
    assert all(status == 0 for status, _, _ in ends), ends
    from conf.load import load_model

    folder = tmp_path / "two" / "a"
    results = json.loads((folder / "results.json").read_text())
    two = load_model(folder / results["checkpoint"])[0].state_dict()
    assert all(torch.allclose(one[f"gpt.{key}"], value, atol=2e-4) for key, value in two.items())
