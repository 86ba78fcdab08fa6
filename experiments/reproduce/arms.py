"""The runs of claims: overrides of arms become configurations, including arms fine-tuned from other arms."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from conf.base import BadInput, Count, PathText, Settings, Words
from conf.compose import compose_values
from conf.names import UNNAMED, joined, labels
from conf.overrides import key_of, value_at
from conf.resolve import resolve
from experiments.lab.finetuning import checkpoint_after, fine_tuned
from experiments.lab.launch import Launcher
from experiments.lab.plan import Arms, run_key
from experiments.lab.scale import Scale
from experiments.reproduce.claim import Claim

if TYPE_CHECKING:
    from conf.schema import Config

# An arm with this override is fine-tuned from another one, run by run of the same seed: from its end, or with a share
# behind a slash, as in @rope/0.25, from the snapshot nearest to that share of its steps.
FROM = "checkpoint=@"
CORPORA = {"text": "sotu", "chains": "chains", "tasks": "tasks"}  # of claims that need one, where all runs have another
# As train.py names runs, but two arms of claims may differ in what is recorded alone.
OUT_OF_NAMES = UNNAMED - {"log_every", "validate_every", "validation_windows", "checkpoint_every", "snapshots"}


class Request(Settings):
    """The claims to reproduce and how, as in conf/reproduce.yaml."""

    claim: Annotated[Words, Field(min_length=1)]
    scale: Scale
    seeds: Count | None
    corpus: str | None
    train: Words
    group: str | None
    trainer: dict
    logger: dict
    launcher: Launcher
    jobs_on_gpu: Count
    runs: PathText
    cache: PathText
    results: PathText

    @property
    def count(self) -> int:
        """The number of seeds."""
        return self.seeds or self.scale.seeds

    @property
    def label(self) -> str:
        """The scale, and the corpus where it is not the scale's own."""
        own = self.corpus is None or f"data={self.corpus}" in self.scale.train
        return self.scale.name if own else f"{self.scale.name}-{self.corpus}"

    @property
    def results_label(self) -> str:
        """The label, and what sets its results apart from a whole verdict's: a group of its own, fewer seeds."""
        group = (self.group or "").removeprefix(f"claims-{self.label}").strip("-")
        seeds = f"s{self.count}" if self.count < self.scale.seeds else ""
        return "-".join(filter(None, [self.label, group, seeds]))


def arms_of(claim: Claim, request: Request, known: dict[str, "Config"] | None = None) -> Arms:
    """The runs of a claim by arm, one per seed, named by the overrides that tell arms apart; bases come first.

    Args:
        known: runs by `run_key`, which are reused; new runs are added to it.

    Raises:
        BadInput: an arm cannot be composed, or is fine-tuned from a missing arm or from itself.
    """
    common, shared = _common(request, request.corpus)
    source, other = common["data"]["source"], []
    if claim.needs not in (None, source if source in ("chains", "tasks") else "text"):
        corpus = CORPORA[claim.needs]
        common, shared = _common(request, corpus)
        other = [f"data={corpus}"]
    arms = claim.arms(common["window"])
    fixed = {"group": request.group or f"claims-{request.label}", "checkpoint": None}
    fixed |= {key: getattr(request, key) for key in ("trainer", "logger", "runs", "cache")}
    known, planned = {} if known is None else known, {}

    def add(arm: str, above: tuple[str, ...] = ()) -> None:
        if arm in planned:
            return
        if arm in above or arm not in arms:
            raise BadInput(f"{FROM}{arm}: an arm is fine-tuned from another of its claim: {', '.join(arms)}")
        start, share = origin(arms[arm])
        changes = [override for override in arms[arm] if not override.startswith(FROM)]
        values = compose_values("config", [*shared, *request.scale.on_task(changes, request.train), *changes]) | fixed
        if start is None:
            words = [*other, *effective_overrides(changes, common)]  # named by a corpus that other claims do not have
            runs = [_from_scratch(values | {"seed": seed + 1}, words) for seed in range(request.count)]
        else:
            add(start, (*above, arm))
            pairs = zip(planned[start], planned[_root(arm, arms)], strict=True)
            runs = [_from_another(base, root, values, sorted(changes), share) for base, root in pairs]
        planned[arm] = [known.setdefault(run_key(run), run) for run in runs]

    for arm in arms:
        add(arm)
    return planned


def _common(request: Request, corpus: str | None) -> tuple[dict, list[str]]:
    """The values that all arms share, and the overrides that give them."""
    further = [*request.scale.on(corpus), *request.train]
    shared = [*request.scale.compatible_with(further), *further]
    return compose_values("config", shared), shared


def origin(overrides: list[str]) -> tuple[str | None, float]:
    """The arm that an arm is fine-tuned from, or None, and after which share of its steps."""
    start = next((override.removeprefix(FROM) for override in overrides if override.startswith(FROM)), None)
    arm, _, share = (start or "").partition("/")
    return arm or None, float(share or 1)


def _root(arm: str, arms: dict[str, list[str]]) -> str:
    """The arm trained from scratch at the end of a chain."""
    while start := origin(arms[arm])[0]:
        arm = start
    return arm


def effective_overrides(overrides: list[str], common: dict) -> list[str]:
    """The overrides that are written otherwise than what holds without them, sorted: a run is named after them."""

    def changes(override: str) -> bool:
        before = value_at(common, key_of(override))
        return override.partition("=")[2] != str(
            before["name"] if isinstance(before, dict) and "name" in before else before
        )

    return sorted(filter(changes, overrides))


def _from_scratch(values: dict, overrides: list[str]) -> "Config":
    run = resolve(values, overrides)
    extend = run.extend.label if run.extend.name != "none" else ""
    parts = [run.position.name, extend, run.model.name, *labels(overrides, OUT_OF_NAMES)]
    return run.model_copy(update={"name": joined(parts, run.seed)})


def _from_another(base: "Config", root: "Config", values: dict, overrides: list[str], share: float) -> "Config":
    """A run that is fine-tuned from another one's end or snapshot and named after it.

    values: composed with the arm's own overrides, which are its changes.
    """
    keys = list(map(key_of, overrides))
    step = None if share == 1 else nearest(base, share)
    run = fine_tuned(base, checkpoint_after(base, step), {key: value_at(values, key) for key in ["steps", *keys]}, root)
    extend = run.extend.label if {"extend", "extend.factor"} & set(keys) else ""
    parts = [base.name.removesuffix(f"-s{base.seed}"), "tuned" if share == 1 else f"tuned-from{share:g}", extend]
    return run.model_copy(update={"name": joined([*parts, *labels(overrides, OUT_OF_NAMES)], base.seed)})


def nearest(run: "Config", share: float) -> int:
    """The step of a run's snapshot that is nearest to a share of its steps.

    Raises:
        BadInput: the run saves no snapshots.
    """
    if not run.snapshots:
        raise BadInput(f"{FROM}…/{share:g} needs snapshots=[…] of {run.name}, which keeps none")
    return min(run.snapshots, key=lambda step: abs(step - share * run.steps))
