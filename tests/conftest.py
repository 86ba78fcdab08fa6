"""What all tests share."""

import gc
import os
import signal
import sys
from collections import Counter
from zlib import crc32

import pytest

# Helpers whose assertions should explain themselves as those of test files do.
pytest.register_assert_rewrite("tests.lawbook", "tests.laws_behaviour", "tests.laws_tables")


def pytest_configure(config):
    """Numbers are held to those of a CPU, so that a GPU is hidden but from `make gpu`.

    Under nohup a hang-up is ignored, by what the tests start too: they look at what it does elsewhere.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before the marks of the command line are looked for
def pytest_collection_modifyitems(items):
    """Three quarters of the cases of a test with over a hundred are left out of make check, the same ones every time.

    Files with the most slow tests come first, so that workers that take files in turn end together.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    cases = Counter(item.nodeid.partition("[")[0] for item in items)
    for item in items:
        if cases[item.nodeid.partition("[")[0]] > 100 and crc32(item.nodeid.encode()) % 4:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    """What was imported stays: the garbage collector, which every run calls, looks at what tests make alone."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_power_loss():
    """Files are not waited for until they are on the disk, which a run asks for two dozen times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def one_thread():
    """Tiny tensors on one thread: handing them to a second one costs a hundred times the work on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def as_found():
    """No test leaves a program, a variable of the environment, another folder or W&B's settings to the next one."""
    environment, folder = dict(os.environ), os.getcwd()
    yield
    if "tests.programs" in sys.modules:
        sys.modules["tests.programs"].end_programs()
    os.chdir(folder)
    if getattr(sys.modules.get("wandb.sdk.wandb_setup"), "_singleton", None) is not None:
        sys.modules["wandb"].teardown()  # it keeps what the environment was when it was first asked
    environment.pop("WANDB_SERVICE", None)  # the address of what has ended
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)
