"""Laws about what a model does with a scheme: causality, order, lengths, extensions, training, compilation.

Letters in shape comments: B batch, T tokens, H heads, D head width, C model width.
"""

from collections import Counter
from unittest.mock import patch

import torch

from conf.base import BadInput
from models.positions import EXTENSIONS, base
from models.positions.extensions import length_of
from models.positions.frequencies import Geometric
from tests.cases import LAYERS, VOCABULARY, WIDTH, WINDOW, Case, extensions, layer_of, leaves, tokens, vectors
from tests.lawbook import LENGTH, law, moved, same


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
        shifted = model(text, positions + 101)
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
        if "factor" in knobs and "factor_one_changes_nothing" not in EXTENSIONS[name].exempt:
            unchanged = torch.equal(plain, case.model(extend=name, **knobs | {"factor": 1.0})(text))
            assert unchanged, f"{name} by 1 is not the identity"


@law(lambda case: bool(case.stretches))
def extended_prefixes_hold_unless_flagged(case: Case) -> None:
    """Read with any extension past the window, a prefix's logits stay, or else `depends_on_length` says that they move.

    At a base of which several pairs turn in the window, since the fastest one is often left alone.
    """
    text, prefixes = tokens(2 * WINDOW), (WINDOW, WINDOW + 3)  # a switch by length moves the first alone
    spectrum = Geometric(base=20.0) if case.turns else None
    for name, knobs in extensions(case):
        if name == "none" and not knobs["rows"]:
            continue
        model = case.model(extend=name, spectrum=spectrum, **knobs)
        try:
            whole = model(text)
        except BadInput:
            assert name == "none"  # a table that ends at the window
            continue
        pairs = [(model(text[:, :prefix]), whole[:, :prefix]) for prefix in prefixes]
        alone, together = (torch.cat(item, dim=1) for item in zip(*pairs, strict=True))
        compare = moved if model.position.extension.depends_on_length else same
        compare(alone, together)


@law()
def documents_apart_are_alone(case: Case) -> None:
    """A document kept apart reads as it would alone, whatever stands beside it, under every extension; also a few
    queries at a time. One fits the window and the other does not, where the scheme does not end there."""
    spectrum = Geometric(base=20.0) if case.turns else None
    for name, knobs in extensions(case):
        model = case.model(extend=name, spectrum=spectrum, **knobs).double()
        model.separator = 0
        for lengths in ((12, 2 * WINDOW + 8), (5, 12)):
            documents = [torch.cat((torch.zeros(1, 1).long(), tokens(length - 1) % 22 + 1), 1) for length in lengths]
            try:
                alone = [model(document) for document in documents]
            except BadInput:  # a scheme that ends at its window
                continue
            packed = torch.cat((documents[0], documents[1], documents[0]), dim=1)
            expected = torch.cat((alone[0], alone[1], alone[0]), dim=1)
            same(model(packed), expected, 1e-5)
            with patch.object(base, "SCORES_AT_ONCE", 5 * packed.shape[1]), torch.no_grad():
                same(model(packed), expected, 1e-5)


@law(lambda case: "positions" in case.stretches and case.extended_alike)
def interpolation_divides(case: Case) -> None:
    """Interpolated by s, positions s·p give what p give without, and slots s times closer give something else."""
    text, positions = tokens(LENGTH), torch.arange(LENGTH)
    plain = case.model()(text, positions)
    for factor in (3.0, 4.0):
        stretched = case.model(extend="interpolate", factor=factor)
        same(plain, stretched(text, positions * int(factor)), 1e-6)
        moved(plain, stretched(text, positions))


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
def chunks_are_the_whole(case: Case) -> None:
    """Read only, a long text is attended to a few queries at a time, with the logits of all at once."""
    model, text = case.model(window=2 * WINDOW), tokens(2 * WINDOW)
    whole = model(text)
    with patch.object(base, "SCORES_AT_ONCE", 5 * text.shape[1]), torch.no_grad():
        assert base.rows_at_once(text.shape[1], text.device) == 5
        same(model(text), whole)


@law()
def trains_in_chunks(case: Case) -> None:
    """Trained on a few queries at a time, as on a CPU, a model has the loss and the gradients of all at once; with
    documents apart as well."""
    model, text = case.model(layers=2), tokens(LENGTH + 1)
    for model.separator in (None, int(text[0, LENGTH // 2])):
        result = []
        for rows in (LENGTH, 5):
            with patch.object(base, "ROWS_IN_TRAINING", rows):
                assert base.rows_at_once(LENGTH, text.device) == rows
                loss, _ = model(text[:, :-1], targets=text[:, 1:])
            result.append((loss.detach(), torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)))
        (loss, whole), (other, parts) = result
        same(other, loss)
        for part, expected in zip(parts, whole, strict=True):
            assert (part is None) == (expected is None)
            if part is not None:
                same(part, expected, 1e-5)


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
    """Prepared once and embedded once per forward pass; queries and keys pass the other two hooks in each layer."""
    layers = 3
    model, calls = case.model(layers=layers), Counter()
    kinds = {type(layer_of(model.position, layer)) for layer in range(layers)}
    spies = [spy(type(model.position), hook, calls) for hook in ("prepare", "embed")]
    spies += [spy(kind, hook, calls) for kind in kinds for hook in ("rotate", "bias")]
    for patched in spies:
        patched.start()
    try:
        model(tokens(LENGTH))
    finally:
        for patched in spies:
            patched.stop()
    assert calls == {"prepare": 1, "embed": 1, "rotate": layers, "bias": layers}


def spy(kind: type, hook: str, calls: Counter):
    """A patch of one hook of a class that counts its calls; a hook called inside itself is the same call."""
    real, inside = getattr(kind, hook), []

    def watched(*given, **names):
        if not inside:
            calls.update([hook])
        inside.append(hook)
        try:
            return real(*given, **names)
        finally:
            inside.pop()

    return patch.object(kind, hook, watched)


@law()
def tables_keep_their_precision(case: Case) -> None:
    """What `prepare` and the temperature give does not depend on torch's default type, which bf16-true changes."""
    positions = torch.arange(2 * WINDOW, dtype=torch.float32)
    for name, knobs in extensions(case):
        position = case.position(extend=name, **knobs)

        def tables(position=position):
            extension = position.extension
            fits = positions[:WINDOW] if case.name == "learned" else positions
            return [*leaves(position.prepare(extension.positions(fits))), position.temperature_at(length_of(positions))]

        try:
            before = tables()
            torch.set_default_dtype(torch.bfloat16)
            after = tables()
        finally:
            torch.set_default_dtype(torch.float32)
        for one, other in zip(before, after, strict=True):
            assert one == other if isinstance(one, float) else torch.equal(one, other), f"{name} was rounded"


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
