"""A claim's result as plain values for JSON and as a text page."""

import json
import math
from dataclasses import asdict
from typing import Any

from experiments.lab.statistics import Comparison, Estimate
from experiments.lab.tables import format_table
from experiments.reproduce.claim import Findings
from experiments.reproduce.gate import describe_gate


def plain(value: Any):
    """Convert measured values for JSON: keys become text, an infinite end of an interval null."""
    if isinstance(value, Comparison):
        return plain({"ratio": list(asdict(value.ratio).values()), **asdict(value)})
    if isinstance(value, Estimate):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {k if isinstance(k, str) else json.dumps(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(result: dict, findings: Findings) -> str:
    """The text page of a claim: statement, verdicts and table."""
    head = [result["title"], f"Source: {result['source']}", f"Claim: {result['statement']}", f"Rule: {result['rule']}"]
    head += [f"Changed before these runs: {result['rewritten']}"] if result.get("rewritten") else []
    head += ["", describe_gate(result["gate"])] if result.get("gate") else []
    parts = [f"- {part['part']}: {part['word'].upper()}. {part['reason']}" for part in result["parts"]]
    tail = [
        f"In the paper: {result['paper']}",
        f"Scale: {size(result['scale'])}; {result['device']}",
        f"To settle it: {result['settle']}",
    ]
    return "\n".join([*head, "", *parts, "", table(findings.rows), "", *tail]) + "\n"


def size(scale: dict | None) -> str:
    """Describe the models of a result: shape, window, tokens and seeds."""
    if scale is None:
        return "computed, nothing trained"
    return (
        f"{scale['model']}, window {scale['window']}, {scale['tokens'] / 1e6:.1f} M tokens of {scale['data']} a run, "
        f"{scale['seeds']} seed{'s' * (scale['seeds'] > 1)}"
    )


def table(rows: list[dict]) -> str:
    """Format rows in columns; rows with other columns begin a new table."""
    return "\n\n".join(
        format_table(list(block[0]), [map(cell, row.values()) for row in block]) for block in blocks(rows)
    )


def blocks(rows: list[dict]) -> list[list[dict]]:
    """Consecutive rows that have the same columns."""
    parts: list[list[dict]] = []
    for row in rows:
        if not parts or list(parts[-1][0]) != list(row):
            parts.append([])
        parts[-1].append(row)
    return parts


def cell(value) -> str:
    """Format a value of a row, measured or read back from JSON (where ends of no interval are null)."""
    if isinstance(value, Comparison):
        return str(value.ratio)
    if isinstance(value, dict):  # of JSON, a comparison or an estimate
        estimate = dict(zip(("value", "low", "high"), value["ratio"], strict=True)) if "ratio" in value else value
        return str(Estimate.of(estimate))
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
