"""Checkpoints of `transformers` come in as they are: the same logits, within the original window and beyond it."""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers, pinned in requirements-dev.txt, is not installed")

from models.gpt import GPT, Shape
from models.positions import EXTENSIONS, SCHEMES, Plan, build_position
from models.positions.frequencies import Geometric
from models.pretrained.incoming import Imported, read_checkpoint
from tests import transformers_models as theirs

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = (20, 32, 33, 90)  # the original window is 32
ROPED = [name for name, (architecture, _) in theirs.MODELS.items() if architecture in ("llama", "qwen3", "smollm3")]


def rebuild(imported: Imported) -> GPT:
    """The GPT that an imported checkpoint is."""
    shape = Shape(name="imported", **imported.model)
    knobs = [table[settings["name"]].Knobs.model_validate(settings)
             for table, settings in ((SCHEMES, imported.position), (EXTENSIONS, imported.extend))]  # fmt: skip
    frequencies = Geometric.model_validate(imported.frequencies)
    plan = Plan.model_validate(imported.layers)
    position = build_position(knobs[0], frequencies, knobs[1], shape.geometry(imported.window), plan)
    gpt = GPT(shape, shape.vocabulary, position, seed=0)
    gpt.load_state_dict(imported.weights)
    return gpt


def agree(model, gpt: GPT, lengths=LENGTHS) -> None:
    """Logits in float32 to 1e-4 of their size, in float64 to 1e-10."""
    for bound in (1e-4, 1e-10):
        for length in lengths:
            text = torch.randint(61, (2, length), generator=torch.Generator().manual_seed(length))
            expected = theirs.logits(model, text)
            with torch.no_grad():
                error = (gpt(text) - expected).abs().max() / expected.abs().max()
            assert error < bound, (length, bound, float(error))
        model, gpt = model.double(), gpt.double()


@pytest.mark.parametrize("name", theirs.MODELS)
def test_every_architecture_gives_the_same_logits(name, tmp_path):
    architecture, options = theirs.MODELS[name]
    model = theirs.build(architecture, **options)
    gpt = rebuild(read_checkpoint(theirs.save(model, tmp_path)))
    agree(model, gpt, (20, 32) if architecture == "gpt2" else LENGTHS)


@pytest.mark.parametrize("rope", theirs.ROPES)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3-biases", "smollm3", "gpt_neox-serial"])
def test_every_rope_type_gives_the_same_logits(name, rope, tmp_path):
    architecture, options = theirs.MODELS[name]
    options = {key: value for key, value in options.items() if key not in ("rotary_pct", "rotary_emb_base")}
    options |= theirs.with_rope(rope)
    if architecture == "gpt_neox" and rope != "proportional":
        options["rope_parameters"]["partial_rotary_factor"] = 1.0
    model = theirs.build(architecture, **options)
    agree(model, rebuild(read_checkpoint(theirs.save(model, tmp_path))))
