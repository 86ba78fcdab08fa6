"""Extended frequencies and temperatures, table against table, with those of the pinned `transformers`."""

import math
from itertools import product

import pytest
import torch

from models.positions import EXTENSIONS, SCHEMES, Geometry, build_position
from models.positions.frequencies import Geometric
from tests.cases import vectors

pytest.importorskip("transformers", reason="transformers, pinned in requirements-dev.txt, is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

GRID = list(product([16, 64, 128], [500.0, 10_000.0, 500_000.0], [64, 512, 4096], [1.0, 2.0, 8.0, 32.0]))


def build(scheme: str, extend: str, width: int, base: float, window: int, **knobs):
    of_scheme = SCHEMES[scheme].Knobs(**{key: knobs.pop(key) for key in ("p",) if key in knobs})
    settings = of_scheme, Geometric(base=base), EXTENSIONS[extend].Knobs(**knobs)
    return build_position(*settings, Geometry(width=width, heads=1, layers=1, window=window))


def config(width: int, base: float, window: int, longest: float | None = None, **rope):
    """A one-headed Llama; `transformers` takes the original window from one place or from the other."""
    from transformers import LlamaConfig

    given = {"rope_theta": base, "original_max_position_embeddings": window} | rope
    return LlamaConfig(
        hidden_size=width, num_attention_heads=1, max_position_embeddings=int(longest or window), rope_parameters=given
    )


def agree(position, theirs, length: int = 2) -> None:
    """What every pair turns by per token in a text of this length, and the factor of cosines and sines, 1/√t."""
    frequencies, factor = theirs
    last = position.extension.positions(torch.tensor([1.0, length - 1], dtype=torch.float64))
    torch.testing.assert_close(
        position.phase(last)[0].float(), frequencies, rtol=5e-6, atol=0
    )  # theirs: float32 powers
    assert position.extension.temperature**-0.5 == pytest.approx(factor, rel=1e-12)


def theirs(kind: str, settings, length: int | None = None):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    return ROPE_INIT_FUNCTIONS[kind](settings, device="cpu", seq_len=length)


@pytest.mark.parametrize(("width", "base"), list(product([16, 64, 128], [500.0, 10_000.0])))
def test_default(width, base):
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    made = LlamaRotaryEmbedding.compute_default_rope_parameters(config(width, base, 64, rope_type="default"))
    agree(build("rope", "none", width, base, 64), made)


@pytest.mark.parametrize(("width", "base", "window", "factor"), GRID)
def test_linear_and_proportional(width, base, window, factor):
    settings = config(width, base, window, rope_type="linear", factor=factor)
    agree(build("rope", "interpolate", width, base, window, factor=factor), theirs("linear", settings))
    for p in (0.25, 0.75):
        rope = {"rope_type": "proportional", "factor": factor, "partial_rotary_factor": p}
        ours = build("p_rope", "interpolate", width, base, window, factor=factor, p=p)
        agree(ours, theirs("proportional", config(width, base, window, **rope)))


@pytest.mark.parametrize(("width", "base", "window", "factor"), GRID)
def test_dynamic(width, base, window, factor):
    settings = config(width, base, window, rope_type="dynamic", factor=factor)
    ours = build("rope", "dynamic_ntk", width, base, window, factor=factor, variant="transformers")
    for length in (window // 2, window, window + 1, 4 * window):
        agree(ours, theirs("dynamic", settings, length), length)


@pytest.mark.parametrize(("width", "base", "window", "factor"), GRID)
def test_yarn(width, base, window, factor):
    nobody = (window / 4, window / 6)  # more turns than any pair makes
    for fast, slow in ((32.0, 1.0), (4.0, 1.0), (window / (8 * math.pi), 0.5), nobody):
        rope = {"rope_type": "yarn", "factor": factor, "beta_fast": fast, "beta_slow": slow}
        settings = config(width, base, window, factor * window, **rope)
        knobs = {"factor": factor, "ramp": "index", "beta_fast": fast, "beta_slow": slow}
        agree(build("rope", "yarn", width, base, window, **knobs), theirs("yarn", settings))


@pytest.mark.parametrize(("width", "base", "window", "factor"), GRID)
def test_llama3(width, base, window, factor):
    for low, high in ((1.0, 4.0), (0.5, 10.0)):
        rope = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
        settings = config(width, base, window, factor * window, **rope)
        knobs = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
        agree(build("rope", "llama3", width, base, window, **knobs), theirs("llama3", settings))


@pytest.mark.parametrize(("width", "base", "window", "factor"), GRID)
def test_longrope(width, base, window, factor):
    long = (1 + (factor - 1) * torch.linspace(0, 1, width // 2, dtype=torch.float64) ** 2).tolist()
    short = torch.linspace(1, 1.5, width // 2, dtype=torch.float64).tolist()
    rope = {"rope_type": "longrope", "factor": factor, "long_factor": long, "short_factor": short}
    settings = config(width, base, window, factor * window, **rope)
    ours = build("rope", "longrope", width, base, window, factor=factor, long=long, short=short)
    for length in (2, window, window + 1, 4 * window):
        agree(ours, theirs("longrope", settings, length), length)


def test_scores_under_yarn_are_those_of_llama_with_its_scaled_cosines():
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    rope = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 4.0, "beta_slow": 1.0}
    llama = LlamaRotaryEmbedding(config(32, 10_000.0, 64, 512, **rope))
    position = build("rope", "yarn", 32, 10_000.0, 64, factor=8.0, ramp="index", beta_fast=4.0)
    q, k = vectors(2, 1, 1, 300, 32, dtype=torch.float32)
    a, b = position.rotate(q, k, position.prepare(torch.arange(300.0)))
    theirs_q, theirs_k = apply_rotary_pos_emb(q, k, *llama(q, torch.arange(300)[None]))
    torch.testing.assert_close(a @ b.mT / position.extension.temperature, theirs_q @ theirs_k.mT, rtol=1e-3, atol=1e-3)
