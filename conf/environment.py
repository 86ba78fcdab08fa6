"""Command, versions and commit, recorded so that a run can be repeated."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "lightning", "hydra-core", "datasets", "tokenizers", "wandb", "numpy")

COMMAND = "POSITIONS_COMMAND"  # as JSON, in the processes that a command starts


def command() -> list[str]:
    """The words that started this program, or the one that started this process for it."""
    if COMMAND in os.environ:
        return json.loads(os.environ[COMMAND])
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return [Path(sys.argv[0]).name, *sys.argv[1:]]
    return ["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


@contextmanager
def command_known() -> Iterator[None]:
    """Processes that are started meanwhile know the command they work for."""
    before = os.environ.get(COMMAND)
    os.environ[COMMAND] = json.dumps(command())
    try:
        yield
    finally:
        del os.environ[COMMAND]
        if before is not None:
            os.environ[COMMAND] = before


def environment(overrides: list[str], packages: Sequence[str] = ()) -> dict:
    """Command, versions and commit: what one needs to run it again; packages: others that it depends on."""
    versions = {"python": sys.version.split()[0], **{package: _version(package) for package in (*PACKAGES, *packages)}}
    return {"command": command(), "overrides": overrides, "versions": versions, **commit()}


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def commit() -> dict:
    """The commit of the code when this process first asked, and whether it was changed since, results aside; None
    outside a git checkout."""
    root = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":!../experiments/results")
    return {"commit": git("rev-parse", "HEAD"), "changed": None if status is None else bool(status)}
