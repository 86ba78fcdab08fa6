"""A model of the lab → config.json and tensors that `transformers` loads without remote code.

RMS norms with SwiGLU leave as llama, mistral (a sliding window), ministral3 (extend.rows), qwen2 (biases of q, k, v),
qwen3 (learned norms of q and k) or smollm3 (layers without positions); LayerNorms with rotary positions as gpt_neox,
with learned positions as gpt2. An embedding that is scaled on the way in leaves scaled, and the head apart from it.
Biases that the architecture must have leave as zeros.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from conf.base import BadInput
from models.gpt import GPT, Shape
from models.positions.layers import Planned
from models.pretrained.layouts import LAYOUTS
from models.pretrained.rope_out import write_rope

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
ROTARY = ("rope", "p_rope", "learned_rope")


@dataclass(frozen=True)
class Exported:
    """The contents of an exported folder, except the tokenizer."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def export(gpt: GPT, separator: int) -> Exported:
    """A GPT, with its positions and its extension, in the words of `transformers`; weights in float32.

    Args:
        separator: the token that opens a document, which is theirs for both ends of a text.

    Raises:
        BadInput: something that no architecture there can express; the sentence says which part.
    """
    architecture = _architecture(gpt)
    shape = _their_shape(gpt, architecture)
    state = {name: tensor.detach().float() for name, tensor in gpt.state_dict().items()}
    scale = gpt.position.geometry.embedding_scale
    state.setdefault("head.weight", state["embedding.weight"])
    for name in ("embedding.weight", "position.table"):
        if name in state:
            state[name] = state[name] * scale
    tensors: dict[str, Tensor] = {}
    for row in LAYOUTS[architecture](shape, gpt.position.geometry.window):
        if row.ours not in state:  # a bias that the architecture must have
            state[row.ours] = state["norm.weight"].new_zeros(sum(shape[0] for shape in row.shapes))
        tensors |= row.write(state[row.ours])
    config = {"model_type": architecture, "architectures": [CLASSES[architecture]], "dtype": "float32"}
    config |= {"bos_token_id": separator, "eos_token_id": separator, "tie_word_embeddings": shape.tied}
    config |= {"vocab_size": shape.vocabulary, **_options(architecture, shape, gpt)}
    return Exported(config, {name: tensor.clone() for name, tensor in tensors.items()})


def _architecture(gpt: GPT) -> str:
    """The architecture that can hold this model.

    Raises:
        BadInput: none can.
    """
    shape, scheme = gpt.shape, gpt.position.knobs
    windows = gpt.position.windows if isinstance(gpt.position, Planned) else [None]
    sizes = set(windows) - {None}
    if isinstance(gpt.position, Planned) and (set(gpt.position.names) != {"own"} or len(sizes) > 1):
        raise BadInput(
            f"layers={gpt.position.plan.name} is in no architecture of transformers that a model can leave as: layers "
            "can differ in whether they have a window of one size, and in nothing else"
        )
    if shape.sink:
        raise BadInput("model.sink=true is in no architecture of transformers that a model can leave as")
    extend = gpt.position.extension.knobs
    if (rows := extend.rows) is not None and rows.name != "ministral":
        raise BadInput(f"extend.rows={rows.name} with extend={extend.name} is in no architecture of transformers")
    skipping = scheme.name == "none" or (
        scheme.name == "mixture" and scheme.first.name in ROTARY and scheme.second.name == "none"
    )
    if scheme.name not in (*ROTARY, "learned") and not skipping:
        raise BadInput(f"position={scheme.name} is in no architecture of transformers without remote code")
    if shape.norm == "rms":
        name = "qwen3" if shape.qk_norm == "learned" else "qwen2" if shape.biases == "qkv" else "llama"
        name = "smollm3" if skipping else name
        if name == "llama" and (sizes or rows is not None):
            name = "mistral" if sizes else "ministral3"
        needs = {"network=swiglu": shape.network == "swiglu", "parallel=false": not shape.parallel}
    else:
        name = "gpt2" if scheme.name == "learned" else "gpt_neox"
        needs = {"network=gelu or gelu_tanh": shape.network != "swiglu"}
        needs["as many kv_heads as heads"] = shape.kv_heads in (None, shape.heads)
        needs["head_width=null"] = shape.channels == shape.width
        if name == "gpt2":
            needs["parallel=false"] = not shape.parallel
            needs["position.rows=null"] = scheme.rows is None
            needs["extend=none"] = extend.name == "none"
    if name != "qwen3":
        needs[
            "qk_norm=false" if name != "smollm3" else "qk_norm=false beside layers without positions"
        ] = not shape.qk_norm
    else:
        needs["biases=none, qkv or attention"] = shape.biases in ("none", "qkv", "attention")
    needs["positions in every layer"] = not skipping or name == "smollm3"
    needs["position=learned only with norm=layer"] = scheme.name != "learned" or name == "gpt2"
    if rows is not None:
        needs["extend.rows=null"] = name == "ministral3"
    if name in ("mistral", "ministral3"):
        needs["biases=none"] = shape.biases == "none"
    if sizes:
        needs["layers=alike"] = name in ("mistral", "qwen2", "qwen3")
        if name == "mistral":
            needs["a window in every layer"] = None not in windows
    if name == "llama":
        needs["a width that is a multiple of heads"] = shape.width % shape.heads == 0
    if name in ("qwen2", "smollm3"):
        needs["head_width=null"] = shape.channels == shape.width
    if lacking := next((need for need, met in needs.items() if not met), None):
        raise BadInput(
            f"the model cannot leave as {name}, the nearest architecture of transformers: it needs {lacking}"
        )
    return name


def _their_shape(gpt: GPT, architecture: str) -> Shape:
    """The shape of the model as it is written down."""
    shape = gpt.shape
    attention, network = shape.biases in ("qkv", "attention", "all"), shape.biases in ("network", "all")
    always = architecture in ("gpt_neox", "gpt2")
    attention, network = attention or architecture == "gpt2", network or always
    biases = {(False, False): "none", (True, False): "attention", (False, True): "network", (True, True): "all"}
    changes = {"biases": "qkv" if architecture == "qwen2" else biases[attention, network]}
    changes |= {"norm_bias": shape.norm_bias or always, "vocabulary": gpt.embedding.num_embeddings}
    changes["tied"] = shape.tied and gpt.position.geometry.embedding_scale == 1
    return shape.model_copy(update=changes)


def _options(architecture: str, shape: Shape, gpt: GPT) -> dict:
    """The options of config.json that make the model what it is."""
    tanh = shape.network == "gelu_tanh"
    if architecture == "gpt2":
        sizes = {"n_embd": shape.width, "n_layer": shape.layers, "n_head": shape.heads, "n_inner": shape.inner}
        options = {"activation_function": "gelu_new" if tanh else "gelu", "layer_norm_epsilon": shape.norm_epsilon}
        return sizes | options | {"n_positions": gpt.position.geometry.window}
    rope = write_rope(gpt.position, architecture == "gpt_neox")
    options = {"hidden_size": shape.width, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads}
    options |= {"intermediate_size": shape.inner, **rope}
    if architecture == "gpt_neox":
        options |= {"hidden_act": "gelu_new" if tanh else "gelu", "layer_norm_eps": shape.norm_epsilon}
        options |= {"use_parallel_residual": shape.parallel, "attention_bias": shape.biases == "all"}
        return options
    options |= {"num_key_value_heads": shape.kv_heads or shape.heads, "rms_norm_eps": shape.norm_epsilon}
    options |= {"hidden_act": "silu", "head_dim": shape.channels // shape.heads}
    if architecture in ("llama", "smollm3", "qwen3"):
        options["attention_bias"] = shape.biases in ("attention", "all")
    if architecture in ("llama", "smollm3"):
        options["mlp_bias"] = shape.biases in ("network", "all")
    if architecture == "ministral3":
        sharper = {"llama_4_scaling_beta": gpt.position.extension.knobs.rows.beta}
        sharper["original_max_position_embeddings"] = gpt.position.geometry.window  # the rows count by it
        options["rope_parameters"] = rope["rope_parameters"] | sharper
    if isinstance(gpt.position, Planned):
        windows = gpt.position.windows
        options["sliding_window"] = max(window for window in windows if window)
        if architecture != "mistral":
            types = ["sliding_attention" if window else "full_attention" for window in windows]
            options |= {"use_sliding_window": True, "layer_types": types}
    if architecture == "smollm3":
        scheme = gpt.position.knobs
        every = scheme.every if scheme.name == "mixture" else 1
        options |= {"no_rope_layers": [int((i + 1) % every != 0) for i in range(shape.layers)], "pad_token_id": None}
        options |= {"no_rope_layer_interval": every, "use_sliding_window": False}
    return options
