"""What a claim is: a statement of a paper, the arms that test it, and the rule that says what came of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from experiments.lab.statistics import Comparison, holm

if TYPE_CHECKING:
    from experiments.lab.canvas import Drawing
    from experiments.reproduce.evidence import Evidence

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """What came of a statement, and the numbers that say so."""

    word: Literal["reproduced", "not reproduced", "inconclusive"]
    reason: str


def verdict(reproduced: bool, not_reproduced: bool, reason: str) -> Verdict:
    """Reproduced, else not reproduced, else inconclusive."""
    return Verdict(REPRODUCED if reproduced else NOT_REPRODUCED if not_reproduced else INCONCLUSIVE, reason)


@dataclass
class Findings:
    """What was measured: the rows of a table, by column heading, and what a figure needs beside them."""

    rows: list[dict[str, Any]]
    curves: dict[str, Any] = field(default_factory=dict)

    def row(self, **cells) -> dict[str, Any]:
        """The one row with these cells."""
        (match,) = [row for row in self.rows if all(row.get(key) == value for key, value in cells.items())]
        return match


class Claim:
    """A statement with its source, the arms that test it, and a rule for the verdict that was written before the runs.

    A claim without arms is computed, not trained.
    """

    title: ClassVar[str]
    source: ClassVar[str]
    statement: ClassVar[str]
    rule: ClassVar[str]  # `judge`, in words
    paper: ClassVar[str]  # the paper's own numbers, to stand beside ours
    settle: ClassVar[str]  # what it would take to settle it
    needs_text: ClassVar[bool] = False  # whether its arms make no sense on a corpus of something else

    def arms(self, window: int) -> dict[str, list[str]]:
        """What is trained, by name: the overrides in which arms differ, for a window of so many tokens.

        An arm with `checkpoint=@<other arm>` is fine-tuned from the end of that arm's run with the same seed, at the
        window, with the extension, the steps and the optimizer settings that it says; model, position, frequencies
        and whatever else it does not say are those of the other arm, batch and optimizer customary
        (experiments/lab/finetuning.py).
        """
        return {}

    def measure(self, evidence: "Evidence") -> Findings:
        """Read the trained models."""
        raise NotImplementedError

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        """A verdict on every part of the statement; the first is the verdict on the claim."""
        raise NotImplementedError

    def draw(self, findings: Findings) -> "Drawing":
        """The figure."""
        raise NotImplementedError


def adjusted(rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """Rows with what every comparison shows once its whole column is one family (Holm): "<column>: p" and "… is"."""
    values = {
        column: iter(holm([row[column].p for row in rows if isinstance(row[column], Comparison)])) for column in columns
    }
    adjusted_rows = []
    for row in rows:
        cells = {}
        for name, value in row.items():
            cells[name] = value
            if name in columns:
                p = next(values[name]) if isinstance(value, Comparison) else None
                cells |= {f"{name}: p": p, f"{name} is": None if p is None else value.word(p)}
        adjusted_rows.append(cells)
    return adjusted_rows
