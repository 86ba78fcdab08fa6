"""Long-context perplexity of a checkpoint on held-out text, read as trained or with any extension.

Held-out documents are cut into disjoint segments as long as the longest context needs, so that a long document gives
many targets; sums are kept by document, the unit of every interval. A segment's first token is context alone, so the
separator that opens a document is never a target: perplexity and bits per byte count text and nothing else. The gain of
each doubling of the context is given too, and on data=chains the optimum and the effective context (context.py).
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from conf.base import Count, Counts, Settings
from experiments.lab import tables
from experiments.lab.measure import context
from experiments.lab.measure.losses import LossFile
from experiments.lab.measure.readings import Parts, cached_reading, reading_path
from experiments.lab.measure.request import AutoPrecision, Pass, Split
from experiments.lab.measure.segments import cut
from experiments.lab.measure.subject import open_subject
from experiments.lab.statistics import Estimate, compare


class Measurement(Settings):
    """The settings of a perplexity measurement, as in conf/perplexity.yaml."""

    protocol: Literal["fixed_targets", "windows", "sliding"] = "fixed_targets"
    reading: Pass = "whole"
    contexts: Annotated[Counts, Field(min_length=1)]
    stride: Count
    split: Split = "test"
    segments: Count = 128
    batch_tokens: Count = 16_384
    precision: Annotated[AutoPrecision, Field(exclude=True)] = "auto"
    losses: bool = Field(False, exclude=True)  # those of every target are kept too (losses.py)

    @property
    def label(self) -> str:
        """A short name of the settings."""
        return self.protocol + "-decoded" * (self.reading == "decoded")


def default_contexts(window: int) -> tuple[int, ...]:
    """Half the window, then doubled up to eight times it."""
    return tuple(dict.fromkeys(max(1, window * 2**power // 2) for power in range(5)))


def measure_checkpoint(
    checkpoint: Path, extend: dict | None, settings: Measurement, cache: str, progress=None, data: dict | None = None
) -> dict:
    """As `measure_perplexity`, without the file, for programs: what they read is held to the optimum by a warning."""
    result = measure_perplexity(checkpoint, extend, settings, cache, progress, data)[0]
    for sentence in _impossible(result["rows"]):
        warnings.warn(f"{checkpoint}: {sentence}", stacklevel=2)
    return result


def measure_perplexity(
    checkpoint: Path, extend: dict | None, settings: Measurement, cache: str, progress=None, data: dict | None = None
) -> tuple[dict, Path | None]:
    """Measure a checkpoint at every context length, and the file it is kept in; what was measured before is read back.

    Args:
        extend, data: plain settings of an extension and of a text, as in conf, or None for those it was trained with.

    Returns:
        As cached_reading, with {"split", "rows": [...], "gains": [...]}, a row per context length with perplexity, nll,
        tokens, bits_per_byte (None where tokens stand for no text), token_set, and sums by document: documents,
        document_nll, document_tokens; on data=chains also optimum, effective_context and excess. Of fixed_targets also
        "gate".
    """
    from experiments.lab.measure.protocols import iterate_losses, summarise

    subject = open_subject(checkpoint, extend, cache, data, settings.precision)
    path = reading_path(subject, "perplexity", settings, settings.label)
    parts, kept = Parts(path), LossFile(path, settings.contexts) if settings.losses else None

    def measured(model, config, corpus, device: dict) -> dict:
        longest, width = max(settings.contexts), corpus.bytes_per_token(settings.split)
        segments = cut(corpus.split(settings.split), longest + 1, settings.segments)

        def is_there(length: int) -> bool:
            return str(length) in parts.values and (kept is None or kept.has(length))

        left = [length for length in settings.contexts if not is_there(length)]
        by_context = iterate_losses(
            model,
            segments.tokens,
            left,
            settings.protocol,
            settings.stride,
            region=longest,
            as_decoded=settings.reading == "decoded",
            batch_tokens=settings.batch_tokens,
            progress=progress,
            **device,
        )
        for losses in by_context if left else ():
            row = by_document(asdict(summarise(losses, width)), segments.owners)
            if corpus.language is not None:
                (row,) = context.with_optimum([row], [losses], segments.tokens, segments.owners, corpus.language)
            if kept is not None:
                kept.add(losses, segments)
            parts.add(str(row["context"]), row)
        rows = [parts.values[str(length)] for length in settings.contexts]
        result = {"split": settings.split, "rows": rows, "gains": context.gains(rows)}
        if settings.protocol == "fixed_targets":
            result |= {"window": config.window, "gate": context.gate([rows], config.window)}
        return result

    return cached_reading("perplexity", subject, settings, settings.label, (settings.split,), measured, kept)


def by_document(row: dict, owners: list[int]) -> dict:
    """Sums over segments → sums over the documents they come from."""
    sums: dict[int, list[float]] = {}
    for segment, nll, tokens in zip(row["documents"], row["document_nll"], row["document_tokens"], strict=True):
        document = sums.setdefault(owners[segment], [0.0, 0])
        document[0] += nll
        document[1] += tokens
    nats, counts = zip(*sums.values(), strict=True)
    return row | {"documents": list(sums), "document_nll": list(nats), "document_tokens": list(counts)}


def format_table(rows: list[dict], gains: Sequence[dict] = ()) -> str:
    """Format a line per context length: perplexity, bits per byte of text or the optimum of chains, and the gain."""
    gained = {gain["to"]: Estimate.of(gain) for gain in gains}
    columns = {"context": "{context}", "perplexity": "{perplexity:.3f}"}
    if "optimum" in rows[0]:
        columns["optimum"] = "{optimum[perplexity]:.3f}"
        columns["effective context"] = lambda row: context.format_length(
            Estimate.of(row["effective_context"]), row["context"]
        )
    if rows[0]["bits_per_byte"] is not None:
        columns["bits/byte"] = "{bits_per_byte:.4f}"
    columns |= {"targets": "{tokens:,}", "documents": lambda row: str(len(row["documents"]))}
    if gained:
        columns["gain, nats per token"] = lambda row: str(gained.get(row["context"], ""))
    return tables.format_rows(rows, columns)


def notes(result: dict) -> list[str]:
    """Notes on a table: the gate, and whether a model beats the optimum."""
    lines = [context.gate_sentence(result["gate"], result["window"])] if "gate" in result else []
    return [*lines, *_impossible(result["rows"])]


def _impossible(rows: list[dict]) -> list[str]:
    """A sentence where a model beats the optimum by more than chance, or none."""
    sentence = context.beats_the_optimum({row["context"]: row["excess"] for row in rows if "excess" in row})
    return [sentence] if sentence else []


def format_both(whole: list[dict], decoded: list[dict]) -> str:
    """Perplexity of the same targets read both ways, and its ratio with an interval over documents."""
    rows = [
        [one["context"], f"{one['perplexity']:.3f}", f"{other['perplexity']:.3f}", compare([other], [one]).ratio]
        for one, other in zip(whole, decoded, strict=True)
    ]
    return tables.format_table(["context", "whole", "decoded", "decoded / whole"], rows)
