"""How does a model trained on L tokens read s·L, by every extension, with and without fine-tuning?

    python -m experiments.extend                           all methods, four factors, the smallest models
    python -m experiments.extend experiment=demo           interpolation against extrapolation alone

For every positional scheme a base model is trained on windows of L tokens (or found, if it was). It is then read at
growing context by every method at every factor, without fine-tuning and after N fine-tuning steps on windows of s·L,
for a list of N; a control arm is fine-tuned at L for the same steps on as many tokens. Perplexity is that of
`fixed_targets`, the same held-out targets for every arm and every context. All arms of a scheme start from the same
weights and see their data in the same order. What is to come is printed first; killed anywhere, the same command goes
on.

Results: runs/<group>/study-<name>/ with results.json, table.txt and figures.
"""

import re
from dataclasses import asdict
from pathlib import Path

from conf.compose import command_line
from conf.run_folder import write_json
from experiments.extend.arms import DECODED, Arm, asked, finetune_config, named
from experiments.extend.plan import Plan, make_plan, snapshot, told
from experiments.extend.report import Findings, Reading, sentences, tables
from experiments.lab.measure.passkey import measure_passkey
from experiments.lab.measure.perplexity import measure_checkpoint


def run_study(plan: Plan, overrides: list[str]) -> list[Reading]:
    """Train what is missing, measure what is missing, and return every reading."""
    from train import train

    readings, total = [], len(plan.measurements)

    def measured(arm: Arm, steps: int, checkpoint: Path) -> None:
        cache, window = plan.base.cache, f" at {plan.base.window * arm.factor}" if arm.factor > 1 else ""
        for reading in arm.readings:
            keys, said, method = plan.passkey(arm, reading), [], arm.method + DECODED * (reading == "decoded")
            rows = measure_checkpoint(checkpoint, arm.extend, plan.perplexity(reading), cache)["rows"]
            if keys is not None:
                said = measure_passkey(checkpoint, arm.extend, keys, cache)[0]["lengths"]
            readings.append(Reading(arm.position, method, arm.factor, steps, rows, said))
            curve = ", ".join(f"{row['perplexity']:.2f} at {row['context']}" for row in rows)
            print(
                f"[{len(readings):>{len(str(total))}}/{total}] {arm.position}, {named(method)}{window}, {steps} steps: "
                f"{curve}",
                flush=True,
            )

    for position, base in plan.bases.items():
        trained = train(base, overrides)
        mine = [arm for arm in plan.arms if arm.position == position]
        for arm in mine:
            if 0 in arm.steps:
                measured(arm, 0, trained.checkpoint)
        ended: dict[str, Path] = {}  # where the fine-tuning of a method's last factor ended
        for arm in sorted(mine, key=lambda arm: arm.factor):
            if not arm.tuning:
                continue
            start = ended.get(arm.method, trained.checkpoint) if plan.study.progressive else trained.checkpoint
            tuned = train(finetune_config(base, start, arm, plan.study), overrides)
            ended[arm.method] = tuned.checkpoint
            for steps in plan.study.finetune_steps:
                measured(arm, steps, snapshot(tuned.folder, steps))
    return readings


def _folder(plan: Plan, overrides: list[str]) -> Path:
    """Where the results go: the folder is named as the base runs are, and by what was asked of them on the way."""
    base = plan.base
    words = [word.removeprefix("study.").replace("=", "") for word in overrides if word.startswith("study.")]
    asked_for = [re.sub(r"[^A-Za-z0-9.]+", "_", word).strip("_") for word in words]
    name = "-".join(["study", base.name.removeprefix(f"{base.position.name}-"), *asked_for])
    return Path(base.runs) / base.group / name[:160]


def _main(values: dict, overrides: list[str]) -> None:
    from experiments.extend.figures import study_figures

    plan = make_plan(values["scale"], overrides, asked(values["study"]))
    print(told(plan), flush=True)
    found = Findings(plan.base.window, plan.study, run_study(plan, overrides))
    folder = _folder(plan, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    printed, said = tables(found), sentences(found)
    settings = {"study": plan.study.model_dump(mode="json"), "base": plan.base.model_dump(mode="json")}
    results = {**settings, "left_out": plan.left_out, "found": said}
    write_json(folder / "results.json", results | {"readings": [asdict(reading) for reading in found.readings]})
    (folder / "table.txt").write_text(f"{printed}\n\n{said}\n")
    figures = study_figures(folder, found)
    if plan.base.logger.name == "wandb":
        _to_wandb(plan, found, folder, settings, said, figures)
    drawn = ", ".join(f"{figure.name}.png" for figure in figures)
    print(f"\n{printed}\n\n{said}\n\nIn {folder}: table.txt, results.json, {drawn}")
    following = "other factors (study.factors=[2,8]), more fine-tuning (study.finetune_steps=[4,256]), or other methods"
    print(f"Try next: {following} (study.extends=[none,yarn]); README.md says how.")


def _to_wandb(plan: Plan, found: Findings, folder: Path, settings: dict, said: str, figures: list[Path]) -> None:
    """The curves of every arm over context length, the table and the figures, in one W&B run."""
    import wandb

    from conf.tracking import tracked

    base = plan.base
    identity = {"name": folder.name, "group": base.group, "job_type": "study", "tags": list(plan.bases)}
    with tracked(base.logger, Path(base.runs), config=settings, **identity) as run:
        for number, row in enumerate(found.readings[0].rows):
            curves = {
                f"context/{r.position}-{r.arm}-{r.factor}x-{r.steps}": r.rows[number]["perplexity"]
                for r in found.readings
            }
            run.log({"context/length": row["context"], **curves})
        columns = ["position", "arm", "factor", "steps", "context", "perplexity"]
        cells = [
            [r.position, r.arm, r.factor, r.steps, row["context"], row["perplexity"]]
            for r in found.readings
            for row in r.rows
        ]
        images = {figure.name: wandb.Image(str(figure.with_suffix(".png"))) for figure in figures}
        run.log({"table": wandb.Table(columns=columns, data=cells), **images})
        run.summary["found"] = said


def main() -> None:
    """The command line."""
    command_line("extend_study", _main)


if __name__ == "__main__":
    main()
