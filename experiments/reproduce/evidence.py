"""The finished runs of a claim and the measurements of them, one for each seed."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conf.base import BadInput
from experiments.lab.measure.by_position import ByPosition, impossible, measure_by_position
from experiments.lab.measure.exact import measure_exact
from experiments.lab.measure.passkey import Passkey, measure_passkey
from experiments.lab.measure.perplexity import Measurement, measure_checkpoint
from experiments.lab.measure.readings import read_back_note
from experiments.tasks import Accuracy, accuracies

if TYPE_CHECKING:
    from conf.schema import Config
    from train import Result

Rows = list[dict]  # one for each seed


@dataclass(frozen=True)
class Evidence:
    """Runs by arm, one per seed in the same order; config: that of the first run, with the scale's window.

    segments: the most stretches of held-out text in a measurement.
    """

    runs: dict[str, list["Result"]]
    config: "Config"
    segments: int

    @property
    def window(self) -> int:
        return self.config.window

    def perplexity(
        self,
        arm: str,
        extend: str | dict | None = None,
        factor: int = 1,
        step: int | None = None,
        contexts: Sequence[int] | None = None,
        segments: int | None = None,
    ) -> dict[int, Rows]:
        """Perplexity of the same held-out targets with one, two and four windows of context.

        The targets end a stretch as long as the longest context (`fixed_targets`), an eighth of a window in each: rows
        can be compared between arms that were read with the same contexts.

        Args:
            extend: the name of an extension, with this factor if above 1, or its settings; None as trained.
            step: of a snapshot, or None for the end of training.
            contexts: tokens, other than one, two and four windows of the scale.
            segments: stretches of held-out text, fewer than those of the scale.
        """
        contexts = tuple(contexts or (self.window, 2 * self.window, 4 * self.window))
        segments = min(segments or self.segments, self.segments)
        settings = Measurement(contexts=contexts, stride=max(1, self.window // 8), segments=segments)
        return self._read(arm, settings, extension(extend, factor), step)

    def in_window(self, arm: str, extend: str | None = None, step: int | None = None) -> Rows:
        """Perplexity of every target of a window, as in training, on held-out text."""
        settings = Measurement(protocol="windows", contexts=(self.window,), stride=1, segments=self.segments)
        return self._read(arm, settings, extension(extend), step)[self.window]

    def _read(self, arm: str, settings: Measurement, extend: dict | None, step: int | None) -> dict[int, Rows]:
        checkpoints, cache = self.checkpoints(arm, step), self.config.cache
        results = [measure_checkpoint(checkpoint, extend, settings, cache) for checkpoint in checkpoints]
        read = [result["rows"] for result in results]
        how_read = "as trained" if extend is None else " ".join(f"{value}" for value in extend.values())
        points = [f"{mean_perplexity(rows):.3f} at {rows[0]['context']}" for rows in zip(*read, strict=True)]
        line = f"{arm}, {how_read}{'' if step is None else f', step {step}'}: perplexity {', '.join(points)}"
        print(f"{line}{read_back_note(results)}", flush=True)
        return {rows[0]["context"]: list(rows) for rows in zip(*read, strict=True)}

    def checkpoints(self, arm: str, step: int | None = None) -> list[Path]:
        """The last checkpoint of every seed, or its snapshot after `step` steps."""
        return [
            run.checkpoint if step is None else run.folder / "checkpoints" / f"snapshot-{step:08d}.ckpt"
            for run in self.runs[arm]
        ]

    def by_position(self, arm: str, extend: dict | None = None, context: int | None = None) -> Rows:
        """Loss by tokens of context seen within the window: rows of {"rows": bins} with sums by document.

        Args:
            extend: the settings of an extension; None as trained.
            context: tokens read in one window, other than the scale's.
        """
        settings = ByPosition(context=context or self.window, segments=self.segments)
        results = []
        for checkpoint in self.checkpoints(arm):
            results.append(measure_by_position(checkpoint, extend, settings, self.config.cache)[0])
            if sentence := impossible(results[-1]):
                warnings.warn(f"{checkpoint}: {sentence}", stacklevel=2)
        return results

    def passkey(
        self,
        arm: str,
        extend: str | None = None,
        factor: int = 1,
        step: int | None = None,
        lengths: Sequence[int] | None = None,
        depths: int = 10,
        trials: int = 50,
    ) -> Rows:
        """Retrieval of keys like those the arm was trained with (data.retrieval); rows of {"lengths", "cells", …}.

        lengths: in tokens, by default half a window to eight windows. The protocol is in lab/measure/passkey.py.
        """
        from models.restore import read_record

        readings = []
        for checkpoint in self.checkpoints(arm, step):
            task = read_record(checkpoint)["config"]["data"]["retrieval"]
            settings = Passkey(
                **{key: task[key] for key in ("template", "digits", "keys")},
                lengths=lengths and tuple(lengths),
                depths=depths,
                trials=trials,
            )
            readings.append(measure_passkey(checkpoint, extension(extend, factor), settings, self.config.cache)[0])
        return readings

    def exact(self, arm: str) -> list[Accuracy]:
        """Exact answers of an arm on its task, by range of lengths."""
        return accuracies([measure_exact(checkpoint, self.config.cache) for checkpoint in self.checkpoints(arm)])

    def curve(self, arm: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (n,) and the validation loss at each by seed, (S, n), nats per token.

        The steps are those at which every run of the claim was validated, so that curves can be compared.

        Raises:
            BadInput: there is none.
        """
        curves = {name: [validation_losses(run.folder) for run in runs] for name, runs in self.runs.items()}
        steps = sorted(set.intersection(*(set(losses) for runs in curves.values() for losses in runs)))
        if not steps:
            raise BadInput(f"the runs of {', '.join(curves)} share no step at which they were validated")
        return np.array(steps, dtype=float), np.array([[losses[step] for step in steps] for losses in curves[arm]])


def validation_losses(run: Path) -> dict[int, float]:
    """The validation loss of the run in a folder at each step that it was validated at, nats per token."""
    from models.progress import Metrics

    rows = Metrics(run / "metrics.jsonl").rows()
    return {row["step"]: row["validation/nll"] for row in rows if "validation/nll" in row}


def extension(name: str | dict | None, factor: int = 1) -> dict | None:
    """Plain settings of an extension, of its name or as they are given; None as trained."""
    if isinstance(name, dict):
        return name
    return None if name is None else {"name": name} | ({"factor": float(factor)} if factor > 1 else {})


def mean_perplexity(rows: Rows) -> float:
    """Perplexity of the mean loss over seeds."""
    return float(np.exp(np.mean([row["nll"] / row["tokens"] for row in rows])))


def effective_context(rows: Rows, column: str = "effective context") -> dict[str, float]:
    """A column beside perplexity: effective context in tokens, the geometric mean over seeds.

    Empty for text, whose optimum nobody knows.
    """
    if "effective_context" not in rows[0]:
        return {}
    return {column: float(np.exp(np.mean([np.log(row["effective_context"]["value"]) for row in rows])))}
