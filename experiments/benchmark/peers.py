"""Models of the same shape from other libraries, with random weights, each in its fast setting.

They have the same layers, heads, width and vocabulary, the embedding tied to the head, no dropout, no biases where the
library allows it, and torch's fused attention. All are trained by the same loop and the same fused AdamW. litgpt is in
a file of its own, requirements-peers.txt, because its model needs none of the packages it requires.
"""

from collections.abc import Callable

from torch import Tensor, nn

from models.gpt import Shape

Peer = tuple[nn.Module, Callable[[Tensor], Tensor]]  # the module, and tokens (B, T) → logits (B, T, V)
# Nothing is generated, so no cache; the default ids are of another vocabulary.
COMMON = {"bos_token_id": None, "eos_token_id": None, "use_cache": False, "attn_implementation": "sdpa"}


def llama(shape: Shape, vocabulary: int, window: int) -> Peer:
    """transformers' Llama: rotary, SwiGLU of 8/3 of the width (to a multiple of 32), RMS norm."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _transformers(
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=shape.width,
            intermediate_size=32 * round(shape.width / 12),
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=window,
            tie_word_embeddings=True,
            **COMMON,
        ),
    )


def gpt2(shape: Shape, vocabulary: int, window: int) -> Peer:
    """transformers' GPT-2: a learned position per token, GELU, biases."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _transformers(
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=window,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **COMMON,
        ),
    )


def _transformers(kind, config) -> Peer:
    model = kind(config)
    return model, lambda tokens: model(input_ids=tokens).logits


def x_transformer(shape: Shape, vocabulary: int, window: int) -> Peer:
    """x-transformers' decoder with rotary positions and flash attention."""
    from x_transformers import Decoder, TransformerWrapper

    decoder = Decoder(
        dim=shape.width,
        depth=shape.layers,
        heads=shape.heads,
        attn_dim_head=shape.width // shape.heads,
        attn_flash=True,
        rotary_pos_emb=True,
        ff_no_bias=True,
        verbose=False,
    )
    model = TransformerWrapper(
        num_tokens=vocabulary, max_seq_len=window, attn_layers=decoder, use_abs_pos_emb=False, tie_embedding=True
    )
    return model, model


def litgpt(shape: Shape, vocabulary: int, window: int) -> Peer:
    """litgpt's GPT as Llama is in it: rotary, SwiGLU of 8/3 of the width (to a multiple of 32), RMS norm."""
    import litgpt

    config = litgpt.Config(
        block_size=window,
        vocab_size=vocabulary,
        padded_vocab_size=vocabulary,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        intermediate_size=32 * round(shape.width / 12),
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    model = litgpt.GPT(config)
    model.apply(model._init_weights)  # its pretraining's; of torch's own defaults gradients underflow, which is slow
    model.lm_head.weight = model.transformer.wte.weight
    return model, model


PEERS: dict[str, Callable[[Shape, int, int], Peer]] = {
    "transformers Llama": llama,
    "transformers GPT-2": gpt2,
    "x-transformers": x_transformer,
    "litgpt": litgpt,
}
