"""From words on a command line to plain values, and the way every program of the lab starts and ends.

Hydra composes; nothing here imports torch, and Hydra itself is imported when something is composed, so that --help and
--cfg answer at once and Ctrl-C finds a program that can be stopped.
"""

import io
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from conf import signals
from conf.base import BadInput, Settings, first_line
from conf.help import help_text
from conf.overrides import FOLDER, check, explain, parse, swept_keys
from conf.start import imported
from conf.validation import validate

# How torch says on a CPU that there is no room for a tensor, or none anywhere for one of that size.
NO_MEMORY = "allocate memory|Storage size calculation overflowed"
SWEEP = "POSITIONS_SWEEP_RECORD"  # where the jobs of a multirun, in whatever process, write how they failed
SWEPT = "POSITIONS_SWEPT"  # and which keys it is over


def plain(config, whole: bool = True) -> dict:
    """A composed OmegaConf node as plain values, interpolations resolved; Hydra's own settings left out.

    Args:
        whole: whether every value that is marked mandatory (???) must be there.

    Raises:
        BadInput: one of these is missing, or an interpolation points nowhere.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=whole)
    except MissingMandatoryValue as error:
        raise BadInput(f"{error.full_key} must be given: it has no default") from None
    except OmegaConfBaseException as error:
        reason = first_line(error).rpartition("raised while resolving interpolation: ")[2]
        raise BadInput(f"{error.full_key}: {reason}") from None
    values.pop("hydra", None)
    return values


def compose_values(config_name: str, overrides: Sequence[str], whole: bool = True) -> dict:
    """Compose conf/<config_name>.yaml with command-line overrides into plain values; whole: as for `plain`.

    Raises:
        BadInput: an override names an unknown key or choice; the sentence lists what is allowed.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    choices, settings = [], []
    for override in map(parse, check(overrides, config_name)):
        key = override.key_or_group
        chosen = (FOLDER / key).is_dir() or key.startswith("hydra") or override.package or override.is_sweep_override()
        (choices if chosen else settings).append(override)
    try:
        config = deepcopy(_choose(config_name, *(choice.input_line for choice in choices)))
        ConfigLoaderImpl._apply_overrides_to_config(settings, config)
        return plain(config, whole)
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(explain(error, _known(config_name, overrides))) from None


@cache
def _choose(config_name: str, *choices: str):
    """Hydra's configuration of a program with these choices of its groups, which takes Hydra a tenth of a second."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(FOLDER), version_base="1.3"):
            return compose(config_name, overrides=list(choices))
    finally:
        GlobalHydra.instance().clear()


def _known(config_name: str, overrides: Sequence[str]) -> dict:
    """The settings that there are with those choices of groups among the overrides that can be."""
    chosen = [word for word in overrides if (FOLDER / word.replace("=", "/", 1)).with_suffix(".yaml").is_file()]
    if chosen != list(overrides):  # else they are what cannot be
        with suppress(BadInput):
            return compose_values(config_name, chosen, whole=False)
    return compose_values(config_name, [], whole=False)


@contextmanager
def program() -> Iterator[None]:
    """What every program of the lab does around its work: bad input, a system that refuses files or memory, a reader
    that has gone and a signal end in one sentence, or in silence, and a status; other errors keep their traceback.
    """
    imported()
    try:
        with signals.handlers(signals.leave):
            yield
            sys.stdout.flush()
    except BrokenPipeError:  # … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (message := sentence(error)) is None:
            raise
        fail(message)


def sentence(error: Exception) -> str | None:
    """What was asked in vain, or the system refused, in one sentence; None of the errors of the program itself."""
    if isinstance(error, BadInput):
        return str(error)
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or re.search(NO_MEMORY, text):
        size = re.search(r"allocate ([\d.]+ \w+)", text)
        asked = f" for {size[1]} at once" if size else ""
        return f"there is not enough memory{asked}: take a smaller model, window or batch"
    if not isinstance(error, OSError):
        return None
    reason = error.strerror or str(error) or type(error).__name__
    places = [str(path) for path in (error.filename, error.filename2) if isinstance(path, str | bytes | Path)]
    return f"{' → '.join(places)}: {reason}" if places else f"the system refused to read or write: {reason}"


def command_line(config_name: str, run: Callable[[dict, list[str]], None]) -> None:
    """Be a command-line program: compose, run once or once per job of a multirun, and exit.

    `run` gets the composed plain values and the overrides. A BadInput ends in its sentence and status 1. A failing
    job of a multirun neither stops nor hides the others: at the end the failures are listed, and the status is 1.
    A job stopped by a signal (SystemExit above 128) ends the whole multirun with that status, after all have saved.
    """
    with program():
        sweep = {"-m", "--multirun"} & set(sys.argv) and SWEEP not in os.environ
        if not sweep:
            _run(config_name, run)
            return
        record = Path(tempfile.gettempdir()) / f"sweep-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        os.environ[SWEEP] = str(record)
        try:
            side_by_side = any(word.startswith("hydra/launcher=") for word in sys.argv)
            supervisor = signals.Supervisor(record.with_suffix(".stop"))
            with supervisor.watching() if side_by_side else nullcontext():
                _run(config_name, run)
            failures = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
        finally:
            del os.environ[SWEEP]
            record.unlink(missing_ok=True)
        if failures:
            for failure in failures:
                print(f"failed: {' '.join(failure['overrides'])}: {failure['error']}", file=sys.stderr)
            raise BadInput(f"{len(failures)} job(s) of the multirun failed")


def _run(config_name: str, run: Callable[[dict, list[str]], None]) -> None:
    """Let Hydra read the command line, and run the job, or the jobs of a multirun one after another or side by side."""
    from hydra import main
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of printing them
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    allowed = check(words, config_name)
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in words] + allowed
    helping = bool({"-h", "--help"} & set(sys.argv))
    if helping:  # not by Hydra, which reads every choice of every group twice: half a second
        sys.argv[1:] = [*allowed, "--cfg", "job"]
    if in_multirun():
        os.environ[SWEPT] = " ".join(swept_keys(allowed))

    @main(config_path=str(FOLDER), config_name=config_name, version_base="1.3")
    def job(config) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        try:
            with signals.working():
                values = plain(config)
                check_logger(values)
                run(values, overrides)
        except SystemExit as error:
            if not signals.serving():
                raise
            _record_failure(overrides, BadInput(f"stopped with status {error.code}"))
        except Exception as error:
            if in_multirun():
                _record_failure(overrides, error)
            else:
                raised.append(error)  # carried past Hydra, which would put a line of its own before the sentence

    raised: list[Exception] = []
    composed = io.StringIO()
    try:
        with redirect_stdout(composed) if helping else nullcontext():
            job()
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(explain(error, _known(config_name, allowed))) from None
    if raised:
        raise raised[0]
    if helping:
        print(f"{help_text(config_name)}\n{composed.getvalue()}", end="")


def check_logger(values: dict) -> None:
    """Refuse what Weights & Biases would refuse, before anything is computed.

    Raises:
        BadInput: it is not installed, or its settings or environment variables are none.
    """
    if isinstance(logger := values.get("logger"), dict) and logger.get("name") == "wandb":
        with suppress(ImportError):
            # What wandb.init needs, before torch: pydantic looks for the source of each of its classes in every module.
            import wandb.apis.public  # noqa: F401
        from conf.schema import Logger
        from conf.tracking import check_wandb

        class Logged(Settings):
            logger: Logger

        check_wandb(validate(Logged, {"logger": logger}).logger)


def in_multirun() -> bool:
    """Whether this is one job of a multirun."""
    return SWEEP in os.environ


def swept() -> list[str]:
    """The keys that this multirun is over; none outside one."""
    return os.environ.get(SWEPT, "").split() if in_multirun() else []


def _record_failure(overrides: list[str], error: Exception) -> None:
    message = sentence(error)
    print(f"failed: {message or f'{type(error).__name__}: {error}'}", file=sys.stderr)
    if message is None:
        message = f"{type(error).__name__}: {error}"
        traceback.print_exception(error)
    with open(os.environ[SWEEP], "a") as file:
        file.write(json.dumps({"overrides": overrides, "error": message}) + "\n")


def fail(message: str) -> None:
    """Print one sentence and exit with status 1."""
    print(message, file=sys.stderr)
    sys.exit(1)
