"""The folder of a run: its settings, progress and results."""

import errno
import fcntl
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from conf.base import BadInput, Diverged
from conf.environment import environment
from conf.files import Torn, read_json, write_json, write_text

# Settings that do not identify a run: its location, devices, how often it is logged or saved, and files whose numbers
# are recorded too. Recomputing or sharing out the work changes rounding only.
CIRCUMSTANCES = {"runs", "cache", "group", "name", "log_every", "validate_every", "checkpoint_every"}
CIRCUMSTANCES |= {f"trainer.{key}" for key in ("name", "accelerator", "devices", "nodes", "strategy", "compile")}
CIRCUMSTANCES |= {"trainer.progress", "trainer.activation_checkpointing"}
CIRCUMSTANCES |= {"frequencies.path", "extend.path", "extend.over.path"}
# What results.json has.
RESULTS = ("name", "group", "checkpoint", "metrics")
# Inputs compared by content (conf/inputs.py), and how a change is described.
CONTENTS = {"texts": "other texts behind data={data}", "tokenizer": "another tokenizer behind data={data}"}
CONTENTS |= {"checkpoint": "other weights in checkpoint={checkpoint}"}


class RunFolder:
    """runs/<group>/<name>/ with config.json, inputs.json, environment.json, tokenizer.json, status.json, metrics.jsonl,
    results.json and checkpoints/.

    Opening the folder of an unfinished run resumes it; opening that of a finished one reads its results.
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
    def opened(self, config: dict, overrides: list[str], inputs: dict[str, str]) -> Iterator[None]:
        """Hold the folder for this run: create it, or check that it is this run's.

        Settings that are CIRCUMSTANCES may differ, and so may those of loggers. A finished run is also read where
        nothing can be written.

        Args:
            inputs: digests of what settings only point to (conf/inputs.py).

        Raises:
            BadInput: the folder cannot be written, another process holds it, or it belongs to a run with other
                settings or inputs, which are named.
        """
        with self._locked() as held:
            self._claim(config, overrides, inputs, held)
            yield

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the lock of the folder; yields False for a finished run where nothing can be written."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "a")  # noqa: SIM115 - closed below
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and self.results is not None:
                lock = None
            else:
                raise BadInput(f"{self.path} cannot be written: {self._reason(error)}") from None
        with lock or nullcontext():
            try:
                if lock is not None:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go when the process ends
            except BlockingIOError:
                raise BadInput(f"{self.path} is being trained by another process") from None
            yield lock is not None

    def _reason(self, error: OSError) -> str:
        for place in (self.path, *self.path.parents):
            if place.is_symlink() and not place.exists():
                return f"{place} is a link to a place that is not there"
        return error.strerror or str(error)

    def _claim(self, config: dict, overrides: list[str], inputs: dict[str, str], held: bool) -> None:
        recorded = self.config
        if recorded is None and self.checkpoints.is_dir() and any(self.checkpoints.iterdir()):
            raise BadInput(f"{self.path} holds checkpoints of a run that is not known: its config.json is missing")
        known = self._read("inputs.json", "texts", "tokenizer")
        if recorded is not None and (different := differences(recorded, known, config, inputs)):
            if self._trained:
                raise BadInput(
                    f"{self.path} holds a run with {', '.join(different)}; give this one another name= or group=, or "
                    "remove the folder"
                )
            recorded = None  # a command that failed before its first step has claimed nothing
            (self.path / "status.json").unlink(missing_ok=True)
        if not held or self.status["state"] == "done":
            return
        if recorded is None:
            write_json(self.path / "config.json", config)
        if recorded is None or known is None:
            write_json(self.path / "inputs.json", inputs)
        write_json(self.path / "environment.json", environment(overrides))

    @property
    def _trained(self) -> bool:
        """Whether the folder holds any training."""
        has_checkpoints = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        done = (self.path / "results.json").exists()
        return has_checkpoints or done or (self.metrics.exists() and self.metrics.stat().st_size > 0)

    def _read(self, name: str, *keys: str) -> dict | None:
        """The contents of a file of the folder; None if it is missing or damaged, and the latter is printed."""
        try:
            return read_json(self.path / name, *keys)
        except Torn as error:
            print(f"{error}; what can be had without it is used", file=sys.stderr)
            return None

    @property
    def config(self) -> dict | None:
        """The settings of the run; where config.json is torn, those in its newest checkpoint; None of no run.

        Raises:
            BadInput: config.json is torn, and there is no checkpoint, or none that can be read.
        """
        try:
            return read_json(self.path / "config.json", "model", "position", "data")
        except Torn as error:
            from models.checkpoint_files import numbered
            from models.restore import read_record

            checkpoints = numbered(self.checkpoints)
            if not checkpoints and self._trained:
                raise
            print(f"{error}; its checkpoint has its settings too", file=sys.stderr)
            return read_record(checkpoints[-1])["config"] if checkpoints else None

    @property
    def status(self) -> dict:
        """The latest status: state is new, running, done, interrupted or failed.

        A torn file counts as done where there are results, else as interrupted.
        """
        with suppress(Torn):
            return read_json(self.path / "status.json", "state") or {"state": "new"}
        with suppress(Torn):
            if read_json(self.path / "results.json", *RESULTS) is not None:
                return {"state": "done"}
        return {"state": "interrupted"}

    def set_status(self, state: str, **more) -> None:
        """Record the state of the run; `more` stays until it is set again, an error until the next state."""
        status = {key: value for key, value in self.status.items() if key not in ("state", "error")}
        status |= {"state": state, "time": time.time(), **more}
        path = self.path / "status.json"
        try:
            write_json(path, status)
        except OSError:  # a full disk takes no new file, but what there is can be written over
            with open(path, "r+") as file:
                file.write(json.dumps(status) + "\n")
                file.truncate()

    def keep_device(self, accelerator: str, precision: str) -> None:
        """Record beside versions and commit what the settings may leave to the machine (auto)."""
        before = self._read("environment.json") or {}
        write_json(self.path / "environment.json", before | {"accelerator": accelerator, "precision": precision})

    def keep_tokenizer(self, text: str) -> None:
        """Keep the tokenizer with the run: the texts it was trained on may change or be gone when the run is read."""
        write_text(self.path / "tokenizer.json", text)

    def set_saved(self, step: int) -> None:
        """Record that there is a checkpoint of this step."""
        self.set_status("running", saved=step)

    def stop(self, step: int) -> None:
        """Record and print that a signal stopped the run after this step, which was saved."""
        self.set_status("interrupted", step=step, saved=step)
        print(f"{self.path.name}: stopped at step {step} and saved; the same command goes on")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record that the block runs, and if it fails, why.

        Raises:
            BadInput: in place of an OSError. Diverged: with the last good checkpoint.
            SystemExit: in place of KeyboardInterrupt; the status is 130.
        """
        self.set_status("running")
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if self.status["state"] == "running":  # a signal came before the first step, or did not wait for the last
                self.set_status("interrupted")
            sys.exit(error.code if isinstance(error, SystemExit) else 130)
        except Exception as error:
            failure = self._failure(error)
            with suppress(OSError):
                self.set_status(
                    "failed", error=str(failure) if failure is error else f"{type(error).__name__}: {error}"
                )
            if failure is error:
                raise
            raise failure from error

    def _failure(self, error: Exception) -> Exception:
        """The error as one sentence, where it is one that users are meant to understand."""
        if isinstance(error, Diverged):
            step = self.status.get("saved")
            good = f"the last good checkpoint is that of step {step}" if step else "there is no checkpoint yet"
            return Diverged(f"{self.path} {error}; {good}. A lower optimizer.lr or a longer warmup may help")
        if isinstance(error, OSError):
            place = f"{error.filename}: " if error.filename else ""
            return BadInput(
                f"{self.path} stopped: {place}{error.strerror or error}; the same command goes on from what was saved"
            )
        return error

    @property
    def results(self) -> dict | None:
        """What a finished run found; None of one that is not, or whose results.json is lost and to be made again."""
        return self._read("results.json", *RESULTS) if self.status["state"] == "done" else None

    def finish(self, results: dict) -> None:
        """Save the results and then mark the run as done."""
        write_json(self.path / "results.json", results)
        self.set_status("done")

    def resume_point(self) -> Path | None:
        """The newest whole checkpoint, or None of a run that has none to go on from.

        Raises:
            BadInput: it had some, and they are damaged, gone, or cannot be read: it does not start over by itself.
        """
        from models.checkpoint_files import latest

        path, step = latest(self.checkpoints), self.status.get("saved") or self.status.get("step")
        if path is None and step:
            raise BadInput(
                f"{self.path} had a checkpoint of step {step}, which is gone, and the run does not start over by "
                "itself: put it back, or remove the folder to begin anew"
            )
        return path


def identity(config: dict) -> dict:
    """The settings that identify a run, flat."""
    flat, circumstances = flatten(config), CIRCUMSTANCES
    if flat.get("stop_at") is not None:
        circumstances = CIRCUMSTANCES - {"validate_every"}  # a validation ends such a run
    return {key: value for key, value in flat.items() if not key.startswith("logger.") and key not in circumstances}


def differences(recorded: dict, known: dict | None, config: dict, inputs: dict[str, str]) -> list[str]:
    """Describe the differences between a recorded run and a configuration.

    Args:
        known: digests of the inputs of the recorded run; None of an old one, whose files count by their names.
    """
    old, new = identity(recorded), identity(config)
    if known is None:
        return [f"another {key}" for key in differing_keys(old, new)]
    paths = {"checkpoint", "data.folder"}
    for flat in (old, new):
        paths |= {"data.train", "data.validation", "data.test"} if flat.get("data.source") == "files" else set()
        paths |= {"data.tokenizer.path"} if flat.get("data.tokenizer.kind") == "file" else set()
    old, new = ({key: value for key, value in flat.items() if key not in paths} for flat in (old, new))
    names = {"data": config["data"]["name"], "checkpoint": config["checkpoint"]}
    changed = [CONTENTS[key].format(**names) for key in CONTENTS if known.get(key) != inputs.get(key)]
    return [f"another {key}" for key in differing_keys(old, new)] + changed


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
