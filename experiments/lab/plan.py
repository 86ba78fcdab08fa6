"""The engine that plans, trains and resumes the runs of all questions.

A question is a name (a claim, or a scheme of the extension study) with arms, each a run for every seed. A run is
trained once and shared by all questions that use it; some runs are fine-tuned from others. A question is measured as
soon as its runs are done. If a plan is killed, the same plan resumes and retries failed runs.
"""

import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.base import BadInput
from conf.compose import sentence
from conf.run_folder import RunFolder, identity
from experiments.lab.launch import Launcher, Progress, call_side_by_side, jobs, launch, threads, tokens
from experiments.lab.speed import duration, training_seconds

if TYPE_CHECKING:
    from conf.schema import Config
    from train import Result

ROUNDS = 8  # least runs per worker before workers wait for the measurement of a question
Arms = dict[str, list["Config"]]  # by name, a run for each seed


@dataclass(frozen=True)
class Plan:
    """Arms by question; runs by name, each once; users: the questions that use a run, by its name."""

    arms: dict[str, Arms]
    runs: dict[str, "Config"]
    users: dict[str, list[str]]
    launcher: Launcher
    at_once: int

    def of(self, questions: Sequence[str]) -> list["Config"]:
        """The runs that these questions use, each once."""
        names = {run.name for question in questions for arm in self.arms[question].values() for run in arm}
        return [run for name, run in self.runs.items() if name in names]

    @cached_property
    def bases(self) -> dict[str, str]:
        """The names of base runs by the names of the runs of this plan that are fine-tuned from them."""
        folders = {RunFolder.of(run).path: name for name, run in self.runs.items()}
        starts = {name: Path(run.checkpoint).parent.parent for name, run in self.runs.items() if run.checkpoint}
        return {name: folders[start] for name, start in starts.items() if start in folders}

    def portions(self) -> Iterator[list[str]]:
        """Groups of questions in order, large enough that training seldom waits for measurements."""
        portion: list[str] = []
        for question in self.arms:
            portion.append(question)
            if len(missing(self.of(portion))) >= ROUNDS * self.at_once:
                yield portion
                portion = []
        if portion:
            yield portion


def make_plan(arms: dict[str, Arms], launcher: Launcher, jobs_on_gpu: int) -> Plan:
    """Make the plan of all runs of some questions.

    A run is tagged for W&B with the questions that use it; its logger is no part of its identity.

    Raises:
        BadInput: two different runs would have one name, or a run several devices.
    """
    users: dict[str, list[str]] = {}
    known: dict[str, Config] = {}
    for question, run in ((name, run) for name in arms for arm in arms[name].values() for run in arm):
        run.trainer.check_single("a plan")
        if run_key(known.setdefault(run.name, run)) != run_key(run):
            raise BadInput(f"two runs would be called {run.name}, though their settings differ")
        if question not in users.setdefault(run.name, []):
            users[run.name].append(question)
    runs = {}
    for name, run in known.items():
        logger = run.logger.model_copy(update={"tags": (*run.logger.tags, *users[name])})
        runs[name] = run.model_copy(update={"logger": logger})
    return Plan(arms, runs, users, launcher, jobs(launcher, jobs_on_gpu))


def run_key(run: "Config") -> str:
    """The identity of a run as text, without its name and logger."""
    return json.dumps(identity(run.model_dump(mode="json", exclude={"name"})), sort_keys=True)


def missing(runs: Sequence["Config"]) -> list["Config"]:
    """The runs that are not done."""
    return [run for run in runs if RunFolder.of(run).status["state"] != "done"]


def describe(plan: Plan, title: str, notes: Sequence[str] = (), reading: tuple[float, float] = (0, 0)) -> str:
    """Describe the plan: questions, runs, those done, and tokens and time of the rest.

    Args:
        notes: further lines on this plan. reading: tokens left to read, and the seconds they take.
    """
    runs = list(plan.runs.values())
    left, lines = missing(runs), [title]
    for question, arms in plan.arms.items():
        if not arms:
            lines.append(f"  {question:<20} nothing to train")
            continue
        used = plan.of([question])
        line = f"  {question:<20} {len(arms)} arms, {len(used)} runs, {len(used) - len(missing(used))} done"
        if shared := sum(len(plan.users[run.name]) > 1 for run in used):
            line += f", {shared} shared with other questions"
        lines.append(line)
    lines += [f"  {note}" for note in notes]
    tuned = sum(run.checkpoint is not None for run in runs)
    lines.append(
        f"  {'together':<20} {len(runs)} runs, {tuned} fine-tuned from others; {len(runs) - len(left)} are done, "
        f"{len(left)} to train: {sum(map(tokens, left)) / 1e6:.2f} M tokens"
    )
    to_read, seconds = reading
    if to_read:
        lines[-1] += f"; {to_read / 1e6:.2f} M tokens to read"
    if left:
        training, timed = _training_seconds(plan, left)
        seconds += training / plan.at_once
        lines[-1] += f", {plan.at_once} at a time by launcher={plan.launcher.name}"
        basis = "some speeds timed just now" if timed else "as fast as the finished ones"
        lines.append(f"It takes about {duration(seconds)} ({basis}).")
    elif to_read:
        lines.append(f"It takes about {duration(seconds)} (reading timed just now).")
    elif runs:
        lines.append("All of it is there already.")
    return "\n".join(lines)


def _training_seconds(plan: Plan, left: list["Config"]) -> tuple[float, bool]:
    """speed.training_seconds with as many threads as a run will have."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads(plan.launcher, plan.at_once) or before)
    try:
        return training_seconds(left, list(plan.runs.values()))
    finally:
        torch.set_num_threads(before)


def carry_out(
    plan: Plan,
    conclude: Callable[[str, dict[str, list["Result"]]], Any],
    read: Callable[[str, dict[str, list["Result"]]], Any] | None = None,
) -> tuple[dict[str, Any], str | None]:
    """Train missing runs, and conclude every question as soon as its runs are done.

    Args:
        conclude: (question, its finished runs by arm) → its result.
        read: (question, its finished runs of one seed by arm) makes the readings that `conclude` reads back; called
            in the processes of the launcher if it has several on this machine. A function of a module.

    Returns:
        Results by question, and a message with a line for each failed run or question; None if none failed.
    """
    from train import train

    progress, results, failures, troubles = Progress(missing(list(plan.runs.values()))), {}, {}, {}
    for portion in plan.portions():
        failures = train_all(plan, portion, progress, failures)
        if read is not None and plan.launcher.plugin == "joblib" and plan.at_once > 1:
            whole = [name for name in portion if not any(run.name in failures for run in plan.of([name]))]
            read_side_by_side(plan, whole, read)
        for question in portion:
            if any(run.name in failures for run in plan.of([question])):
                troubles[question] = "some of its runs failed"
                continue
            try:  # the runs are done: read back and checked
                trained = {arm: [train(run) for run in runs] for arm, runs in plan.arms[question].items()}
                results[question] = conclude(question, trained)
            except Exception as error:
                if (reason := sentence(error)) is None:
                    traceback.print_exception(error)
                troubles[question] = reason or repr(error)
    if not failures and not troubles:
        return results, None
    lines = [f"{name}: {reason}" for name, reason in {**failures, **troubles}.items()]
    runs = f"{len(failures)} of {len(plan.runs)} runs failed" if failures else "all runs are there"
    return results, "\n".join(lines) + (
        f"\n{runs}, {len(troubles)} of {len(plan.arms)} came to nothing ({', '.join(troubles)}); the same command "
        "tries them again"
    )


def read_side_by_side(plan: Plan, questions: Sequence[str], read: Callable) -> None:
    """Call `read` of carry_out for every question and seed, in as many processes as runs are trained in."""
    calls = {}
    for question in questions:
        arms = plan.arms[question]
        for seed in range(max(map(len, arms.values()), default=0)):
            runs = {arm: [runs[seed]] for arm, runs in arms.items()}
            calls[f"{question}, seed {seed + 1}, is read"] = (read, question, runs)
    if len(calls) > 1:
        print(f"Reading {', '.join(questions)}: {len(calls)} parts, {plan.at_once} at a time", flush=True)
        each = threads(plan.launcher, plan.at_once) or 1
        call_side_by_side(_read_runs, calls, next(iter(plan.runs.values())), each, plan.at_once)


def _read_runs(read: Callable, question: str, arms: Arms) -> None:
    from train import train

    read(question, {arm: [train(run) for run in runs] for arm, runs in arms.items()})


def train_all(plan: Plan, questions: Sequence[str], progress: Progress, failures: dict[str, str]) -> dict[str, str]:
    """Train the missing runs of these questions; returns the failures, a sentence by name of the run.

    A failing run stops only those fine-tuned from it. Runs not trained are trained by the next call.

    Args:
        failures: earlier failures, which are not retried; they are returned too.
    """
    from data.corpus import prepare

    failures = dict(failures)
    left = [run for run in missing(plan.of(questions)) if run.name not in failures]
    for data in {run.data.model_dump_json(): run for run in left}.values():
        prepare(data.data, Path(data.cache), progress=data.trainer.progress)  # no job has to
    while left:
        ready = next_runs(plan, left)
        left = [run for run in left if run not in ready]
        stopped = [run for run in ready if plan.bases.get(run.name) in failures]
        for run in stopped:
            failures[run.name] = f"not started, because {plan.bases[run.name]} failed, which it goes on from"
        if ready := [run for run in ready if run not in stopped]:
            with progress.watching(ready):
                failures |= launch(ready, plan.launcher, plan.at_once)
    return failures


def next_runs(plan: Plan, left: Sequence["Config"]) -> list["Config"]:
    """Of the runs left, those to train next: all whose base is not among them, and first the bases of others.

    Where these are all bases, the last of them, too few for all workers, wait for the next time: the other workers then
    go on with runs fine-tuned from the first.
    """
    names = {run.name for run in left}
    bases = {plan.bases.get(name) for name in names}
    ready = sorted(
        (run for run in left if plan.bases.get(run.name) not in names), key=lambda run: run.name not in bases
    )
    waiting = len(ready) % plan.at_once if ready[-1].name in bases else 0
    return ready[: len(ready) - waiting] or ready
