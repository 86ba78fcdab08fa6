"""LongPPL: the perplexity of key tokens, which far context makes much likelier (Fang et al. 2025, arXiv 2410.23771).

An evaluator reads every text of R tokens twice: whole, so that target t sees t tokens, and through short windows of
K + S - 1 tokens moved by S, so that it sees K … K + S - 1 of them (`sliding`, windows.py). Target t ≥ K is a key token
if, in nats of the evaluator,

    loss_short - loss_full > gain   and   loss_full < loss

with 2 and 2, K = 4096 and S = 1024 in the paper. LongPPL is exp(Σ loss / tokens) over the key tokens, with the losses
of the model that is measured, which reads each text whole. Beside it stands the perplexity of all targets from K on.
An evaluator that is the model itself, read with the extension in question, chooses other tokens for each method:
methods compare under one evaluator.
"""

import hashlib
import math
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from conf.base import BadInput, Count, Settings
from experiments.lab import tables
from experiments.lab.measure.context import beats_the_optimum, excess
from experiments.lab.measure.losses import LossFile
from experiments.lab.measure.optimum import optimal_losses
from experiments.lab.measure.readings import cached_reading, reading_path
from experiments.lab.measure.request import AutoPrecision, Split
from experiments.lab.measure.segments import Segments, cut
from experiments.lab.measure.subject import Subject, open_subject
from experiments.lab.measure.windows import Protocol
from experiments.lab.statistics import mean


class Contrast(Settings):
    """What an evaluator reads: texts of `length` tokens, whole and after a short context."""

    length: Count
    short: Count
    stride: Count
    split: Split = "test"
    segments: Count = 128
    batch_tokens: Count = 16_384
    precision: Annotated[AutoPrecision, Field(exclude=True)] = "auto"

    @model_validator(mode="after")
    def _fits(self):
        if self.window > self.length:
            raise ValueError(
                f"short={self.short} and stride={self.stride} make windows of {self.window} tokens, and the texts have "
                f"length={self.length}"
            )
        return self

    @property
    def window(self) -> int:
        """Tokens of a short window."""
        return self.short + self.stride - 1


class LongPPL(Contrast):
    """The settings of LongPPL, as in conf/longppl.yaml."""

    gain: float = 2.0
    loss: float = Field(2.0, gt=0)

    @property
    def contrast(self) -> Contrast:
        return Contrast(**{key: getattr(self, key) for key in Contrast.model_fields})


class Layout(NamedTuple):
    """How targets are read (windows.py)."""

    protocol: Protocol
    context: int
    stride: int


def key_tokens(short: np.ndarray, full: np.ndarray, gain: float, loss: float) -> np.ndarray:
    """Which targets are key tokens, by an evaluator's losses after a short and after the full context, same shapes."""
    return (short - full > gain) & (full < loss)


def measure_longppl(
    checkpoint: Path,
    extend: dict | None,
    settings: LongPPL,
    cache: str,
    progress=None,
    data: dict | None = None,
    evaluator: Path | None = None,
    evaluator_extend: dict | None = None,
) -> tuple[dict, Path | None]:
    """Measure LongPPL of a checkpoint, or read it back; returns the result and its file.

    Args:
        extend, data: plain settings of an extension and of a text, or None for those it was trained with.
        evaluator, evaluator_extend: the checkpoint that chooses the key tokens and how it is read, None for as it was
            trained; without either it is the model itself, read as it is measured.

    Returns:
        As cached_reading, with {"split", "length", "short", "stride", "gain", "loss", "evaluator", "share", "key",
        "all"}. "key", None if there is no such token, and "all": {"perplexity", "interval", "nll", "tokens",
        "token_set", "documents", "document_nll", "document_tokens"}; "all" of data=chains also has "optimum", the
        perplexity of the best reader, and "excess", as context.excess. (Of key tokens the best reader is not the best:
        they were chosen by how they came out.)

    Raises:
        BadInput: the evaluator has other tokens, or gives losses that are not finite.
    """
    subject = open_subject(checkpoint, extend, cache, data, settings.precision)
    judge = subject
    if evaluator is not None or evaluator_extend is not None:
        judge = open_subject(evaluator or checkpoint, evaluator_extend, cache, data, settings.precision)
        _check_tokens(judge, subject)

    def measured(model, config, corpus, device: dict) -> dict:
        segments = cut(corpus.split(settings.split), settings.length + 1, settings.segments)
        options = {"batch_tokens": settings.batch_tokens, "progress": progress, **device}
        contrast, after_short = settings.contrast, Layout("sliding", settings.window, settings.stride)
        whole = Layout("fixed_targets", settings.length, settings.length - settings.short + 1)
        short = _losses(judge, subject, contrast, after_short, segments, options)
        full = _losses(judge, subject, contrast, whole, segments, options)
        own = _losses(subject, subject, contrast, whole, segments, options)
        key = key_tokens(short, full, settings.gain, settings.loss)
        about = {name: getattr(settings, name) for name in ("split", "length", "short", "stride", "gain", "loss")}
        about["evaluator"] = judge.identity | {"checkpoint": str(judge.checkpoint), "label": judge.config.extend.label}
        rows = {"key": _row(own, key, segments), "all": _row(own, np.ones_like(key), segments)}
        if corpus.language is not None:
            positions = np.arange(settings.short, settings.length + 1)  # each sees the text before it
            best = optimal_losses(corpus.language, np.stack(segments.tokens), positions, positions)
            optimum = _row(best, np.ones_like(key), segments)
            over = np.subtract(rows["all"]["document_nll"], optimum["document_nll"])
            rows["all"] |= {
                "optimum": optimum["perplexity"],
                "excess": excess(over, np.array(optimum["document_tokens"])),
            }
        return about | {"share": float(key.mean()), **rows}

    label, chosen_by = f"{settings.split}{settings.length}", judge.key("longppl", settings.contrast)
    return cached_reading("longppl", subject, settings, label, (settings.split,), measured, evaluator=chosen_by)


def _check_tokens(judge: Subject, subject: Subject) -> None:
    """Refuse an evaluator whose tokens are not those of the model."""
    of = [judge.record, subject.record]
    tokens = [(record.get("tokenizer"), record["vocabulary"], record["separator"]) for record in of]
    if tokens[0] != tokens[1] and of[0]["corpus"] != of[1]["corpus"]:  # older runs do not know their tokenizer
        raise BadInput(
            f"evaluator={judge.checkpoint} has another tokenizer ({of[0]['vocabulary']} tokens) than "
            f"checkpoint={subject.checkpoint} ({of[1]['vocabulary']}): key tokens are tokens of both"
        )


def _losses(
    reader: Subject, subject: Subject, settings: Contrast, layout: Layout, segments: Segments, options: dict
) -> np.ndarray:
    """Losses of the targets from K on, (S, N), by a reader of the subject's text, read back or measured and kept.

    So other thresholds, and other models under one evaluator, cost nothing more.
    """
    from experiments.lab.measure.protocols import token_losses

    protocol, context, stride = layout
    label = f"{protocol}-{settings.split}{settings.length}"
    kept = LossFile(reading_path(reader, "longppl", settings, label, text=subject.text), [context])
    if not kept.whole:
        options = options | {"region": settings.length}
        (losses,) = token_losses(reader.model(), segments.tokens, [context], protocol, stride, **options)
        kept.add(losses, segments)
    if not kept.whole:
        raise BadInput(
            f"checkpoint={reader.checkpoint} gives a loss that is not finite: nothing is kept of this reading"
        )
    return kept.arrays[f"nll_{context}"][:, kept.arrays[f"positions_{context}"] >= settings.short]


def _row(nll: np.ndarray, chosen: np.ndarray, segments: Segments) -> dict | None:
    """Sums over the chosen targets of every document, (S, N) both, and their perplexity; None of none."""
    documents, place = np.unique(segments.owners, return_inverse=True)
    sums, counts = np.zeros(len(documents)), np.zeros(len(documents), dtype=np.int64)
    np.add.at(sums, place, np.where(chosen, nll, 0).sum(axis=1, dtype=np.float64))
    np.add.at(counts, place, chosen.sum(axis=1))
    documents, sums, counts = (column[counts > 0] for column in (documents, sums, counts))
    if not len(documents):
        return None
    perplexity = mean(sums, counts).exp().plain()
    return {
        "perplexity": perplexity["value"],
        "interval": [perplexity["low"], perplexity["high"]],
        "nll": math.fsum(sums),
        "tokens": int(counts.sum()),
        "token_set": _fingerprint(chosen, segments),
        "documents": documents.tolist(),
        "document_nll": sums.tolist(),
        "document_tokens": counts.tolist(),
    }


def _fingerprint(chosen: np.ndarray, segments: Segments) -> str:
    """The sha256 of the stretches of text and of which of their targets are chosen: equal hash, equal targets."""
    digest = hashlib.sha256(np.packbits(chosen).tobytes())
    for owner, tokens in zip(segments.owners, segments.tokens, strict=True):
        digest.update(np.array([owner, *tokens], dtype="<i8").tobytes())
    return digest.hexdigest()


def format_table(result: dict) -> str:
    """Format the perplexity of key tokens and of all targets in columns, and what key tokens are in a sentence."""
    rows = []
    for name, row in (("key tokens", result["key"]), ("all", result["all"])):
        if row is not None:
            interval = "" if None in row["interval"] else "[{:.3f}, {:.3f}]".format(*row["interval"])
            rows.append([name, f"{row['tokens']:,}", f"{row['perplexity']:.3f}", interval, len(row["documents"])])
    table = tables.format_table(["targets", "tokens", "perplexity", "interval", "documents"], rows)
    judge, first = result["evaluator"], result["short"] - 1
    share = "No" if result["key"] is None else f"{100 * result['share']:.2f} % of the"
    if "optimum" in result["all"]:
        table += f"\nThe best reader has {result['all']['optimum']:.3f} on all targets."
        if sentence := beats_the_optimum({result["length"]: result["all"]["excess"]}):
            table += f"\n{sentence}"
    return (
        f"{table}\n{share} targets after the first {first} tokens are key tokens: to {judge['run']}, read with "
        f"extend={judge['label']}, they cost less than {result['loss']:g} nats after {result['length']} tokens of "
        f"text, and more than {result['gain']:g} nats more after {result['short']} to {first + result['stride']}."
    )
