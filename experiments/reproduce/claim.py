"""Claims: a statement of a paper, the arms that test it, and the rule that judges them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from experiments.lab.canvas import Drawing, add_title
from experiments.lab.statistics import Comparison, holm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.lab.plan import Arms
    from experiments.reproduce.evidence import Evidence

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a statement and the numbers behind it."""

    word: Literal["reproduced", "not reproduced", "inconclusive"]
    reason: str


def verdict(reproduced: bool, not_reproduced: bool, reason: str) -> Verdict:
    """Reproduced, else not reproduced, else inconclusive."""
    return Verdict(REPRODUCED if reproduced else NOT_REPRODUCED if not_reproduced else INCONCLUSIVE, reason)


@dataclass
class Findings:
    """The measurements of a claim: table rows by column heading, and the curves of the figure."""

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
    paper: ClassVar[str]  # the paper's numbers, for comparison
    settle: ClassVar[str]  # what it would take to settle it
    needs: ClassVar[Literal["text", "chains", "tasks"] | None] = None  # the corpus without which its arms ask nothing
    not_at: ClassVar[tuple[str, ...]] = ()  # scales at which claim=all leaves it out, as it cannot be settled there
    rewritten: ClassVar[str] = ""  # what of the rule was written anew, before which runs, and why

    def arms(self, window: int) -> dict[str, list[str]]:
        """The arms to train: overrides by name, for a window in tokens.

        An arm with `checkpoint=@<other arm>` is fine-tuned from the end of that arm's run of the same seed, and one
        with `checkpoint=@<other arm>/<share>` from its snapshot nearest to that share of its steps. Where its overrides
        say nothing, batch, optimizer, validation and snapshots are as experiments/lab/finetuning.py has them, and
        everything else is the other arm's.
        """
        return {}

    def measure_gate(self, evidence: "Evidence", arms: "Arms") -> dict | None:
        """Measure whether the models can answer the question: as gate.py has it, whether they use their window."""
        from experiments.reproduce.gate import measure_gate

        return measure_gate(evidence, arms)

    def measure(self, evidence: "Evidence") -> Findings:
        """Measure the trained models."""
        raise NotImplementedError

    def judge(self, findings: Findings) -> dict[str, Verdict]:
        """Judge every part of the statement; the first verdict is the claim's."""
        raise NotImplementedError

    def plot(self, findings: Findings) -> "tuple[Figure, str]":
        """The figure without its title, and its caption."""
        raise NotImplementedError

    def draw(self, findings: Findings, verdicts: dict[str, Verdict]) -> Drawing:
        """The figure with the claim and what became of it above, and its caption."""
        figure, caption = self.plot(findings)
        counted = Counter(verdict.word for verdict in verdicts.values())
        words = ", ".join(f"{count} {word}" if len(verdicts) > 1 else word for word, count in counted.items())
        add_title(figure, f"Claim: {self.title}\nVerdict: {words}", caption)
        return Drawing(figure, self.title, self.statement)


def adjusted(rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """Rows with p-values adjusted over each column as one family (Holm), as "<column>: p" and "<column> is"."""
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
