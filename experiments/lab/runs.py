"""The runs that claims ask for: their settings, those that are fine-tuned from others, and what tells runs apart."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from conf.base import BadInput, Count, Settings, Words
from conf.compose import compose_values
from conf.run_folder import RunFolder, identity
from experiments.lab.finetuning import customary
from experiments.lab.launch import Launcher
from experiments.reproduce.claim import Claim

if TYPE_CHECKING:
    from conf.schema import Config

# An arm with this override is fine-tuned from another one, run by run of the same seed: from its end, or with a share
# behind a slash, as in @rope/0.25, from the snapshot nearest to that share of its steps.
FROM = "checkpoint=@"


class Scale(Settings):
    """The size at which a claim is tested, as in conf/scale; train: overrides of every run."""

    name: str
    seeds: Count
    segments: Count
    train: Words


class Asked(Settings):
    """What is to be reproduced and where, as in conf/reproduce.yaml."""

    claim: Annotated[Words, Field(min_length=1)]
    scale: Scale
    seeds: Count | None
    train: Words
    group: str | None
    trainer: dict
    logger: dict
    launcher: Launcher
    jobs_on_gpu: Count
    runs: str
    cache: str
    results: str

    @property
    def count(self) -> int:
        """How many seeds."""
        return self.seeds or self.scale.seeds


def plan(claim: Claim, asked: Asked, known: dict[str, "Config"] | None = None) -> dict[str, list["Config"]]:
    """The runs of a claim, by arm and one for each seed, named by what tells arms apart; bases before what needs them.

    Args:
        known: runs by `key`; those that are there already are taken, and the others added.

    Raises:
        BadInput: an arm cannot be composed, or is fine-tuned from one that there is not, or from itself.
    """
    shared = [*asked.scale.train, *asked.train]
    common = compose_values("config", shared)
    arms = claim.arms(common["window"])
    fixed = {"group": asked.group or f"claims-{asked.scale.name}", "checkpoint": None}
    fixed |= {key: getattr(asked, key) for key in ("trainer", "logger", "runs", "cache")}
    known, planned = {} if known is None else known, {}

    def add(arm: str, above: tuple[str, ...] = ()) -> None:
        if arm in planned:
            return
        if arm in above or arm not in arms:
            raise BadInput(f"{FROM}{arm}: an arm is fine-tuned from another of its claim: {', '.join(arms)}")
        (start, share), own = origin(arms[arm]), [each for each in arms[arm] if not each.startswith(FROM)]
        values = compose_values("config", [*shared, *own]) | fixed
        if start is None:
            made = [_scratch(values | {"seed": seed + 1}, telling(own, common)) for seed in range(asked.count)]
        else:
            add(start, (*above, arm))
            pairs = zip(planned[start], planned[_root(arm, arms)], strict=True)
            made = [_tuned(base, root, values, sorted(own), share) for base, root in pairs]
        planned[arm] = [known.setdefault(key(config), config) for config in made]

    for arm in arms:
        add(arm)
    return planned


def origin(overrides: list[str]) -> tuple[str | None, float]:
    """The arm that an arm is fine-tuned from, or None, and after which share of its steps."""
    start = next((each.removeprefix(FROM) for each in overrides if each.startswith(FROM)), None)
    arm, _, share = (start or "").partition("/")
    return arm or None, float(share or 1)


def _root(arm: str, arms: dict[str, list[str]]) -> str:
    """The arm trained from scratch at the end of a chain."""
    while start := origin(arms[arm])[0]:
        arm = start
    return arm


def telling(own: list[str], common: dict) -> list[str]:
    """The overrides that change anything, in the order of their keys: two ways to say one thing give one name."""

    def changes(override: str) -> bool:
        key, _, value = override.lstrip("+~").partition("=")
        here = common
        for part in key.split("."):
            here = here.get(part) if isinstance(here, dict) else None
        return value != str(here["name"] if isinstance(here, dict) and "name" in here else here)

    return sorted(filter(changes, own))


def _scratch(values: dict, own: list[str]) -> "Config":
    from conf.names import joined, labels
    from conf.resolve import resolve

    config = resolve(values, own)
    extend = config.extend.label if config.extend.name != "none" else ""
    name = joined([config.position.name, extend, config.model.name, *labels(own, _unnamed())], config.seed)
    return config.model_copy(update={"name": name})


def _tuned(base: "Config", root: "Config", values: dict, own: list[str], share: float) -> "Config":
    """The run that goes on from the end of another, or from a share of it, and is named after it.

    root: the run from scratch whose batch and optimizer fine-tuning starts from. values: composed with the arm's own
    overrides; what these do not say is as in the base run, or customary.
    """
    from conf.names import joined, labels
    from conf.resolve import resolve

    said, whole = {each.lstrip("+~").partition("=")[0] for each in own}, root.model_dump(mode="json")
    window = values["window"] if "window" in said else base.window
    usual = customary(whole, values if "optimizer" in said else whole, window, values["steps"])
    usual["optimizer"] |= {key: value for key, value in values["optimizer"].items() if f"optimizer.{key}" in said}
    usual |= {key: values[key] for key in ("batch", "snapshots") if key in said}
    values = values | usual | {"seed": base.seed, "checkpoint": str(after(base, share))}
    config = resolve(values, own, base.model_dump(mode="json"))
    extend = config.extend.label if {"extend", "extend.factor"} & said else ""
    parts = [base.name.removesuffix(f"-s{base.seed}"), "tuned" if share == 1 else f"tuned-from{share:g}", extend]
    return config.model_copy(update={"name": joined([*parts, *labels(own, _unnamed())], base.seed)})


def _unnamed() -> set[str]:
    """As train.py names runs, but two arms of claims may differ in what is recorded alone."""
    from conf.names import UNNAMED

    return UNNAMED - {"log_every", "validate_every", "validation_windows", "checkpoint_every", "snapshots"}


def key(config: "Config") -> str:
    """What a run is, whatever it is called and wherever it logs to."""
    return json.dumps(identity(config.model_dump(mode="json", exclude={"name"})), sort_keys=True)


def after(config: "Config", share: float) -> Path:
    """The checkpoint that a run leaves at its end, or the snapshot nearest to a share of its steps.

    Raises:
        BadInput: it keeps no snapshots.
    """
    name = f"step-{config.steps:08d}" if share == 1 else f"snapshot-{nearest(config, share):08d}"
    return RunFolder.of(config).checkpoints / f"{name}.ckpt"


def nearest(config: "Config", share: float) -> int:
    """The step of a run's snapshot that is nearest to a share of its steps.

    Raises:
        BadInput: it keeps no snapshots.
    """
    if not config.snapshots:
        raise BadInput(f"{FROM}…/{share:g} needs snapshots=[…] of {config.name}, which keeps none")
    return min(config.snapshots, key=lambda step: abs(step - share * config.steps))
