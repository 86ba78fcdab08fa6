"""Loss by position: does a model use its context at all, and how far back?

Held-out text is cut into segments of L targets, each read in one window from its first token, so that target t sees t
tokens (the protocol `windows`). Losses are averaged in bins that halve the window: (L/2, L], (L/4, L/2], … 1.

Whether more context pays is asked of the same targets, at each doubling up to L: the last quarter of C tokens,
predicted from C/2 and from C (the protocol `fixed_targets`). The last doubling is the gate: a model that gains nothing
there, or no more than its interval, shows no use of the longer part of its window, and one cannot tell by its
perplexity what a still longer one would bring. On data=chains the optimum and the effective context stand beside each
bin. Intervals are over documents.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from conf.base import BadInput, Count, Settings
from experiments.lab import tables
from experiments.lab.canvas import log_ticks, plot_band, pyplot, write_figure
from experiments.lab.measure import context
from experiments.lab.measure.losses import LossFile
from experiments.lab.measure.optimum import optimum
from experiments.lab.measure.perplexity import by_document
from experiments.lab.measure.readings import cached_reading, reading_path
from experiments.lab.measure.request import AutoPrecision, Split
from experiments.lab.measure.segments import cut
from experiments.lab.measure.subject import open_subject
from experiments.lab.statistics import Estimate, mean

if TYPE_CHECKING:
    from experiments.lab.measure.protocols import TokenLosses


class ByPosition(Settings):
    """The settings of loss by position, as in conf/by_position.yaml."""

    context: Count
    split: Split = "test"
    segments: Count = 512
    batch_tokens: Count = 16_384
    precision: Annotated[AutoPrecision, Field(exclude=True)] = "auto"
    losses: bool = Field(False, exclude=True)  # those of every target are kept too (losses.py)


def bins(context: int) -> list[tuple[int, int]]:
    """Tokens of context seen, (first, last) of each bin in ascending order: each bin is the upper half of what is left.

    Raises:
        BadInput: a window too short for the gate.
    """
    if context < 4:
        raise BadInput(f"context={context} is too short to compare the parts of a window: at least 4 tokens")
    halves = [context >> power for power in range(context.bit_length())]
    return [(last // 2 + 1, last) for last in reversed(halves)]


@dataclass(frozen=True)
class Sums:
    """Losses summed by document and bin: nll, float64 nats, and targets, both (D, bins)."""

    bins: list[tuple[int, int]]
    nll: np.ndarray
    targets: np.ndarray

    def interval(self, place: int) -> Estimate:
        """The mean loss in a bin, nats per token."""
        return mean(self.nll[:, place], self.targets[:, place])


def by_position(losses: "TokenLosses", owners: list[int]) -> Sums:
    """Sum token losses by the document each comes from and by the context each target saw.

    Args:
        losses: of the protocol `windows`, one window a segment.
        owners: the document of each segment in the list that was measured.
    """
    parts = bins(losses.context)
    member = np.stack([(low <= losses.seen) & (losses.seen <= high) for low, high in parts], axis=1)  # (N, bins)
    documents, row = np.unique(np.asarray(owners)[losses.documents], return_inverse=True)
    nll = np.zeros((len(documents), len(parts)))
    targets = np.zeros_like(nll)
    np.add.at(nll, row, losses.nll.astype(np.float64) @ member)
    np.add.at(targets, row, member.sum(axis=0))
    return Sums(parts, nll, targets)


def measure_by_position(
    checkpoint: Path, extend: dict | None, settings: ByPosition, cache: str, progress=None, data: dict | None = None
) -> tuple[dict, Path | None]:
    """Measure loss by position of a checkpoint, or read it back; returns the result and its file.

    Args:
        extend, data: plain settings of an extension and of a text, or None for those it was trained with.

    Returns:
        As cached_reading, with {"rows": [{"low", "high", "nll", "interval", "perplexity", "targets", "document_nll",
        "document_targets"}], "doublings": as context.gate, for contexts of 4 tokens or more up to the whole, "gate":
        the last of them}; nll in nats per token, by document in nats. Rows of data=chains also have "optimum", nats per
        token, "effective_context" {"value", "low", "high"}, tokens, and "excess", as context.excess.
    """
    from experiments.lab.measure.protocols import summarise, token_losses

    subject = open_subject(checkpoint, extend, cache, data, settings.precision)
    label = f"{settings.split}{settings.context}"
    kept = None
    if settings.losses:
        kept = LossFile(reading_path(subject, "by_position", settings, label), [settings.context])

    def measured(model, config, corpus, device: dict) -> dict:
        segments = cut(corpus.split(settings.split), settings.context + 1, settings.segments)
        options = {"batch_tokens": settings.batch_tokens, "progress": progress, **device}
        (losses,) = token_losses(model, segments.tokens, [settings.context], "windows", **options)
        if kept is not None:
            kept.add(losses, segments)
        sums = by_position(losses, segments.owners)
        curves = {}  # of the best reader that looks so far back at most, by bin
        if corpus.language is not None:
            for limit in sorted({limit for _, high in sums.bins for limit in context.lengths(high)}):
                nll = optimum(corpus.language, segments.tokens, losses, limit)
                curves[limit] = by_position(replace(losses, nll=nll), segments.owners)
        rows = []
        for place, (low, high) in enumerate(sums.bins):
            loss = sums.interval(place)
            ends = loss.plain()
            row = {"low": low, "high": high, "nll": loss.value, "interval": [ends["low"], ends["high"]]}
            row |= {"perplexity": math.exp(min(loss.value, 700.0)), "targets": int(sums.targets[:, place].sum())}
            columns = {"document_nll": sums.nll, "document_targets": sums.targets}
            if curves:
                nll, targets, best = sums.nll[:, place], sums.targets[:, place], curves[high]
                curve = np.stack([curves[limit].nll[:, place] for limit in context.lengths(high)])
                row |= {"optimum": best.interval(place).value}
                row |= {"effective_context": context.effective_context(nll, targets, curve, high).plain()}
                row |= {"excess": context.excess(nll - best.nll[:, place], targets)}
            rows.append(row | {key: column[:, place].tolist() for key, column in columns.items()})
        about = {"split": settings.split, "context": settings.context, "documents": len(sums.nll), "rows": rows}
        doublings = []
        for _, length in [part for part in sums.bins if part[1] >= 4]:
            pair = token_losses(model, segments.tokens, [length // 2, length], "fixed_targets", length // 4, **options)
            paired = [by_document(asdict(summarise(one)), segments.owners) for one in pair]
            doublings.append(context.gate([paired], length))
        return about | {"doublings": doublings, "gate": doublings[-1]}

    return cached_reading("by_position", subject, settings, label, (settings.split,), measured, kept)


def format_table(result: dict) -> str:
    """Format context seen, loss with its interval, perplexity and targets in columns, and the gate in a sentence."""
    known = "optimum" in result["rows"][0]
    columns = {"context seen": "{low}-{high}", "nats": "{nll:.3f}"}
    if result["documents"] > 1:
        columns["interval"] = "[{interval[0]:.3f}, {interval[1]:.3f}]"
    if known:
        columns["optimum"] = "{optimum:.3f}"
        columns["effective context"] = lambda row: context.format_length(
            Estimate.of(row["effective_context"]), row["high"]
        )
    lines = [tables.format_rows(result["rows"], columns | {"perplexity": "{perplexity:.3f}", "targets": "{targets:,}"})]
    if len(result["doublings"]) > 1:
        columns = {"of the same targets": "{from} → {to}", "gain, nats": lambda row: str(Estimate.of(row))}
        lines.append(tables.format_rows(result["doublings"], columns))
    lines.append(context.gate_sentence(result["gate"], result["context"]))
    if sentence := impossible(result):
        lines.append(sentence)
    return "\n".join(lines)


def impossible(result: dict) -> str | None:
    """A sentence where a model beats the optimum by more than chance, else None."""
    return context.beats_the_optimum({row["high"]: row["excess"] for row in result["rows"] if "excess" in row})


def draw_training(results: list[dict], tokens: list[int], path: Path) -> None:
    """When each distance begins to pay: gain of each doubling, and loss by context seen, against tokens trained.

    Args:
        results: of the same run, as of measure_by_position; tokens: those each was trained on; path: of the .png and
            .svg.
    """
    figure, (gains, losses) = pyplot().subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    colours = pyplot().get_cmap("viridis")(np.linspace(0, 0.9, len(results[0]["rows"])))
    for place, doubling in enumerate(results[0]["doublings"]):
        ends = [[result["doublings"][place][key] for key in ("value", "low", "high")] for result in results]
        plot_band(
            gains,
            tokens,
            ends,
            colours[-len(results[0]["doublings"]) + place],
            f"{doubling['from']} → {doubling['to']}",
        )
    for place, row in enumerate(results[0]["rows"]):
        read = [result["rows"][place]["nll"] for result in results]
        losses.plot(tokens, read, color=colours[place], marker="o", markersize=3, label=f"{row['low']}-{row['high']}")
    gains.axhline(0, color="black", linewidth=0.8)
    gains.set(ylabel="gain on the same targets, nats a token", title="what twice the context gains")
    gains.set_yscale("symlog", linthresh=0.01)
    losses.set(ylabel="loss, nats a token", title="loss by tokens of context seen")
    for panel in (gains, losses):
        panel.set(xlabel="M tokens trained", xscale="log")
        panel.set_xticks(tokens, [f"{count / 1e6:.3g}" for count in tokens])
        panel.minorticks_off()
        panel.legend(frameon=False, fontsize=7)
        panel.grid(alpha=0.3)
    about = "{run}, extend={label}, on {corpus[name]}; 95 % over documents".format(**results[0])
    figure.suptitle(about, fontsize=9)
    write_figure(figure, path)


def draw_figure(result: dict, path: Path) -> None:
    """Loss against context seen, a step for each bin with its interval; writes path.png and path.svg."""
    figure, axes = pyplot().subplots(figsize=(6, 4), layout="constrained")
    for row in result["rows"]:
        span = (row["low"] - 0.5, row["high"] + 0.5)
        axes.fill_between(span, *np.array(row["interval"], dtype=float), color="#4c72b0", alpha=0.25, linewidth=0)
        axes.plot(span, (row["nll"], row["nll"]), color="#4c72b0")
        if "optimum" in row:
            label = "the best reader" if row is result["rows"][0] else None
            axes.plot(span, (row["optimum"], row["optimum"]), color="black", linewidth=1, label=label)
    axes.axvline(result["original_window"] + 0.5, color="black", linewidth=0.8, linestyle=":", label="trained window")
    axes.set(xlabel="tokens of context seen", ylabel="loss, nats per token")
    log_ticks(axes, [row["high"] for row in result["rows"]])
    axes.set_title(f"{result['run']}\nextend={result['label']}, mean and 95 % interval over documents", fontsize=8)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    write_figure(figure, path)
