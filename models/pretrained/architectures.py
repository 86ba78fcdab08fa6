"""Architectures of `transformers` as settings of the lab: config.json → model, position and extension.

Options that config.json leaves out have the architecture's own defaults. One that the lab has no knob for is refused by
a sentence; what only training, generation or memory use (dropout, caches, parallel plans) is passed over.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from conf.base import BadInput
from models.pretrained.rope import Rope, read_rope

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class Described:
    """A config.json in plain settings of the lab: model (without its name), and what read_rope returns."""

    architecture: str
    model: dict[str, Any]
    rope: Rope


class Options:
    """The options of a config.json, each with the sentence that refuses it."""

    def __init__(self, config: dict, name: str):
        self.config, self.name = config, name

    def size(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"{self.name}: {key}={value} in config.json must be a whole number above zero")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise BadInput(f"{self.name}: {key}={value} in config.json must be a number above zero")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise BadInput(f"{self.name}: {key}={value} in config.json must be true or false")
        return value

    def refuse(self, key: str, *allowed, default=None) -> None:
        """Refuse an option that is set to something else than these."""
        value = self.config.get(key, default)
        if value not in allowed:
            raise BadInput(f"{self.name} with {key}={value} is not supported; supported: {allowed[0]}")

    def choice(self, key: str, allowed: dict[str, str], default: str) -> str:
        value = self.config.get(key, default)
        if value not in allowed:
            raise BadInput(f"{self.name} with {key}={value} is not supported; supported: {', '.join(allowed)}")
        return allowed[value]


def describe(config: dict, window: int | None = None) -> Described:
    """A config.json → settings of the lab. window: an original window (tokens) that the user names.

    Raises:
        BadInput: an architecture or an option that is not supported, or settings that contradict each other.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise BadInput(f"model_type={name} is not supported; supported are {', '.join(ARCHITECTURES)}")
    if config.get("auto_map"):
        raise BadInput(f"{name} with auto_map needs code of its own repository, and none is ever run")
    if config.get("quantization_config"):
        raise BadInput(f"{name} with quantization_config is not supported: take the weights before quantisation")
    options = Options(config, name)
    options.refuse("is_causal", True, default=True)  # null: eager attention sees all, sdpa what is before
    try:
        return Described(name, *ARCHITECTURES[name](options, window))
    except BadInput:
        raise
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:  # a list for a number, say
        raise BadInput(f"{name}: config.json holds a value of a kind that it cannot have ({error})") from None


def _sizes(options: Options, layers: str, heads: str, width: str) -> dict:
    sizes = {"layers": options.size(layers), "heads": options.size(heads), "width": options.size(width)}
    return sizes | {"vocabulary": options.size("vocab_size"), "embedding_scale": 1.0}


def _llama_like(
    theta: float = 10_000.0,
    tied: bool = False,
    window: int | None = None,
    qk_norm: bool = False,
    qkv_biases: bool = False,
    own_biases: bool = True,
    skips: bool = False,
    epsilon: float = 1e-6,
) -> Callable[[Options, int | None], tuple[dict, Rope]]:
    """RMS norms, SwiGLU, grouped heads.

    Args:
        window: sliding window where config.json names none; qk_norm: queries and keys are normed by learned weights;
            qkv_biases: biases of q, k and v alone; own_biases: it has options for biases; skips: layers without rope;
            epsilon: of the norms where config.json names none.
    """

    def read(options: Options, original: int | None) -> tuple[dict, Rope]:
        config, model = options.config, _sizes(options, "num_hidden_layers", "num_attention_heads", "hidden_size")
        options.refuse("hidden_act", "silu", default="silu")
        windows = _windows(options, model["layers"], window)
        head_width = options.size(
            "head_dim", 128 if options.name in ("qwen3", "ministral3") else model["width"] // model["heads"]
        )
        if head_width * model["heads"] != model["width"]:
            model["head_width"] = head_width
        kv_heads = options.size(
            "num_key_value_heads", 8 if options.name in ("mistral", "ministral3") else model["heads"]
        )
        if kv_heads != model["heads"]:
            model["kv_heads"] = kv_heads
        biases = "qkv" if qkv_biases else "none"
        if own_biases:
            attention = options.flag("attention_bias", False)
            network = options.flag("mlp_bias", False) if not qk_norm else False
            biases = {(False, False): "none", (True, False): "attention", (False, True): "network"}.get(
                (attention, network), "all"
            )
        model |= {"norm": "rms", "norm_epsilon": options.number("rms_norm_eps", epsilon), "network": "swiglu"}
        model |= {"network_width": options.size("intermediate_size"), "biases": biases}
        model |= {"tied": options.flag("tie_word_embeddings", tied), "qk_norm": "learned" if qk_norm else False}
        rope = read_rope(config, options.name, head_width, theta, original)
        rope = _skipping(rope, options, model["layers"]) if skips else rope
        return model, replace(rope, layers=_plan(windows))

    return read


def _windows(options: Options, layers: int, window: int | None) -> list[int | None]:
    """The sliding window of every layer, in tokens; None where it sees all. window: where config.json names none."""
    config, types = options.config, options.config.get("layer_types")
    if options.name == "mistral":
        size = config.get("sliding_window", window)
        if size is not None and config.get("use_sliding_window") is False:
            raise BadInput(
                f"mistral with use_sliding_window=False beside sliding_window={size} is not supported: transformers "
                "masks by the window all the same; sliding_window=null is a model without one"
            )
        return [None if size is None else options.size("sliding_window", size)] * layers
    if options.name == "ministral3":
        options.refuse("sliding_window", None)
    if options.name not in ("qwen2", "qwen3"):
        options.refuse("use_sliding_window", False, None)
    sliding = options.flag("use_sliding_window", False) and config.get("sliding_window", window) is not None
    if types is None:
        first = config.get("max_window_layers", 28)
        types = ["sliding_attention" if sliding and i >= first else "full_attention" for i in range(layers)]
    known = {"full_attention", "sliding_attention"} if sliding else {"full_attention"}
    if len(types) != layers or set(types) - known:
        raise BadInput(f"{options.name} with layer_types other than {' and '.join(sorted(known))} is not supported")
    return [options.size("sliding_window", window) if kind == "sliding_attention" else None for kind in types]


def _plan(windows: list[int | None]) -> dict:
    """The plan of layers with these windows, of which there is one size."""
    if set(windows) == {None}:
        return {"name": "alike"}
    letters = "".join("G" if window is None else "L" for window in windows)
    period = next(n for n in range(1, len(letters) + 1) if (letters[:n] * len(letters))[: len(letters)] == letters)
    kinds = {"L": {"window": next(window for window in windows if window)}, "G": {}}
    return {"name": "sliding", "pattern": letters[:period]} | {
        "kinds": {letter: kind for letter, kind in kinds.items() if letter in letters}
    }


def _skipping(rope: Rope, options: Options, layers: int) -> Rope:
    """Layers without positions, as a mixture by layer."""
    interval = options.size("no_rope_layer_interval", 4)
    turned = options.config.get("no_rope_layers")
    turned = [int((i + 1) % interval != 0) for i in range(layers)] if turned is None else turned
    if all(turned[:layers]) and len(turned) >= layers:
        return rope
    for every in range(1, layers + 1):
        if list(turned[:layers]) == [int((i + 1) % every != 0) for i in range(layers)]:
            if every == 1:
                return Rope({"name": "none"}, {"name": "geometric"}, {"name": "none"}, rope.window, rope.remarks)
            position = {"name": "mixture", "first": rope.position, "second": {"name": "none"}, "every": every}
            return Rope(position, rope.frequencies, rope.extend, rope.window, rope.remarks)
    raise BadInput(f"{options.name} with no_rope_layers={turned} is not supported; supported: every n-th layer")


def _gpt_neox(options: Options, original: int | None) -> tuple[dict, Rope]:
    """LayerNorm with biases, parallel residual, partial rotary."""
    model = _sizes(options, "num_hidden_layers", "num_attention_heads", "hidden_size")
    model |= {"norm_epsilon": options.number("layer_norm_eps", 1e-5), "norm_bias": True}
    model |= {"network": options.choice("hidden_act", ACTIVATIONS, "gelu")}
    model |= {"network_width": options.size("intermediate_size")}
    model |= {"biases": "all" if options.flag("attention_bias", True) else "network"}
    model |= {"parallel": options.flag("use_parallel_residual", True)}
    model |= {"tied": options.flag("tie_word_embeddings", False)}
    return model, read_rope(
        options.config, options.name, model["width"] // model["heads"], window=original, partial=0.25
    )


def _gpt2(options: Options, original: int | None) -> tuple[dict, Rope]:
    """Learned positions, LayerNorm with biases."""
    options.refuse("scale_attn_weights", True, default=True)
    options.refuse("scale_attn_by_inverse_layer_idx", False, default=False)
    options.refuse("add_cross_attention", False, default=False)
    model = _sizes(options, "n_layer", "n_head", "n_embd")
    model |= {"norm_epsilon": options.number("layer_norm_epsilon", 1e-5), "norm_bias": True, "biases": "all"}
    model |= {"network": options.choice("activation_function", ACTIVATIONS, "gelu_new")}
    model |= {"network_width": options.size("n_inner", 4 * model["width"])}
    model |= {"tied": options.flag("tie_word_embeddings", True)}
    window = options.size("n_positions", options.config.get("max_position_embeddings"))
    if original not in (None, window):
        raise BadInput(f"gpt2: original_window={original}, and the table of positions has {window} rows")
    return model, Rope({"name": "learned"}, {"name": "geometric"}, {"name": "none"}, window)


ARCHITECTURES: dict[str, Callable[[Options, int | None], tuple[dict, Rope]]] = {
    "llama": _llama_like(),
    "mistral": _llama_like(window=4096, own_biases=False),
    "ministral3": _llama_like(own_biases=False, epsilon=1e-5),
    "qwen2": _llama_like(window=4096, qkv_biases=True, own_biases=False),
    "qwen3": _llama_like(window=4096, qk_norm=True),
    "smollm3": _llama_like(theta=2_000_000.0, tied=True, skips=True),
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
}
