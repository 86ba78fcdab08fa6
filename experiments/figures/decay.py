"""Whether RoPE's scores decay with distance: RoFormer's bound, and scores of constant, Gaussian and trained q and k.

Letters in shape comments: N pairs of a query and a key, H heads, T distances, D head width, K = D/2 pairs of channels.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.base import BadInput
from experiments.figures.distance import scores
from experiments.figures.schemes import make_scheme
from experiments.lab.canvas import COLOURS, Drawing, add_title, pyplot
from models.positions import Position
from models.positions.diagnostics import kernel
from models.positions.frequencies import phases

if TYPE_CHECKING:
    from experiments.figures.settings import Gallery
    from models.gpt import GPT

# Bytes: of them a small model learns most in a minute on one thread.
SHORT_RUN = [
    *("group=gallery", "name=rope-nano", "position=rope", "model=nano", "logger=none"),
    *("data.tokenizer.kind=bytes", "data.tokenizer.vocabulary=null", "window=128", "batch=16", "steps=350"),
]


def decay_bound(frequencies: Tensor, offsets: Tensor) -> Tensor:
    """mean_j |S_j(r)|, S_j = Σ_{i<j} e^(i r ω_i), for j = 1 … K: (R,) (RoFormer, Su et al. 2021, section 3.4.3).

    Times the largest jump between neighbouring pairs of the product q k*, it bounds the score, over K.
    """
    phase = phases(offsets.double(), frequencies.double())
    return torch.polar(torch.ones_like(phase), phase).cumsum(-1).abs().mean(-1)


def cosines(position: Position, layer: int, q: Tensor, k: Tensor, length: int) -> Tensor:
    """Scores of pairs (N, H, D) by distance as a share of |q||k|, (N, H, T)."""
    size = q.norm(dim=-1) * k.norm(dim=-1)
    return scores(position, layer, q, k, length) * q.shape[-1] ** 0.5 / size[..., None]


def distance_bands(window: int) -> tuple[slice, slice, slice]:
    """Distances near by, further off within the first half of a window, and in its second half."""
    return slice(0, max(1, window // 16)), slice(window // 8, window // 2), slice(window // 2, window)


@dataclass(frozen=True)
class Trained:
    """A trained model and what it is, with queries and keys of a held-out text, one (N, H, D) pair per layer."""

    position: Position
    pairs: list[tuple[Tensor, Tensor]]
    window: int
    description: str


def queries_and_keys(model: "GPT", tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys of a text (B, T) before they are rotated: (B, H, T, D) per layer."""
    caught, rotate = [], model.position.rotate

    def recorder(q, k, prepared):
        caught.append((q, k))
        return rotate(q, k, prepared)

    model.position.rotate = recorder
    try:
        with torch.no_grad():
            model(tokens)
    finally:
        del model.position.rotate
    return caught


def trained(gallery: "Gallery", count: int = 256) -> Trained:
    """The checkpoint of the gallery, or a short run of nano made for it, with `count` random pairs of its tokens.

    Query and key come from two random places of one window, so that only the distance given to them later differs.

    Raises:
        BadInput: the model's scheme is another than RoPE, or it is read with an extension.
    """
    from conf.load import load_model
    from data.windows import fixed_windows
    from experiments.lab.measure.held_out import trained_corpus
    from models.checkpoint_files import find_checkpoint
    from models.restore import read_record
    from train import compose, train

    if gallery.checkpoint is None:
        words = [f"runs={gallery.runs}", f"cache={gallery.cache}", *SHORT_RUN]
        checkpoint = train(compose(words), words).checkpoint
    else:
        checkpoint = find_checkpoint(Path(gallery.checkpoint))
    made = read_record(checkpoint)["config"]
    if (made["position"]["name"], made["extend"]["name"]) != ("rope", "none"):
        raise BadInput(
            f"checkpoint={checkpoint} has position={made['position']['name']} and extend={made['extend']['name']}; "
            "the decay curve is drawn for position=rope and extend=none"
        )
    model, config, record = load_model(checkpoint)
    corpus = trained_corpus(checkpoint, config, record, gallery.cache)
    windows = fixed_windows(corpus.split("validation").tokens, config.window, 32)
    tokens, targets = windows[:, :-1], windows[:, 1:]
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(len(tokens), (count,), generator=generator)
    places = torch.randint(config.window, (2, count), generator=generator)
    pairs = [
        tuple(x[text, :, place].double() for x, place in zip(both, places, strict=True))
        for both in queries_and_keys(model, tokens)
    ]
    with torch.no_grad():
        nll = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).item()
    tokenizer = getattr(config.data, "tokenizer", None)
    unit = "byte" if tokenizer is not None and tokenizer.kind == "bytes" else "token"
    description = (
        f"{config.model.name}, {record['step']} steps of {config.batch * config.window:,} {unit}s at window "
        f"{config.window}, held-out perplexity {math.exp(nll):.1f} per {unit}"
    )
    return Trained(model.position.double(), pairs, config.window, description)


@dataclass(frozen=True)
class Curves:
    """Scores as a share of |q||k| by distance, at the same frequencies."""

    constant: Tensor  # (T,), of q = k = (1, …, 1)
    gaussian: Tensor  # (N, T), of independent standard normal q and k
    trained: Tensor  # (layers, N, H, T)


def decay_curves(model: Trained, length: int) -> Curves:
    """Scores of the three kinds of queries and keys under the rotation of the trained model."""
    width = model.position.geometry.head_width
    ones = torch.ones(1, 1, width, dtype=torch.float64)
    gaussian = torch.randn(2, 512, 1, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Curves(
        cosines(model.position, 0, ones, ones, length)[0, 0],
        cosines(model.position, 0, *gaussian, length)[:, 0],
        torch.stack([cosines(model.position, layer, *pair, length) for layer, pair in enumerate(model.pairs)]),
    )


def decay(gallery: "Gallery") -> Drawing:
    """Draw RoFormer's bound and the scores of constant, Gaussian and trained queries and keys."""
    model = trained(gallery)
    length, width = 2 * model.window, model.position.geometry.head_width
    result, offsets = decay_curves(model, length), torch.arange(length)
    everything = result.trained.flatten(0, 2)  # (layers·N·H, T)
    by_head = result.trained.mean(1).flatten(0, 1)  # (layers·H, T)
    trained_frequencies, wide = (position.frequencies("cpu") for position in (model.position, make_scheme("rope", 128)))

    plt = pyplot()
    figure, grid = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    bound, plain, random, learned = grid.flat
    for frequencies, colour in ((wide, COLOURS[2]), (trained_frequencies, COLOURS[0])):
        label = f"{2 * len(frequencies)} channels"
        bound.plot(offsets, decay_bound(frequencies, offsets), color=colour, label=label)
    bound.set(title="RoFormer's relative upper bound, mean |S_j|", ylabel="bound (times the largest jump in q k*)")
    bound.set_ylim(bottom=0)
    bound.legend(fontsize=8)
    plain.plot(offsets, result.constant, color=COLOURS[0], label="q = k = (1, …, 1)")
    plain.set_title("constant q and k")
    _sample(random, result.gaussian, result.gaussian[:3], "three of them")
    random.set_title("Gaussian q and k")
    _sample(learned, everything, by_head, f"means of the {len(by_head)} heads")
    learned.set_title("trained q and k")
    for panel in (plain, random, learned):
        panel.set(ylim=(-1.05, 1.05), ylabel="score / (|q| |k|)")
        panel.legend(fontsize=8, loc="lower left", ncols=3)
    for panel in grid.flat:
        panel.axvline(model.window, color="black", linewidth=0.7, linestyle=":")
        panel.grid(alpha=0.3)
        panel.set(xlim=(0, length), xlabel="distance, tokens")
    add_title(
        figure,
        "Do RoPE's scores decay with distance? It depends on q and k",
        f"Trained: {model.description}; a query and a key from random places of one window are set r tokens apart. "
        f"All scores turn at the model's frequencies, {width} channels per head; dotted: its window.",
    )
    bands = distance_bands(model.window)
    means = [
        f"{name} " + " → ".join(f"{sample[..., band].mean():z.2f}" for band in bands)
        for name, sample in (("constant", result.constant), ("Gaussian", result.gaussian), ("trained", everything))
    ]
    near, middle, far = (by_head[:, band].mean(-1) for band in bands)
    gap = (result.constant - kernel(trained_frequencies, offsets)).abs().max()
    text = (
        f"Mean score over |q||k| at distances {', '.join(f'{band.start}–{band.stop - 1}' for band in bands)}: "
        f"{'; '.join(means)}. For constant q and k that is g(r), to {gap:.0e}. Of {len(by_head)} trained heads "
        f"{(near > middle).sum()} fall from the first band to the second, and {(middle > far).sum()} from the second "
        "to the third. The bound knows the frequencies alone: it is the same for any q and k, and does not tell the "
        f"three cases apart. The model: {model.description}."
    )
    return Drawing(figure, "RoFormer's decay curve", text)


def _sample(panel, curves: Tensor, single: Tensor, name: str) -> None:
    """Draw the range of most of many curves (N, T), their mean, and a few single curves (n, T)."""
    low, high = curves.quantile(torch.tensor([0.1, 0.9], dtype=curves.dtype), dim=0)
    panel.fill_between(range(len(low)), low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label="80% of the pairs")
    for number, curve in enumerate(single):
        panel.plot(curve, color=COLOURS[1], linewidth=0.6, label=None if number else name)
    panel.plot(curves.mean(0), color=COLOURS[0], linewidth=1.8, label=f"mean of {len(curves):,} pairs")
