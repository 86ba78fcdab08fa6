"""The plan of a study: its base models and arms as runs of one plan, and the measurements of them.

The base model of a scheme is trained first or is an existing checkpoint. Fine-tuning runs start from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput, Count
from conf.validation import validate
from data.settings import DataSettings
from experiments.extend.arms import (
    Arm,
    Study,
    base_runs,
    make_arms,
    study_settings,
)
from experiments.extend.tuning import (
    base_checkpoint,
    existing_base_run,
    measured_text,
    one_window,
    tuned_runs,
    tuning_changes,
    tuning_text,
)
from experiments.lab.finetuning import check_batch, checkpoint_after
from experiments.lab.launch import Engine
from experiments.lab.measure.held_out import count_trained_on
from experiments.lab.measure.passkey import Passkey
from experiments.lab.measure.perplexity import Measurement
from experiments.lab.measure.request import check_text
from experiments.lab.measure.segments import cut
from experiments.lab.plan import Plan, make_plan
from experiments.lab.scale import Scale

if TYPE_CHECKING:
    from conf.schema import Config
    from data.corpus import Corpus


class Seeds(Engine):
    """The scale, seeds or checkpoint of the base models and how runs are trained, as in conf/extend_study.yaml."""

    scale: Scale
    seeds: Count
    checkpoint: str | None


@dataclass(frozen=True)
class StudyPlan:
    """Base runs by scheme, one for each seed; their checkpoints by name; tuned runs by base, method and factor."""

    study: Study
    bases: dict[str, list["Config"]]
    checkpoints: dict[str, Path]
    learned: DataSettings  # the text that arms are fine-tuned on; without any, that of the base models
    tuned: dict[tuple[str, str, int], "Config"]
    arms: list[Arm]
    left_out: list[str]
    measurement: Measurement
    segments: int  # available stretches of text, at most study.segments
    text: dict  # the text measured: name, fingerprint, documents, and how many of them were trained on
    one_window: bool  # all arms are tuned on windows of one length
    existing: bool  # the base model was there, and settings of a run are those of its fine-tuning
    runs: Plan

    @property
    def base(self) -> "Config":
        """The first base run, from which all differ in position and seed alone."""
        return next(iter(self.bases.values()))[0]

    @property
    def seeds(self) -> list[int]:
        return [base.seed for base in next(iter(self.bases.values()))]

    @property
    def windows(self) -> list[int]:
        """The trained window and the longer ones, in tokens."""
        return [self.base.window * factor for factor in (1, *sorted(self.study.factors))]

    @property
    def lengths(self) -> list[int]:
        """The lengths at which keys are searched for: study.contexts or the windows."""
        return sorted(self.study.contexts or self.windows)

    def measurements(self, position: str) -> Iterator[tuple[Arm, int, str]]:
        """Every measurement of a scheme's arms: (arm, steps of fine-tuning, whole or decoded)."""
        for arm in self.arms:
            if arm.position == position:
                yield from ((arm, steps, reading) for steps in arm.steps for reading in arm.passes)

    def models(self, arm: Arm, steps: int) -> list[Path]:
        """The checkpoints of an arm after these steps, one for each seed."""
        bases = self.bases[arm.position]
        if not steps:
            return [self.checkpoints[base.name] for base in bases]
        return [checkpoint_after(self.tuned[base.name, arm.method, arm.factor], steps) for base in bases]

    @property
    def data(self) -> dict | None:
        """Plain settings of the text measured; None for the one the base models were trained on."""
        return None if self.study.data is None else self.study.data.model_dump(mode="json")

    def perplexity(self, reading: str) -> Measurement:
        """The settings of a perplexity measurement."""
        return self.measurement.model_copy(update={"reading": reading})

    @property
    def gate(self) -> Measurement:
        """The settings of the reading that asks whether a base model uses its window.

        As many tokens as the study's longest reading, but more targets: what is gained there is little.
        """
        contexts = self.measurement.contexts
        whole = max((context for context in contexts if context <= self.base.window), default=self.base.window)
        segments = self.measurement.segments * max(1, max(contexts) // whole)
        half = max(1, whole // 2)
        changes = {"contexts": (half, whole), "stride": max(1, half // 2), "segments": segments}
        return self.measurement.model_copy(update=changes)

    def passkey(self, arm: Arm, reading: str) -> Passkey | None:
        """The settings of a passkey measurement: windows up to the arm's, or all windows if it has no factor."""
        if not self.study.passkey:
            return None
        task, study = self.learned.retrieval, self.study
        longest = max(self.lengths) if arm.factor == 1 else self.base.window * arm.factor
        lengths = tuple(length for length in self.lengths if length <= longest) or (self.lengths[0],)
        return Passkey(template=task.template, digits=task.digits, keys=task.keys, lengths=lengths, reading=reading,
                       depths=study.depths, trials=study.trials, split=study.split,
                       precision=study.precision)  # fmt: skip


def make_study_plan(values: dict, overrides: Sequence[str]) -> StudyPlan:
    """Make the plan of a study from the composed values of conf/extend_study.yaml and the overrides.

    Raises:
        BadInput: a setting, checkpoint or text does not allow the study.
    """
    from data.corpus import prepare
    from models.checkpoint_files import load_checkpoint
    from models.restore import check_tokenizer

    check_text(overrides, "study.data")
    study = study_settings(values["study"])
    engine = validate(Seeds, {key: values[key] for key in Seeds.model_fields})
    existing, changes = base_checkpoint(values), {}
    if existing is not None:
        study, bases, changes = _existing(study, engine, existing, values, overrides)
        checkpoints = {base.name: existing for runs in bases.values() for base in runs}
    else:
        bases = {position: base_runs(engine.scale, overrides, position, engine.seeds) for position in study.positions}
        checkpoints = {base.name: checkpoint_after(base) for runs in bases.values() for base in runs}
    first = next(iter(bases.values()))[0]
    learned = tuning_text(first, changes)
    study = study.model_copy(update={"data": measured_text(study, changes, learned)})
    _check(study, first, changes, existing is not None)
    contexts = _contexts(study, first.window)
    stride, settings = max(1, contexts[0] // 2), ("segments", "split", "precision")
    measurement = Measurement(contexts=contexts, stride=stride, **{key: getattr(study, key) for key in settings})

    arms, left_out, tuned, runs = [], [], {}, {}
    for position, seeds in bases.items():
        scheme_arms, reasons = make_arms(seeds[0], study)
        arms, left_out = arms + scheme_arms, left_out + reasons
        runs[position] = {"base": seeds} if existing is None else {}
        for base in seeds:
            for (method, factor), run in tuned_runs(base, checkpoints[base.name], scheme_arms, study, changes).items():
                tuned[base.name, method, factor] = run
                runs[position].setdefault(f"{method} at {base.window * factor}", []).append(run)
    corpus = prepare(learned if tuned else first.data, Path(first.cache), progress=first.trainer.progress)
    if existing is not None and "data" in changes:
        check_tokenizer(load_checkpoint(existing), corpus, existing)
    text = _text(study, first, corpus)
    segments = len(cut(text.split(study.split), max(contexts) + 1, study.segments).tokens)
    about = {"name": text.name, "fingerprint": text.fingerprint, "documents": len(text.split(study.split))}
    about["trained_on"] = count_trained_on(text, study.split, corpus)
    if study.passkey:
        _check_passkey(study, learned, first.window, corpus)
    plan = make_plan(runs, engine.launcher, engine.jobs_on_gpu)
    return StudyPlan(study, bases, checkpoints, learned, tuned, arms, left_out, measurement, segments, about,
                     one_window(changes), existing is not None, plan)  # fmt: skip


def _existing(study: Study, engine: Seeds, checkpoint: Path, values: dict, overrides: Sequence[str]):
    """The study of an existing base model, its run by scheme, and what is set of its fine-tuning."""
    from conf.overrides import given_keys

    if engine.seeds != 1:
        raise BadInput(f"seeds={engine.seeds} cannot be set with checkpoint={checkpoint}, which is one model")
    given = given_keys(overrides)
    base = existing_base_run(checkpoint, values, given)
    position, changes = base.position.name, tuning_changes(base, values, given)
    return study.model_copy(update={"positions": (position,)}), {position: [base]}, changes


def _contexts(study: Study, window: int) -> list[int]:
    """The context lengths that are read: those of the study; else from a quarter of the window, and every window."""
    if study.contexts is not None:
        return sorted(study.contexts)
    longest = window * max(study.factors)
    contexts = {window * factor for factor in study.factors}
    contexts |= {window * 2**power // 4 for power in range(longest.bit_length())}  # the quarter: is it used?
    return sorted(context for context in contexts if context <= longest)


def _text(study: Study, base: "Config", corpus: "Corpus") -> "Corpus":
    """The text measured: the corpus of the base models, or study.data in its tokens."""
    from data.corpus import prepare

    if study.data is None:
        return corpus
    text = prepare(study.data, Path(base.cache), progress=base.trainer.progress, tokenizer=corpus.tokenizer_text)
    if not len(text.split(study.split)):
        raise BadInput(
            f"study.data={text.name} has no text for study.split={study.split}: name study.data.{study.split}="
        )
    return text


def _check(study: Study, base: "Config", changes: dict, exists: bool) -> None:
    if not exists and base.seen.name == "skipwise":
        raise BadInput(
            "seen=skipwise is for tuning a base model that exists: name it as checkpoint=, from= or pretrained="
        )
    if study.steps and not one_window(changes):
        batch = base.model_copy(update={"batch": changes.get("batch", base.batch)})
        check_batch(batch, "study.factors", study.factors)
    if base.window < 8 and study.contexts is None:
        raise BadInput(
            f"window={base.window} is too short for this study: an eighth of it is scored, at least 8 needed, unless "
            "study.contexts has others"
        )
    if study.passkey and not exists and not base.data.retrieval.fraction:
        raise BadInput("study.passkey=true needs models that learn to retrieve: set data.retrieval.fraction, as to 0.2")


def _check_passkey(study: Study, learned: DataSettings, window: int, corpus: "Corpus") -> None:
    """Refuse windows too short for the distances, before anything is trained."""
    from data.retrieval import Task

    task, shortest = Task(learned.retrieval, corpus.encode, corpus.separator), min(study.contexts or (window,))
    try:
        task.distances(shortest, study.depths)
    except BadInput as error:
        raise BadInput(f"study.passkey=true with window={shortest}: {error}") from None
