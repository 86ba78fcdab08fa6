"""What goes out is loaded by `transformers` and gives our logits; what came in goes out and comes in as it was."""

import json
from pathlib import Path

import pytest
import torch

from conf.base import BadInput
from models.gpt import GPT, Shape
from models.positions import EXTENSIONS, SCHEMES, SPECTRA, Plan, build_position
from models.pretrained.incoming import read_checkpoint
from models.pretrained.outgoing import export
from models.pretrained.weights import save_safetensors
from tests import transformers_models as theirs
from tests.test_pretrained import agree, rebuild

pytest.importorskip("transformers", reason="transformers, pinned in requirements-dev.txt, is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

MODERN = {"norm": "rms", "network": "swiglu", "kv_heads": 2}
YARN = {"name": "yarn", "factor": 4.0, "ramp": "index", "beta_fast": 4.0}
LISTED = {"factor": 4.0, "long": [1.0, 2.0, 3.0, 4.5] * 2, "short": [1.0, 1.0, 1.0, 1.1] * 2}
# Shape, scheme, spectrum and extension of a model made here, and what it leaves as: architecture and rope_type.
OURS: dict[str, tuple[dict, dict, dict, dict, tuple[str, str]]] = {
    "rope": ({}, {}, {}, {}, ("gpt_neox", "default")),
    "base": ({"network": "gelu_tanh"}, {}, {"base": 500.0}, {}, ("gpt_neox", "default")),
    "interpolate": ({}, {}, {}, {"name": "interpolate", "factor": 3.0}, ("gpt_neox", "linear")),
    "dynamic": ({}, {}, {}, {"name": "dynamic_ntk"}, ("gpt_neox", "dynamic")),
    "yarn": ({}, {}, {}, {"name": "yarn", "factor": 4.0}, ("gpt_neox", "longrope")),
    "yarn-index": (MODERN, {}, {}, YARN, ("llama", "yarn")),
    "llama3": (MODERN, {}, {}, {"name": "llama3", "factor": 4.0}, ("llama", "llama3")),
    "llama3-sharp": (MODERN, {}, {}, {"name": "llama3", "factor": 4.0, "temperature": 0.8}, ("llama", "longrope")),
    "ntk": ({}, {}, {}, {"name": "ntk", "factor": 4.0}, ("gpt_neox", "longrope")),
    "abf": (MODERN, {}, {}, {"name": "base"}, ("llama", "longrope")),
    "mixed": (MODERN, {}, {}, {"name": "ntk", "factor": 2.0, "form": "mixed"}, ("llama", "longrope")),
    "resonance": (MODERN, {}, {}, {"name": "resonance", "factor": 2.0}, ("llama", "longrope")),
    "longrope": (MODERN, {}, {}, {"name": "longrope", **LISTED}, ("llama", "longrope")),
    "linear-spectrum": ({}, {}, {"name": "linear"}, {"name": "interpolate", "factor": 2.0}, ("gpt_neox", "longrope")),
    "partial": ({}, {"fraction": 0.5}, {}, {"name": "llama3", "factor": 4.0}, ("gpt_neox", "llama3")),
    "p_rope": (MODERN, {"name": "p_rope"}, {}, {"name": "interpolate", "factor": 2.0}, ("llama", "proportional")),
    "learned_rope": (MODERN, {"name": "learned_rope"}, {"base": 500.0}, {}, ("llama", "longrope")),
    "learned": ({"norm_bias": True}, {"name": "learned"}, {}, {}, ("gpt2", "")),
    "qkv": (MODERN | {"biases": "qkv"}, {}, {}, {}, ("qwen2", "default")),
    "norms": (MODERN | {"qk_norm": "learned", "biases": "qkv"}, {}, {}, {}, ("qwen3", "default")),
    "none": (MODERN, {"name": "none"}, {}, {}, ("smollm3", "default")),
    "mixture": (MODERN, {"name": "mixture", "first": "rope", "second": "none", "every": 3}, {},
                YARN, ("smollm3", "yarn")),
    "untied": (MODERN | {"tied": False, "embedding_scale": 1.0, "biases": "all"}, {}, {}, {}, ("llama", "default")),
    "tied": (MODERN | {"embedding_scale": 1.0}, {}, {}, {}, ("llama", "default")),
}  # fmt: skip
REFUSED: dict[str, tuple[dict, dict, dict, dict, str]] = {
    "alibi": ({}, {"name": "alibi"}, {}, {}, "position=alibi"),
    "sinusoidal": ({}, {"name": "sinusoidal"}, {}, {}, "position=sinusoidal"),
    "self_extend": ({}, {}, {}, {"name": "self_extend", "factor": 2.0}, "extend=self_extend"),
    "rerope": ({}, {}, {}, {"name": "rerope"}, "extend=rerope"),
    "dca": ({}, {}, {}, {"name": "dca"}, "extend=dca"),
    "n_hat": ({}, {}, {}, {"name": "longrope", "factor": 2.0, "n_hat": 4}, "extend=longrope"),
    "switch": ({}, {}, {}, {"name": "switch", "factor": 2.0}, "extend=switch"),
    "drop": ({}, {}, {}, {"name": "drop"}, "extend=drop"),
    "qk_norm": ({"qk_norm": True}, {}, {}, {}, "qk_norm=false"),
    "partial-sharp": ({}, {"fraction": 0.5}, {}, {"name": "yarn", "factor": 2.0}, r"position\.fraction=0\.5"),
    "partial-modern": (MODERN, {"fraction": 0.5}, {}, {}, r"position\.fraction=0\.5"),
    "grouped": ({"kv_heads": 2}, {}, {}, {}, "kv_heads"),
    "gelu": ({"norm": "rms"}, {}, {}, {}, "network=swiglu"),
    "parallel": (MODERN | {"parallel": True}, {}, {}, {}, "parallel=false"),
    "p_rope": (MODERN, {"name": "p_rope"}, {}, {"name": "yarn", "factor": 2.0}, "position=p_rope"),
    "none": ({}, {"name": "none"}, {}, {}, "positions in every layer"),
    "learned": (MODERN, {"name": "learned"}, {}, {}, "position=learned"),
    "learned-longer": ({}, {"name": "learned"}, {}, {"name": "interpolate", "factor": 2.0}, "extend=none"),
    "learned-rows": ({}, {"name": "learned", "rows": 48}, {}, {}, r"position\.rows=null"),
}


def make(shape: dict, scheme: dict, spectrum: dict, extend: dict, plan: Plan | None = None) -> GPT:
    """A small model of 32 trained tokens whose every weight matters; √64 scales embeddings exactly."""
    shape = Shape(**{"name": "ours", "layers": 4, "heads": 4, "width": 64} | shape)
    scheme, spectrum = {"name": "rope"} | scheme, {"name": "geometric"} | spectrum
    knobs = [SCHEMES[scheme["name"]].Knobs.model_validate(scheme), SPECTRA[spectrum["name"]].model_validate(spectrum)]
    extend = {"name": "none"} | extend
    knobs.append(EXTENSIONS[extend["name"]].Knobs.model_validate(extend))
    gpt = GPT(shape, 61, build_position(*knobs, shape.geometry(32), plan), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return gpt


def write(gpt: GPT, folder: Path) -> Path:
    exported = export(gpt, separator=0)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(exported.config))
    save_safetensors(folder, exported.tensors)
    (folder / "tokenizer.json").write_text(theirs.tokenizer_json())
    return folder


def load(folder: Path):
    """As `transformers` loads it; nothing may be missing or left over."""
    from transformers import AutoModelForCausalLM

    model, printed = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not printed["missing_keys"] and not printed["unexpected_keys"] and not printed["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("name", OURS)
def test_a_model_made_here_is_loaded_by_transformers(name, tmp_path):
    shape, scheme, spectrum, extend, (architecture, rope_type) = OURS[name]
    gpt = make(shape, scheme, spectrum, extend)
    model = load(write(gpt, tmp_path))
    assert model.config.model_type == architecture
    if rope_type:
        assert model.config.rope_parameters["rope_type"] == rope_type
    agree(model, gpt, (20, 32) if architecture == "gpt2" else (20, 32, 33, 90))


@pytest.mark.parametrize("name", OURS)
def test_a_model_made_here_comes_back_as_one_that_does_the_same(name, tmp_path):
    shape, scheme, spectrum, extend, _ = OURS[name]
    gpt = make(shape, scheme, spectrum, extend)
    back = rebuild(read_checkpoint(write(gpt, tmp_path)))
    text = torch.randint(61, (1, 32), generator=torch.Generator().manual_seed(0))
    assert back.position.geometry.window == gpt.position.geometry.window
    torch.testing.assert_close(back.double()(text), gpt.double()(text), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_architecture_can_express_is_refused(name, tmp_path):
    *settings, sentence = REFUSED[name]
    with pytest.raises(BadInput, match=sentence):
        export(make(*settings), separator=0)


def same(first, second) -> None:
    """Two imports that are the same to the bit, settings included."""
    for part in ("model", "position", "frequencies", "extend", "layers", "window"):
        assert getattr(first, part) == getattr(second, part)
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.mark.parametrize("name", theirs.MODELS)
def test_in_out_in_is_the_identity(name, tmp_path):
    architecture, options = theirs.MODELS[name]
    first = read_checkpoint(theirs.save(theirs.build(architecture, **options), tmp_path / "theirs"))
    same(first, read_checkpoint(write(rebuild(first), tmp_path / "ours")))


@pytest.mark.parametrize("name", [name for name in theirs.MODELS if name.endswith("-window")])
def test_windows_leave_as_they_came(name, tmp_path):
    architecture, options = theirs.MODELS[name]
    first = read_checkpoint(theirs.save(theirs.build(architecture, **options), tmp_path / "theirs"))
    model = load(write(rebuild(first), tmp_path / "ours"))
    assert model.config.model_type == architecture
    agree(model, rebuild(first), (20, 90))


def test_a_plan_that_no_architecture_has_is_refused():
    kinds = [{"L": {"window": 5, "extend": "none"}, "G": {}}, {"L": {"window": 5}, "G": {"window": 6}}]
    for each in kinds:
        gpt = make(MODERN, {}, {}, {}, Plan(name="own", pattern="LG", kinds=each))
        with pytest.raises(BadInput, match="layers=own is in no architecture"):
            export(gpt, separator=0)
    with pytest.raises(BadInput, match="a window in every layer"):
        export(make(MODERN, {}, {}, {}, Plan(pattern="LG", kinds={"L": {"window": 5}, "G": {}})), separator=0)
    with pytest.raises(BadInput, match=r"model\.sink"):
        export(make(MODERN | {"sink": True}, {}, {}, {}), separator=0)
    with pytest.raises(BadInput, match=r"extend\.rows=su with extend=none"):
        export(make(MODERN, {}, {}, {"rows": "su"}), separator=0)


@pytest.mark.parametrize("rope", theirs.ROPES)
def test_ministral_sharpens_its_rows_whatever_its_rope_type(rope, tmp_path):
    architecture, options = theirs.MODELS["ministral3"]
    options = {**options, "head_dim": 8, "max_position_embeddings": 32} | theirs.with_rope(rope)
    options["rope_parameters"] |= {"llama_4_scaling_beta": 0.3, "original_max_position_embeddings": 32}
    model = theirs.build(architecture, **options)
    first = read_checkpoint(theirs.save(model, tmp_path / "theirs"))
    folder = write(rebuild(first), tmp_path / "ours")
    same(first, read_checkpoint(folder))
    agree(load(folder), rebuild(first), (20, 90))
    agree(model, rebuild(first), (20, 90))


@pytest.mark.parametrize("rope", theirs.ROPES)
@pytest.mark.parametrize("name", ["llama", "smollm3", "gpt_neox-serial"])
def test_in_out_in_keeps_every_rope_type(name, rope, tmp_path):
    architecture, options = theirs.MODELS[name]
    options = {key: value for key, value in options.items() if key not in ("rotary_pct", "rotary_emb_base")}
    options |= theirs.with_rope(rope)
    if architecture == "gpt_neox" and rope != "proportional":
        options["rope_parameters"]["partial_rotary_factor"] = 1.0
    first = read_checkpoint(theirs.save(theirs.build(architecture, **options), tmp_path / "theirs"))
    folder = write(rebuild(first), tmp_path / "ours")
    same(first, read_checkpoint(folder))
    agree(load(folder), rebuild(first), (20, 90))
