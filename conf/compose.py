"""From words on a command line to plain values, and the way every program of the lab starts and ends.

Hydra composes; nothing here imports torch, so that --help and --cfg answer at once.
"""

import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra import main as hydra_main
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from conf.base import BadInput

FOLDER = Path(__file__).resolve().parent
SWEEP = "POSITIONS_SWEEP_RECORD"  # where the jobs of a multirun, in whatever process, tell how they ended


def plain(config, whole: bool = True) -> dict:
    """A composed OmegaConf node as plain values, interpolations resolved; Hydra's own settings left out.

    Args:
        whole: whether every value that is marked mandatory (???) must be there.

    Raises:
        BadInput: one of these is missing, or an interpolation points nowhere.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=whole)
    except MissingMandatoryValue as error:
        raise BadInput(f"{error.full_key} must be given: it has no default") from None
    except OmegaConfBaseException as error:
        raise BadInput(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    values.pop("hydra", None)
    return values


def compose_values(config_name: str, overrides: Sequence[str], whole: bool = True) -> dict:
    """Compose conf/<config_name>.yaml with command-line overrides into plain values; whole: as for `plain`.

    Raises:
        BadInput: an override names an unknown key or choice; the sentence lists what is allowed.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(FOLDER), version_base="1.3"):
            return plain(hydra_compose(config_name, overrides=list(overrides)), whole)
    except (HydraException, OmegaConfBaseException) as error:
        raise BadInput(explain(error, config_name)) from None
    finally:
        GlobalHydra.instance().clear()


def explain(error: Exception, config_name: str) -> str:
    """Hydra's complaint as one sentence that names the key and what is allowed there."""
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        beside = _keys_beside(key, config_name)
        if (FOLDER / key.replace(".", "/")).is_dir():
            return f"{key} takes one of {_choices(key)}"
        return f"{key} is not a setting; allowed there: {beside}"
    if match := re.search(r"(?:Could not find|Could not load) '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        return f"{group}={choice} is not known; allowed: {_choices(group)}"
    if match := re.search(r"[Ii]n '[^']*': could not find '([^']+)'", text, re.I):
        group, _, choice = match[1].rpartition("/")
        return f"{group}={choice} is not known; allowed: {_choices(group)}"
    return " ".join(text.split())


def _choices(group: str) -> str:
    return ", ".join(sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))) or "nothing"


def _keys_beside(key: str, config_name: str) -> str:
    """The keys of the default configuration at the deepest level of this one that exists."""
    here = compose_values(config_name, [], whole=False)
    for part in key.lstrip("+~").split(".")[:-1]:
        if not isinstance(here, dict) or not isinstance(here.get(part), dict):
            return "nothing"
        here = here[part]
    return ", ".join(here) if isinstance(here, dict) else "nothing"


def command_line(config_name: str, run: Callable[[dict, list[str]], None]) -> None:
    """Be a command-line program: compose, run once or once per job of a multirun, and exit.

    `run` gets the composed plain values and the overrides. A BadInput ends in its sentence and status 1. A failing
    job of a multirun neither stops nor hides the others: at the end the failures are listed, and the status is 1.
    A job stopped by a signal (SystemExit above 128) ends the whole multirun with that status.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of printing them
    sweep = {"-m", "--multirun"} & set(sys.argv) and SWEEP not in os.environ
    if sweep:
        handle, os.environ[SWEEP] = tempfile.mkstemp(prefix="sweep-", suffix=".jsonl")
        os.close(handle)

    @hydra_main(config_path=str(FOLDER), config_name=config_name, version_base="1.3")
    def program(config) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        try:
            run(plain(config), overrides)
        except Exception as error:
            if in_multirun():
                _record_failure(overrides, error)
            else:
                raised.append(error)  # carried past Hydra, which would put a line of its own before the sentence

    raised: list[Exception] = []
    try:
        program()
        if raised:
            raise raised[0]
    except (BadInput, HydraException, OmegaConfBaseException) as error:
        fail(str(error) if isinstance(error, BadInput) else explain(error, config_name))
    if sweep:
        record = Path(os.environ.pop(SWEEP))
        failures = [json.loads(line) for line in record.read_text().splitlines()]
        record.unlink()
        if failures:
            for each in failures:
                print(f"failed: {' '.join(each['overrides'])}: {each['error']}", file=sys.stderr)
            fail(f"{len(failures)} job(s) of the multirun failed")


def in_multirun() -> bool:
    """Whether this is one job of a multirun."""
    return SWEEP in os.environ


def _record_failure(overrides: list[str], error: Exception) -> None:
    sentence = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
    print(f"failed: {sentence}", file=sys.stderr)
    if not isinstance(error, BadInput):
        traceback.print_exception(error)
    with open(os.environ[SWEEP], "a") as file:
        file.write(json.dumps({"overrides": overrides, "error": sentence}) + "\n")


def fail(sentence: str) -> None:
    """Print one sentence and exit with status 1."""
    print(sentence, file=sys.stderr)
    sys.exit(1)
