"""Small real runs for tests: the embedded text as bytes, a model of two narrow layers."""

import os
import subprocess
import sys
from pathlib import Path

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


def command(*words: str, module: str = "train", **environment: str) -> subprocess.Popen:
    """Start a program of the lab in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a program, waited for."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err
