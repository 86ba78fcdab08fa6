"""What a GPU computes and trains is what a CPU does; all of it is skipped where there is no GPU."""

import json

import pytest
import torch

from models.positions import SCHEMES
from tests.cases import Case, tokens
from tests.lawbook import LENGTH
from tests.runs import command, finish, tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICE = "cuda"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_logits_and_gradients_of_every_scheme(scheme):
    model, text = Case(scheme).model().double(), tokens(LENGTH, batch=2)
    here = model(text)
    here.square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad(), model.to(DEVICE)
    there = model(text.to(DEVICE))
    there.square().mean().backward()
    assert (there.cpu() - here).norm() < 1e-5 * here.norm()
    for ours, parameter in zip(gradients, model.parameters(), strict=True):
        assert (parameter.grad.cpu() - ours).norm() <= 1e-4 * max(ours.norm(), 1e-6)


@pytest.mark.parametrize("trainer", ["auto", "gpu"])  # eager, and compiled
def test_a_run_learns_what_it_learns_on_a_cpu_and_is_read(trainer, tmp_path):
    losses = []
    for device in ("cpu", trainer):
        folder = tmp_path / device
        status, _, err = finish(command(*tiny(folder, f"trainer={device}", "steps=40", "name=run", "group=g")))
        assert status == 0, err
        losses.append(json.loads((folder / "g/run/results.json").read_text())["metrics"]["validation/nll"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    words = [f"checkpoint={tmp_path / trainer / 'g/run'}", "extend=yarn", "extend.factor=2", "logger=none"]
    status, out, err = finish(command(*words, module="experiments.perplexity"))
    assert status == 0 and "bfloat16 on cuda" in out, err
