"""Weights & Biases: every run under one directory, named as its folder, never a prompt and never a hang."""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path

from conf.run_folder import RunFolder

ONLINE_PATIENCE = 20  # seconds to wait for a server before going on offline
# The x axis of every curve. No key falls under two patterns: W&B would take either.
X_AXES = {"tokens": ("train/*", "validation/*", "speed/*", "search/*"), "context/length": ("context/*",)}


def axes(config) -> list[str]:
    """The tags of a run: what a comparison varies."""
    return [config.position.name, config.extend.label, config.model.name, config.data.name]


def wandb_run(config, folder: RunFolder, job_type: str):
    """The W&B run of a training run; a resumed run keeps its id, so that its points join."""
    kept = folder.status.get("wandb_id")
    identity = kept or f"{config.group}-{config.name}-{secrets.token_hex(3)}"[-120:]
    folder.set_status(folder.status["state"], wandb_id=identity)
    return tracked(
        config.logger,
        Path(config.runs),
        id=identity,
        name=config.name,
        group=config.group,
        job_type=job_type,
        tags=[*axes(config), *config.logger.tags],
        config=config.model_dump(mode="json"),
        resume="allow",
    )


@contextmanager
def tracked(logger, runs: Path, **identity):
    """A W&B run that always finishes, with exit code 1 if the block raises; its files are under runs/wandb.

    Args:
        logger: the logger settings; their mode auto leaves WANDB_MODE in charge, else goes online if an API key is
            known, else offline. An unreachable server is said in one line, and the run goes on offline.
        identity: what wandb.init takes: id, name, group, job_type, tags, config.
    """
    run = _start(logger, runs, identity)
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


def _start(logger, runs: Path, identity: dict):
    import wandb

    runs.mkdir(parents=True, exist_ok=True)
    mode = logger.mode
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
    settings = wandb.Settings(silent=True, init_timeout=ONLINE_PATIENCE)
    arguments = {"project": logger.project, "dir": str(runs), "settings": settings, **identity}
    if mode == "online":
        try:
            return wandb.init(mode="online", **arguments)
        except wandb.Error as error:
            print(f"W&B is out of reach ({str(error).splitlines()[0]}); logging offline under {runs}/wandb")
            wandb.teardown()
            mode = "offline"
    return wandb.init(mode=mode, **arguments)
