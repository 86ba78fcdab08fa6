"""The one way a model is trained: compose → build → fit → evaluate.

    python train.py position=rope model=nano seed=1
    python train.py -m position=sinusoidal,rope seed=1,2,3

Importable: `compose`, `build_model`, `train`. Heavy imports stand inside functions, so that --help answers at once.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.compose import command_line, compose_values, in_multirun
from conf.run_folder import RunFolder

if TYPE_CHECKING:
    from conf.schema import Config
    from data.corpus import Corpus
    from models.gpt import GPT
    from models.processes import Place

# What a fine-tuned model takes over from its checkpoint; the first three cannot be changed after training.
FIXED, INHERITED = ("model", "position", "frequencies"), ("extend", "data", "window")
# Overrides that do not name a run: they are said elsewhere in the name, or are not what the run is.
UNNAMED = {"position", "model", "extend", "extend.factor", "experiment", "seed", "group", "name", "runs", "cache"}
UNNAMED |= {"checkpoint", "log_every", "validate_every", "validation_windows", "checkpoint_every", "snapshots"}


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, its last checkpoint, and its final metrics by name."""

    folder: Path
    checkpoint: Path
    metrics: dict[str, float]


def compose(overrides: Sequence[str]) -> Config:
    """Compose conf/config.yaml with command-line overrides, such as "position=rope", into a validated Config.

    Raises:
        BadInput: an unknown key or choice, a wrong type, an impossible value or combination; one sentence.
    """
    return resolve(compose_values("config", overrides), overrides)


def resolve(values: dict, overrides: Sequence[str], trained: dict | None = None) -> Config:
    """Plain composed values → Config: what comes from a checkpoint is filled in, the run is named, all is checked.

    Args:
        trained: settings of the run that will leave the checkpoint, for a plan made before it is there; None reads
            them from it.
    """
    from conf.schema import Config, validate

    if "original_window" in values:
        raise BadInput("original_window is not a setting: it is the window, or comes from the checkpoint")
    values = {key: value for key, value in values.items() if key != "study"}  # an experiment's, for experiments/extend
    given = {override.lstrip("+~").split("=")[0] for override in overrides}
    if not isinstance(values.get("checkpoint"), str | None):
        raise BadInput(f"checkpoint={values['checkpoint']} must be a path")
    if values.get("checkpoint") is not None:
        values = _inherit(values, given, trained or read_record(Path(values["checkpoint"]))["config"])
    else:
        values = {**values, "original_window": values["window"]}
    config = validate(Config, {**values, "name": values["name"] or "unnamed"})
    position = _position(config)  # refuses what only shows when the scheme meets the model and the extension
    config.seen.fits(config.window, position.extension)
    return config if values["name"] else config.model_copy(update={"name": run_name(config, overrides)})


def _inherit(values: dict, given: set[str], trained: dict) -> dict:
    """Fill in what a fine-tuned run takes from that of its checkpoint, unless the command line says otherwise."""
    groups = {key.split(".")[0] for key in given}
    if fixed := sorted(groups & set(FIXED)):
        raise BadInput(f"{fixed[0]} comes from checkpoint={values['checkpoint']} and cannot be changed after training")
    taken = {key: trained[key] for key in (*FIXED, *INHERITED) if key not in groups}
    return {**values, **taken, "original_window": trained["original_window"]}


def run_name(config: Config, overrides: Sequence[str]) -> str:
    """What a run is, in a folder name: scheme, extension, model, whatever else was overridden, seed."""
    extend = config.extend.label if config.extend.name != "none" else ""
    return joined([config.position.name, extend, config.model.name, *labels(overrides, UNNAMED)], config.seed)


def labels(overrides: Sequence[str], unnamed: set[str]) -> list[str]:
    """What overrides come to in a name, save those of unnamed keys, of loggers and of trainers."""
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in unnamed or key.startswith(("logger", "trainer", "hydra")):
            continue
        label = "" if key in ("data", "optimizer", "frequencies", "seen") else key.split(".")[-1]
        parts.append(label + re.sub(r"[^A-Za-z0-9.]+", "_", value).strip("_"))
    return parts


def joined(parts: Sequence[str], seed: int) -> str:
    """The parts of a name, and the seed; a long one is cut, and a digest tells it from others."""
    name = "-".join(part for part in (*parts, f"s{seed}") if part)
    return name if len(name) <= 80 else f"{name[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}-s{seed}"


def _position(config: Config):
    from models.positions import Geometry, build_position

    shape = config.model
    geometry = Geometry(shape.width, shape.heads, shape.layers, config.original_window)
    return build_position(config.position, config.frequencies, config.extend, geometry)


def _gpt(config: Config, vocabulary: int, separator: int) -> GPT:
    from models.compute import flush_denormals
    from models.gpt import GPT

    flush_denormals()
    isolated = separator if config.data.isolate_documents else None
    return GPT(config.model, vocabulary, _position(config), config.seed, isolated)


def build_model(config: Config) -> GPT:
    """The untrained GPT of a Config, its weights a function of the seed; tokenises the corpus if that is still to do.

    The model maps tokens (B, T), int64, to logits (B, T, V).
    """
    corpus = _corpus(config)
    return _gpt(config, corpus.vocabulary, corpus.separator)


def _corpus(config: Config) -> Corpus:
    from data.corpus import prepare

    return prepare(config.data, Path(config.cache), progress=config.trainer.progress)


def read_record(checkpoint: Path) -> dict:
    """What travels in a checkpoint beside weights: config, vocabulary, separator, corpus fingerprint, step."""
    from models.checkpoints import load_checkpoint

    return _record(load_checkpoint(checkpoint), checkpoint)


def _record(loaded: dict, checkpoint: Path) -> dict:
    if not isinstance(loaded, dict) or "lab" not in loaded:
        raise BadInput(f"checkpoint={checkpoint} was not written by train.py")
    return {**loaded["lab"], "step": loaded["global_step"]}


def load_model(checkpoint: Path, extend: dict | None = None) -> tuple[GPT, Config, dict]:
    """Rebuild a trained GPT from its checkpoint, read as trained or with another extension.

    Args:
        extend: plain settings of an extension, such as {"name": "interpolate", "factor": 8.0}; None as trained.

    Returns:
        The model, the Config it is now read with, and the checkpoint's record.
    """
    from conf.schema import Config, validate
    from models.checkpoints import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    record = _record(loaded, checkpoint)
    values = record["config"] if extend is None else {**record["config"], "extend": extend}
    config = validate(Config, values)
    gpt = _gpt(config, record["vocabulary"], record["separator"])
    _load_weights(gpt, loaded)
    return gpt, config, record


def _load_weights(gpt: GPT, loaded: dict) -> None:
    gpt.load_state_dict({key.removeprefix("gpt."): value for key, value in loaded["state_dict"].items()}, strict=True)


def train(config: Config, overrides: Sequence[str] = ()) -> Result:
    """Train, or resume, or return what a finished run found; everything is in runs/<group>/<name>/.

    Of several processes that train together the first keeps the folder and logs; all return the same.

    Raises:
        BadInput: the folder belongs to other settings or to a process still at work, the corpus cannot be had, or
            the devices asked for are not there.
        SystemExit: a signal stopped the run, after it was saved; the status is 128 + signal.
    """
    folder, here = RunFolder.of(config), _place(config)
    if here.chief:
        with folder.opened(config.model_dump(mode="json"), list(overrides)):
            results = folder.results or _run(config, folder, here)
    else:
        results = folder.results or _fit(config, folder, here, None)
    return Result(folder.path, folder.path / results["checkpoint"], results["metrics"])


def _place(config: Config) -> Place:
    from models.processes import place

    return place(config.trainer.devices, config.trainer.nodes)


def _run(config: Config, folder: RunFolder, here: Place) -> dict:
    """Fit and write results; whatever happens, the status says so, the loggers are closed and the memory is free."""
    import gc

    from conf.tracking import wandb_run
    from models.progress import Metrics

    job_type = "train" if config.checkpoint is None else "finetune"
    folder.set_status("running")
    try:
        with wandb_run(config, folder, job_type) if config.logger.name == "wandb" else nullcontext() as run:
            results = _fit(config, folder, here, run)
            if run is not None:
                run.summary.update({f"final/{key}": value for key, value in results["metrics"].items()})
    except Exception as error:
        folder.set_status("failed", error=f"{type(error).__name__}: {error}")
        raise
    except KeyboardInterrupt:
        folder.set_status("interrupted")
        sys.exit(130)
    finally:
        if config.logger.name == "csv":
            Metrics(folder.metrics).write_csv()
        gc.collect()  # Trainer and module hold each other: the next job of a multirun would begin beside their weights
    folder.finish(results)
    return results


def _fit(config: Config, folder: RunFolder, here: Place, run) -> dict:
    """Fit from the newest good checkpoint, or from the start; returns the results, the same in every process."""
    import logging
    import warnings

    import lightning as L
    import torch
    from lightning.pytorch.loggers import WandbLogger

    from data.retrieval import mixed
    from data.windows import Batches, Windows, fixed_windows
    from models.checkpoints import AtomicCheckpointIO, Checkpoints, latest, load_checkpoint
    from models.language_model import LanguageModel
    from models.progress import Bar, Metrics, Recorder

    for each in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(each).setLevel(logging.WARNING)  # its greetings; warnings still come through
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of torch's trees
    accelerator, precision = _device(config)
    corpus = _corpus(config)
    gpt = _gpt(config, corpus.vocabulary, corpus.separator)
    resumed = latest(folder.checkpoints)
    if resumed is None and config.checkpoint is not None:
        _load_weights(gpt, _same_corpus(load_checkpoint(Path(config.checkpoint)), config, corpus))
    gpt.recompute = config.trainer.activation_checkpointing
    if config.trainer.compile:
        gpt.compile()  # in place: the state dict keeps its names

    record = {"config": config.model_dump(mode="json"), "vocabulary": corpus.vocabulary}
    record |= {"separator": corpus.separator, "corpus": corpus.fingerprint}
    width = torch.as_tensor(corpus.bytes_per_token)
    module = LanguageModel(gpt, config.optimizer, config.steps, width, record, config.seen, config.seed, here.ranks)
    accumulate = config.trainer.accumulate
    windows = Windows(corpus.split("train").tokens, config.window, config.batch // accumulate, config.seed)
    windows = mixed(windows, corpus, config.data.retrieval, config.window, config.seed, config.original_window)
    batches = Batches(windows, config.steps * accumulate, here.rank, here.ranks, pinned=accelerator == "gpu")
    held_out = fixed_windows(corpus.split("validation").tokens, config.window, config.validation_windows)

    recorder = Recorder(Metrics(folder.metrics), config.log_every, config.batch, held_out, config.validate_every)
    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint_every, config.snapshots)
    bar = [Bar(config.name, recorder)] if config.trainer.progress else []
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=_strategy(config, here),
        precision=precision,
        max_steps=config.steps,
        max_epochs=1,  # the loader is as long as the run
        accumulate_grad_batches=accumulate,
        log_every_n_steps=config.log_every,
        limit_val_batches=0,  # the Recorder validates
        logger=WandbLogger(experiment=run) if run is not None else False,
        callbacks=[recorder, checkpoints, *bar],  # the state is saved after it was recorded
        plugins=[AtomicCheckpointIO(), here.environment],
        enable_checkpointing=False,
        enable_progress_bar=config.trainer.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )
    trainer.fit(module, batches, ckpt_path=resumed)
    results = {}
    if checkpoints.signal is None:
        results = trainer.strategy.broadcast(_results(config, folder, checkpoints) if here.chief else results)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # left to the end of the process, its threads may abort it
    if checkpoints.signal is not None:
        _interrupted(config, folder, here, trainer.global_step, 128 + checkpoints.signal)
    return results


def _strategy(config: Config, here: Place):
    if config.trainer.strategy != "fsdp":
        return config.trainer.strategy
    from models.sharding import Sharded

    return Sharded(here.ranks)


def _interrupted(config: Config, folder: RunFolder, here: Place, step: int, status: int) -> None:
    """End this process, the first one with the status: the others must not look as if they had failed."""
    if not here.chief:
        sys.exit(0)
    folder.set_status("interrupted", step=step)
    print(f"{config.name}: stopped at step {step} and saved; the same command goes on")
    sys.exit(status)


def _same_corpus(loaded: dict, config: Config, corpus: Corpus) -> dict:
    """A checkpoint's token ids mean nothing under another tokenizer."""
    record = _record(loaded, Path(config.checkpoint))
    if (record["vocabulary"], record["separator"]) != (corpus.vocabulary, corpus.separator):
        raise BadInput(
            f"checkpoint={config.checkpoint} was trained with a vocabulary of {record['vocabulary']} tokens, and "
            f"data={config.data.name} has {corpus.vocabulary}: fine-tune on data with the same tokenizer"
        )
    return loaded


def _device(config: Config) -> tuple[str, str]:
    """The accelerator and precision that `auto` stands for here."""
    import torch

    wanted, precision = config.trainer.accelerator, config.trainer.precision
    if wanted == "gpu" and not torch.cuda.is_available():
        raise BadInput("trainer.accelerator=gpu: no GPU is visible to torch; allowed here: cpu, auto")
    accelerator = wanted if wanted != "auto" else "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and config.trainer.devices > torch.cuda.device_count():
        raise BadInput(f"trainer.devices={config.trainer.devices}: torch sees {torch.cuda.device_count()} GPU(s)")
    if accelerator == "cpu" and precision.startswith("bf16") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print(f"trainer.precision={precision} crawls on this CPU, which has no bfloat16 arithmetic; 32-true is faster")
    return accelerator, precision if precision != "auto" else "bf16-mixed" if accelerator == "gpu" else "32-true"


def _results(config: Config, folder: RunFolder, checkpoints) -> dict:
    """The last value of every metric, and where the last checkpoint is."""
    from models.checkpoints import numbered
    from models.progress import Metrics

    metrics: dict[str, float] = {}
    for row in Metrics(folder.metrics).rows():
        metrics |= row
    last = numbered(checkpoints.folder)[-1].relative_to(folder.path)
    return {"name": config.name, "group": config.group, "checkpoint": str(last), "metrics": metrics}


def main() -> None:
    """The command line: one run, or with -m one run per combination."""
    command_line("config", _main)


def _main(values: dict, overrides: list[str]) -> None:
    config = resolve(values, overrides)
    if in_multirun() and config.trainer.devices * config.trainer.nodes > 1:
        raise BadInput("a multirun trains on one device per job: set trainer.devices=1, or launch the runs one by one")
    result = train(config, overrides)
    if not _place(config).chief:
        return
    said = result.metrics
    print(
        f"{config.name}: validation perplexity {said['validation/perplexity']:.2f}, "
        f"{said['validation/bits_per_byte']:.3f} bits per byte after {said['tokens']:,} tokens; see {result.folder}"
    )


if __name__ == "__main__":
    main()
