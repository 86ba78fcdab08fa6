"""A claim's result as plain values for JSON and as text to be read."""

import json
import math
from dataclasses import asdict
from typing import Any

from experiments.claims.claim import Found
from experiments.statistics import Comparison, Estimate


def plain(value: Any):
    """Measured values as JSON has them: keys are text, an interval without end is null."""
    if isinstance(value, Comparison):
        return plain({"ratio": list(asdict(value.ratio).values()), **asdict(value)})
    if isinstance(value, Estimate):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {k if isinstance(k, str) else json.dumps(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(result: dict, found: Found) -> str:
    """A claim to be read: what was said, what came of it, and the table."""
    head = [result["title"], f"Source: {result['source']}", f"Claim: {result['statement']}", f"Rule: {result['rule']}"]
    parts = [f"- {each['part']}: {each['word'].upper()}. {each['reason']}" for each in result["parts"]]
    scale = result["scale"]
    size = "computed" if scale is None else (
        f"{scale['model']}, window {scale['window']}, {scale['tokens'] / 1e6:.1f} M tokens of {scale['data']} a run, "
        f"{scale['seeds']} seeds"
    )  # fmt: skip
    tail = [
        f"In the paper: {result['paper']}",
        f"Scale: {size}; {result['device']}",
        f"To settle it: {result['settle']}",
    ]
    return "\n".join([*head, "", *parts, "", table(found.rows), "", *tail]) + "\n"


def table(rows: list[dict]) -> str:
    """Rows in columns; those with other columns begin a table of their own."""
    blocks: list[list[dict]] = []
    for row in rows:
        if not blocks or list(blocks[-1][0]) != list(row):
            blocks.append([])
        blocks[-1].append(row)
    return "\n\n".join(_block(block) for block in blocks)


def _block(rows: list[dict]) -> str:
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cell(value) -> str:
    if isinstance(value, Comparison):
        return str(value.ratio)
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
