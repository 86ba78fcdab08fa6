"""The arms of a task, as overrides of train.py: schemes, some of them trained at positions moved by a random offset."""

from itertools import chain
from typing import TYPE_CHECKING

from pydantic import model_validator

from conf.base import Count, Counts, Names, PathText, Words
from conf.overrides import key_of
from experiments.lab.launch import Engine
from experiments.lab.scale import Scale
from experiments.tasks.published import LENGTHS

if TYPE_CHECKING:
    from conf.schema import Config

OFFSET = "+offset"
ARM = ("data", "data.task", "data.lengths", "position", "window", "seen")  # keys that tell arms apart


class Request(Engine):
    """The tasks, schemes and seeds to try, as in conf/tasks.yaml."""

    tasks: Names
    schemes: Names
    lengths: Counts
    seeds: Count
    scale: Scale
    train: Words
    group: str | None
    trainer: dict
    logger: dict
    runs: PathText
    cache: PathText

    @model_validator(mode="after")
    def _known(self):
        from data.tasks import TASKS

        if unknown := [task for task in self.tasks if task not in (*TASKS, "all")]:
            raise ValueError(f"tasks={unknown[0]} is not known; allowed: {', '.join(TASKS)}, all")
        schemes = known_schemes()
        if unknown := [
            scheme for scheme in self.schemes if scheme != "all" and scheme.removesuffix(OFFSET) not in schemes
        ]:
            raise ValueError(f"schemes={unknown[0]} is not known; allowed: {', '.join(schemes)}, each {OFFSET}, all")
        if "learned" in self.schemes:
            raise ValueError(f"schemes=learned ends with the window it is trained at: take learned{OFFSET}")
        if clash := [word for word in self.train if key_of(word) in ARM]:
            raise ValueError(f"train={clash[0]} is not the same for every run: tasks=, schemes= and lengths= set it")
        return self

    @property
    def all_tasks(self) -> list[str]:
        """The names of the tasks, `all` spelled out."""
        from data.tasks import TASKS

        return list(TASKS) if "all" in self.tasks else list(self.tasks)

    @property
    def all_schemes(self) -> list[str]:
        """The names of the schemes, `all` spelled out: learned positions with an offset, others as they are."""
        every = [scheme + OFFSET * (scheme == "learned") for scheme in known_schemes()]
        named = [[scheme] if scheme != "all" else every for scheme in self.schemes]
        return list(dict.fromkeys(chain.from_iterable(named)))


def known_schemes() -> list[str]:
    """The names of all positional schemes."""
    from models.positions import SCHEMES

    return list(SCHEMES)


def arm_overrides(task: str, scheme: str, lengths: tuple[int, ...] = LENGTHS) -> list[str]:
    """The overrides of train.py, beside data=tasks, that make an arm: a task at its own window, and a scheme.

    With an offset a window starts anywhere up to the longest sample of the last range, so that every position that
    this is read at was a start.
    """
    from data.tasks import longest_document

    settings = task_settings(task, lengths)
    window = longest_document(settings, 0) - 1
    words = [f"data.task={task}", f"position={scheme.removesuffix(OFFSET)}", f"window={window}"]
    if lengths != LENGTHS:
        words.append(f"data.lengths={list(lengths)}".replace(" ", ""))
    if scheme.endswith(OFFSET):
        reached = window + longest_document(settings, len(lengths) - 1)
        words += ["seen=offset", f"seen.longest={reached}"]
        words += [f"position.rows={reached}"] * (scheme == f"learned{OFFSET}")
    return words


def task_settings(task: str, lengths: tuple[int, ...]):
    """The settings of a task's data with questions of these lengths.

    Raises:
        BadInput: there are none of these lengths.
    """
    from conf.compose import compose_values
    from conf.validation import validate
    from data.settings import Tasks

    values = compose_values("config", ["data=tasks"])["data"]
    return validate(Tasks, values | {"name": task, "task": task, "lengths": list(lengths)})


def task_runs(request: Request, task: str, scheme: str) -> list["Config"]:
    """The runs of an arm, one for each seed.

    Raises:
        BadInput: they cannot be composed.
    """
    from conf.compose import compose_values
    from conf.names import UNNAMED, joined, labels
    from conf.resolve import resolve

    arm = arm_overrides(task, scheme, request.lengths)
    further = [*request.scale.on("tasks"), *request.scale.on_task(arm, request.train), *request.train]
    words = [*request.scale.compatible_with([*further, *arm]), *further, *arm]
    values = compose_values("config", words)
    values |= {key: getattr(request, key) for key in ("trainer", "logger", "runs", "cache")}
    values |= {"group": request.group or f"tasks-{request.scale.name}", "checkpoint": None}
    own = labels([*request.train, *(word for word in arm if word.startswith("data.lengths"))], UNNAMED)
    runs = [resolve({**values, "seed": seed + 1}, words) for seed in range(request.seeds)]
    return [run.model_copy(update={"name": joined([task, scheme.replace("+", "-"), *own], run.seed)}) for run in runs]
