"""Small real runs for tests: the embedded text as bytes, a model of two narrow layers."""

import io
import runpy
import signal
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from conf import signals
from conf.validation import validate
from tests.programs import Program

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "tests"  # the text is tokenised once for the whole suite

TINY = [
    f"cache={CACHE}",
    "data.tokenizer.kind=bytes",
    "data.tokenizer.vocabulary=null",
    "model.layers=2",
    "model.heads=2",
    "model.width=32",
    "window=32",
    "batch=4",
    "steps=6",
    "log_every=1",
    "validate_every=3",
    "validation_windows=8",
    "checkpoint_every=2",
    "trainer.progress=false",
    "trainer=cpu",
]


def tiny(folder: Path, *overrides: str) -> list[str]:
    """Overrides of a run that takes about a second, below `folder`, logging nowhere unless told to."""
    said = {override.split("=")[0] for override in overrides}
    defaults = [each for each in (*TINY, "logger=none") if each.split("=")[0] not in said]
    return [f"runs={folder}", *defaults, *overrides]


def reproduce_request(folder: Path, claim: str, *overrides: str):
    """A request for experiments.reproduce at scale=tiny, everything below `folder`."""
    from conf.compose import compose_values
    from experiments.reproduce.arms import Request

    return validate(Request, compose_values("reproduce", [f"claim={claim}", *tiny_claims(folder), *overrides]))


def tiny_claims(folder: Path) -> list[str]:
    """Overrides of reproduce that keep it small and everything below `folder`."""
    places = [f"runs={folder}", f"results={folder}/results", f"cache={CACHE}"]
    return ["scale=tiny", *places, "logger=none", "trainer=cpu", "trainer.progress=false"]


def run_program(*words: str, module: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `python -m module`, run in this process.

    `command` gives it a process of its own, where the process is the point.
    """
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in signals.SIGNALS}
    with patch.object(sys, "argv", [module, *words]), redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = end.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return status, out.getvalue(), err.getvalue()


def command(*words: str, module: str = "train", code: str | None = None, **environment: str) -> Program:
    """Start `python -m module`, or `python -c code`, in a process of its own."""
    return Program(words, module, code, environment)


def torchrun(processes: int, *words: str) -> list[Program]:
    """Start the processes of one run as torchrun starts them, itself left out."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = map(str, range(processes))
    words = (*(word for word in words if word != "trainer=cpu"), "trainer.accelerator=cpu")
    return [command(*words, f"trainer.devices={processes}", RANK=rank, LOCAL_RANK=rank, **shared) for rank in ranks]


def finish(program: Program) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a program, waited for."""
    return program.wait(), *program.output()
