"""One plan for all claims that are asked for: every run once, bases before what goes on from them, done ones left."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.run_folder import RunFolder
from experiments.lab.launch import Progress, jobs, launch, threads, tokens
from experiments.lab.runs import Asked, plan

if TYPE_CHECKING:
    from conf.schema import Config

ROUNDS = 8  # runs for each place, at least, before a claim's measurement makes the places wait


@dataclass(frozen=True)
class Plan:
    """Runs of claims: arms by claim, arm and seed; runs by name, each with the names of the claims that look at it."""

    asked: Asked
    arms: dict[str, dict[str, list["Config"]]]
    runs: dict[str, "Config"]
    users: dict[str, list[str]]

    @property
    def at_once(self) -> int:
        """How many runs are trained at once."""
        return jobs(self.asked.launcher, self.asked.jobs_on_gpu)

    def of(self, claims: Sequence[str]) -> list["Config"]:
        """The runs that these claims look at, each once."""
        names = {run.name for claim in claims for arm in self.arms[claim].values() for run in arm}
        return [run for name, run in self.runs.items() if name in names]

    @cached_property
    def bases(self) -> dict[str, str]:
        """By the name of a run that goes on from another one, that of the other."""
        folders = {RunFolder.of(run).path: name for name, run in self.runs.items()}
        starts = {name: Path(run.checkpoint).parent.parent for name, run in self.runs.items() if run.checkpoint}
        return {name: folders[start] for name, start in starts.items() if start in folders}

    def portions(self) -> Iterator[list[str]]:
        """The claims in the order asked for, so many at a time that training seldom waits for their verdicts."""
        portion: list[str] = []
        for claim in self.arms:
            portion.append(claim)
            if len(missing(self.of(portion))) >= ROUNDS * self.at_once:
                yield portion
                portion = []
        if portion:
            yield portion


def make_plan(claims: Sequence[str], asked: Asked) -> Plan:
    """All runs of some claims.

    A run is tagged for W&B with the claims of this plan that look at it; where it logs to is not what it is.

    Raises:
        BadInput: an arm cannot be had, or two different runs would have one name.
    """
    from experiments.reproduce.claims import CLAIMS

    known: dict[str, Config] = {}
    arms = {claim: plan(CLAIMS[claim](), asked, known) for claim in claims}
    users: dict[str, list[str]] = {}
    for claim, its_arms in arms.items():
        for run in (run for arm in its_arms.values() for run in arm):
            if claim not in users.setdefault(run.name, []):
                users[run.name].append(claim)
    runs: dict[str, Config] = {}
    for run in known.values():
        if run.name in runs:
            raise BadInput(f"two runs would be called {run.name}, though their settings differ: {users[run.name]}")
        logger = run.logger.model_copy(update={"tags": (*run.logger.tags, *users[run.name])})
        runs[run.name] = run.model_copy(update={"logger": logger})
    return Plan(asked, arms, runs, users)


def missing(runs: Sequence["Config"]) -> list["Config"]:
    """Those that are not done."""
    return [run for run in runs if RunFolder.of(run).status["state"] != "done"]


def told(plan: Plan) -> str:
    """The plan in words: claims, runs, those that are done, the tokens of the rest and how long they take."""
    runs, left = list(plan.runs.values()), missing(list(plan.runs.values()))
    tuned = sum(run.checkpoint is not None for run in runs)
    lines = [f"The plan at scale {plan.asked.scale.name}, with {plan.asked.count} seeds of every arm:"]
    for claim, arms in plan.arms.items():
        own = plan.of([claim])
        shared = sum(len(plan.users[run.name]) > 1 for run in own)
        lines.append(
            f"  {claim:<20} {len(arms)} arms, {len(own)} runs, {len(own) - len(missing(own))} done, "
            f"{shared} shared with other claims"
            if arms
            else f"  {claim:<20} computed, nothing to train"
        )
    lines.append(
        f"  {'together':<20} {len(runs)} runs, {tuned} fine-tuned from others; {len(runs) - len(left)} are done, "
        f"{len(left)} to train: {sum(map(tokens, left)) / 1e6:.1f} M tokens"
    )
    if left:
        lines[-1] += f", {_time(plan, left)}, {plan.at_once} at a time by launcher={plan.asked.launcher.name}"
    return "\n".join(lines)


def _time(plan: Plan, left: list["Config"]) -> str:
    """How long training takes, by the speed of finished runs of the same size, else by a few timed steps."""
    import torch

    from experiments.extend.plan import PER_RUN, duration, training_speed

    def size(run: "Config") -> tuple:
        return run.model, run.window

    known: dict[tuple, list[float]] = {}
    for run in plan.runs.values():
        if results := RunFolder.of(run).results:
            speed = results["metrics"].get("speed/tokens_per_second")
            known.setdefault(size(run), []).extend([speed] if speed else [])
    before, fewer = torch.get_num_threads(), threads(plan.asked.launcher, plan.at_once)
    torch.set_num_threads(fewer or before)
    seconds, timed = 0.0, {}
    for run in left:
        if not known.get(size(run)) and size(run) not in timed:
            timed[size(run)] = training_speed(run)[0]
        speed = mean(known[size(run)]) if known.get(size(run)) else timed[size(run)]
        seconds += tokens(run) / speed + PER_RUN
    torch.set_num_threads(before)
    how = "some sizes timed just now" if timed else "as fast as the finished ones"
    return f"about {duration(seconds / plan.at_once)} ({how})"


def train_all(plan: Plan, claims: Sequence[str], progress: Progress, failures: dict[str, str]) -> dict[str, str]:
    """Train what these claims miss; returns, by name, in a sentence each, why some runs did not come to an end.

    A failing run stops only those that go on from it. What was not trained is trained when the same is asked again.

    Args:
        failures: of what was trained before, which is not tried twice; they are returned too.
    """
    from data.corpus import prepare

    failures = dict(failures)
    left = [run for run in missing(plan.of(claims)) if run.name not in failures]
    for data in {run.data.model_dump_json(): run for run in left}.values():
        prepare(data.data, Path(data.cache), progress=data.trainer.progress)  # no job has to
    while left:
        names = {run.name for run in left}
        ready = [run for run in left if plan.bases.get(run.name) not in names]
        left = [run for run in left if run not in ready]
        stopped = [run for run in ready if plan.bases.get(run.name) in failures]
        for run in stopped:
            failures[run.name] = f"not started, because {plan.bases[run.name]} failed, which it goes on from"
        if ready := [run for run in ready if run not in stopped]:
            with progress.watching(ready):
                failures |= launch(ready, plan.asked.launcher, plan.at_once)
    return failures
