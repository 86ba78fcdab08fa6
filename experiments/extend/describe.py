"""The plan of a study in words: its runs, what is done and left, why some are left out, and the time it takes."""

from collections import Counter
from pathlib import Path

from conf.base import Settings
from experiments.extend.arms import ZERO_SHOT, Arm
from experiments.extend.plan import StudyPlan
from experiments.lab.measure.readings import reading_path
from experiments.lab.measure.subject import open_subject
from experiments.lab.plan import describe
from experiments.lab.speed import reading_seconds
from models.positions.seen import STRETCHED


def describe_study(plan: StudyPlan) -> str:
    """Describe the plan: its runs, those already done, what is left out and why, and the time it takes."""
    study, base, seeds = plan.study, plan.base, len(plan.seeds)
    readings = [measurement for position in plan.bases for measurement in plan.measurements(position)]
    remaining = [measurement for measurement in readings if not _is_read(plan, *measurement)]
    line = f"{'readings':<20} {seeds * len(readings)}, {seeds * len(remaining)} to do: {plan.segments} segments each "
    line += f"of {plan.text['name']}, {study.split}, at {', '.join(map(str, plan.measurement.contexts))} tokens"
    if study.passkey:
        line += f", and {study.depths} x {study.trials} keys at a length"
    notes = [line]
    if plan.tuned:
        run, windows = list(plan.tuned.values())[-1], ", ".join(map(str, plan.windows))
        if plan.one_window:
            reach = f" at positions ({run.seen.name}) up to {windows}" if run.seen.name in STRETCHED else ""
            windows = f"{run.window}{reach}"
        notes.append(
            f"fine-tuning: {run.steps} steps of {run.batch * run.window:,} tokens, at windows of {windows}"
            + ", from stage to stage" * study.progressive
        )
    names = {arm.extend["name"] for arm in plan.arms}
    if count := plan.text["trained_on"]:
        notes.append(f"trained on: {count} of the {plan.text['documents']} documents that are measured")
    for why in dict.fromkeys(ZERO_SHOT.values()):
        if methods := [name for name in ZERO_SHOT if name in names and ZERO_SHOT[name] == why]:
            notes.append(f"not fine-tuned: {', '.join(methods)}: {why}")
    if methods := list(dict.fromkeys(arm.method for arm in plan.arms if arm.depends_on_length)):
        notes.append(f"read twice, whole and as decoded: {', '.join(methods)}: the length of the text matters to it")
    notes += [f"left out: {reason}" for reason in plan.left_out]
    tokens = sum((_tokens(plan, arm, reading) for arm, _, reading in remaining), Counter())
    gate, left = plan.gate, sum(not _is_asked(plan, position) for position in plan.bases)
    tokens += Counter({length: length * gate.segments * left for length in gate.contexts})
    half, whole = gate.contexts
    notes.append(f"use of the window: {gate.segments} segments at most, at {half} and {whole} tokens")
    tokens = {length: seeds * count for length, count in tokens.items()}
    seconds = reading_seconds(base, tokens, study.precision)
    title = f"The study: {base.model.name} models trained on {base.window} tokens, seed{'s' * (seeds > 1)} "
    return describe(plan.runs, f"{title}{', '.join(map(str, plan.seeds))}:", notes, (sum(tokens.values()), seconds))


def _tokens(plan: StudyPlan, arm: Arm, reading: str) -> Counter:
    """Tokens read in one measurement of a model, by the length of texts; decoded reading takes a pass per target."""
    keys, decoded = plan.passkey(arm, reading), reading == "decoded"
    passes = plan.segments * (plan.measurement.stride if decoded else 1)
    read = Counter({length: length * passes for length in plan.measurement.contexts})
    if keys is not None:
        passes = 2 * keys.trials * keys.depths * (keys.digits if decoded else 1)
        read += Counter({length: length * passes for length in keys.lengths})
    return read


def _is_read(plan: StudyPlan, arm: Arm, steps: int, reading: str) -> bool:
    """Whether all seeds of an arm have been measured after these steps with the settings of this study."""
    wanted = {"perplexity": plan.perplexity(reading), "passkey": plan.passkey(arm, reading)}

    return all(_is_kept(plan, checkpoint, arm.extend, wanted) for checkpoint in plan.models(arm, steps))


def _is_asked(plan: StudyPlan, position: str) -> bool:
    """Whether all base models of a scheme have been asked for the use of their window."""
    checkpoints = [plan.checkpoints[base.name] for base in plan.bases[position]]
    return all(_is_kept(plan, checkpoint, None, {"perplexity": plan.gate}) for checkpoint in checkpoints)


def _is_kept(plan: StudyPlan, checkpoint: Path, extend: dict | None, wanted: dict[str, Settings | None]) -> bool:
    """Whether a model has been measured with all settings wanted, by kind of measurement."""
    if not checkpoint.exists():
        return False
    subject = open_subject(checkpoint, extend, plan.base.cache, plan.data, plan.study.precision)
    return all(
        reading_path(subject, kind, settings, settings.label).is_file()
        for kind, settings in wanted.items()
        if settings is not None
    )
