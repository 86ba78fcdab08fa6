"""Laws about numbers: what is prepared, in which precision, what is stored, and whether it is what the papers say.

Letters in shape comments: B batch, T tokens, H heads, D head width, C model width.
"""

from dataclasses import replace
from itertools import product
from unittest.mock import patch

import torch

from models.positions.base import Differences
from models.positions.frequencies import Geometric
from tests import reference_bias  # noqa: F401 - enters its twins
from tests.cases import HEADS, LAYERS, WIDTH, Case, extensions, layer_of, leaves, tokens, vectors
from tests.lawbook import LENGTH, law, same
from tests.reference import Setting, twin


@law()
def rotation_keeps_norms(case: Case) -> None:
    """Queries and keys are as long after the rotation as before, in every layer."""
    position = case.position().double()
    q, k = vectors(2, 1, HEADS, LENGTH, WIDTH // HEADS)  # each (B, H, T, D)
    prepared = position.prepare(torch.arange(LENGTH, dtype=torch.float64))
    for layer in range(LAYERS):
        for before, after in zip((q, k), layer_of(position, layer).rotate(q, k, prepared), strict=True):
            same(before.norm(dim=-1), after.norm(dim=-1), 1e-12)


@law(lambda case: case.position().relative)
def scores_know_the_offset_alone(case: Case) -> None:
    """With one query and one key at every position, a score is a function of their distance, to 1e-12 in float64."""
    one = vectors(2, 1, HEADS, 1, WIDTH // HEADS)
    q, k = one.expand(2, 1, HEADS, LENGTH, WIDTH // HEADS)  # each (B, H, T, D)
    for name, knobs in extensions(case):
        position = case.position(extend=name, **knobs).double()
        if not position.relative:
            continue  # which another law holds it to
        for layer in range(LAYERS):
            table = scores(position, layer, torch.arange(LENGTH, dtype=torch.float64), q, k)
            later = scores(position, layer, torch.arange(1000, 1000 + LENGTH, dtype=torch.float64), q, k)
            for offset in range(LENGTH):
                alike = torch.cat((table.diagonal(-offset, -2, -1), later.diagonal(-offset, -2, -1)), dim=-1)
                same(alike, alike[..., :1].expand_as(alike), 1e-12)


def scores(position, layer: int, positions, q, k):
    """What enters the softmax in a layer, (B, H, T, T), from queries and keys (B, H, T, D)."""
    prepared = position.prepare(position.extension.positions(positions))
    view = layer_of(position, layer)
    prepared = view.read_input(vectors(1, 1, WIDTH).expand(1, len(positions), WIDTH), prepared)
    q, k = view.rotate(q, k, prepared)
    bias = dense(view.bias(q, k, prepared))
    return q @ k.mT * (WIDTH // HEADS) ** -0.5 + (0 if bias is None else bias)


def dense(bias):
    """A bias as one number per pair."""
    return bias.dense() if isinstance(bias, Differences) else bias


@law()
def float32_whatever_the_precision(case: Case) -> None:
    """What is prepared has the same bits in float32, under bf16 autocast, and in a model that is bf16 throughout.

    Lightning's bf16-true casts the module, its buffers too, and sets the default dtype. Positions far apart would
    collide if anything on the way were rounded to bf16. A rotation of bf16 queries is one in float32, rounded once.
    """
    length = 24
    model, text, positions = case.model(window=512), tokens(length), torch.arange(length) * 21 + 7
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())  # nothing learned is lost by the cast below
    exact = prepared(model, text, positions)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = prepared(model, text, positions)
    model.bfloat16()
    torch.set_default_dtype(torch.bfloat16)
    try:
        half = prepared(model, text, positions)
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(exact) == len(mixed) == len(half)
    for a, b, c in zip(exact, mixed, half, strict=True):
        assert torch.equal(a, b), "bf16 autocast reached the table"
        assert torch.equal(a, c), "casting the model reached the table"


def prepared(model, text, positions) -> list:
    """What `prepare` returned during a forward pass and how it rotates bf16 queries, as float tensors."""
    position, caught = model.position, []
    prepare = position.prepare
    with patch.object(position, "prepare", lambda given: caught.append(prepare(given)) or caught[-1]), torch.no_grad():
        model(text, positions)
        q, k = vectors(2, 1, HEADS, len(positions), WIDTH // HEADS, dtype=torch.bfloat16)
        for layer in range(LAYERS):
            view = layer_of(position, layer)
            narrow = view.rotate(q, k, caught[0])
            for a, b in zip(narrow, view.rotate(q.float(), k.float(), caught[0]), strict=True):
                assert torch.equal(a, b.bfloat16()), "the rotation itself was rounded"
    return [leaf.float() for leaf in leaves(caught)] + [part.float() for part in narrow]


@law()
def keeps_only_what_it_learns(case: Case) -> None:
    """The state dict holds the learned parameters and nothing else: no table, no buffer, persistent or not."""
    position = case.position()
    learned = [name for name, parameter in position.named_parameters() if parameter.requires_grad]
    assert list(position.state_dict()) == learned
    assert not list(position.buffers())


@law()
def equals_its_twin(case: Case) -> None:
    """Table against table: each hook does in float64 what the slow reference works out from the paper's formula."""
    shapes = (1, HEADS, LENGTH, WIDTH // HEADS)
    q, k, x = vectors(*shapes), vectors(*shapes).flip(2), vectors(1, LENGTH, WIDTH)
    skipping = torch.tensor([0, 1, 2, 3, 5, 6, 9, 10, 12, 13, 14, 15])  # within the window, with gaps
    bases = [10_000.0, 20.0] if case.turns else [10_000.0]
    for (name, knobs), longest in product(extensions(case), bases):
        position = case.position(extend=name, spectrum=Geometric(base=longest), **knobs).double()
        positions = position.extension.positions(skipping.double())
        prepared = position.prepare(positions)
        added = position.embed(x, prepared)
        for layer in range(LAYERS):
            setting = Setting.of(position, layer, skipping.double().numpy(), normal)
            setting = replace(setting, input=x[0].numpy())
            reference = twin(setting, x[0].numpy(), q[0].numpy(), k[0].numpy())
            view = layer_of(position, layer)
            read = view.read_input(x, prepared)
            turned = view.rotate(q, k, read)
            sharpness = view.sharpness_at(skipping.double(), layer)
            turned = turned if sharpness is None else (turned[0] * sharpness, turned[1])
            bias = dense(view.bias(*turned, read))
            same(added[0], torch.from_numpy(reference.embedded), 1e-9)
            same(turned[0][0], torch.from_numpy(reference.queries), 1e-9)
            same(turned[1][0], torch.from_numpy(reference.keys), 1e-9)
            bias = torch.zeros(HEADS, LENGTH, LENGTH) if bias is None else bias.reshape(HEADS, LENGTH, LENGTH)
            same(bias.double().tril(), torch.from_numpy(reference.bias), 1e-9)  # what the mask leaves


@law()
def attention_is_what_the_twin_says(case: Case) -> None:
    """In every layer of a real forward pass: softmax of q·k/√D plus the bias, q and k as the twin turns them.

    Where the bias enters, what the scores are divided by (the temperature once) and which keys are seen: none of it
    is the tables' doing.
    """
    for name, knobs in extensions(case):
        model, entered, left = case.model(extend=name, **knobs), [], []
        for block in model.blocks:
            block.attention.qkv.register_forward_hook(
                lambda module, inputs, out, to=entered: to.append((inputs[0], out))
            )
            block.attention.out.register_forward_pre_hook(lambda module, inputs, to=left: to.append(inputs[0]))
        with torch.no_grad():
            model(tokens(LENGTH))
        for layer in range(LAYERS):
            q, k, v = entered[layer][1].double().view(LENGTH, 3, HEADS, -1).permute(1, 2, 0, 3)  # each (H, T, D)
            setting = Setting.of(model.position, layer, torch.arange(LENGTH).double().numpy(), normal)
            setting = replace(setting, input=entered[layer][0][0].double().numpy())
            reference = twin(setting, torch.zeros(LENGTH, WIDTH).numpy(), q.numpy(), k.numpy())
            scores = reference.queries @ reference.keys.swapaxes(-1, -2) / (WIDTH // HEADS) ** 0.5
            scores = scores / setting.temperature + reference.bias
            back = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
            seen = (back >= 0) & (back < (setting.sees or LENGTH))
            weights = torch.from_numpy(scores).masked_fill(~seen, float("-inf")).softmax(dim=-1)
            same(left[layer][0].double(), (weights @ v).transpose(0, 1).flatten(1))


def normal(seed: int, shape: tuple[int, ...]):
    """The fixed random numbers of a scheme that has any: the one thing a twin cannot work out for itself."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
