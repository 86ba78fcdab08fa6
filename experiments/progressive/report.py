"""The results of a progressive extension: readings compared in pairs over documents, as a table and sentences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.lab.measure.context import format_length
from experiments.lab.statistics import Estimate, compare
from experiments.lab.tables import format_table

BRIEF = ("context", "perplexity", "nll", "tokens", "token_set", "effective_context")  # the last on chains alone


@dataclass(frozen=True)
class PathReading:
    """A reading on a path (base, progressive, recovered or direct), its factor, and the steps of tuning so far.

    rows: one per context length, as measure_checkpoint gives them.
    """

    name: str
    factor: int
    steps: int
    rows: list[dict]

    @property
    def label(self) -> str:
        return self.name if self.name == "base" else f"{self.name} x{self.factor}, {self.steps} steps"

    @property
    def brief(self) -> list[dict]:
        """Rows without their sums by document."""
        return [{key: row[key] for key in BRIEF if key in row} for row in self.rows]


def last(readings: Sequence[PathReading], name: str) -> PathReading:
    """The last reading of a path."""
    return [reading for reading in readings if reading.name == name][-1]


def path_ratios(readings: Sequence[PathReading]) -> dict[str, dict[int, dict]]:
    """Ratios of perplexities by context, {"value", "low", "high"}, of the ends of the paths and the recovery."""
    pairs = {
        "progressive / direct": (last(readings, "progressive"), last(readings, "direct")),
        "recovered / progressive": (last(readings, "recovered"), last(readings, "progressive")),
        "recovered / base": (last(readings, "recovered"), last(readings, "base")),
    }
    return {
        name: {row["context"]: compare([row], [other]).ratio.plain() for row, other in zip(a.rows, b.rows, strict=True)}
        for name, (a, b) in pairs.items()
    }


def table(readings: Sequence[PathReading]) -> str:
    """Perplexity by reading (rows) and context (columns), on the same targets; on chains effective context too."""
    text = _by_context(readings, lambda row: f"{row['perplexity']:.3f}")
    if "effective_context" not in readings[0].rows[0]:
        return text
    known = _by_context(readings, lambda row: format_length(Estimate.of(row["effective_context"]), row["context"]))
    return f"{text}\n\nEffective context: tokens with which the best reader has the loss of the model.\n\n{known}"


def _by_context(readings: Sequence[PathReading], cell: Callable[[dict], str]) -> str:
    head = ["", "factor", "steps", *(row["context"] for row in readings[0].rows)]
    return format_table(head, [[r.name, r.factor, r.steps, *map(cell, r.rows)] for r in readings])


def sentences(result: dict) -> str:
    """Sentences on whether the stages beat the direct path, and on the gain of the recovery."""
    window, longest, ratios = result["window"], result["window"] * result["factors"][-1], result["ratios"]

    def at(name: str, context: int) -> Estimate:
        return Estimate.of(ratios[name][context])

    ratio = at("progressive / direct", longest)
    verdict = "better" if ratio.high < 1 else "worse" if ratio.low > 1 else "not shown to differ"
    return (
        f"At {longest} tokens, after {sum(result['steps'])} steps of fine-tuning either way, progressive is {ratio} of "
        f"direct: {verdict}.\n"
        f"At {window} tokens recovered is {at('recovered / progressive', window)} of long factors alone, and "
        f"{at('recovered / base', window)} of the base model."
    )
