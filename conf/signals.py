"""What a signal does: a command ends with its status, and the processes that train for it save and end with it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GLANCE = 0.5  # seconds between two looks at the parent


def handled() -> list[signal.Signals]:
    """The signals that stop a command: all, but not a SIGHUP that nohup has switched off."""
    return [
        number for number in SIGNALS if not (number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN)
    ]


@contextmanager
def handlers(handler) -> Iterator[None]:
    """Handle the signals by this function while the block runs; elsewhere than in the main thread, change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in handled()}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, previous in before.items():
            signal.signal(number, previous)


def end_at_once(number: int, frame) -> None:
    """End the command by a sentence and its status, while there is nothing to put in order yet."""
    say(f"stopped by {signal.Signals(number).name} before anything was begun")
    os._exit(128 + number)


def leave(number: int, frame) -> None:
    """End the process as an exception does, so that everything is put in order on the way; a second time, at once."""
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        os._exit(128 + number)
    say(f"stopped by {signal.Signals(number).name}; the same command goes on")
    _exit(128 + number, frame)


def _exit(status: int, frame) -> None:
    """Raise SystemExit as soon as no module is being imported, where it could come out as another error or be lost.

    frame: the one that was interrupted.
    """
    importing = frame
    while importing is not None and not importing.f_code.co_filename.startswith("<frozen importlib"):
        importing = importing.f_back
    if importing is None:
        raise SystemExit(status)
    signal.signal(signal.SIGALRM, lambda _, later: _exit(status, later))
    signal.setitimer(signal.ITIMER_REAL, 0.02)


def say(line: str) -> None:
    """Print to standard error from a handler, where print itself may have been interrupted."""
    os.write(2, (line + "\n").encode())


class Supervisor:
    """The parent of processes that train: it hands signals on to them and waits until they have saved.

    They are told by a file, which reaches those of other machines too.
    """

    def __init__(self, stop: Path):
        self.stop, self.signal, self._count = stop, None, 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the block launches and waits: the first signal asks all to save and stop, the third gives them up."""
        self.stop.unlink(missing_ok=True)
        try:
            with handlers(self._handle), _loky_workers(os.getpid(), str(self.stop)):
                yield
        finally:
            self.stop.unlink(missing_ok=True)
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _handle(self, number: int, frame) -> None:
        self._count += 1
        if self._count == 1:
            self.signal = number
            self.stop.parent.mkdir(parents=True, exist_ok=True)
            self.stop.touch()
            say(f"{signal.Signals(number).name}: every run stops after its step and saves; the same command goes on")
        elif self._count == 2:
            say("waiting for the runs to save; once more gives up what they did since their last checkpoint")
        else:
            raise SystemExit(128 + number)


@contextmanager
def _loky_workers(parent: int, stop: str) -> Iterator[None]:
    """Processes that joblib starts inside the block serve this parent from their first moment on."""
    try:
        from joblib import register_parallel_backend
        from joblib.parallel import LokyBackend
    except ImportError:  # no launcher has workers
        yield
        return

    class Serving(LokyBackend):
        def configure(self, *words, **options):
            return super().configure(*words, initializer=serve, initargs=(parent, stop), **options)

        def submit(self, *words, **options):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a new process has it too, until it serves
            try:
                return super().submit(*words, **options)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    register_parallel_backend("loky", Serving)
    try:
        yield
    finally:
        register_parallel_backend("loky", LokyBackend)


class _Service:
    """Whom this process trains for, and whether it still does."""

    parent: int | None = None
    stop = ""
    stopped: int | None = None  # the signal
    busy = False


def serve(parent: int, stop: str) -> None:
    """Train for another process of this machine: save and stop when its `stop` file is there, and end when it ends."""
    if parent == os.getpid():
        return
    if _Service.parent is None:
        if os.getpgrp() != os.getpid():
            os.setsid()  # what the terminal sends comes through the parent alone, and once
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, _stop)
        threading.Thread(target=_watch, daemon=True).start()
    _Service.parent, _Service.stop = parent, stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def serving() -> bool:
    """Whether this process trains for another one."""
    return _Service.parent is not None


@contextmanager
def working() -> Iterator[None]:
    """One job of a process that may serve another: a signal ends it by SystemExit, and after one there is no next.

    Raises:
        SystemExit: a signal came, or the parent is gone; the status is 128 + signal.
    """
    if serving() and (_Service.stopped or not _alive(_Service.parent) or Path(_Service.stop).exists()):
        raise SystemExit(128 + (_Service.stopped or signal.SIGTERM))
    _Service.busy = True
    try:
        yield
    except SystemExit as error:
        if isinstance(error.code, int) and error.code > 128:
            _Service.stopped = error.code - 128
        raise
    finally:
        _Service.busy = False
        if serving() and not _alive(_Service.parent):
            sys.stdout.flush()
            os._exit(128 + signal.SIGTERM)


def _stop(number: int, frame) -> None:
    _Service.stopped = number
    if _Service.busy:
        _exit(128 + number, frame)


def _watch() -> None:
    while _Service.parent is None or (_alive(_Service.parent) and not Path(_Service.stop).exists()):
        time.sleep(GLANCE)
    if _Service.stopped is None:
        os.kill(os.getpid(), signal.SIGTERM)
    while _alive(_Service.parent) or _Service.busy:
        time.sleep(GLANCE)
    os._exit(128 + signal.SIGTERM)


def _alive(process: int) -> bool:
    """Whether a process of this machine still runs; one that ended and was not yet waited for does not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (PermissionError, FileNotFoundError):  # of another user; or a system without /proc
        return True
    return state != "Z"
