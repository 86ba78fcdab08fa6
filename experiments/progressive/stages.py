"""LongRoPE's progressive extension: search, fine-tune, and search again up to the last window.

    python -m experiments.progressive checkpoint=runs/demo/rope-pico-s1 factors=[4,16] steps=[100,0]

Every stage searches factors for its window on the checkpoint so far (longrope/search.py) and fine-tunes it with them,
by train.train and with as many tokens per step as the base model. A stage of no steps is a search alone, like the
paper's last one (Ding et al. 2024, section 3.3). Factors are relative to the base model's window. At the end, factors
for texts within that window are recovered (longrope/recovery.py). The direct path searches the factors of the last
stage on the base model and takes all fine-tuning steps at the last window, on as many tokens. It has no recovery, so
the two paths are compared beyond the window.

Every reading is perplexity of the same held-out targets (`fixed_targets`), so that all compare in pairs. The plan is
printed first. If the command is killed, the same command resumes and reads back finished parts.

Results: beside the base run, in progressive/<checkpoint>-<stages>-<digest>/: results.json, table.txt and figures.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path

import yaml

from conf.base import BadInput
from conf.environment import environment
from conf.files import write_json, write_text
from conf.validation import validate
from experiments.lab.finetuning import fine_tuned
from experiments.lab.launch import Engine, Progress
from experiments.lab.measure.perplexity import measure_checkpoint
from experiments.lab.measure.readings import read_back_note
from experiments.lab.measure.request import read_request
from experiments.lab.plan import make_plan, train_all
from experiments.longrope import Search, overfit, recover, search_factors, search_progress
from experiments.progressive.plan import Progressive, Stages, describe, make_stages, tuning_changes
from experiments.progressive.report import PathReading, path_ratios, sentences, table

READ = ("factor", "n_hat", "temperature", "long", "short")  # entries of a file of factors that a model is read with


def run_progressive(stages: Stages) -> dict:
    """Search and fine-tune along both paths, with a reading after every step.

    Returns:
        {"run", "position", "window", "factors", "steps", "stages": the result of each search and the checkpoint
        of its fine-tuning, "direct" and "recovery" likewise, "readings": plain values of
        PathReading with rows as measure_checkpoint gives them, "ratios": paired estimates by name and context}.

    Raises:
        BadInput: a fine-tuning run failed.
        SystemExit: a signal stopped one, after it was saved.
    """
    settings, base, readings = stages.settings, stages.base, []

    def read(name: str, factor: int, steps: int, checkpoint: Path, extend: dict) -> None:
        result = measure_checkpoint(checkpoint, extend, stages.reading, base.cache)
        rows = result["rows"]
        readings.append(PathReading(name, factor, steps, rows))
        curve = ", ".join(f"{row['perplexity']:.2f} at {row['context']}" for row in rows)
        print(f"{readings[-1].label}: {curve}{read_back_note([result])}", flush=True)

    def stage(name: str, start: Path, factor: int, steps: int, before: int = 0) -> tuple[dict, Path]:
        """Search from a checkpoint, fine-tune it and read both; returns the results and the last checkpoint."""
        search = Search(factor=float(factor), **dict(settings.search))
        with search_progress(f"{name} x{factor}", search) as progress:
            result, folder = search_factors(start, search, base.cache, progress)
        extend = read_with(folder / "factors.yaml")
        read(name, factor, before, start, extend)
        end = start
        if steps:
            end = _fine_tune(stages, start, extend, factor, steps, folder.name)
            read(name, factor, before + steps, end, extend)
        row = {"factor": factor, "steps": steps, "search": str(folder), "checkpoint": str(end)}
        row |= {"n_hat": result["n_hat"], "long": result["vectors"]["found"], "evaluations": result["evaluations"]}
        return row | _overfit(result), end

    read("base", 1, 0, stages.checkpoint, {"name": "none"})
    rows, end, done = [], stages.checkpoint, 0
    for factor, steps in zip(settings.factors, settings.steps, strict=True):
        row, end = stage("progressive", end, factor, steps, done)
        rows.append(row)
        done += steps
    with search_progress("recovery", settings.recovery) as progress:
        long = Path(rows[-1]["search"]) / "factors.yaml"
        recovered, folder = recover(end, long, settings.recovery, base.cache, progress)
    read("recovered", settings.factors[-1], done, end, read_with(folder / "factors.yaml"))
    direct, _ = stage("direct", stages.checkpoint, settings.factors[-1], done)
    short = {"search": str(folder), "short": recovered["vectors"]["found"], "evaluations": recovered["evaluations"]}
    return {
        "run": base.name,
        "position": base.position.name,
        "window": base.window,
        "checkpoint": str(stages.checkpoint),
        "factors": list(settings.factors),
        "steps": list(settings.steps),
        "tokens": done * base.batch * base.window,
        "stages": rows,
        "recovery": short | _overfit(recovered),
        "direct": direct,
        "readings": [asdict(reading) for reading in readings],
        "ratios": path_ratios(readings),
    }


def _overfit(result: dict) -> dict:
    names = ("searched over best", "held out over best", "overfit gap")
    return dict(zip(names, overfit(result), strict=True))


def read_with(factors: Path) -> dict:
    """The extension that a file of factors describes, without the file."""
    values = yaml.safe_load(factors.read_text())
    return {"name": "longrope"} | {key: values[key] for key in READ if key in values}


def _fine_tune(stages: Stages, start: Path, extend: dict, factor: int, steps: int, searched: str) -> Path:
    """Fine-tune with these factors; returns the last checkpoint. The run is named by the search they come from."""
    from train import train

    base, lr = stages.base, stages.settings.lr
    mark = hashlib.sha256(f"{searched} {lr}".encode()).hexdigest()[:10]
    name = f"{base.name[:70]}-tuned-longrope{factor}-n{steps}-{mark}"
    run = fine_tuned(base, start, tuning_changes(base, extend, factor, steps, lr) | {"name": name})
    plan = make_plan({"progressive": {name: [run]}}, stages.launcher, stages.jobs_on_gpu)
    if failures := train_all(plan, ["progressive"], Progress([run]), {}):
        raise BadInput(f"{name}: {failures[name]}; the same command tries it again")
    return train(run).checkpoint


def run_command(values: dict, overrides: list[str]) -> None:
    """Run the command with its composed values: make the plan, carry it out, write the page."""
    placed = {key: values[key] for key in ("logger", "trainer", "cache")}
    del values["trainer"]
    engine = validate(Engine, {key: values.pop(key) for key in Engine.model_fields})
    request = read_request(values)
    stages = make_stages(
        request.checkpoint, validate(Progressive, values), engine.launcher, engine.jobs_on_gpu, **placed
    )
    print(describe(stages), flush=True)
    write_page(stages, run_progressive(stages), Path(request.runs), overrides)


def write_page(stages: Stages, result: dict, runs: Path, overrides: list[str]) -> None:
    """Write table, sentences and figure to the folder, the terminal and W&B."""
    from conf.tracking import tracked_page
    from experiments.progressive.figure import progressive_figure

    readings, folder, base = [PathReading(**reading) for reading in result["readings"]], stages.folder, stages.base
    text, summary, settings = table(readings), sentences(result), stages.settings.model_dump(mode="json")
    folder.mkdir(parents=True, exist_ok=True)
    # The sums by document are saved with each reading.
    short = [{**asdict(reading), "rows": reading.brief} for reading in readings]
    about = environment(overrides) | {"settings": settings}
    write_json(folder / "results.json", about | result | {"readings": short, "found": summary})
    write_text(folder / "table.txt", f"{text}\n\n{summary}\n")
    progressive_figure(folder / "figure", readings, result)
    print(f"\n{text}\n\n{summary}\n\nIn {folder}: table.txt, results.json, figure.png")
    if base.logger.name == "wandb":
        identity = {"name": f"{base.name}-{folder.name}", "group": base.group, "job_type": "progressive"}
        identity |= {"tags": [result["position"]], "config": settings}
        curves = [
            {"context/length": context} | {f"context/{r.label}": r.rows[n]["perplexity"] for r in readings}
            for n, context in enumerate(stages.reading.contexts)
        ]
        cells = [(reading.label, row["context"], row["perplexity"]) for reading in readings for row in reading.rows]
        figures = {"figure": folder / "figure.png"}
        tables = (("reading", "context", "perplexity"), cells)
        tracked_page(base.logger, runs, identity, {"found": summary}, figures, curves, tables)
