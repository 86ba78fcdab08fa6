"""The laws that every positional scheme obeys, as plain functions of a case that fail by AssertionError.

A scheme may name a law it cannot obey in its class attribute `exempt`, with the reason; that the law really fails
there is then tested in its place. Tests parametrise the laws over the schemes, and inject historical bugs to show
that the laws see them.

Letters in shape comments: B batch, T tokens, H heads, D head width, C model width.
"""

from collections import Counter
from collections.abc import Callable
from itertools import product
from unittest.mock import patch

import torch

from conf.base import BadInput
from models.positions.frequencies import Geometric
from tests import reference_bias  # noqa: F401 - enters its twins
from tests.cases import HEADS, LAYERS, VOCABULARY, WIDTH, WINDOW, Case, doors, extensions, leaves, tokens, vectors
from tests.reference import Setting, twin

LAWS: dict[str, Callable[[Case], None]] = {}
APPLIES: dict[str, Callable[[Case], bool]] = {}
SAME, MOVED = 1e-4, 1e-3  # logits are of order one: closer is rounding, further is an effect
LENGTH = 12  # within the trained window, for learned tables


def law(applies: Callable[[Case], bool] = lambda case: True):
    """Enter a function in the book under its name, for the schemes it speaks of."""

    def enter(function):
        LAWS[function.__name__], APPLIES[function.__name__] = function, applies
        return function

    return enter


def same(a, b, tolerance: float = SAME) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def moved(a, b) -> None:
    gap = (a - b).abs().max().item()
    assert gap > MOVED, f"nothing moved: the largest difference is {gap:.1e}"


@law()
def causal(case: Case) -> None:
    """A later token changes no earlier logit, not by a bit."""
    model, text = case.model(), tokens(LENGTH)
    changed = text.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % VOCABULARY
    before, after = model(text), model(changed)
    assert torch.equal(before[:, :7], after[:, :7]), "the past heard of a future token"
    moved(before[:, 7:], after[:, 7:])


@law()
def prefix_consistent(case: Case) -> None:
    """A text's logits are what they were before more text followed it, past the window too."""
    model, text = case.model(window=2 * WINDOW), tokens(2 * WINDOW)
    whole = model(text)
    for length in (1, 5, WINDOW, WINDOW + 3):
        same(model(text[:, :length]), whole[:, :length])


@law()
def shift_invariant(case: Case) -> None:
    """Adding a constant to every position changes no logit of a relative scheme, and the logits of any other."""
    model, text, positions = case.model(), tokens(LENGTH), torch.arange(LENGTH)
    try:
        shifted = model(text, positions + 100)
    except BadInput:  # a scheme that ends at its window is shifted within it
        shifted = model(text, positions + WINDOW - LENGTH)
    if model.position.relative:
        same(model(text, positions), shifted)
    else:
        moved(model(text, positions), shifted)


@law()
def tells_order(case: Case) -> None:
    """In one layer, permuting the prefix moves the last logit: the scheme is not a no-op."""
    model, text = case.model(layers=1), tokens(LENGTH)
    moved(model(text)[:, -1], model(torch.cat((text[:, :-1].flip(1), text[:, -1:]), dim=1))[:, -1])


@law()
def reads_positions(case: Case) -> None:
    """A gap in the positions moves the last logit: the scheme reads the positions given, not the order of slots."""
    model, text, positions = case.model(layers=1), tokens(LENGTH), torch.arange(LENGTH)
    moved(model(text, positions)[:, -1], model(text, torch.where(positions < 6, positions, positions + 4))[:, -1])


@law()
def any_length(case: Case) -> None:
    """Lengths of one token, odd ones and the whole window give finite logits of the right shape."""
    model = case.model()
    for length in (1, 2, 7, WINDOW):
        logits = model(tokens(length, batch=2))
        assert logits.shape == (2, length, VOCABULARY)
        assert logits.isfinite().all()


@law()
def past_the_window(case: Case) -> None:
    """Three times the trained window gives finite logits of the right shape: there is no maximum length."""
    logits = case.model()(tokens(3 * WINDOW))
    assert logits.shape == (1, 3 * WINDOW, VOCABULARY)
    assert logits.isfinite().all()


@law(lambda case: "positions" in case.stretches)
def factor_one_changes_nothing(case: Case) -> None:
    """Any extension by a factor of one is plain extrapolation, to the bit."""
    text = tokens(LENGTH)
    plain = case.model()(text)
    for name, knobs in extensions(case):
        if "factor" in knobs:
            assert torch.equal(plain, case.model(extend=name, factor=1.0)(text)), f"{name} by 1 is not the identity"


@law(lambda case: "positions" in case.stretches)
def interpolation_divides(case: Case) -> None:
    """Interpolated by s, positions s·p give what p give without, and slots s times closer give something else."""
    text, positions = tokens(LENGTH), torch.arange(LENGTH)
    plain = case.model()(text, positions)
    for factor in (3.0, 4.0):
        stretched = case.model(extend="interpolate", factor=factor)
        same(plain, stretched(text, positions * int(factor)), 1e-6)
        moved(plain, stretched(text, positions))


@law()
def rotation_keeps_norms(case: Case) -> None:
    """Queries and keys leave the second door as long as they entered, in every layer."""
    position = case.position().double()
    q, k = vectors(2, 1, HEADS, LENGTH, WIDTH // HEADS)  # each (B, H, T, D)
    where = position.prepare(torch.arange(LENGTH, dtype=torch.float64))
    for layer in range(LAYERS):
        for before, after in zip((q, k), doors(position, layer).rotate(q, k, where), strict=True):
            same(before.norm(dim=-1), after.norm(dim=-1), 1e-12)


@law(lambda case: case.position().relative)
def scores_know_the_offset_alone(case: Case) -> None:
    """With one query and one key at every position, a score is a function of their distance, to 1e-12 in float64."""
    one = vectors(2, 1, HEADS, 1, WIDTH // HEADS)
    q, k = one.expand(2, 1, HEADS, LENGTH, WIDTH // HEADS)  # each (B, H, T, D)
    for name, knobs in extensions(case):
        position = case.position(extend=name, **knobs).double()
        for layer in range(LAYERS):
            table = scores(position, layer, torch.arange(LENGTH, dtype=torch.float64), q, k)
            later = scores(position, layer, torch.arange(1000, 1000 + LENGTH, dtype=torch.float64), q, k)
            for offset in range(LENGTH):
                alike = torch.cat((table.diagonal(-offset, -2, -1), later.diagonal(-offset, -2, -1)), dim=-1)
                same(alike, alike[..., :1].expand_as(alike), 1e-12)


def scores(position, layer: int, positions, q, k):
    """What enters the softmax in a layer, (B, H, T, T), from queries and keys (B, H, T, D)."""
    where = position.prepare(position.extension.positions(positions))
    door = doors(position, layer)
    q, k = door.rotate(q, k, where)
    bias = door.bias(q, k, where)
    return q @ k.mT * (WIDTH // HEADS) ** -0.5 + (0 if bias is None else bias)


@law()
def float32_whatever_the_precision(case: Case) -> None:
    """What is prepared has the same bits in float32, under bf16 autocast, and in a model that is bf16 throughout.

    Lightning's bf16-true casts the module, its buffers too, and sets the default dtype. Positions far apart would
    collide if anything on the way were rounded to bf16. A rotation of bf16 queries is one in float32, rounded once.
    """
    length = 24
    model, text, positions = case.model(window=512), tokens(length), torch.arange(length) * 20 + 7
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
            door = doors(position, layer)
            narrow = door.rotate(q, k, caught[0])
            for a, b in zip(narrow, door.rotate(q.float(), k.float(), caught[0]), strict=True):
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
def reloads_under_every_extension(case: Case) -> None:
    """Weights trained without an extension load strictly with any, and back, whatever the window then is."""
    plain, text = case.model(), tokens(LENGTH)
    for name, knobs in extensions(case):
        extended = case.model(extend=name, **knobs)
        before = extended(text)
        with torch.no_grad():
            for parameter in extended.parameters():
                parameter.zero_()
        extended.load_state_dict(plain.state_dict(), strict=True)
        assert torch.equal(before, extended(text)), f"extend={name} reads the same weights differently"
        plain.load_state_dict(extended.state_dict(), strict=True)


@law()
def every_parameter_learns(case: Case) -> None:
    """Every parameter gets a gradient that is finite and not zero."""
    model, text = case.model(), tokens(WINDOW, batch=2)
    loss = torch.nn.functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all(), f"{name} gets a gradient that is not finite"
        assert parameter.grad.abs().max() > 1e-7, f"{name} gets a gradient of zero"


@law()
def compiles_whole(case: Case) -> None:
    """The model compiles as one graph, without a break, and the graph computes what eager execution does."""
    model, text = case.model(layers=1), tokens(LENGTH)
    torch._dynamo.reset()
    same(model(text), torch.compile(model, fullgraph=True, backend="aot_eager")(text), 1e-5)


@law()
def equals_its_twin(case: Case) -> None:
    """Table against table: each door does in float64 what the slow reference works out from the paper's formula."""
    shapes = (1, HEADS, LENGTH, WIDTH // HEADS)
    q, k, x = vectors(*shapes), vectors(*shapes).flip(2), vectors(1, LENGTH, WIDTH)
    skipping = torch.tensor([0, 1, 2, 3, 5, 6, 9, 10, 12, 13, 14, 15])  # within the window, with gaps
    bases = [10_000.0, 20.0] if "frequencies" in case.stretches else [10_000.0]
    for (name, knobs), base in product(extensions(case), bases):
        position = case.position(extend=name, spectrum=Geometric(base=base), **knobs).double()
        positions = position.extension.positions(skipping.double())
        where = position.prepare(positions)
        added = position.embed(x, where)
        for layer in range(LAYERS):
            setting = Setting.of(position, layer, positions.numpy(), normal)
            reference = twin(setting, x[0].numpy(), q[0].numpy(), k[0].numpy())
            door = doors(position, layer)
            turned = door.rotate(q, k, where)
            bias = door.bias(*turned, where)
            same(added[0], torch.from_numpy(reference.embedded), 1e-9)
            same(turned[0][0], torch.from_numpy(reference.queries), 1e-9)
            same(turned[1][0], torch.from_numpy(reference.keys), 1e-9)
            bias = torch.zeros(HEADS, LENGTH, LENGTH) if bias is None else bias.reshape(HEADS, LENGTH, LENGTH)
            same(bias.double().tril(), torch.from_numpy(reference.bias), 1e-9)  # what the mask leaves


def normal(seed: int, shape: tuple[int, ...]):
    """The fixed random numbers of a scheme that has any: the one thing a twin cannot work out for itself."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()


@law()
def leaves_values_alone(case: Case) -> None:
    """If every value is the same row, attention returns that row, wherever and whatever it looks at."""
    model, row, heard = case.model(), vectors(WIDTH, dtype=torch.float32), []
    for block in model.blocks:
        block.attention.qkv.register_forward_hook(
            lambda module, inputs, out: torch.cat((out[..., : 2 * WIDTH], row.expand_as(out[..., 2 * WIDTH :])), dim=-1)
        )
        block.attention.out.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    model(tokens(LENGTH))
    assert len(heard) == LAYERS
    for values in heard:
        same(values, row.expand_as(values), 1e-5)


@law()
def acts_in_every_layer(case: Case) -> None:
    """Prepared once and embedded once per forward pass; queries and keys pass the other two doors in each layer."""
    layers = 3
    model, calls = case.model(layers=layers), Counter()
    kinds = {type(doors(model.position, layer)) for layer in range(layers)}
    spies = [spy(type(model.position), door, calls) for door in ("prepare", "embed")]
    spies += [spy(kind, door, calls) for kind in kinds for door in ("rotate", "bias")]
    for each in spies:
        each.start()
    try:
        model(tokens(LENGTH))
    finally:
        for each in spies:
            each.stop()
    assert calls == {"prepare": 1, "embed": 1, "rotate": layers, "bias": layers}


def spy(kind: type, door: str, calls: Counter):
    """A patch of one door of a class that counts who passes it; a door behind a door is the same passage."""
    real, inside = getattr(kind, door), []

    def watched(*given, **named):
        if not inside:
            calls.update([door])
        inside.append(door)
        try:
            return real(*given, **named)
        finally:
            inside.pop()

    return patch.object(kind, door, watched)


@law()
def batched_positions_are_rows(case: Case) -> None:
    """Positions (B, T) give each sequence what its own row (T,) would give it alone."""
    model, text = case.model(), tokens(LENGTH, batch=3)
    slots = torch.arange(LENGTH)
    restarted = torch.where(slots < 6, slots, slots - 6)  # as documents do
    rows = torch.stack((slots, slots + 4, restarted))
    together = model(text, rows)
    for row in range(len(rows)):
        same(together[row], model(text[row : row + 1], rows[row])[0], 1e-5)
