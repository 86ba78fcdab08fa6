"""The plan of a study: its base models and arms as runs of one plan, and the measurements of them.

The base model of a scheme is trained first or is an existing checkpoint. Fine-tuning runs start from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput, Count
from experiments.extend.arms import (
    ZERO_SHOT,
    Arm,
    Study,
    base_runs,
    existing_base_run,
    make_arms,
    study_settings,
    tuned_runs,
)
from experiments.lab.finetuning import check_batch, checkpoint_after
from experiments.lab.launch import Engine
from experiments.lab.measure.held_out import count_trained_on
from experiments.lab.measure.passkey import Passkey, passkey_is_measured
from experiments.lab.measure.perplexity import Measurement, cut, perplexity_is_measured
from experiments.lab.measure.request import check_text
from experiments.lab.plan import Plan, describe, make_plan
from experiments.lab.scale import Scale
from experiments.lab.speed import reading_speed

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
    tuned: dict[tuple[str, str, int], "Config"]
    arms: list[Arm]
    left_out: list[str]
    how: Measurement
    segments: int  # available stretches of text, at most study.segments
    text: dict  # the text measured: name, fingerprint, documents, and how many of them were trained on
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
        return self.how.model_copy(update={"reading": reading})

    def passkey(self, arm: Arm, reading: str) -> Passkey | None:
        """The settings of a passkey measurement: windows up to the arm's, or all windows if it has no factor."""
        if not self.study.passkey:
            return None
        task, study = self.base.data.retrieval, self.study
        longest = max(self.windows) if arm.factor == 1 else self.base.window * arm.factor
        lengths = tuple(window for window in self.windows if window <= longest)
        return Passkey(template=task.template, digits=task.digits, keys=task.keys, lengths=lengths, reading=reading,
                       depths=study.depths, trials=study.trials, split=study.split)  # fmt: skip


def make_study_plan(values: dict, overrides: Sequence[str]) -> StudyPlan:
    """Make the plan of a study from the composed values of conf/extend_study.yaml and the overrides.

    Raises:
        BadInput: a setting, checkpoint or text does not allow the study.
    """
    from conf.schema import validate
    from data.corpus import prepare

    check_text(overrides, "study.data")
    study = study_settings(values["study"])
    engine = validate(Seeds, {key: values[key] for key in Seeds.model_fields})
    if values["checkpoint"] is not None:
        study, bases, checkpoints = _existing(study, engine, values, overrides)
    else:
        bases = {position: base_runs(engine.scale, overrides, position, engine.seeds) for position in study.positions}
        checkpoints = {base.name: checkpoint_after(base) for runs in bases.values() for base in runs}
    first = next(iter(bases.values()))[0]
    _check(study, first)
    longest = first.window * max(study.factors)
    contexts = {first.window * factor for factor in study.factors}
    contexts |= {first.window * 2**power // 4 for power in range(longest.bit_length())}  # the quarter: is it used?
    contexts = sorted(context for context in contexts if context <= longest)
    how = Measurement(contexts=contexts, stride=first.window // 8, segments=study.segments, split=study.split)

    arms, left_out, tuned, runs = [], [], {}, {}
    for position, seeds in bases.items():
        own, reasons = make_arms(seeds[0], study)
        arms, left_out = arms + own, left_out + reasons
        runs[position] = {} if values["checkpoint"] is not None else {"base": seeds}
        for base in seeds:
            for (method, factor), run in tuned_runs(base, checkpoints[base.name], own, study).items():
                tuned[base.name, method, factor] = run
                runs[position].setdefault(f"{method} at {run.window}", []).append(run)
    corpus = prepare(first.data, Path(first.cache), progress=first.trainer.progress)
    text = _text(study, first, corpus)
    segments = len(cut(text.split(study.split), longest + 1, study.segments).tokens)
    about = {"name": text.name, "fingerprint": text.fingerprint, "documents": len(text.split(study.split))}
    about["trained_on"] = count_trained_on(text, study.split, corpus)
    if study.passkey:
        _check_passkey(study, first, corpus)
    plan = make_plan(runs, engine.launcher, engine.jobs_on_gpu)
    return StudyPlan(study, bases, checkpoints, tuned, arms, left_out, how, segments, about, plan)


def _existing(study: Study, engine: Seeds, values: dict, overrides: Sequence[str]):
    """The study, the base run and its checkpoint for an existing base model."""
    if engine.seeds != 1:
        raise BadInput(f"seeds={engine.seeds} cannot be set with checkpoint={values['checkpoint']}, which is one model")
    from models.checkpoint_files import find_checkpoint

    checkpoint = find_checkpoint(Path(values["checkpoint"]))
    base = existing_base_run(checkpoint, values, overrides)
    position = base.position.name
    return study.model_copy(update={"positions": (position,)}), {position: [base]}, {base.name: checkpoint}


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


def _check(study: Study, base: "Config") -> None:
    check_batch(base, "study.factors", study.factors)
    if base.window < 8:
        raise BadInput(
            f"window={base.window} is too short for this study: an eighth of it is scored, at least 8 needed"
        )
    if study.passkey and not base.data.retrieval.fraction:
        raise BadInput("study.passkey=true needs models that learn to retrieve: set data.retrieval.fraction, as to 0.2")


def _check_passkey(study: Study, base: "Config", corpus: "Corpus") -> None:
    """Refuse windows too short for the distances, before anything is trained."""
    from data.retrieval import Task

    task = Task(base.data.retrieval, corpus.encode, corpus.separator)
    try:
        task.distances(base.window, study.depths)
    except BadInput as error:
        raise BadInput(f"study.passkey=true with window={base.window}: {error}") from None


def describe_study(plan: StudyPlan) -> str:
    """Describe the plan: its runs, those already done, what is left out and why, and the time it takes."""
    study, base, seeds = plan.study, plan.base, len(plan.seeds)
    readings = [measurement for position in plan.bases for measurement in plan.measurements(position)]
    remaining = [measurement for measurement in readings if not _is_read(plan, *measurement)]
    notes = [
        f"{'readings':<20} {seeds * len(readings)}, {seeds * len(remaining)} to do: {plan.segments} segments each of "
        f"{plan.text['name']}, {study.split}, at {', '.join(map(str, plan.how.contexts))} tokens"
        + f", and {study.depths} x {study.trials} keys at a length"
        * study.passkey,
        f"fine-tuning: {max(study.finetune_steps)} steps of {base.batch * base.window:,} tokens, at "
        f"{', '.join(map(str, plan.windows))}{', from stage to stage' * study.progressive}",
    ]
    names = {arm.extend["name"] for arm in plan.arms}
    if count := plan.text["trained_on"]:
        notes.append(f"trained on: {count} of the {plan.text['documents']} documents that are measured")
    for why in dict.fromkeys(ZERO_SHOT.values()):
        if methods := [name for name in ZERO_SHOT if name in names and ZERO_SHOT[name] == why]:
            notes.append(f"not fine-tuned: {', '.join(methods)}: {why}")
    if methods := list(dict.fromkeys(arm.method for arm in plan.arms if arm.depends_on_length)):
        notes.append(f"read twice, whole and as decoded: {', '.join(methods)}: the length of the text matters to it")
    notes += [f"left out: {reason}" for reason in plan.left_out]
    tokens = seeds * sum(_tokens(plan, arm, reading) for arm, _, reading in remaining)
    seconds = tokens / reading_speed(base, max(plan.how.contexts)) if tokens else 0
    title = f"The study: {base.model.name} models trained on {base.window} tokens, seed{'s' * (seeds > 1)} "
    return describe(plan.runs, f"{title}{', '.join(map(str, plan.seeds))}:", notes, (tokens, seconds))


def _tokens(plan: StudyPlan, arm: Arm, reading: str) -> int:
    """Tokens read in one measurement of a model; decoded reading takes a pass per target."""
    keys, decoded = plan.passkey(arm, reading), reading == "decoded"
    read = plan.segments * sum(plan.how.contexts) * (plan.how.stride if decoded else 1)
    if keys is not None:
        read += 2 * keys.trials * keys.depths * sum(keys.lengths) * (keys.digits if decoded else 1)
    return read


def _is_read(plan: StudyPlan, arm: Arm, steps: int, reading: str) -> bool:
    """Whether all seeds of an arm have been measured after these steps with the settings of this study."""
    keys, cache = plan.passkey(arm, reading), plan.base.cache
    return all(
        checkpoint.exists()
        and perplexity_is_measured(checkpoint, arm.extend, plan.perplexity(reading), cache, plan.data)
        and (keys is None or passkey_is_measured(checkpoint, arm.extend, keys, cache, plan.data))
        for checkpoint in plan.models(arm, steps)
    )
