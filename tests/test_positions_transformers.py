"""Table against table with `transformers`, a second, independently kept implementation of the common schemes.

Its import takes seconds, so it happens inside the tests.
"""

import numpy as np
import pytest
import torch

from models.positions.bias import alibi_slopes
from tests import reference_bias
from tests.cases import HEADS, WIDTH, Case, vectors

pytest.importorskip("transformers", reason="transformers, pinned in requirements-dev.txt, is not installed")

D, LENGTH = WIDTH // HEADS, 300
POSITIONS = torch.arange(LENGTH)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rope_rotates_as_gpt_neox_does(fraction):
    from transformers import GPTNeoXConfig
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding, apply_rotary_pos_emb

    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": fraction}
    theirs = GPTNeoXRotaryEmbedding(
        GPTNeoXConfig(hidden_size=WIDTH, num_attention_heads=HEADS, rope_parameters=rope, rotary_pct=fraction)
    )
    q, k = vectors(2, 1, HEADS, LENGTH, D, dtype=torch.float32)
    position = Case("rope", {"fraction": fraction}).position()
    ours = position.rotate(q, k, position.prepare(POSITIONS.float()))
    for a, b in zip(ours, apply_rotary_pos_emb(q, k, *theirs(q, POSITIONS[None])), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # their frequencies are float32 powers


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75, 0.9, 1.0])
def test_p_rope_turns_at_the_proportional_frequencies(p):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "proportional", "rope_theta": 10_000.0, "partial_rotary_factor": p}
    config = LlamaConfig(hidden_size=WIDTH, num_attention_heads=HEADS, rope_parameters=rope)
    theirs, factor = ROPE_INIT_FUNCTIONS["proportional"](config, device="cpu")
    (ours,) = Case("p_rope", {"p": p}).position().phase(torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=0)
    assert factor == 1


def test_sinusoid_is_marians_with_its_channels_interleaved():
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    theirs = MarianSinusoidalPositionalEmbedding(LENGTH, WIDTH).create_weight()  # all sines, then all cosines
    ours = Case("sinusoidal").position().prepare(POSITIONS.double())
    torch.testing.assert_close(ours[:, 0::2].float(), theirs[:, : WIDTH // 2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours[:, 1::2].float(), theirs[:, WIDTH // 2 :], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 16, 20])
def test_alibi_slopes_are_those_of_bloom(heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    distances = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]  # one token apart
    np.testing.assert_allclose(alibi_slopes(heads), distances, rtol=1e-6)
    np.testing.assert_allclose(reference_bias.alibi_slopes(heads), distances, rtol=1e-6)


@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (16, 100), (8, 20)])
def test_t5_buckets_are_those_of_t5(buckets, furthest):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-20, 400)
    theirs = T5Attention._relative_position_bucket(
        -distances, bidirectional=False, num_buckets=buckets, max_distance=furthest
    )
    assert [reference_bias.t5_bucket(d, buckets, furthest) for d in distances.tolist()] == theirs.tolist()
    position = Case("t5", {"buckets": buckets, "furthest": furthest}).position()
    at = torch.arange(400.0)
    ours = position.scores(at, at)[:, -1].flip(-1)  # (H, distance)
    assert torch.equal(ours, position.table[theirs[20:]].T)
