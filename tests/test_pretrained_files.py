"""Files of checkpoints: every form that is read, every rule of rope settings, a sentence for whatever is wrong."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conf.base import BadInput
from models.pretrained.architectures import describe
from models.pretrained.incoming import read_checkpoint
from models.pretrained.rope import read_rope
from models.pretrained.weights import WHOLE
from tests import transformers_models as theirs
from tests.test_pretrained import agree, rebuild
from tests.test_pretrained_out import same

pytest.importorskip("transformers", reason="transformers, pinned in requirements-dev.txt, is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """A folder of each of four architectures, written once."""
    folders = {}
    for name in ("llama", "llama-tied", "gpt_neox", "gpt2"):
        architecture, options = theirs.MODELS[name]
        folders[name] = theirs.save(theirs.build(architecture, **options), tmp_path_factory.mktemp(name))
    return folders


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of such a folder, to change."""

    def make(name: str = "llama") -> Path:
        return Path(shutil.copytree(saved[name], tmp_path / name))

    return make


def configure(folder: Path, **changes) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def change(folder: Path, edit) -> Path:
    """Rewrite the weights; edit: a function of the mapping of tensors, which it changes."""
    tensors = load_file(folder / WHOLE)
    edit(tensors)
    save_file(tensors, folder / WHOLE)
    return folder


# What is read.


def test_shards_are_the_whole(saved, tmp_path):
    model = theirs.build(*theirs.MODELS["llama"][:1], **theirs.MODELS["llama"][1])
    folder = theirs.save(model, tmp_path, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    same(read_checkpoint(folder), read_checkpoint(saved["llama"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_become_float32(saved, copy, dtype):
    folder = change(copy(), lambda tensors: tensors.update({key: t.to(dtype) for key, t in tensors.items()}))
    first, second = read_checkpoint(saved["llama"]).weights, read_checkpoint(folder).weights
    assert all(second[key].dtype == torch.float32 for key in second)
    assert all(torch.equal(first[key].to(dtype).float(), second[key]) for key in first)


def test_names_with_and_without_the_name_of_the_model(saved, copy):
    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)

    same(read_checkpoint(change(copy("gpt2"), strip)), read_checkpoint(saved["gpt2"]))


@pytest.mark.parametrize("head", ["embed_out.weight", "lm_head.weight"])
def test_both_names_of_the_head_of_gpt_neox(saved, copy, head):
    def rename(tensors):
        (name,) = {"embed_out.weight", "lm_head.weight"} & set(tensors)
        tensors[head] = tensors.pop(name)

    same(read_checkpoint(change(copy("gpt_neox"), rename)), read_checkpoint(saved["gpt_neox"]))


def test_tables_beside_the_weights_are_not_used(saved, copy):
    """Old files hold frequencies and masks, and what a loader leaves there may be garbage."""

    def garbage(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.full((4,), torch.nan)

    imported = read_checkpoint(change(copy(), garbage))
    same(imported, read_checkpoint(saved["llama"]))
    assert not list(rebuild(imported).buffers())

    def masks(tensors):
        tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.bool)

    same(read_checkpoint(change(copy("gpt2"), masks)), read_checkpoint(saved["gpt2"]))


def test_a_tied_model_may_hold_its_head_as_well(saved, copy):
    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    same(read_checkpoint(change(copy("llama-tied"), add)), read_checkpoint(saved["llama-tied"]))


# Rope settings.

OLD = {"max_position_embeddings": 64}


@pytest.mark.parametrize("rope", [name for name in theirs.ROPES if name != "proportional"])
def test_both_forms_of_rope_settings_are_the_same(rope):
    new = theirs.with_rope(rope, **{"max_position_embeddings": 128} if rope != "default" else OLD)
    old = dict(new)
    scaling = dict(old.pop("rope_parameters"))
    old["rope_theta"], old["rope_scaling"] = scaling.pop("rope_theta"), scaling
    assert read_rope(old, "llama", 8) == read_rope(new, "llama", 8)
    scaling["type"] = scaling.pop("rope_type")
    assert read_rope(old, "llama", 8) == read_rope(new, "llama", 8)


WINDOWS = [
    ({"rope_type": "default"}, {}, 128),
    ({"rope_type": "linear", "factor": 4.0}, {}, 32),
    ({"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 64}, {}, 64),
    ({"rope_type": "dynamic", "factor": 4.0}, {}, 128),
    ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, {}, 64),
    ({"rope_type": "yarn", "factor": 4.0}, {"original_max_position_embeddings": 32}, 32),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 16}, {}, 16),
    ({"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5}, {}, 64),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "beside", "window"), WINDOWS)
def test_the_original_window(settings, beside, window):
    config = {"max_position_embeddings": 128, "rope_theta": 1e4, "rope_scaling": settings, **beside}
    read = read_rope(config, "llama", 8)
    assert read.window == window
    assert read.extend.get("factor", 1.0) == settings.get("factor", 1.0)  # applied once, and as it stands
    assert read_rope(config, "llama", 8, window=40).window == 40


def test_an_explicit_attention_factor_wins_and_a_missing_factor_is_the_quotient():
    settings = {"rope_type": "yarn", "original_max_position_embeddings": 32, "attention_factor": 1.0}
    read = read_rope({"max_position_embeddings": 128, "rope_theta": 1e4, "rope_scaling": settings}, "llama", 8)
    assert (read.extend["factor"], read.extend["temperature"]) == (4.0, 1.0)


@pytest.mark.parametrize("more", [{}, {"factor": None}])
def test_a_missing_factor_is_not_remarked_upon(more):
    settings = {"rope_type": "yarn", "original_max_position_embeddings": 32, **more}
    config = {"max_position_embeddings": 128, "rope_theta": 1e4, "rope_scaling": settings}
    assert not read_rope(config, "llama", 8).remarks
    config["rope_scaling"] = settings | {"factor": 2.0}
    assert "factor=2 is not max_position_embeddings=128" in read_rope(config, "llama", 8).remarks[0]


def test_what_is_not_said_is_told():
    assert "rope_theta" in read_rope({"max_position_embeddings": 8}, "llama", 8).remarks[0]
    settings = {"rope_type": "linear", "factor": 4.0}
    config = {"max_position_embeddings": 128, "rope_theta": 1e4, "rope_scaling": settings}
    assert "the original window is 32" in read_rope(config, "llama", 8).remarks[0]


def test_pythia_rotates_a_quarter_unless_it_says_otherwise():
    config = {"max_position_embeddings": 8, "rotary_emb_base": 500}
    read = read_rope(config, "gpt_neox", 64, partial=0.25)
    assert (read.position["fraction"], read.frequencies["base"]) == (0.25, 500)
    assert read_rope(config | {"rotary_pct": 1.0}, "gpt_neox", 64, partial=0.25).position["fraction"] == 1


def test_the_rope_settings_of_pythia_and_of_others_have_their_own_names():
    """Both names are in files of older versions of transformers, and it goes by one of them."""
    from transformers import GPTNeoXConfig

    theirs_of = GPTNeoXConfig(rope_theta=500, partial_rotary_factor=1.0).rope_parameters
    assert (theirs_of["rope_theta"], theirs_of["partial_rotary_factor"]) == (10_000, 0.25)
    config = {"max_position_embeddings": 8, "rotary_emb_base": 500, "rotary_pct": 0.5}
    both = config | {"rope_theta": 500, "partial_rotary_factor": 0.5}
    assert read_rope(both, "gpt_neox", 64, partial=0.25) == read_rope(config, "gpt_neox", 64, partial=0.25)
    for key, value, known in (
        ("rope_theta", 1000.0, "rotary_emb_base=500"),
        ("partial_rotary_factor", 1.0, r"rotary_pct=0\.5"),
    ):
        with pytest.raises(BadInput, match=f"gpt_neox: {key}={value} .* passed over .* {known}"):
            read_rope(config | {key: value}, "gpt_neox", 64, partial=0.25)
    with pytest.raises(BadInput, match="rotary_emb_base=10000"):
        read_rope({"max_position_embeddings": 8, "rope_theta": 500}, "gpt_neox", 64, partial=0.25)
    with pytest.raises(BadInput, match=r"llama: rotary_emb_base=500 .* rope_theta=10000"):
        read_rope({"max_position_embeddings": 8, "rotary_emb_base": 500}, "llama", 8)


YARN = {"rope_type": "yarn", "factor": 4.0}
ROPES_REFUSED = {
    "type": ({"rope_scaling": {"rope_type": "mrope"}}, "rope_type=mrope"),
    "option": ({"rope_scaling": YARN | {"llama_4_scaling_beta": 0.1}}, "llama_4_scaling_beta"),
    "layers": ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "type of layer"),
    "two thetas": ({"rope_theta": 500, "rope_parameters": {"rope_theta": 10_000.0}}, "500 and 10000"),
    "two windows": (
        {"rope_scaling": YARN | {"original_max_position_embeddings": 16}, "original_max_position_embeddings": 32},
        "16 and 32",
    ),
    "no window": ({"rope_scaling": YARN}, "original_window="),
    "dynamic": (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 32}},
        "original_window=",
    ),
    "two types": (
        {
            "rope_parameters": {"rope_type": "default"},
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        },
        "contradict each other in rope_type",
    ),
    "two types in one": (
        {"rope_parameters": {"rope_type": "default", "type": "linear", "factor": 4.0}},
        "rope_type=default and type=linear contradict",
    ),
    "two forms": ({"rope_scaling": {"factor": 2.0}, "rope_parameters": {"factor": 4.0}}, "contradict"),
    "partial": ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor=0\.5"),
    "factor": ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor=2"),
    "small factor": ({"rope_scaling": {"type": "linear", "factor": 0.5}}, r"factor=0\.5"),
    "lists": (
        {
            "rope_scaling": {
                "type": "longrope",
                "factor": 2.0,
                "long_factor": ["a"],
                "short_factor": [1.0],
                "original_max_position_embeddings": 32,
            }
        },
        "long",
    ),
    "longest": ({"max_position_embeddings": None}, "max_position_embeddings=None"),
}


@pytest.mark.parametrize("case", ROPES_REFUSED)
def test_rope_settings_that_are_refused(case):
    changes, sentence = ROPES_REFUSED[case]
    with pytest.raises(BadInput, match=sentence):
        read_rope({"max_position_embeddings": 64, "rope_theta": None} | changes, "llama", 8)


def test_both_names_of_a_type_may_say_the_same():
    settings = {"factor": 4.0, "finetuned": True}
    config = {"max_position_embeddings": 64, "rope_theta": 1e4}
    read = read_rope(config | {"rope_scaling": settings | {"type": "linear"}}, "llama", 8)
    for both in (
        {"rope_parameters": {"rope_type": "linear"}, "rope_scaling": settings | {"type": "linear"}},
        {"rope_parameters": settings | {"rope_type": "linear", "type": "linear"}},
        {"rope_parameters": settings | {"rope_type": "linear", "type": None}},
        {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": settings | {"type": "linear"}},
    ):
        assert read_rope(config | both, "llama", 8) == read


def test_ministral_has_the_defaults_of_transformers():
    """Without rope_parameters these stretch it, and sharpen its rows."""
    from transformers import Ministral3Config

    their, said = Ministral3Config(), {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    config = {"model_type": "ministral3", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config |= {"vocab_size": 61, "intermediate_size": 44, "max_position_embeddings": 128}
    assert their.rope_parameters["rope_type"] == "yarn" and their.rope_parameters["llama_4_scaling_beta"]
    for absent in ({}, {"rope_parameters": None}, {"rope_parameters": {}}):
        with pytest.raises(BadInput, match="ministral3 without rope_parameters"):
            describe(config | absent)
    read = describe(config | {"rope_parameters": said})
    assert read.model["norm_epsilon"] == their.rms_norm_eps
    assert (read.model["head_width"], read.model["kv_heads"]) == (their.head_dim, their.num_key_value_heads)
    assert read.rope.frequencies["base"] == Ministral3Config(rope_parameters=said).rope_parameters["rope_theta"]


def test_a_sharpened_share_of_a_head_is_refused():
    """transformers scales the rotated channels alone, the lab whole scores: on short text nobody would see it."""
    settings = YARN | {"original_max_position_embeddings": 16, "partial_rotary_factor": 0.5}
    config = {"max_position_embeddings": 64, "rope_theta": 1e4, "rope_parameters": settings}
    with pytest.raises(BadInput, match="attention factor"):
        read_rope(config, "gpt_neox", 8, partial=0.25)


# Architectures and options that are refused, each in a sentence that names both.

OPTIONS_REFUSED = [
    ("llama", {"model_type": "gemma3"}, "model_type=gemma3"),
    ("llama", {"hidden_act": "gelu"}, "llama with hidden_act=gelu"),
    ("llama", {"auto_map": {"AutoModel": "code.Model"}}, "llama with auto_map"),
    ("llama", {"quantization_config": {"bits": 4}}, "llama with quantization_config"),
    ("llama", {"layer_types": ["sliding_attention"] * 4}, "llama with layer_types"),
    ("llama", {"num_hidden_layers": "4"}, "num_hidden_layers=4"),
    ("llama", {"attention_bias": "yes"}, "attention_bias=yes"),
    ("llama", {"model_type": "mistral", "sliding_window": 0}, "mistral: sliding_window=0"),
    ("llama", {"model_type": "mistral", "sliding_window": 8, "use_sliding_window": False}, "sliding_window=8 is not"),
    ("llama", {"model_type": "mistral", "use_sliding_window": False}, "beside sliding_window=4096"),
    ("llama", {"is_causal": False}, "llama with is_causal=False"),
    ("gpt2", {"is_causal": None}, "gpt2 with is_causal=None"),
    ("llama", {"use_sliding_window": True}, "llama with use_sliding_window=True"),
    ("llama", {"model_type": "qwen2", "layer_types": ["chunked_attention"] * 4}, "qwen2 with layer_types"),
    ("llama", {"model_type": "smollm3", "no_rope_layers": [1, 0, 0, 1]}, "smollm3 with no_rope_layers"),
    ("gpt_neox", {"hidden_act": "relu"}, "gpt_neox with hidden_act=relu"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "gpt2 with scale_attn_by_inverse_layer_idx=True"),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), OPTIONS_REFUSED)
def test_options_that_are_refused(copy, name, changes, sentence):
    with pytest.raises(BadInput, match=sentence):
        read_checkpoint(configure(copy(name), **changes))


def test_what_is_said_as_it_is_anyway_is_read(copy):
    read_checkpoint(configure(copy(), is_causal=True))
    layers = describe({**json.loads((copy("llama-tied") / "config.json").read_text()), "model_type": "mistral",
                       "sliding_window": None, "use_sliding_window": False}).rope.layers  # fmt: skip
    assert layers == {"name": "alike"}


@pytest.mark.parametrize(("value", "rows"), [(True, 1), (False, 12), (None, 12)])
def test_transformers_lets_every_row_see_all_where_is_causal_is_false(copy, value, rows):
    """Otherwise the option need not be refused."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(configure(copy(), is_causal=value), attn_implementation="eager")
    text = torch.arange(2, 14)[None]
    changed = torch.cat([text[:, :-1], torch.tensor([[40]])], 1)
    differs = (theirs.logits(model.eval(), text) - theirs.logits(model, changed)).abs().amax(-1) > 1e-6
    assert int(differs.sum()) == rows


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": [1]},
        {"rope_parameters": "default"},
        {"rope_parameters": YARN | {"original_max_position_embeddings": "32"}},
        {"rope_parameters": {"rope_type": ["yarn"]}},
        {"layer_types": 3},
        {"model_type": ["llama"]},
        {"rms_norm_eps": None},
        {"hidden_act": []},
        {"hidden_size": 33},
        {"num_key_value_heads": 3},
        {"max_position_embeddings": 1e3},
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_are_refused(copy, changes):
    with pytest.raises(BadInput):
        read_checkpoint(configure(copy(), **changes))


# Files that are refused.


def cut_short(folder: Path) -> None:
    content = (folder / WHOLE).read_bytes()
    (folder / WHOLE).write_bytes(content[: len(content) // 2])


def lose_a_shard(folder: Path) -> None:
    model = theirs.build(*theirs.MODELS["llama"][:1], **theirs.MODELS["llama"][1])
    (folder / WHOLE).unlink()
    theirs.save(model, folder, max_shard_size="20KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def pickled(folder: Path) -> None:
    (folder / WHOLE).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


Q = "model.layers.1.self_attn.q_proj.weight"
FILES_REFUSED = {
    "cut short": (cut_short, "cut short"),
    "no weights": (lambda folder: (folder / WHOLE).unlink(), "neither model.safetensors"),
    "pickled": (pickled, "pytorch_model.bin could run code"),
    "missing shard": (lose_a_shard, "is missing: .* lists it"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "is no JSON"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), "must hold a mapping"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json cannot be read"),
    "shape": (lambda folder: change(folder, lambda t: t.update({Q: t[Q][:-1].clone()})), "has the shape"),
    "width": (lambda folder: configure(folder, intermediate_size=48), r"has the shape \(44, 32\).*\(48, 32\)"),
    "fewer layers": (lambda folder: configure(folder, num_hidden_layers=3), "model.layers.3.* has no place"),
    "more layers": (lambda folder: configure(folder, num_hidden_layers=5), "model.layers.4.* is missing"),
    "not finite": (lambda folder: change(folder, lambda t: t[Q].view(-1)[3].fill_(torch.nan)), f"{Q} holds numbers"),
    "integers": (lambda folder: change(folder, lambda t: t.update({Q: t[Q].to(torch.int8)})), "holds int8"),
    "untied without head": (lambda folder: change(folder, lambda t: t.pop("lm_head.weight")), "have no lm_head"),
    "tied with a head": (lambda folder: configure(folder, tie_word_embeddings=True), "is not the embedding"),
    "biases nowhere": (lambda folder: configure(folder, attention_bias=True), "bias is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES_REFUSED)
def test_files_that_are_refused(copy, case):
    spoil, sentence = FILES_REFUSED[case]
    folder = copy()
    spoil(folder)
    with pytest.raises(BadInput, match=sentence):
        read_checkpoint(folder)


def test_every_description_says_what_it_lacks():
    with pytest.raises(BadInput, match="model_type=None is not supported; supported are llama, mistral"):
        describe({})


# GGUF.


def write_gguf(folder: Path, path: Path, architecture: str = "llama", **more) -> Path:
    """A Llama of `transformers` as llama.cpp's converter keeps it, unquantised: q and k with pairs side by side."""
    gguf = pytest.importorskip("gguf")
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / WHOLE)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("llama")
    for key, value in more.items():
        writer.add_key_value(key.replace("__", "."), value, gguf.GGUFValueType.get_type(value))
    names = {value: key for key, value in _names(config["num_hidden_layers"]).items()}
    for name, tensor in tensors.items():
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        count = next((heads[key] for key in heads if key in name), None)
        if count and architecture == "llama":
            tensor = tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names[name], tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _names(layers: int) -> dict[str, str]:
    """Names in a .gguf file → names in `transformers`."""
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    names["output.weight"] = "lm_head.weight"
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
    parts |= {"attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj"}
    parts |= {"ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    for i in range(layers):
        names |= {f"blk.{i}.{ours}.weight": f"model.layers.{i}.{name}.weight" for ours, name in parts.items()}
    return names


def test_gguf_is_the_folder_it_was_made_of(saved, tmp_path):
    path = write_gguf(saved["llama"], tmp_path / "tiny.gguf")
    same(read_checkpoint(path, tokenizer=saved["llama"] / "tokenizer.json"), read_checkpoint(saved["llama"]))


def test_gguf_gives_the_logits_of_transformers(saved, tmp_path):
    imported = read_checkpoint(write_gguf(saved["llama"], tmp_path / "a.gguf"), None, saved["llama"] / "tokenizer.json")
    agree(theirs.build(*theirs.MODELS["llama"][:1], **theirs.MODELS["llama"][1]), rebuild(imported))


def test_without_its_package_gguf_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInput, match=r"requirements-pretrained\.txt"):
        read_checkpoint(tmp_path / "a.gguf")


def test_gguf_that_is_refused(saved, tmp_path):
    path = write_gguf(saved["llama"], tmp_path / "a.gguf")
    with pytest.raises(BadInput, match=r"tokenizer\.json cannot be read"):  # its own is of another kind
        read_checkpoint(path)
    content = path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.gguf").write_text("no such thing")
    for name in ("cut.gguf", "text.gguf"):
        with pytest.raises(BadInput, match="cut short"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(BadInput, match=r"rope\.scaling\.type=ntk"):
        read_checkpoint(write_gguf(saved["llama"], tmp_path / "b.gguf", llama__rope__scaling__type="ntk"))
    with pytest.raises(BadInput, match=r"general\.architecture=bert"):
        read_checkpoint(write_gguf(saved["llama"], tmp_path / "c.gguf", architecture="bert"))


GGUF_FIELDS = [
    ("rope__scaling__factor", 4.0, 1.0),
    ("rope__scale_linear", 4.0, 1.0),
    ("rope__scaling__attn_factor", 0.5, 1.0),
    ("rope__scaling__yarn_beta_fast", 16.0, 32.0),
    ("rope__scaling__yarn_log_multiplier", 0.5, 0.0),
    ("attention__sliding_window", 8, 0),
    ("attention__causal", False, True),
    ("logit_scale", 0.5, 1.0),
    ("embedding_scale", 12.0, 1.0),
    ("attention__max_alibi_bias", 8.0, None),
]


@pytest.mark.parametrize(("key", "value", "neutral"), GGUF_FIELDS)
def test_gguf_fields_that_are_not_read_are_refused_unless_they_change_nothing(saved, tmp_path, key, value, neutral):
    tokenizer = saved["llama"] / "tokenizer.json"
    path = write_gguf(saved["llama"], tmp_path / "a.gguf", **{f"llama__{key}": value})
    with pytest.raises(BadInput, match=f"llama.{key.replace('__', '.')}={value} is not supported"):
        read_checkpoint(path, tokenizer=tokenizer)
    if neutral is not None:
        path = write_gguf(saved["llama"], tmp_path / "b.gguf", **{f"llama__{key}": neutral})
        same(read_checkpoint(path, tokenizer=tokenizer), read_checkpoint(saved["llama"]))


def test_gguf_fields_of_ordinary_files_are_read_or_passed_over(saved, tmp_path):
    fields = {"attention__key_length": 8, "attention__value_length": 8, "rope__dimension_count": 8, "pooling_type": 3}
    fields |= {"rope__scaling__finetuned": False, "tensor_data_layout": "Meta AI original pth"}
    fields |= {"rope__scaling__original_context_length": 32, "rope__scaling__type": "none"}
    path = write_gguf(saved["llama"], tmp_path / "a.gguf", **{f"llama__{key}": fields[key] for key in fields})
    same(read_checkpoint(path, tokenizer=saved["llama"] / "tokenizer.json"), read_checkpoint(saved["llama"]))
    stretch = {"type": "yarn", "factor": 4.0, "original_context_length": 8, "yarn_beta_slow": 1.0}
    stretch = {f"llama__rope__scaling__{key}": value for key, value in stretch.items()}
    path = write_gguf(saved["llama"], tmp_path / "b.gguf", **stretch)
    read = read_checkpoint(path, tokenizer=saved["llama"] / "tokenizer.json")
    assert (read.extend["name"], read.extend["factor"], read.window) == ("yarn", 4.0, 8)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"llama__attention__head_count": [4, 4, 4, 2]}, "head_count=.* differs by layer"),
        ({"llama__embedding_length": "32"}, "of a kind that it cannot have"),
        ({"llama__attention__layer_norm_rms_epsilon": [1e-5, 1e-5]}, "of a kind that it cannot have"),
        ({"llama__attention__head_count_kv": [2, 2, 2, 1]}, "num_key_value_heads"),
    ],
    ids=str,
)
def test_gguf_fields_of_the_wrong_kind_are_refused(saved, tmp_path, fields, sentence):
    path = write_gguf(saved["llama"], tmp_path / "a.gguf", **fields)
    with pytest.raises(BadInput, match=sentence):
        read_checkpoint(path, tokenizer=saved["llama"] / "tokenizer.json")


@pytest.mark.parametrize("lost", ["token_type", "merges"])
def test_gguf_with_half_a_tokenizer_needs_another(saved, tmp_path, lost):
    half = {"model": "gpt2", "tokens": ["a", "b", "ab"], "token_type": [1, 1, 1], "merges": ["a b"]}
    half = {f"tokenizer__ggml__{key}": value for key, value in half.items() if key != lost}
    path = write_gguf(saved["llama"], tmp_path / "a.gguf", **half)
    same(read_checkpoint(path, tokenizer=saved["llama"] / "tokenizer.json"), read_checkpoint(saved["llama"]))
    with pytest.raises(BadInput, match=r"a tokenizer\.json cannot be read from it; name one by tokenizer="):
        read_checkpoint(path)


def test_gguf_weights_of_a_kind_that_cannot_be_dequantised_are_refused(saved, copy, tmp_path):
    folder = change(copy(), lambda tensors: tensors.update({Q: tensors[Q].to(torch.int32)}))
    with pytest.raises(BadInput, match=r"blk\.1\.attn_q\.weight is kept as I32"):
        read_checkpoint(write_gguf(folder, tmp_path / "a.gguf"), tokenizer=folder / "tokenizer.json")
