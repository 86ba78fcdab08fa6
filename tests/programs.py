"""Programs of the lab in processes of their own, without five seconds of imports for each."""

import atexit
import os
import runpy
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600  # seconds

_context = get_context("forkserver")
_context.set_forkserver_preload(["datasets", "hydra", "lightning", "matplotlib.pyplot", "wandb", "models.restore"])
_running: list["Program"] = []


class Program:
    """A program in a process that was forked from one which has imported what all of them do.

    It has its own session, the environment of this process, and files for its output.
    """

    def __init__(self, words: tuple[str, ...], module: str, code: str | None, environment: dict[str, str]):
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("out", "err")]
        for file in self._files:
            file.touch()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._process = _context.Process(target=_run, args=(words, module, code, environment, self._files))
        self._process.start()
        _running.append(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, or None while it runs; negative: the signal that ended it."""
        return self._process.exitcode

    def wait(self) -> int:
        """The exit status, when it has ended."""
        self._process.join(PATIENCE)
        assert self.poll() is not None, f"after {PATIENCE} s it still runs: {self.output()}"
        return self.poll()

    def output(self) -> list[str]:
        """Its standard output and standard error so far."""
        return [file.read_text() for file in self._files]

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def end_programs() -> None:
    """Kill what still runs, and whatever it started in its session."""
    while _running:
        program = _running.pop()
        with suppress(ProcessLookupError):  # all have ended, or it has just been started and has no session yet
            os.killpg(program.pid, signal.SIGKILL)
        if program.poll() is None:
            program.kill()
            program.wait()


def _run(words, module: str, code: str | None, environment: dict[str, str], files: list[Path]) -> None:
    """Become the program, in the forked process."""
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = [module if code is None else "-c", *words]
    try:
        if code is None:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            exec(code, {"__name__": "__main__"})
    finally:  # what the end of a forked process leaves out, in the order of any other's
        threading._shutdown()
        atexit._run_exitfuncs()
