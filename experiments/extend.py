"""Interpolation against extrapolation: how does a model trained on L tokens read s·L, with and without fine-tuning?

    python -m experiments.extend

For every positional scheme a base model is trained on windows of L tokens (or found, if it was). It is then read at
growing context by every extension, without fine-tuning and after N fine-tuning steps on windows of s·L, for a list
of N; a control arm is fine-tuned at L for the same steps on as many tokens. Perplexity is that of `fixed_targets`,
the same held-out targets for every arm and every context. All arms of a scheme start from the same weights and see
their data in the same order. Killed anywhere, the same command goes on.

Results: runs/<group>/study-<name>/ with results.json, table.txt, figure.png and figure.svg.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from conf.base import BadInput, Count, Counts, Settings
from conf.compose import command_line
from conf.run_folder import write_json
from experiments.perplexity import Measurement, measure_checkpoint

if TYPE_CHECKING:
    from conf.schema import Config

CONTROL = "control"
Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v), Field(min_length=1)
]


class Study(Settings):
    """What is asked of the base models, as in conf/extend_study.yaml."""

    positions: Names
    extends: Names
    factor: Count
    finetune_steps: Annotated[Counts, Field(min_length=1)]
    finetune_lr: float = Field(gt=0)
    segments: Count
    split: Literal["validation", "test"]


@dataclass(frozen=True)
class Reading:
    """One point of the study: a scheme, an arm (an extension, or the control), steps of fine-tuning, its curve."""

    position: str
    arm: str
    steps: int
    rows: list[dict]  # one per context length, as measure_checkpoint gives them

    def at(self, context: int) -> dict:
        return next(row for row in self.rows if row["context"] == context)


def base_config(values: dict, overrides: list[str], position: str) -> "Config":
    """The base run of a scheme: the composed training settings, with this scheme's own file for the position."""
    from conf.compose import compose_values
    from train import resolve

    scheme = compose_values("config", [f"position={position}"])["position"]
    told = [o for o in overrides if not o.startswith(("study.", "position="))]
    return resolve({**values, "position": scheme}, told)


def finetune_config(base: "Config", checkpoint: Path, arm: str, study: Study) -> "Config":
    """The fine-tuning run of an arm: its window and extension, as many tokens a step as the base run had."""
    from train import resolve

    window = base.window if arm == CONTROL else base.window * study.factor
    steps = max(study.finetune_steps)
    label = arm if arm in (CONTROL, "none") else f"{arm}{study.factor}"
    return resolve(
        {
            **base.model_dump(mode="json", exclude={"original_window"}),
            "name": f"{base.name}-tuned-{label}-w{window}-n{steps}",
            "checkpoint": str(checkpoint),
            "extend": extension(arm, study.factor),
            "window": window,
            "batch": max(1, base.batch * base.window // window),
            "steps": steps,
            "snapshots": list(study.finetune_steps),
            "optimizer": base.optimizer.model_dump()
            | {"lr": study.finetune_lr, "schedule": "constant", "warmup": steps // 10},
            "log_every": 1,
            "validate_every": steps,
        },
        ["extend", "window", "data"],
    )


def extension(arm: str, factor: int) -> dict:
    """The plain settings of an arm's extension; the control reads as it was trained."""
    return {"name": "none"} if arm in (CONTROL, "none") else {"name": arm, "factor": float(factor)}


def run_study(values: dict, overrides: list[str]) -> tuple["Config", Study, list[Reading], Path]:
    """Train what is missing, measure what is missing, and return every reading and the study's folder."""
    from conf.schema import validate
    from train import train

    study = validate(Study, values.pop("study"))
    if "none" not in study.extends:
        raise BadInput(
            f"study.extends={list(study.extends)} must have none: extrapolation is what the others are held to"
        )
    bases = {position: base_config(values, overrides, position) for position in study.positions}
    first = next(iter(bases.values()))
    unshared = first.batch * first.window % (first.window * study.factor)
    if unshared:
        raise BadInput(
            f"batch={first.batch} must be a multiple of study.factor={study.factor}, for equal tokens a step"
        )
    if first.window < 8:
        raise BadInput(
            f"window={first.window} is too short for this study: an eighth of it is scored, at least 8 needed"
        )
    powers = range(-2, int(math.log2(study.factor)) + 1)  # from a quarter of the window, to see what of it is used
    contexts = sorted({int(first.window * 2**power) for power in powers})
    how = Measurement(contexts=tuple(contexts), stride=first.window // 8, segments=study.segments, split=study.split)
    arms = [*study.extends, CONTROL]
    print(plan(first, study, contexts))

    readings = []
    measurements = len(bases) * (len(study.extends) + len(arms) * len(study.finetune_steps))

    def measured(position: str, arm: str, steps: int, checkpoint: Path) -> None:
        result = measure_checkpoint(checkpoint, extension(arm, study.factor), how, first.cache)
        readings.append(Reading(position, arm, steps, result["rows"]))
        curve = ", ".join(f"{row['perplexity']:.2f} at {row['context']}" for row in result["rows"])
        print(f"[{len(readings):>2}/{measurements}] {position}, {named(arm)}, {steps} steps: {curve}", flush=True)

    for position, base in bases.items():
        trained = train(base, overrides)
        for arm in study.extends:
            measured(position, arm, 0, trained.checkpoint)
        for arm in arms:
            tuned = train(finetune_config(base, trained.checkpoint, arm, study), overrides)
            for steps in study.finetune_steps:
                measured(position, arm, steps, tuned.folder / "checkpoints" / f"snapshot-{steps:08d}.ckpt")
    base_name = first.name.removeprefix(f"{study.positions[0]}-")
    return first, study, readings, Path(first.runs) / first.group / f"study-{base_name}"


def named(arm: str) -> str:
    """An arm in words."""
    return "extrapolation" if arm == "none" else arm


def plan(base: "Config", study: Study, contexts: list[int]) -> str:
    """What is about to happen, in tokens."""
    arms = len(study.extends) + 1
    tokens = base.batch * base.window
    each = tokens * (base.steps + arms * max(study.finetune_steps))
    return (
        f"{len(study.positions)} base models ({', '.join(study.positions)}; {base.model.name} at {base.window}), "
        f"{base.steps} steps; {arms} fine-tuned arms each, {max(study.finetune_steps)} steps at "
        f"{base.window * study.factor}: {len(study.positions) * each / 1e6:.1f} M tokens; contexts {contexts}"
    )


def sentence(base: "Config", study: Study, readings: list[Reading]) -> str:
    """What was found, whatever it is: the two readings at the longer window, before and after fine-tuning."""
    from experiments.statistics import paired_ratio

    longer = base.window * study.factor
    said = []
    for position in study.positions:
        mine = {(r.arm, r.steps): r for r in readings if r.position == position}
        last = max(study.finetune_steps)
        window = mine["none", 0].at(base.window)["perplexity"]
        quarter, half = (mine["none", 0].at(base.window // part) for part in (4, 2))
        used = paired_ratio(mine["none", 0].at(base.window), quarter)
        said.append(
            f"{position}: perplexity {quarter['perplexity']:.2f} with {base.window // 4} tokens of context, "
            f"{half['perplexity']:.2f} with {base.window // 2}, {window:.2f} with the trained {base.window} (whole / "
            f"quarter {used}: it {'uses' if used.high < 1 else 'shows no use of'} context beyond a quarter)"
        )
        for arm in study.extends:
            if arm == "none":
                continue
            parts = []
            for steps in (0, *study.finetune_steps):
                ratio = paired_ratio(mine[arm, steps].at(longer), mine["none", steps].at(longer))
                verdict = "better" if ratio.high < 1 else "worse" if ratio.low > 1 else "no different"
                parts.append(f"{verdict} after {steps} steps ({ratio})")
            said.append(f"at {longer} tokens {arm} against extrapolation is " + ", ".join(parts))
            best = mine[arm, last].at(longer)["perplexity"]
            said.append(
                f"after {last} steps {arm} stands at {best:.2f}, extrapolation at "
                f"{mine['none', last].at(longer)['perplexity']:.2f}, the control tuned at {base.window} at "
                f"{mine[CONTROL, last].at(longer)['perplexity']:.2f}"
            )
    return "; ".join(said) + "."


def table(study: Study, readings: list[Reading]) -> str:
    """Perplexity by scheme, arm and steps (rows) and context length (columns)."""
    contexts = [row["context"] for row in readings[0].rows]
    lines = [f"{'position':<12} {'arm':<14} {'steps':>5}  " + " ".join(f"{c:>8}" for c in contexts)]
    for reading in readings:
        cells = " ".join(f"{row['perplexity']:>8.2f}" for row in reading.rows)
        lines.append(f"{reading.position:<12} {named(reading.arm):<14} {reading.steps:>5}  {cells}")
    return "\n".join(lines)


def _main(values: dict, overrides: list[str]) -> None:
    from experiments.figures.extension import extension_figure

    base, study, readings, folder = run_study(values, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    found, printed = sentence(base, study, readings), table(study, readings)
    results = {"study": study.model_dump(mode="json"), "base": base.model_dump(mode="json"), "found": found}
    write_json(folder / "results.json", results | {"readings": [asdict(reading) for reading in readings]})
    (folder / "table.txt").write_text(f"{printed}\n\n{found}\n")
    extension_figure(folder / "figure", base.window, study, readings)
    if base.logger.name == "wandb":
        _to_wandb(base, study, readings, folder)
    where = f"Table: {folder}/table.txt   Figure: {folder}/figure.png   Numbers: {folder}/results.json"
    print(f"\nPerplexity of the same {study.split} targets, by tokens of context (trained on {base.window}):\n")
    following = (
        "another factor (study.factor=8), more fine-tuning (study.finetune_steps=[4,256]), or one of your own runs"
    )
    print(f"{printed}\n\n{found}\n\n{where}\nTry next: {following}; README.md says how.")


def _to_wandb(base: "Config", study: Study, readings: list[Reading], folder: Path) -> None:
    """The curves of every arm over context length, the table and the figure, in one W&B run."""
    import wandb

    from conf.tracking import tracked

    identity = {"name": folder.name, "group": base.group, "job_type": "study", "tags": list(study.positions)}
    settings = json.loads((folder / "results.json").read_text())
    with tracked(base.logger, Path(base.runs), config={k: settings[k] for k in ("study", "base")}, **identity) as run:
        for number, row in enumerate(readings[0].rows):
            curves = {f"context/{r.position}-{r.arm}-{r.steps}": r.rows[number]["perplexity"] for r in readings}
            run.log({"context/length": row["context"], **curves})
        columns = ["position", "arm", "steps", "context", "perplexity"]
        cells = [[r.position, r.arm, r.steps, row["context"], row["perplexity"]] for r in readings for row in r.rows]
        run.log({"table": wandb.Table(columns=columns, data=cells), "figure": wandb.Image(str(folder / "figure.png"))})
        run.summary["found"] = settings["found"]


def main() -> None:
    """The command line."""
    command_line("extend_study", _main)


if __name__ == "__main__":
    main()
