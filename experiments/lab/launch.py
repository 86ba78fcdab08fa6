"""Train runs by one of Hydra's launchers: in this process, in processes of this machine, on Slurm or on Ray.

The launchers are those of a multirun of train.py. The only override of a job is a file with the settings of its run,
so that the configuration of a plan arrives unchanged.
"""

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from conf import signals
from conf.base import Count, Settings
from conf.compose import sentence
from conf.environment import command_known
from conf.files import write_json
from conf.overrides import FOLDER, quoted
from conf.run_folder import RunFolder, flatten
from conf.validation import validate

if TYPE_CHECKING:
    from conf.schema import Config

GLANCE = 0.5  # seconds between two looks at the folders of runs
PATIENCE = 20  # seconds for a process whose parent was killed to save its run and leave it


class Launcher(Settings):
    """The launcher that trains runs and how many at once, as in conf/launcher."""

    name: str
    plugin: str
    jobs: Count | None
    at_once: str | None
    shared: bool
    options: dict


class Engine(Settings):
    """The settings of how the runs of a plan are trained."""

    launcher: Launcher
    jobs_on_gpu: Count  # runs at once that share a GPU


def cores() -> int:
    """Cores that this process may use."""
    known = getattr(os, "sched_getaffinity", None)  # Linux alone
    return len(known(0)) if known else os.cpu_count() or 1


def jobs(launcher: Launcher, on_gpu: int) -> int:
    """The number of runs trained at once; on_gpu: if launcher.jobs is null and there is a GPU."""
    if launcher.jobs is None:
        import torch

        return on_gpu if torch.cuda.is_available() else cores()
    return launcher.jobs


def threads(launcher: Launcher, at_once: int) -> int | None:
    """Threads for each run, an even part of the cores; None for torch's default."""
    return max(1, cores() // at_once) if launcher.shared else None


def job(settings) -> str | None:
    """Train the run of one job; returns why it failed in a sentence, or None."""
    import torch

    from conf.schema import Config
    from train import forget_compiled, train

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.parent is not None:
        signals.serve(settings.parent, settings.stop)
    try:
        with signals.working():
            config = validate(Config, json.loads(Path(settings.run).read_text()))
            _wait_until_free(RunFolder.of(config).path / ".lock")
            forget_compiled(config)
            train(config)
    except SystemExit as error:
        if not signals.serving():
            raise
        return f"stopped with status {error.code}"
    except Exception as error:
        return sentence(error) or repr(error)
    return None


def _wait_until_free(lock: Path) -> None:
    """Wait for the lock while the process of a killed command saves its run."""
    for _ in range(int(PATIENCE / GLANCE)):
        try:
            with open(lock) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return
        except BlockingIOError:
            time.sleep(GLANCE)
        else:
            return


def launch(configs: Sequence["Config"], launcher: Launcher, at_once: int) -> dict[str, str]:
    """Train independent runs; returns the failures, a sentence by name of the run.

    A failing run stops no other. If its process dies, others running at once may die too; they can be resumed.
    """
    if launcher.plugin != "basic":  # bars of several processes would write over each other
        configs = [
            config.model_copy(update={"trainer": config.trainer.model_copy(update={"progress": False})})
            for config in configs
        ]
    words = [f"hydra/launcher={launcher.plugin}"]
    options = flatten(launcher.options) | ({launcher.at_once: at_once} if launcher.at_once else {})
    words += [f"++hydra.launcher.{key}={json.dumps(value)}" for key, value in options.items()]
    words += [f"threads={json.dumps(threads(launcher, at_once))}"]
    folder = _folder(configs[0])
    words += [_setting("hydra.sweep.dir", folder)]
    supervisor = signals.Supervisor(folder / f"stop-{os.getpid()}")
    if launcher.shared:  # on this machine
        words += [f"parent={os.getpid()}", _setting("stop", supervisor.stop)]
    portion, failures = len(configs) if launcher.at_once else at_once, {}
    for start in range(0, len(configs), portion):
        some = configs[start : start + portion]
        with command_known(), supervisor.watching() if launcher.plugin != "basic" else nullcontext():
            try:
                reasons = _run_jobs(words, [[_setting("run", _write_settings(config))] for config in some])
            except Exception as error:  # a process died, or the launcher is not there
                reasons = [" ".join(f"{type(error).__name__}: {error}".split())[:300]] * len(some)
        for config, reason in zip(some, reasons, strict=True):
            if reason and RunFolder.of(config).status["state"] != "done":
                failures[config.name] = reason
    return failures


def call_side_by_side(
    function: Callable, calls: dict[str, tuple], config: "Config", threads: int, at_once: int
) -> None:
    """Call a function of a module in processes of this machine, of which nothing is printed but that a call ended.

    What a call raises is lost: it is made for what it keeps in files, by a program that then does the same itself.
    Signals are handled as in `launch`.

    Args:
        calls: the arguments of each by its name. config: a run of the plan. threads: for each process.
    """
    from joblib import Parallel, delayed

    supervisor = signals.Supervisor(_folder(config) / f"stop-{os.getpid()}")
    with command_known(), supervisor.watching():
        side_by_side = Parallel(n_jobs=at_once, backend="loky", return_as="generator_unordered")
        ended = side_by_side(delayed(_call)(name, function, arguments, threads) for name, arguments in calls.items())
        try:
            for number, (name, seconds) in enumerate(ended, 1):
                print(f"[{number}/{len(calls)}] {name}: {seconds:.0f} s", flush=True)
        except Exception as error:  # a process died
            print(f"{type(error).__name__}: the rest is done by this process", flush=True)


def _call(name: str, function: Callable, arguments: tuple, threads: int) -> tuple[str, float]:
    """Call a function quietly; returns the name of the call and the seconds it took."""
    import torch

    torch.set_num_threads(threads)
    began = time.perf_counter()
    with suppress(Exception, SystemExit), signals.working(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        function(*arguments)
    return name, time.perf_counter() - began


def _folder(config: "Config") -> Path:
    """The folder of what a plan and its processes tell each other."""
    return Path(config.runs) / config.group / ".plan"


def _write_settings(config: "Config") -> Path:
    """Write the settings of a run to a file for the process that trains it."""
    place = _folder(config) / f"{config.name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, config.model_dump(mode="json"))
    return place


def _setting(key: str, path: Path) -> str:
    return f"{key}={quoted(str(path))}"


def _run_jobs(words: list[str], overrides: list[list[str]]) -> list[str | None]:
    """Run `job` for every list of overrides by the launcher in `words`; returns its results."""
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(FOLDER), version_base="1.3", job_name="plan"):
            loader = GlobalHydra.instance().config_loader()
            config = loader.load_configuration("launch", words, RunMode.MULTIRUN)
            HydraConfig.instance().set_config(config)
            context = HydraContext(config_loader=loader, callbacks=Callbacks(config))
            plugin = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=config)
            return [done.return_value for done in plugin.launch(overrides, 0)]
    finally:
        GlobalHydra.instance().clear()


class Progress:
    """Prints a line for every run of a plan that ends, with the time left."""

    def __init__(self, configs: Sequence["Config"]):
        self.count, self.ended = len(configs), 0
        self.left, self.done = sum(map(tokens, configs)), 0
        self.began: float | None = None

    @contextmanager
    def watching(self, configs: Sequence["Config"]) -> Iterator[None]:
        """Watch the folders of these runs, which another thread or machine may train, until the block ends."""
        self.began = self.began or time.perf_counter()
        before = {config.name: RunFolder.of(config).status for config in configs}
        running, over = {config.name: config for config in configs}, threading.Event()

        def look() -> None:
            for name, config in list(running.items()):
                status = RunFolder.of(config).status
                if status["state"] in ("done", "failed") and status != before[name]:
                    self._print_ended(running.pop(name), status)

        def keep_looking() -> None:
            while not over.wait(GLANCE):
                look()

        watcher = threading.Thread(target=keep_looking, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            look()

    def _print_ended(self, config: "Config", status: dict) -> None:
        self.ended += 1
        self.left -= tokens(config)
        if status["state"] == "failed":
            outcome = f"failed: {status['error']}"
        elif (results := RunFolder.of(config).results) is None:
            outcome = "its results.json is damaged, and made again when the run is read"
        else:
            self.done += tokens(config)
            metrics = results["metrics"]
            outcome = f"validation perplexity {metrics['validation/perplexity']:.3f}"
            if "validation/exact" in metrics:
                outcome = f"{metrics['validation/exact']:.1%} of the answers exact after {metrics['step']} steps"
        ahead = ""
        if self.done and self.left:
            seconds = self.left / self.done * (time.perf_counter() - self.began)
            ahead = f"; about {seconds / 60:.0f} min of training left"
        print(f"[{self.ended}/{self.count}] {config.name}: {outcome}{ahead}", flush=True)


def tokens(config: "Config") -> int:
    """Tokens that a run is trained on."""
    return config.batch * config.window * config.steps
