"""How does a model trained on L tokens read s·L, by every extension, with and without fine-tuning?

    python -m experiments.extend                           all methods, four factors, the smallest models
    python -m experiments.extend experiment=demo           interpolation against extrapolation alone
    python -m experiments.extend seeds=3                   with intervals over seeds and documents
    python -m experiments.extend checkpoint=runs/default/rope-nano-s1     of a base model that exists
    python -m experiments.extend data@study.data=files study.data.test=book.txt      measured on another text

For every positional scheme a base model is trained on windows of L tokens, unless it exists. Every method then reads
growing contexts at every factor s, without fine-tuning and after N fine-tuning steps on windows of s·L tokens, for a
list of N. A control arm is fine-tuned at L for the same steps on as many tokens. Perplexity is measured on the same
held-out targets for every arm and context (`fixed_targets`). All arms of a scheme start from the same weights and see
data in the same order. The plan is printed first. If the command is killed, the same command resumes.

Results: runs/<group>/study-<name>/ with results.json, summary.json (without sums by document, small enough to commit),
table.txt and figures.
"""

import re
from pathlib import Path

from conf.base import BadInput
from conf.environment import environment
from conf.files import write_json, write_text
from conf.names import shortened
from conf.overrides import key_of
from experiments.extend.arms import DECODED, PLAIN, method_name
from experiments.extend.costs import cost_of_tuning, tuning_costs
from experiments.extend.describe import describe_study
from experiments.extend.findings import Findings, Measured, Reading, summarise
from experiments.extend.plan import StudyPlan, make_study_plan
from experiments.extend.report import sentences, tables
from experiments.extend.tuning import OF_TUNING
from experiments.lab.measure.passkey import measure_passkey
from experiments.lab.measure.perplexity import measure_checkpoint
from experiments.lab.measure.readings import read_back_note
from experiments.lab.plan import carry_out


def read_scheme(plan: StudyPlan, position: str) -> list[Reading]:
    """Measure every arm of a scheme whose runs are done; earlier measurements are read back."""
    readings, cache = [], plan.base.cache
    measurements = list(plan.measurements(position))
    for number, (arm, steps, mode) in enumerate(measurements, 1):
        models, results, keys = [], [], plan.passkey(arm, mode)
        for seed, checkpoint in zip(plan.seeds, plan.models(arm, steps), strict=True):
            results.append(measure_checkpoint(checkpoint, arm.extend, plan.perplexity(mode), cache, data=plan.data))
            rows, passkey = results[-1]["rows"], []
            if keys is not None:
                results.append(measure_passkey(checkpoint, arm.extend, keys, cache, data=plan.data)[0])
                passkey = results[-1]["lengths"]
            models.append(Measured(seed, rows, passkey))
        reading = Reading(position, arm.method + DECODED * (mode == "decoded"), arm.factor, steps, models)
        readings.append(reading)
        window = f" at {plan.base.window * arm.factor}" if arm.factor > 1 else ""
        curve = ", ".join(f"{reading.perplexity(context):.2f} at {context}" for context in reading.contexts)
        place = f"[{number:>{len(str(len(measurements)))}}/{len(measurements)}]"
        line = f"{place} {position}, {method_name(reading.arm)}{window}, {steps} steps: {curve}"
        print(f"{line}{read_back_note(results)}", flush=True)
    return readings


def read_gate(plan: StudyPlan, position: str) -> Reading:
    """Measure the base models of a scheme at their window and at half of it."""
    models, results = [], []
    for seed, base in zip(plan.seeds, plan.bases[position], strict=True):
        checkpoint = plan.checkpoints[base.name]
        result = measure_checkpoint(checkpoint, None, plan.gate, plan.base.cache, data=plan.data)
        models.append(Measured(seed, result["rows"]))
        results.append(result)
    print(f"{position}, at one window and at half of it: done{read_back_note(results)}", flush=True)
    return Reading(position, PLAIN, 1, 0, models)


def results_folder(plan: StudyPlan, overrides: list[str]) -> Path:
    """The folder of the results, named by the base runs, without their scheme if there are several, by the snapshot
    that one was read from, and by the overrides of the study and of its fine-tuning."""
    base = plan.base
    models = base.name if len(plan.bases) == 1 else base.name.removeprefix(f"{base.position.name}-")
    names = {checkpoint.stem for checkpoint in plan.checkpoints.values()} if plan.existing else set()
    snapshots = sorted(name for name in names if name.startswith("snapshot-"))
    own = ("study", "seeds", *(OF_TUNING if plan.existing else ()))
    words = [word.removeprefix("data@") for word in overrides]
    words = [word.removeprefix("study.").replace("=", "") for word in words if key_of(word).split(".")[0] in own]
    labels = [re.sub(r"[^A-Za-z0-9.]+", "_", word).strip("_") for word in words]
    return Path(base.runs) / base.group / shortened("-".join(["study", models, *snapshots, *labels]), 160, 150)


def run_command(values: dict, overrides: list[str]) -> None:
    """Run the command with its composed values: make the plan, carry it out, write the page."""
    plan = make_study_plan(values, overrides)
    print(describe_study(plan), flush=True)
    readings, failures = carry_out(plan.runs, lambda position, _: read_scheme(plan, position))
    if failures:
        raise BadInput(failures)
    gates = [read_gate(plan, position) for position in plan.bases]
    findings = Findings(plan.base.window, plan.study, [reading for its in readings.values() for reading in its], gates)
    write_page(plan, findings, results_folder(plan, overrides), overrides)


def write_page(plan: StudyPlan, findings: Findings, folder: Path, overrides: list[str]) -> None:
    """Write tables, sentences and figures to the folder, the terminal and W&B."""
    from conf.tracking import tracked_page
    from experiments.extend.figures import study_figures
    from experiments.extend.seeds import seeds_table

    folder.mkdir(parents=True, exist_ok=True)
    text, summary, base = tables(findings), sentences(findings), plan.base
    settings = {"study": plan.study.model_dump(mode="json"), "base": base.model_dump(mode="json")}
    results = settings | {"seeds": plan.seeds, "text": plan.text, "left_out": plan.left_out, "found": summary}
    if plan.existing:
        results["checkpoint"] = plan.checkpoints[base.name].name
    if len(plan.seeds) > 1:
        over_seeds, results["over seeds"] = seeds_table(findings)
        text = f"{text}\n\n{over_seeds}"
    if plan.tuned:
        results["tuning"] = tuning_costs(plan)
        text = f"{text}\n\n{cost_of_tuning(results['tuning'])}"
    results["gates"] = {position: findings.gate(position) for position in plan.bases}
    results["readings"] = [model for reading in findings.readings for model in reading.plain]
    if plan.data is not None:
        text = f"Measured on {plan.text['name']}, {plan.study.split}.\n\n{text}"
    write_json(folder / "results.json", results)
    write_json(folder / "summary.json", environment(overrides) | summarise(results))
    write_text(folder / "table.txt", f"{text}\n\n{summary}\n")
    figures = study_figures(folder, findings)
    if base.logger.name == "wandb":
        identity = {"name": folder.name, "group": base.group, "job_type": "study", "tags": list(plan.bases)}
        curves = [
            {"context/length": context}
            | {f"context/{r.position}-{r.arm}-{r.factor}x-{r.steps}": r.perplexity(context) for r in findings.readings}
            for context in findings.contexts
        ]
        cells = [
            (r.position, r.arm, r.factor, r.steps, context, r.perplexity(context), r.effective_context(context))
            for r in findings.readings
            for context in r.contexts
        ]
        table = (("position", "arm", "factor", "steps", "context", "perplexity", "effective context"), cells)
        images = {figure.name: figure.with_suffix(".png") for figure in figures}
        identity["config"] = settings
        tracked_page(base.logger, Path(base.runs), identity, {"found": summary}, images, curves, table)
    drawn = ", ".join(f"{figure.name}.png" for figure in figures)
    print(f"\n{text}\n\n{summary}\n\nIn {folder}: table.txt, results.json, summary.json, {drawn}")
    following = "other factors (study.factors=[2,8]), more fine-tuning (study.finetune_steps=[4,256]), or other methods"
    print(f"Try next: {following} (study.extends=[none,yarn]); README.md shows more.")
