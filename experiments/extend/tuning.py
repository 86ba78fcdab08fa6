"""A base model that exists, and the fine-tuning runs of the arms of a study.

Without a base model every setting of a run describes those that are trained, and fine-tuning follows from them. With
one, the settings in `OF_TUNING` describe the fine-tuning, as they do for train.py checkpoint=….
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.base import BadInput
from conf.overrides import value_at
from data.settings import DataSettings, Files
from experiments.extend.arms import Arm, Study, of_study
from experiments.lab.finetuning import checkpoint_after, existing_base, fine_tuned, with_value
from experiments.lab.measure.held_out import text_settings
from models.positions.seen import STRETCHED

if TYPE_CHECKING:
    from conf.schema import Config

# Where an existing base model comes from, beside checkpoint= (conf/pretrained.yaml).
IMPORTED = ("from", "pretrained", "otherwise", "name", "original_window", "tokenizer")
OF_TUNING = ("optimizer", "longce", "batch", "window", "seen", "data", "seed")
OF_TUNING += ("log_every", "validate_every", "validation_windows", "checkpoint_every")
ALLOWED = (*OF_TUNING, "trainer", "logger", "cache", "runs", "group", "hydra", "experiment")
ELSEWHERE = {
    "steps": "study.finetune_steps are the steps of fine-tuning",
    "optimizer.lr": "study.finetune_lr is the learning rate of fine-tuning",
    "seen.longest": "every arm sees positions as far as the window it is tuned for",
    "data.tokenizer": "a text is read with the checkpoint's own tokenizer",
}


def base_checkpoint(values: dict) -> Path | None:
    """The checkpoint of the base model that exists, imported first if from= or pretrained= name it; None if none does.

    Raises:
        BadInput: two are named, or there is none where it is named.
    """
    from experiments.pretrained import checked, import_run
    from models.checkpoint_files import find_checkpoint

    source, checkpoint = values["from"], values["checkpoint"]
    if checkpoint is not None:
        if source is not None:
            raise BadInput(f"either checkpoint={checkpoint} or from={source}: a study has one base model")
        return find_checkpoint(Path(checkpoint))
    if source is None:
        return None
    from conf.compose import compose_values

    keys = ("from", "otherwise", "name", "original_window", "tokenizer", "runs", "cache")
    folder, remarks = import_run(checked(compose_values("pretrained", []) | {key: values[key] for key in keys}))
    print("\n".join([f"The base model: {folder}", *remarks]), flush=True)
    return find_checkpoint(folder)


def existing_base_run(checkpoint: Path, values: dict, given: Collection[str]) -> "Config":
    """The base run that left a checkpoint, whose fine-tuning runs and logs go where the command line has them.

    Args:
        given: the keys that the command line and its experiment set.

    Raises:
        BadInput: it was extended already, or a key would change what is trained already.
    """
    allowed = (*ALLOWED, *IMPORTED) if values["from"] is not None else ALLOWED
    for key in sorted(given):
        place = f"{key} cannot be set beside checkpoint={checkpoint}"
        for known, reason in ELSEWHERE.items():
            if key == known or key.startswith(f"{known}."):
                raise BadInput(f"{place}: {reason}")
        if key in ("study.positions", "scale") or not (of_study(key) or key.split(".")[0] in allowed):
            raise BadInput(f"{place}: that base model is trained already")
    placed = {key: values[key] for key in ("runs", "group") if key in given}
    return existing_base(checkpoint, **placed, **{key: values[key] for key in ("trainer", "logger", "cache")})


def tuning_changes(base: "Config", values: dict, given: Collection[str]) -> dict[str, Any]:
    """The settings of fine-tuning that the command line and its experiment set, plain values by key.

    A group that is chosen, as by optimizer=muon, counts whole; of one that is not, only the keys that are set. A text
    to tune on is in the tokens of the base model.
    """
    changes: dict[str, Any] = {}
    for key in sorted(given):
        if key.split(".")[0] in OF_TUNING:
            key = "seen" if key.startswith("seen.") else key
            changes[key] = value_at(values, key)
    if any(key.split(".")[0] == "data" for key in changes):
        text = base.data.model_dump(mode="json")
        if changes.pop("data", None) is not None:
            fixed = {key: text[key] for key in ("isolate_documents", "retrieval")}
            text = {**values["data"], **fixed}
            if "tokenizer" in text:
                text["tokenizer"] = _own_tokenizer(base)
        for key in [key for key in changes if key.startswith("data.")]:
            text = with_value(text, key.removeprefix("data."), changes.pop(key))
        changes["data"] = text
    return changes


def _own_tokenizer(base: "Config") -> dict:
    """Settings of the tokenizer that a base model has; one that was trained lies with its training tokens."""
    from data.corpus import prepare

    settings = getattr(base.data, "tokenizer", None)
    if settings is not None and settings.kind != "bpe":
        return settings.model_dump(mode="json")
    corpus = prepare(base.data, Path(base.cache), progress=base.trainer.progress)
    return {"kind": "file", "vocabulary": None, "path": str(corpus.folder / "tokenizer.json")}


def tuning_text(base: "Config", changes: dict[str, Any]) -> DataSettings:
    """The text that arms are fine-tuned on."""
    return text_settings(changes["data"]) if "data" in changes else base.data


def measured_text(study: Study, changes: dict[str, Any], text: DataSettings) -> DataSettings | None:
    """The text that is measured: study.data, or held out from what is tuned on; None for the base model's own."""
    if study.data is not None or "data" not in changes:
        return study.data
    if isinstance(text, Files) and getattr(text, study.split) is not None:  # what is not measured is not tokenised
        return text.model_copy(
            update={split: None for split in ("train", "validation", "test") if split != study.split}
        )
    return text


def one_window(changes: dict[str, Any]) -> bool:
    """Whether all arms are tuned on windows of one length, whatever they are tuned for."""
    return "window" in changes or _spread(changes)


def _spread(changes: dict[str, Any]) -> bool:
    return changes.get("seen", {}).get("name") in STRETCHED


def tuned_run(base: "Config", start: Path, arm: Arm, study: Study, changes: dict[str, Any]) -> "Config":
    """The fine-tuning run of an arm; every number of steps at which it is measured leaves its weights.

    Args:
        start: the checkpoint it goes on from.
        changes: of the command line (tuning_changes). A window of its own holds for all arms. Ways to see positions of
            longer windows reach as far as the arm's; the arms of the base model's own window see it contiguous.
    """
    spread, batch = _spread(changes), changes.get("batch", base.batch)
    window = changes.get("window", base.window if spread else base.window * arm.factor)
    fixed = {"extend": arm.extend, "window": window, "steps": arm.tuning, "snapshots": list(study.finetune_steps)}
    name = arm.run_name(base, study.progressive)
    if spread:
        longest = base.window * arm.factor
        fixed["seen"] = changes["seen"] | {"longest": longest} if arm.factor > 1 else {"name": "contiguous"}
        name += f"-{changes['seen']['name']}{window}"
    elif "window" in changes:
        name += f"-{window}"
    if not one_window(changes):
        fixed["batch"] = batch * base.window // window
    fixed["name"] = name + (f"-s{changes['seed']}" if "seed" in changes else "")
    fixed |= {"optimizer.lr": study.finetune_lr} if study.finetune_lr else {}
    return fine_tuned(base, start, {"log_every": 1, "batch": batch, **changes, **fixed})


def tuned_runs(
    base: "Config", start: Path, arms: Sequence[Arm], study: Study, changes: dict[str, Any]
) -> dict[tuple[str, int], "Config"]:
    """The fine-tuning runs from one base model by method and factor, smallest factor first.

    Args:
        start: the base model's checkpoint, from which all go on; with study.progressive the next factor of a method
            goes on from the end of the one before.
    """
    runs: dict[tuple[str, int], Config] = {}
    ends: dict[str, Path] = {}
    for arm in sorted((arm for arm in arms if arm.tuning), key=lambda arm: arm.factor):
        run = tuned_run(base, ends.get(arm.method, start), arm, study, changes)
        runs[arm.method, arm.factor] = run
        if study.progressive:
            ends[arm.method] = checkpoint_after(run)
    return runs
