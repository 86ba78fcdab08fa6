"""Weights & Biases runs: all under one directory, named as their folders, without prompts or endless waiting."""

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conf.base import BadInput, first_line
from conf.run_folder import RunFolder

ONLINE_PATIENCE = 20  # seconds to wait for a server before going on offline
LONGEST_TAG = 64  # letters that W&B takes
# The x axis of every curve. No key falls under two patterns: W&B would take either.
X_AXES = {"tokens": ("train/*", "validation/*", "speed/*", "search/*"), "context/length": ("context/*",)}


def axes(config) -> list[str]:
    """The tags of a run: scheme, extension, model and data."""
    return [config.position.name, config.extend.label, config.model.name, config.data.name]


def _short(tag: str) -> str:
    """Shorten a tag to the length that W&B takes, with a digest that distinguishes it."""
    return tag if len(tag) <= LONGEST_TAG else f"{tag[:55]}-{hashlib.sha256(tag.encode()).hexdigest()[:8]}"


@contextmanager
def logged(config, folder: RunFolder):
    """The W&B run of a training run, or None with another logger; csv writes metrics.csv, however the run ends."""
    if config.logger.name == "wandb":
        with _wandb_run(config, folder) as run:
            yield run
        return
    try:
        yield None
    finally:
        if config.logger.name == "csv":
            from models.progress import Metrics

            Metrics(folder.metrics).write_csv()


@contextmanager
def _wandb_run(config, folder: RunFolder):
    """The W&B run of a training run; a resumed run keeps its id, so that its points join, and none of them is lost."""
    known = folder.status.get("wandb_id")
    identity = known or f"{config.group}-{config.name}-{secrets.token_hex(3)}"[-120:]
    before = sorted(Path(config.runs).glob(f"wandb/*run-*/run-{identity}.wandb")) if known else []
    with tracked(
        config.logger,
        Path(config.runs),
        id=identity,
        name=config.name,
        group=config.group,
        job_type="train" if config.checkpoint is None else "finetune",
        tags=[*axes(config), *config.logger.tags],
        config=config.model_dump(mode="json"),
        resume="allow",
    ) as run:
        folder.set_status(folder.status["state"], wandb_id=identity)
        if before:
            _log_lost(run, folder, before)
        yield run


def _log_lost(run, folder: RunFolder, files: list[Path]) -> None:
    """Log again the rows, up to where the run resumes, that were lost with the process that was to write them."""
    from models.checkpoint_files import numbered
    from models.progress import Metrics

    checkpoints = numbered(folder.checkpoints)
    resumes = int(checkpoints[-1].stem.rpartition("-")[2]) if checkpoints else 0
    items = [record["history"]["item"] for file in files for record in offline_records(file)[0] if "history" in record]
    logged = {(item.get("tokens"), key) for item in items for key in item}
    for row in Metrics(folder.metrics).rows():
        step, values = row["step"], {key: value for key, value in row.items() if key != "step"}
        if step <= resumes and any((row["tokens"], key) not in logged for key in values):
            run.log({**values, "trainer/global_step": step})


def offline_records(file: Path) -> tuple[list[dict], str]:
    """The records of an offline run as `wandb leet` reads them, as far as a killed one came; and what it says of it."""
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(words, capture_output=True, text=True)
    return list(json_lines(done.stdout)), done.stderr.strip()


def json_lines(text: str) -> Iterator[dict]:
    """Objects, one a line; lines that are none, as the last one after a kill, are passed over."""
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value


@contextmanager
def tracked(logger, runs: Path, **identity):
    """A W&B run that always finishes, with exit code 1 if the block raises; its files are under runs/wandb.

    Args:
        logger: the logger settings; their mode auto leaves WANDB_MODE and WANDB_DISABLED in charge, else goes online if
            an API key is known, else offline. An unreachable server is said in one line, and the run goes on offline.
        identity: what wandb.init takes: id, name, group, job_type, tags, config.

    Raises:
        BadInput: W&B is not installed, or does not take its settings, its environment variables or the identity.
    """
    run = _start(logger, runs, identity | {"tags": [_short(tag) for tag in identity["tags"] if tag]})
    for axis, curves in X_AXES.items():
        run.define_metric(axis, hidden=True)
        for names in curves:
            run.define_metric(names, step_metric=axis)
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def check_wandb(logger) -> str:
    """The mode in which W&B will start, its settings and environment variables checked without starting it.

    Raises:
        BadInput: it is not installed, or does not take one of them.
    """
    try:
        import wandb
    except ImportError:
        raise BadInput("logger=wandb needs wandb, which is not installed: take logger=csv or logger=none") from None
    with _one_sentence(wandb):
        wandb.Settings().update_from_env_vars(dict(os.environ))
        if logger.mode not in ("auto", "online"):
            return logger.mode
        if logger.mode == "auto" and os.environ.get("WANDB_MODE"):
            return os.environ["WANDB_MODE"]
        if logger.mode == "auto" and os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
            return "disabled"
        if wandb.run is None and wandb.setup().settings.mode in ("offline", "dryrun", "disabled"):
            wandb.teardown()  # W&B keeps the mode that the environment named when it was first asked in this process
        key = wandb.login(prompt=False, verify=False)
        return "online" if key or logger.mode == "online" else "offline"


@contextmanager
def _one_sentence(wandb):
    """Raise what W&B refuses as BadInput."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        fault = error.errors()[0]
        setting = ".".join(map(str, fault["loc"]))
        variables = [name for name, value in os.environ.items() if name[:6] == "WANDB_" and value == fault["input"]]
        message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise BadInput(f"{(variables or [f'W&B: {setting}'])[0]}={fault['input']!r} {message}") from None
    except (wandb.Error, ValueError, TypeError) as error:
        raise BadInput(
            f"logger=wandb: {' '.join(str(error).split())}; logger=csv and logger=none need no W&B"
        ) from None


def tracked_page(logger, runs: Path, identity: dict, summary: dict, figures: dict, curves=(), table=((), ())) -> None:
    """A W&B run of its own for what several runs came to.

    Args:
        identity: as for `tracked`; summary: values by name; figures: PNG files by name.
        curves: a dict of values for each context length, "context/length" among them.
        table: the names of its columns, and its rows.
    """
    import wandb

    with tracked(logger, runs, **identity) as run:
        for point in curves:
            run.log(point)
        columns, rows = table
        tables = {"table": wandb.Table(columns=list(columns), data=[list(row) for row in rows])} if columns else {}
        run.log(tables | {name: wandb.Image(str(path)) for name, path in figures.items()})
        run.summary.update(summary)


def _start(logger, runs: Path, identity: dict):
    mode = check_wandb(logger)
    import wandb

    runs.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, init_timeout=ONLINE_PATIENCE)
    arguments = {"project": logger.project, "dir": str(runs), "settings": settings, **identity}
    if mode == "online":
        before = set(runs.glob("wandb/run-*"))
        try:
            return wandb.init(mode="online", **arguments)
        except wandb.Error as error:
            print(f"W&B is out of reach ({first_line(error)}); logging offline under {runs}/wandb")
            wandb.teardown()
            for folder in set(runs.glob(f"wandb/run-*-{identity['id']}")) - before:
                shutil.rmtree(folder, ignore_errors=True)  # of the run that did not begin
            mode = "offline"
    with _one_sentence(wandb):
        return wandb.init(mode=mode, **arguments)  # type: ignore[arg-type] # one of the words of wandb
