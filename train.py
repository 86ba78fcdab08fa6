"""The one way a model is trained: compose → build → fit → results. Heavy imports wait inside functions, for --help.

python train.py position=rope model=nano seed=1
python train.py -m position=sinusoidal,rope seed=1,2,3
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes a moment to import
    from conf.start import begin

    begin()

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.compose import command_line, compose_values, in_multirun, swept
from conf.inputs import digest_inputs
from conf.resolve import resolve
from conf.run_folder import RunFolder

if TYPE_CHECKING:
    from conf.schema import Config
    from data.corpus import Corpus
    from models.gpt import GPT
    from models.processes import Place


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


def build_model(config: Config) -> GPT:
    """The untrained GPT of a Config, its weights a function of the seed; tokenises the corpus if that is still to do.

    The model maps tokens (B, T), int64, to logits (B, T, V).
    """
    from models.restore import make_gpt

    corpus = open_data(config)
    return make_gpt(config, corpus.vocabulary, corpus.separator)


def open_data(config: Config) -> Corpus:
    """The corpus of a Config, tokenised first if that is still to do."""
    from data.corpus import prepare

    return prepare(config.data, Path(config.cache), progress=config.trainer.progress)


def train(config: Config, overrides: Sequence[str] = ()) -> Result:
    """Train, or resume, or return what a finished run found; everything is in runs/<group>/<name>/.

    Of several processes that train together the first keeps the folder and logs; all return the same.

    Raises:
        BadInput: another run or process has the folder; corpus, devices or disk are not there; the loss is not finite.
        SystemExit: a signal stopped the run, after it was saved; the status is 128 + signal.
    """
    from models.processes import place_of

    folder, place = RunFolder.of(config), place_of(config.trainer)
    if place.chief:
        with folder.opened(config.model_dump(mode="json"), list(overrides), digest_inputs(config)):
            results = folder.results or _run(config, folder, place)
    else:
        results = folder.results or _fit(config, folder, place, None)
    checkpoint = folder.path / results["checkpoint"]
    if not checkpoint.exists():
        raise BadInput(f"{checkpoint} of a finished run is gone: put it back, or remove the folder to train it again")
    return Result(folder.path, checkpoint, results["metrics"])


def _run(config: Config, folder: RunFolder, place: Place) -> dict:
    """Fit and write results; whatever happens, the status says so, the loggers are closed and the memory is free."""
    from conf.tracking import logged

    with folder.running():
        try:
            with logged(config, folder) as run:
                results = _fit(config, folder, place, run)
                if run is not None:
                    run.summary.update({f"final/{key}": value for key, value in results["metrics"].items()})
        finally:
            gc.collect()  # Trainer and module hold each other: the next job of a multirun would begin beside them
        folder.finish(results)
    return results


def _fit(config: Config, folder: RunFolder, place: Place, run) -> dict:
    """Fit from the newest good checkpoint, or from the start; returns the results, the same in every process."""
    from data.training import training_windows, validation_windows
    from data.windows import Batches
    from models.checkpoint_files import numbered
    from models.checkpoints import AtomicCheckpointIO, Checkpoints
    from models.language_model import LanguageModel
    from models.lightning import L
    from models.processes import leave_group, quiet_lightning, select_device, select_strategy
    from models.progress import Bar, Metrics, Recorder
    from models.restore import check_resumed, make_gpt, make_record, read_record, start_from

    quiet_lightning()
    resumed = folder.resume_point()
    begun = read_record(resumed) if resumed is not None else {}
    accelerator, precision = select_device(config.trainer, begun.get("precision"))
    corpus = open_data(config)
    config.fits_answers(corpus.task is not None)
    if corpus.task is not None and place.ranks * config.trainer.accumulate > 1:
        raise BadInput(
            f"trainer.accumulate x devices x nodes is {place.ranks * config.trainer.accumulate}, and must be 1 where "
            "answers are learned: those of different lengths weigh alike within one pass only"
        )
    gpt = make_gpt(config, corpus.vocabulary, corpus.separator)
    record = make_record(config, corpus) | {"precision": precision}
    if resumed is not None:
        check_resumed(begun, record, folder.path)
    elif config.checkpoint is not None:
        start_from(Path(config.checkpoint), gpt, corpus)
    if place.chief:
        folder.keep_device(accelerator, precision)
        if corpus.tokenizer_json is not None:
            folder.keep_tokenizer(corpus.tokenizer_json)
    gpt.recompute = config.trainer.activation_checkpointing
    if config.trainer.compile:
        gpt.compile()  # in place: the state dict keeps its names

    accumulate, size = config.trainer.accumulate, corpus.bytes_per_token("validation")
    learning = (config.seen, config.seed, place.ranks, corpus.answered, config.longce)
    module = LanguageModel(gpt, config.optimizer, config.steps, size, record, *learning)
    rows, retrieval = config.batch // accumulate, config.data.retrieval
    windows = training_windows(corpus, config.window, rows, config.seed, retrieval, config.original_window)
    batches = Batches(windows, config.steps * accumulate, place.rank, place.ranks, pinned=accelerator == "gpu")
    held_out = validation_windows(corpus, config.window, config.validation_windows)

    metrics = Metrics(folder.metrics)
    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint_every, config.snapshots, folder.set_saved)
    scoring = (held_out, config.validate_every, checkpoints.stopping, config.stop_at)
    recorder = Recorder(metrics, config.log_every, config.batch, *scoring)  # before checkpoints: recorded, then saved
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=select_strategy(config.trainer.strategy, place.ranks),
        precision=precision,
        max_steps=config.steps,
        max_epochs=1,  # the loader is as long as the run
        accumulate_grad_batches=accumulate,
        log_every_n_steps=config.log_every,
        limit_val_batches=0,  # the Recorder validates
        logger=L.pytorch.loggers.WandbLogger(experiment=run) if run is not None else False,
        callbacks=[recorder, checkpoints, *([Bar(config.name, recorder)] if config.trainer.progress else [])],
        plugins=[AtomicCheckpointIO(), place.environment],
        default_root_dir=folder.path,
        enable_progress_bar=config.trainer.progress,
        **dict.fromkeys(("enable_checkpointing", "enable_model_summary", "use_distributed_sampler"), False),
    )
    trainer.fit(module, batches, ckpt_path=resumed)
    results = None
    if checkpoints.agreed is None and place.chief:
        last = numbered(folder.checkpoints)[-1].relative_to(folder.path)
        results = {"name": config.name, "group": config.group, "checkpoint": str(last), "metrics": metrics.final()}
    results = trainer.strategy.broadcast(results)
    leave_group()
    if checkpoints.agreed is not None:
        if place.chief:
            folder.stop(trainer.global_step)
        sys.exit(128 + checkpoints.agreed if place.chief else 0)  # the others must not look as if they had failed
    return results


def forget_compiled(config: Config) -> None:
    """Before one of several runs in a process: torch compiles for some eight models, and then silently for no other."""
    if config.trainer.compile:
        import torch

        torch.compiler.reset()


def _main(values: dict, overrides: list[str]) -> None:
    from models.processes import place_of
    from models.progress import describe

    config = resolve(values, overrides, swept=swept())
    if in_multirun():
        config.trainer.check_single("a multirun")
        forget_compiled(config)
    result = train(config, overrides)
    if place_of(config.trainer).chief:
        print(f"{config.name}: {describe(result.metrics)}; see {result.folder}")


def main() -> None:
    """The command line: one run, or with -m one run per combination."""
    command_line("config", _main)


if __name__ == "__main__":
    main()
