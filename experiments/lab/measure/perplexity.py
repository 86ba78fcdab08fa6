"""Long-context perplexity of a checkpoint, read as trained or with any extension.

    python -m experiments.perplexity checkpoint=runs/default/rope-nano-s1 extend=interpolate extend.factor=8

Held-out documents are cut into disjoint segments as long as the longest context needs, so that a long document gives
many targets; sums are kept by document, the unit of every interval. A method that depends on the length of the text is
read twice, whole windows at once and as decoded (protocols.py). Results go beside the run that was
measured, in perplexity/, and are read from there when the same is asked again.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from conf.base import BadInput, Count, Counts, Settings
from conf.compose import command_line
from experiments.lab.measure.readings import (
    Pass,
    cached_reading,
    choose_passes,
    progress_bar,
    read_request,
    wandb_reading,
)
from experiments.lab.statistics import paired_ratio

if TYPE_CHECKING:
    from data.token_files import Documents


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
    """Measure a checkpoint at every context length; what was measured before is read back.

    Args:
        extend: plain settings of an extension, or None for the one it was trained with.

    Returns:
        {"checkpoint", "step", "position", "extend", "rows": [...]}, a row per context length with perplexity, nll,
        tokens, bits_per_byte, token_set, and sums by document: document, document_nll, document_tokens.
    """
    from experiments.lab.measure.protocols import measure

    def measured(model, config, corpus, where: dict) -> dict:
        segments = cut(corpus.split(how.split), max(how.contexts) + 1, how.segments)
        rows = measure(
            model,
            segments.tokens,
            how.contexts,
            how.protocol,
            how.stride,
            as_decoded=how.reading == "decoded",
            bytes_per_token=corpus.bytes_per_token,
            batch_tokens=how.batch_tokens,
            progress=progress,
            **where,
        )
        return {"split": how.split, "rows": [by_document(asdict(row), segments.owners) for row in rows]}

    label = how.protocol + "-decoded" * (how.reading == "decoded")
    return cached_reading("perplexity", checkpoint, extend, how, label, cache, measured)[0]


def by_document(row: dict, owners: list[int]) -> dict:
    """Sums over segments → sums over the documents they come from."""
    sums: dict[int, list[float]] = {}
    for segment, nll, tokens in zip(row["documents"], row["document_nll"], row["document_tokens"], strict=True):
        both = sums.setdefault(owners[segment], [0.0, 0])
        both[0] += nll
        both[1] += tokens
    documents = {"documents": list(sums), "document_nll": [s[0] for s in sums.values()]}
    return row | documents | {"document_tokens": [s[1] for s in sums.values()]}


def table(rows: list[dict]) -> str:
    """Context length, perplexity, bits per byte and targets, in columns."""
    lines = [f"{'context':>8} {'perplexity':>11} {'bits/byte':>10} {'targets':>9} {'documents':>10}"]
    for row in rows:
        lines.append(
            f"{row['context']:>8} {row['perplexity']:>11.3f} {row['bits_per_byte']:>10.4f} {row['tokens']:>9,} "
            f"{len(row['documents']):>10}"
        )
    return "\n".join(lines)


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
            result = measure_checkpoint(asked.checkpoint, asked.extend, how, asked.cache, progress)
        results[reading] = result["rows"]
        print(f"{result['run']} at step {result['step']}, read with extend={result['label']}, {how.protocol}, "
              f"{how.split}{', as decoded' * (reading == 'decoded')}:", flush=True)  # fmt: skip
        print(table(result["rows"]))
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
                run.log(told)


def main() -> None:
    """The command line."""
    command_line("perplexity", _main)


if __name__ == "__main__":
    main()
