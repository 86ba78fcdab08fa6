"""The results of the tasks as a table and sentences."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from experiments.lab.tables import format_table
from experiments.tasks.accuracy import FIT, fitted
from experiments.tasks.published import published_share

if TYPE_CHECKING:
    from experiments.tasks.accuracy import Measured

READS = 0.9  # share of exact answers from which a scheme is said to read a range


def summary_rows(measured: "Measured") -> list[dict]:
    """A row for each task, scheme and range: {"task", "scheme", "low", "high", "exact", "interval": Wilson's, over all
    seeds, "by_seed", "published": the paper's share, or None}.
    """
    rows = []
    for task, arms in measured.items():
        for scheme, ranges in arms.items():
            for place, one in enumerate(ranges):
                row = {"task": task, "scheme": scheme, "low": one.low, "high": one.high, "exact": one.pooled.value}
                row |= {"interval": asdict(one.pooled), "by_seed": one.by_seed}
                rows.append(row | {"published": published_share(task, scheme, place, one.high)})
    return rows


def table(measured: "Measured") -> str:
    """Exact answers in per cent by task and scheme, a column for each range with Wilson's interval, the least and the
    most of the seeds, and the paper's share.
    """
    rows = summary_rows(measured)
    highs = sorted({row["high"] for row in rows})
    head = ["task", "scheme", *(cell for high in highs for cell in (f"to {high}", "95 %", "seeds", "paper"))]
    cells: dict[tuple[str, str], dict[int, list]] = {}
    for row in rows:
        low, high = (100 * row["interval"][end] for end in ("low", "high"))
        seeds = f"{100 * min(row['by_seed']):.1f}-{100 * max(row['by_seed']):.1f}"
        paper = None if row["published"] is None else f"{100 * row['published']:.1f}"
        line = [f"{100 * row['exact']:.1f}", f"[{low:.1f}, {high:.1f}]", seeds, paper]
        cells.setdefault((row["task"], row["scheme"]), {})[row["high"]] = line
    lines = [
        [task, scheme, *(cell for high in highs for cell in by_high.get(high, [None] * 4))]
        for (task, scheme), by_high in cells.items()
    ]
    return f"Exact answers in per cent, by the longest question of a range:\n{format_table(head, lines)}"


def sentences(measured: "Measured") -> str:
    """For each task, which schemes read the longest range, and which had not learned the range of training."""
    lines = []
    for task, arms in measured.items():
        learned = {scheme: ranges for scheme, ranges in arms.items() if len(fitted(ranges[0])) == len(ranges[0].exact)}
        last = next(iter(arms.values()))[-1]
        readers = [
            f"{scheme} ({ranges[-1].pooled.value:.1%})" for scheme, ranges in learned.items()
            if ranges[-1].pooled.low > READS
        ]  # fmt: skip
        line = (
            f"{task}: at {last.low} to {last.high} tokens more than {READS:.0%} exact: {', '.join(readers) or 'none'}."
        )
        if unlearned := [scheme for scheme in arms if scheme not in learned]:
            line += f" Not {FIT:.0%} exact in the range of training, by some seed: {', '.join(unlearned)}."
        lines.append(line)
    return "\n".join(lines)
