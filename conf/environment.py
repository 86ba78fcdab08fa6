"""Command, versions and commit: what one needs to run something again."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "lightning", "hydra-core", "datasets", "tokenizers", "wandb", "numpy")


def environment(overrides: list[str]) -> dict:
    """Command, versions and commit: what one needs to run it again."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "overrides": overrides,
        "versions": versions,
        **commit(),
    }


def commit() -> dict:
    """The commit of the code, and whether it was changed since, results aside; None outside a git checkout."""
    root = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":!../experiments/results")
    return {"commit": git("rev-parse", "HEAD"), "changed": None if status is None else bool(status)}
