"""The readings of every arm of a study over its seeds, and their comparisons.

Comparisons are paired over documents, and with several seeds over seeds too, because all readings of a study score
the same targets. `extrapolation` at a longer window is the base model before fine-tuning, and after it the base model
fine-tuned there directly.
"""

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import mean, median

from experiments.extend.arms import CONTROL, DECODED, PLAIN, Study, method_name
from experiments.lab.measure.context import gate
from experiments.lab.statistics import Comparison, compare
from experiments.lab.statistics import mean as document_mean


@dataclass(frozen=True)
class Measured:
    """The measurements of one seed's model.

    rows: one per context length, as measure_checkpoint gives them; passkey: one per length, as measure_passkey does.
    """

    seed: int
    rows: list[dict]
    passkey: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """A measurement of an arm: scheme, method, factor (1 if it has none), steps of fine-tuning, a model for each seed.

    arm: the method, with DECODED appended if it depends on the length of the text and was read as decoded.
    """

    position: str
    arm: str
    factor: int
    steps: int
    models: list[Measured]

    @property
    def contexts(self) -> list[int]:
        return [row["context"] for row in self.models[0].rows]

    def at(self, context: int) -> list[dict]:
        """The rows at a context length, one for each seed."""
        return [next(row for row in model.rows if row["context"] == context) for model in self.models]

    def perplexity(self, context: int) -> float:
        """The geometric mean over seeds."""
        return math.exp(mean(math.log(row["perplexity"]) for row in self.at(context)))

    def effective_context(self, context: int) -> float | None:
        """The geometric mean over seeds; None where the data has no known optimum (lab/measure/context.py)."""
        rows = self.at(context)
        if "effective_context" not in rows[0]:
            return None
        return math.exp(mean(math.log(row["effective_context"]["value"]) for row in rows))

    @property
    def passkey_lengths(self) -> list[int]:
        return [row["length"] for row in self.models[0].passkey]

    def keys_found(self, length: int) -> float:
        """The share of exact matches at a length, the mean over seeds."""
        return mean(row["exact"]["value"] for model in self.models for row in model.passkey if row["length"] == length)

    def k_max_by_seed(self, length: int) -> list[dict]:
        """PI's k_max at this length, {"value", "low", "high"} for each seed; empty if it was not measured there."""
        return [row["k_max_20%"] for model in self.models for row in model.passkey if row["length"] == length]

    def k_max(self, length: int) -> dict | None:
        """k_max with its interval; of several seeds the median, the least and the most; None if not measured there."""
        seeds = self.k_max_by_seed(length)
        if len(seeds) <= 1:
            return seeds[0] if seeds else None
        values = [seed["value"] for seed in seeds]
        return {"value": median(values), "low": min(values), "high": max(values)}

    @property
    def plain(self) -> list[dict]:
        """Plain values for results.json, one for each seed."""
        about = {"position": self.position, "arm": self.arm, "factor": self.factor, "steps": self.steps}
        return [about | asdict(model) for model in self.models]


@dataclass(frozen=True)
class Findings:
    """All readings of a study of models trained on `window` tokens."""

    window: int
    study: Study
    readings: list[Reading]
    gates: list[Reading]  # of the base models at their window and half of it, one for each scheme

    @cached_property
    def _index(self) -> dict[tuple, Reading]:
        return {(r.position, r.arm, r.factor, r.steps): r for r in self.readings}

    @property
    def contexts(self) -> list[int]:
        return self.readings[0].contexts

    @property
    def seeds(self) -> list[int]:
        return [model.seed for model in self.readings[0].models]

    def reach(self, factor: int) -> int:
        """The longest context measured within the window of a factor, most often all of it; else the shortest."""
        return max((c for c in self.contexts if c <= self.window * factor), default=min(self.contexts))

    def get(self, position: str, method: str, factor: int, steps: int) -> Reading | None:
        """The reading of a method at a factor after these steps; a method without a factor has one reading for all."""
        return self._index.get((position, method, factor, steps)) or self._index.get((position, method, 1, steps))

    def base(self, position: str) -> Reading:
        """The reading of the base model as trained."""
        return self._index[position, PLAIN, 1, 0]

    def gate(self, position: str) -> dict:
        """Whether the base models of a scheme use their window, as context.gate gives it."""
        read = next(reading for reading in self.gates if reading.position == position)
        return gate([model.rows for model in read.models], max(read.contexts))

    @property
    def steps(self) -> tuple[int, ...]:
        return (0, *self.study.steps)

    def methods(self, position: str) -> list[str]:
        """The methods of a scheme in the order of the settings, the control last."""
        methods = dict.fromkeys(reading.arm for reading in self.readings if reading.position == position)
        return sorted(methods, key=CONTROL.__eq__)

    @cached_property
    def ordered(self) -> list[Reading]:
        """All readings, those of a scheme by window, then method, then steps."""
        methods = {position: self.methods(position) for position in self.study.positions}
        positions = list(self.study.positions)
        return sorted(
            self.readings,
            key=lambda r: (positions.index(r.position), r.factor, methods[r.position].index(r.arm), r.steps),
        )

    def against_plain(self, position: str, method: str, factor: int, steps: int) -> Comparison | None:
        """A method with extrapolation after as many steps, at the longer window; None if one is missing."""
        reading, plain = (self.get(position, arm, factor, steps) for arm in (method, PLAIN))
        if reading is None or plain is None or reading is plain:
            return None
        return compare(reading.at(self.reach(factor)), plain.at(self.reach(factor)))

    @cached_property
    def twice(self) -> set[str]:
        """The methods that depend on the length of the text and were read both whole and as decoded."""
        return {reading.arm.removesuffix(DECODED) for reading in self.readings if reading.arm.endswith(DECODED)}

    def name(self, method: str) -> str:
        """The name of a method in tables, with a mark if its losses differ between whole windows and decoding."""
        return method_name(method) + "*" * (method in self.twice)

    @property
    def widest(self) -> int:
        """The length of the longest name."""
        return max(14, *(len(self.name(reading.arm)) for reading in self.readings))

    def by_steps(self) -> list[tuple[str, str, int]]:
        """The rows of a table by steps: scheme, method, factor."""
        return [(position, method, factor) for position in self.study.positions for factor in sorted(self.study.factors)
                for method in self.methods(position)]  # fmt: skip


def summarise(results: dict) -> dict:
    """Plain results of a study without sums by document; each perplexity has its interval over documents instead."""
    return results | {
        "readings": [reading | {"rows": [_summary(row) for row in reading["rows"]]} for reading in results["readings"]]
    }


def _summary(row: dict) -> dict:
    perplexity = document_mean(row["document_nll"], row["document_tokens"]).exp().plain()
    summary = {key: value for key, value in row.items() if not key.startswith("document")}
    if "optimum" in row:
        summary["optimum"] = {"perplexity": row["optimum"]["perplexity"]}
    return summary | {"documents": len(row["documents"]), "low": perplexity["low"], "high": perplexity["high"]}
