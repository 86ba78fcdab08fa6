"""Train every scheme on every task, and count exact answers to questions of lengths seen and never seen in training.

    python -m experiments.tasks                                      the default set, priced first
    python -m experiments.tasks launcher=joblib                      over this machine's cores
    python -m experiments.tasks tasks=all schemes=all seeds=5

A run learns a task from questions of up to 50 tokens and ends early once all answers of its validation samples are
exact; of the range of training too, the test split has samples of its own. Sizes and steps of a task are those of
conf/scale, the same for every scheme; runs of one seed share the weights they have in common and the order of the
samples. The plan is printed first. If the command is killed, the same command resumes.

Results: runs/<group>/tasks…/ with results.json, summary.json (without single answers, small enough to commit),
table.txt and a figure.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.environment import environment
from conf.files import write_json, write_text
from conf.run_folder import RunFolder
from conf.validation import validate
from experiments.lab.measure.exact import measure_exact, tokens_read
from experiments.lab.measure.readings import read_back_note
from experiments.lab.plan import Plan, carry_out, describe, make_plan, missing
from experiments.lab.speed import reading_seconds
from experiments.tasks.accuracy import Accuracy, Measured, accuracies
from experiments.tasks.arms import Request, task_runs
from experiments.tasks.report import sentences, summary_rows, table

if TYPE_CHECKING:
    from conf.schema import Config
    from train import Result


def make_task_plan(request: Request) -> Plan:
    """The plan of all runs; its questions are the tasks.

    Raises:
        BadInput: a run cannot be composed.
    """
    arms = {
        task: {scheme: task_runs(request, task, scheme) for scheme in request.all_schemes} for task in request.all_tasks
    }
    return make_plan(arms, request.launcher, request.jobs_on_gpu)


def describe_plan(plan: Plan, request: Request) -> str:
    """Describe the plan with tokens and time."""
    tokens, seconds = 0, 0.0
    for task, arms in plan.arms.items():
        if left := missing(plan.of([task])):  # those that are there are read back
            read = tokens_read(next(iter(arms.values()))[0].data)
            tokens += len(left) * sum(read.values())
            seconds += len(left) * reading_seconds(left[0], read)
    title = f"The plan at scale {request.scale.name}, with {request.seeds} seeds of every scheme:"
    notes = ["at most: a run ends once all validation answers are exact"] if missing(list(plan.runs.values())) else []
    return describe(plan, title, notes, (tokens, seconds))


def read_task(task: str, trained: dict[str, list["Result"]], cache: str) -> dict[str, list[Accuracy]]:
    """Measure the finished runs of a task; earlier measurements are read back."""
    measured = {}
    for scheme, runs in trained.items():
        readings = [measure_exact(run.checkpoint, cache) for run in runs]
        measured[scheme] = accuracies(readings)
        shares = ", ".join(f"{one.pooled.value:.1%} at {one.low} to {one.high}" for one in measured[scheme])
        print(f"{task}, {scheme}: exact {shares}{read_back_note(readings)}", flush=True)
    return measured


def run_command(values: dict, overrides: list[str]) -> None:
    """Run the command with its composed values: make the plan, carry it out, write the page."""
    from conf.schema import Computed

    request = validate(Request, values)
    validate(Computed, {"trainer": request.trainer, "logger": request.logger})
    plan = make_task_plan(request)
    print(describe_plan(plan, request), flush=True)
    measured, failures = carry_out(plan, lambda task, trained: read_task(task, trained, request.cache))
    if measured:
        write_page(plan, request, measured, overrides)
    if failures:
        raise BadInput(failures)


def results_folder(first: "Config", overrides: list[str]) -> Path:
    """The folder of the results, named by the overrides of what is compared."""
    from conf.names import labels, shortened

    keys = ("tasks", "schemes", "lengths", "seeds", "train")
    named = labels([word for word in overrides if word.startswith(tuple(f"{key}=" for key in keys))], ())
    return Path(first.runs) / first.group / shortened("-".join(["tasks", *named]), 120, 110)


def write_page(plan: Plan, request: Request, measured: Measured, overrides: list[str]) -> None:
    """Write table, sentences and figure to the folder, the terminal and W&B."""
    from conf.tracking import tracked_page
    from experiments.tasks.figure import tasks_figure

    first = next(iter(plan.runs.values()))
    folder = results_folder(first, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    text, summary, rows = table(measured), sentences(measured), summary_rows(measured)
    settings = request.model_dump(mode="json", include={"tasks", "schemes", "lengths", "seeds", "train"})
    steps = {task: steps_taken(plan, task) for task in measured}
    results = {"settings": settings, "scale": request.scale.name, "found": summary, "rows": rows, "steps": steps}
    write_json(folder / "summary.json", environment(overrides) | results)
    answers = {
        task: {scheme: [{"low": one.low, "high": one.high, "lengths": one.lengths.tolist(),
                         "exact": one.exact.tolist()} for one in ranges] for scheme, ranges in arms.items()}
        for task, arms in measured.items()
    }  # fmt: skip
    write_json(folder / "results.json", results | {"answers": answers})
    write_text(folder / "table.txt", f"{text}\n\n{summary}\n")
    tasks_figure(folder / "figure", measured)
    print(f"\n{text}\n\n{summary}\n\nIn {folder}: table.txt, results.json, summary.json, figure.png")
    if first.logger.name == "wandb":
        identity = {"name": folder.name, "group": first.group, "job_type": "study", "tags": list(measured)}
        highs = sorted({row["high"] for row in rows})
        curves = [
            {"context/length": high}
            | {f"context/{row['task']}-{row['scheme']}": row["exact"] for row in rows if row["high"] == high}
            for high in highs
        ]
        columns = ("task", "scheme", "low", "high", "exact")
        cells = (columns, [[row[column] for column in columns] for row in rows])
        figures = {"figure": folder / "figure.png"}
        tracked_page(first.logger, Path(first.runs), identity | {"config": settings}, {"found": summary}, figures,
                     curves, cells)  # fmt: skip


def steps_taken(plan: Plan, task: str) -> dict[str, list[int]]:
    """The steps that each run of a task took, by scheme."""
    from models.progress import Metrics

    return {
        scheme: [int(Metrics(RunFolder.of(run).metrics).final()["step"]) for run in runs]
        for scheme, runs in plan.arms[task].items()
    }
