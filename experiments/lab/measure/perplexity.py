"""Long-context perplexity of a checkpoint, read as trained or with any extension.

    python -m experiments.perplexity checkpoint=runs/default/rope-nano-s1 extend=interpolate extend.factor=8

Held-out documents are cut into disjoint segments as long as the longest context needs, so that a long document gives
many targets; sums are kept by document, the unit of every interval. A method that depends on the length of the text is
read twice, whole windows at once and as decoded (protocols.py). Results go beside the run that was
measured, in perplexity/, and are read from there when the same is asked again. What each doubling of the context gains
stands beside them, and on data=chains the optimum and the effective context (context.py).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from conf.base import BadInput, Count, Counts, Settings
from conf.compose import command_line
from experiments.lab.measure import context
from experiments.lab.measure.readings import (
    Pass,
    cached_reading,
    choose_passes,
    progress_bar,
    read_request,
    wandb_reading,
)
from experiments.lab.statistics import Estimate, paired_ratio

if TYPE_CHECKING:
    from data.corpus import Documents


class Measurement(Settings):
    """How perplexity is measured, as in conf/perplexity.yaml."""

    protocol: Literal["fixed_targets", "windows", "sliding"] = "fixed_targets"
    reading: Pass = "whole"
    contexts: Counts
    stride: Count
    split: Literal["validation", "test"] = "test"
    segments: Count = 128
    batch_tokens: Count = 16_384


def default_contexts(window: int) -> tuple[int, ...]:
    """Half the window, then doubled up to eight times it."""
    return tuple(max(1, window * 2**power // 2) for power in range(5))


@dataclass(frozen=True)
class Segments:
    """Disjoint stretches of documents: tokens, one (length,) array each, and the document each comes from."""

    tokens: list[np.ndarray]
    owners: list[int]


def cut(documents: "Documents", length: int, limit: int) -> Segments:
    """Cut documents into disjoint segments of `length` tokens, at most `limit`, spread evenly over all there are.

    Raises:
        BadInput: no document is that long.
    """
    places = [
        (i, start) for i in documents.at_least(length) for start in range(0, len(documents[i]) - length + 1, length)
    ]
    if not places:
        longest = max((len(documents[i]) for i in range(len(documents))), default=0)
        raise BadInput(f"contexts need documents of {length} tokens, and the longest held out has {longest}")
    kept = [places[index] for index in np.unique(np.linspace(0, len(places) - 1, min(limit, len(places))).astype(int))]
    return Segments([np.asarray(documents[i][start : start + length]) for i, start in kept], [i for i, _ in kept])


def measure_checkpoint(checkpoint: Path, extend: dict | None, how: Measurement, cache: str, progress=None) -> dict:
    """As `measure_and_place`, without the file."""
    return measure_and_place(checkpoint, extend, how, cache, progress)[0]


def measure_and_place(
    checkpoint: Path, extend: dict | None, how: Measurement, cache: str, progress=None
) -> tuple[dict, Path]:
    """Measure a checkpoint at every context length, and the file it is kept in; what was measured before is read back.

    Args:
        extend: plain settings of an extension, or None for the one it was trained with.

    Returns:
        {"checkpoint", "step", "position", "extend", "rows": [...], "gains": [...]}, a row per context length with
        perplexity, nll, tokens, bits_per_byte, token_set, and sums by document: document, document_nll,
        document_tokens; on data=chains also optimum, effective_context and excess. Of fixed_targets also "gate".
    """
    from experiments.lab.measure.protocols import summarise, token_losses

    def measured(model, config, corpus, where: dict) -> dict:
        segments = cut(corpus.split(how.split), max(how.contexts) + 1, how.segments)
        losses = token_losses(
            model,
            segments.tokens,
            how.contexts,
            how.protocol,
            how.stride,
            as_decoded=how.reading == "decoded",
            batch_tokens=how.batch_tokens,
            progress=progress,
            **where,
        )
        width = corpus.bytes_per_token(how.split)
        sums = [asdict(summarise(each, width)) for each in losses]
        rows = [by_document(row, segments.owners) for row in sums]
        if corpus.language is not None:
            rows = context.with_optimum(rows, losses, segments.tokens, segments.owners, corpus.language)
        result = {"split": how.split, "rows": rows, "gains": context.gains(rows)}
        if how.protocol == "fixed_targets":
            result |= {"window": config.window, "gate": context.gate(rows, config.window)}
        return result

    label = how.protocol + "-decoded" * (how.reading == "decoded")
    return cached_reading("perplexity", checkpoint, extend, how, label, cache, measured)


def by_document(row: dict, owners: list[int]) -> dict:
    """Sums over segments → sums over the documents they come from."""
    sums: dict[int, list[float]] = {}
    for segment, nll, tokens in zip(row["documents"], row["document_nll"], row["document_tokens"], strict=True):
        both = sums.setdefault(owners[segment], [0.0, 0])
        both[0] += nll
        both[1] += tokens
    documents = {"documents": list(sums), "document_nll": [s[0] for s in sums.values()]}
    return row | documents | {"document_tokens": [s[1] for s in sums.values()]}


def table(rows: list[dict], gains: Sequence[dict] = ()) -> str:
    """A line per context length: perplexity, bits per byte of text or the optimum of chains, what the context gains."""
    gained = {gain["to"]: Estimate(gain["value"], gain["low"], gain["high"]) for gain in gains}
    columns = [("context", 8), ("perplexity", 11)]
    columns += [("optimum", 9), ("effective context", 22)] if "optimum" in rows[0] else []
    columns += [("bits/byte", 10)] if rows[0]["bits_per_byte"] is not None else []
    columns += [("targets", 9), ("documents", 10)] + [("gain, nats per token", 24)] * bool(gained)
    lines = [" ".join(f"{title:>{width}}" for title, width in columns)]
    for row in rows:
        cells = {
            "context": str(row["context"]),
            "perplexity": f"{row['perplexity']:.3f}",
            "targets": f"{row['tokens']:,}",
            "documents": str(len(row["documents"])),
            "gain, nats per token": str(gained.get(row["context"], "")),
        }
        if "optimum" in row:
            cells["optimum"] = f"{row['optimum']['perplexity']:.3f}"
            cells["effective context"] = context.format_length(Estimate(**row["effective_context"]), row["context"])
        if row["bits_per_byte"] is not None:
            cells["bits/byte"] = f"{row['bits_per_byte']:.4f}"
        lines.append(" ".join(f"{cells[title]:>{width}}" for title, width in columns))
    return "\n".join(lines)


def notes(result: dict) -> list[str]:
    """What a reader of the table should know: the gate, and whether a model beats the optimum."""
    lines = [context.gate_sentence(result["gate"], result["window"])] if "gate" in result else []
    if "optimum" in result["rows"][0] and (sentence := context.beats_the_optimum(result["rows"])):
        lines.append(sentence)
    return lines


def both_table(whole: list[dict], decoded: list[dict]) -> str:
    """Perplexity of the same targets read both ways, and its ratio with an interval over documents."""
    lines = [f"{'context':>8} {'whole':>11} {'decoded':>11} {'decoded / whole':>22}"]
    for one, other in zip(whole, decoded, strict=True):
        ratio = paired_ratio(other, one)
        lines.append(f"{one['context']:>8} {one['perplexity']:>11.3f} {other['perplexity']:>11.3f} {ratio!s:>22}")
    return "\n".join(lines)


def _main(values: dict, overrides: list[str]) -> None:
    from conf.schema import validate

    asked = read_request(values)
    readings, said = choose_passes(asked, values.pop("reading"))
    values["contexts"] = values["contexts"] or list(default_contexts(asked.trained.original_window))
    if values["stride"] is None:
        values["stride"] = max(1, min(values["contexts"]) // 2)
    results = {}
    for reading in readings:
        how = validate(Measurement, {**values, "reading": reading})
        with progress_bar(asked.trained.name) as progress:
            result, place = measure_and_place(asked.checkpoint, asked.extend, how, asked.cache, progress)
        results[reading] = result["rows"]
        print(f"{result['run']} at step {result['step']}, read with extend={result['label']}, {how.protocol}, "
              f"{how.split}{', as decoded' * (reading == 'decoded')}:", flush=True)  # fmt: skip
        print("\n".join([table(result["rows"], result.get("gains", ())), *notes(result)]))
        if "optimum" in result["rows"][0]:
            title = f"{result['run']}, {how.protocol}"
            context.figure({result["label"]: result["rows"]}, result["original_window"], title, place.with_suffix(""))
            print(f"Figure: {place.with_suffix('')}.png, .svg")
    print(said)
    if len(results) > 1:
        print(both_table(**results))
    if asked.logger.name == "wandb":
        with wandb_reading(asked, result, how.protocol, how) as run:
            for rows in zip(*results.values(), strict=True):
                told = {"context/length": rows[0]["context"]}
                for reading, row in zip(results, rows, strict=True):
                    after = "_decoded" * (reading == "decoded")
                    told[f"context/perplexity{after}"] = row["perplexity"]
                    told[f"context/nll{after}"] = row["nll"] / row["tokens"]
                    if "optimum" in row:
                        told[f"context/effective{after}"] = row["effective_context"]["value"]
                run.log(told)


def main() -> None:
    """The command line."""
    command_line("perplexity", _main)


if __name__ == "__main__":
    main()
