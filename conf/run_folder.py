"""The folder a run leaves behind: what it was, how far it came, what it found."""

import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from conf.base import BadInput

CIRCUMSTANCES = ("trainer.progress", "trainer.devices", "trainer.nodes", "trainer.activation_checkpointing")
PACKAGES = ("torch", "lightning", "hydra-core", "datasets", "tokenizers", "wandb", "numpy")


def write_json(path: Path, value) -> None:
    """Write JSON so that the path holds either the old text or the new, whenever the process is killed."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


class RunFolder:
    """runs/<group>/<name>/ with config.json, environment.json, status.json, metrics.jsonl, results.json, checkpoints/.

    Opening the folder of an unfinished run means to resume it; of a finished one, to read its results.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"

    @classmethod
    def of(cls, config) -> "RunFolder":
        """The folder of a training run's Config."""
        return cls(Path(config.runs) / config.group / config.name)

    @contextmanager
    def opened(self, config: dict, overrides: list[str]):
        """Hold the folder for this configuration: create it, or check that it is this configuration's.

        Where a run logs to is not what it is, nor how many processes share its batches, nor what is computed twice
        to save memory: `logger` and CIRCUMSTANCES may differ.

        Raises:
            BadInput: another process holds the folder, or it belongs to a run with other settings, which are named.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go when the process ends
            except BlockingIOError:
                raise BadInput(f"{self.path} is being trained by another process") from None
            self._claim(config, overrides)
            yield self

    def _claim(self, config: dict, overrides: list[str]) -> None:
        recorded = self._read("config.json")
        if recorded is None and any(self.checkpoints.iterdir()):
            raise BadInput(f"{self.path} holds checkpoints of a run that is not known: its config.json is missing")
        if recorded is None:
            write_json(self.path / "config.json", config)
        elif different := differing_keys(identity(recorded), identity(config)):
            raise BadInput(
                f"{self.path} holds a run with another {', '.join(different)}; give this one another name= or group=, "
                "or remove the folder"
            )
        if self.status["state"] != "done":
            write_json(self.path / "environment.json", environment(overrides))

    def _read(self, name: str):
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def status(self) -> dict:
        """The latest status: state is running, done, interrupted or failed."""
        return self._read("status.json") or {"state": "new"}

    def set_status(self, state: str, **more) -> None:
        status = {key: value for key, value in self.status.items() if key not in ("state", "error")}
        write_json(self.path / "status.json", {**status, "state": state, "time": time.time(), **more})

    @property
    def results(self) -> dict | None:
        """What a finished run found, or None."""
        return self._read("results.json") if self.status["state"] == "done" else None

    def finish(self, results: dict) -> None:
        """Keep the results and mark the run done, in this order."""
        write_json(self.path / "results.json", results)
        self.set_status("done")


def identity(config: dict) -> dict:
    """The settings, flat, that make a run what it is; not where it logs to, nor how it shares its work."""
    flat = flatten(config)
    return {key: value for key, value in flat.items() if not key.startswith("logger.") and key not in CIRCUMSTANCES}


def flatten(values: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def differing_keys(old: dict, new: dict) -> list[str]:
    """The flat keys at which two configurations differ, each with both values."""
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key} ({old.get(key)} there, {new.get(key)} here)" for key in keys]


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
