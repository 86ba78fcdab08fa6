"""Random small models of `transformers` to hold imports and exports against, and a way to run them in float64."""

import contextlib
from pathlib import Path

import torch
from torch import Tensor

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 61}
LLAMA = SIZES | {"intermediate_size": 44, "num_key_value_heads": 2, "max_position_embeddings": 32}
NEOX = SIZES | {"intermediate_size": 48, "max_position_embeddings": 32}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32, "vocab_size": 61}
# Every architecture, and the options it has.
MODELS: dict[str, tuple[str, dict]] = {
    "llama": ("llama", LLAMA),
    "llama-tied": ("llama", LLAMA | {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama-biases": ("llama", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama-attention-biases": ("llama", LLAMA | {"attention_bias": True}),
    "llama-network-biases": ("llama", LLAMA | {"mlp_bias": True}),
    "llama-head-width": ("llama", LLAMA | {"head_dim": 12, "num_key_value_heads": 4}),
    "mistral": ("mistral", LLAMA | {"sliding_window": None}),
    "mistral-window": ("mistral", LLAMA | {"sliding_window": 7}),
    "ministral3": (
        "ministral3",
        LLAMA
        | {
            "head_dim": 12,
            "max_position_embeddings": 128,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10_000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 4.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.3,
            },
        },
    ),
    "qwen2": ("qwen2", LLAMA),
    "qwen2-window": ("qwen2", LLAMA | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3-window": (
        "qwen3",
        LLAMA
        | {
            "head_dim": 12,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "qwen3": ("qwen3", LLAMA | {"head_dim": 12}),
    "qwen3-biases": ("qwen3", LLAMA | {"head_dim": 8, "attention_bias": True}),
    "smollm3": ("smollm3", LLAMA | {"no_rope_layer_interval": 2, "pad_token_id": 0}),
    "gpt_neox": ("gpt_neox", NEOX | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}),
    "gpt_neox-serial": ("gpt_neox", NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0, "rotary_emb_base": 500}),
    "gpt_neox-no-biases": ("gpt_neox", NEOX | {"attention_bias": False, "rotary_pct": 0.5, "hidden_act": "gelu_new"}),
    "gpt2": ("gpt2", GPT2),
    "gpt2-inner": ("gpt2", GPT2 | {"n_inner": 20, "activation_function": "gelu"}),
}
# Every type, for heads of 8 channels trained on 32 tokens.
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0},
    "yarn-not-truncated": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 3.0, "beta_slow": 0.5, "truncate": False},
    "yarn-attention": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25},
    "yarn-mscale": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.4, "mscale_all_dim": 0.8},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 3.0},
    "longrope": {
        "rope_type": "longrope", "factor": 4.0,
        "long_factor": [1.0, 1.5, 3.0, 5.0], "short_factor": [1.1, 1.0, 1.0, 1.2],
    },
    "longrope-attention": {
        "rope_type": "longrope", "factor": 4.0, "attention_factor": 1.125,
        "long_factor": [1.0, 2.0, 3.0, 4.0], "short_factor": [1.0] * 4,
    },
    "proportional": {"rope_type": "proportional", "rope_theta": 500.0, "partial_rotary_factor": 0.5, "factor": 2.0},
}  # fmt: skip
ORIGINAL = {"yarn", "llama3", "longrope"}  # types that have a window of their own, smaller than the longest


def with_rope(rope: str, **more) -> dict:
    """Options that give a model this type of rope, originally of 32 tokens."""
    settings = {"rope_theta": 10_000.0} | ROPES[rope]
    if settings["rope_type"] in ORIGINAL:
        more = {"max_position_embeddings": int(32 * settings["factor"])} | more
        settings = settings | {"original_max_position_embeddings": 32}
    return more | {"rope_parameters": settings}


def build(architecture: str, **options):
    """A random model whose every weight matters: norms and biases are moved off their first values."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **options)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    return model


def tokenizer_json(tokens: int = 61) -> str:
    """A byte-less word tokenizer of so many tokens, one of which ends a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<|endoftext|>": 0, "<unk>": 1} | {f"w{i}": i for i in range(2, tokens)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer.to_str()


def save(model, folder: Path, tokens: int = 61, **settings_used) -> Path:
    """Write the model as `transformers` does, and a tokenizer beside it."""
    model.save_pretrained(folder, **settings_used)
    (folder / "tokenizer.json").write_text(tokenizer_json(tokens))
    return folder


@contextlib.contextmanager
def in_double():
    """Let `transformers` compute in float64 what it computes in float32 whatever a model's dtype: angles, norms."""
    saved = torch.float, torch.float32, Tensor.float
    torch.float = torch.float32 = torch.float64
    Tensor.float = Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.float, torch.float32, Tensor.float = saved
        torch.set_default_dtype(saved[1])


def logits(model, tokens: Tensor) -> Tensor:
    """Their logits (B, T, V) in the dtype of their weights; in float64, the frequencies are made anew in it."""
    if next(model.parameters()).dtype != torch.float64:
        with torch.no_grad():
            return model(tokens).logits
    with torch.no_grad(), in_double():
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if name == "rotary_emb":
                    setattr(module, name, type(child)(child.config))
        return model(tokens).logits
