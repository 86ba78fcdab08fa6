"""The finished runs of a claim and what can be read of them, always one reading for each seed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from experiments.by_position import ByPosition, measure_by_position
from experiments.perplexity import Measurement, measure_checkpoint

if TYPE_CHECKING:
    from conf.schema import Config
    from train import Result

Rows = list[dict]  # one for each seed


@dataclass(frozen=True)
class Evidence:
    """Runs by arm, one for each seed in the same order; config: what all have in common; segments: of a reading."""

    runs: dict[str, list["Result"]]
    config: "Config"
    segments: int

    @property
    def window(self) -> int:
        return self.config.window

    def perplexity(self, arm: str, extend: str = "none", factor: int = 1, step: int | None = None) -> dict[int, Rows]:
        """Perplexity of the same held-out targets with a window of context, with twice and with four times as much.

        The targets end a stretch of four windows (`fixed_targets`), an eighth of a window in each. step: of a
        snapshot, or None for the end of training.
        """
        contexts = (self.window, 2 * self.window, 4 * self.window)
        how = Measurement(contexts=contexts, stride=max(1, self.window // 8), segments=self.segments)
        return self._read(arm, how, {"name": extend} | ({"factor": float(factor)} if factor > 1 else {}), step)

    def in_window(self, arm: str) -> Rows:
        """Perplexity of every target of a window, as in training, on held-out text."""
        how = Measurement(protocol="windows", contexts=(self.window,), stride=1, segments=self.segments)
        return self._read(arm, how, {"name": "none"}, None)[self.window]

    def _read(self, arm: str, how: Measurement, extend: dict, step: int | None) -> dict[int, Rows]:
        read = []
        for run in self.runs[arm]:
            at = run.checkpoint if step is None else run.folder / "checkpoints" / f"snapshot-{step:08d}.ckpt"
            read.append(measure_checkpoint(at, extend, how, self.config.cache)["rows"])
        named = " ".join(f"{value:g}" if isinstance(value, float) else value for value in extend.values())
        said = ", ".join(f"{mean(rows):.3f} at {rows[0]['context']}" for rows in zip(*read, strict=True))
        print(f"{arm}, {named}{'' if step is None else f', step {step}'}: perplexity {said}", flush=True)
        return {rows[0]["context"]: list(rows) for rows in zip(*read, strict=True)}

    def by_position(self, arm: str) -> Rows:
        """Loss by tokens of context seen within the window: rows of {"rows": bins} with sums by document."""
        how = ByPosition(context=self.window, segments=self.segments)
        return [measure_by_position(run.checkpoint, None, how, self.config.cache)[0] for run in self.runs[arm]]

    def curve(self, arm: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (n,) and the validation loss at each by seed, (S, n), nats per token."""
        from models.progress import Metrics

        curves = []
        for run in self.runs[arm]:
            rows = [row for row in Metrics(run.folder / "metrics.jsonl").rows() if "validation/nll" in row]
            curves.append([(row["step"], row["validation/nll"]) for row in rows])
        table = np.array(curves)  # (S, n, 2)
        return table[0, :, 0], table[:, :, 1]


def mean(rows: Rows) -> float:
    """Perplexity of the mean loss over seeds."""
    return float(np.exp(np.mean([row["nll"] / row["tokens"] for row in rows])))
