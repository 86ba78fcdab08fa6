"""What a study comes to before anything runs: its arms, what of it is there already, tokens and time.

Time is what is left to train and to read, in tokens, over tokens per second, plus a moment for every run. Training
speed is the median that the base run's metrics.jsonl has, if it is there; else a few steps of the model are timed.
Reading speed is that of a few forward passes at the longest context. Both are timed at one context length, so that
attention at longer and shorter ones is not told apart.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.run_folder import RunFolder
from experiments.extend.arms import ZERO_SHOT, Arm, Study, arms, base_config, check_batch, tuned_name
from experiments.lab.measure.passkey import Passkey
from experiments.lab.measure.perplexity import Measurement, cut
from experiments.lab.measure.readings import device_and_precision, digest

if TYPE_CHECKING:
    from conf.schema import Config
    from data.corpus import Corpus

PER_RUN = 2.0  # seconds to start and end a training run, on two CPU cores
TIMED_TOKENS, TIMED_SECONDS = 2048, 1.0  # at least: tokens of a pass that is timed, and seconds of passes


@dataclass(frozen=True)
class Plan:
    """A study made ready to run."""

    study: Study
    bases: dict[str, "Config"]
    arms: list[Arm]
    left_out: list[str]
    how: Measurement
    segments: int  # that there are, at most study.segments

    @property
    def base(self) -> "Config":
        """The first base run, from which all differ in the position alone."""
        return next(iter(self.bases.values()))

    @property
    def windows(self) -> list[int]:
        """The trained window and the longer ones, in tokens."""
        return [self.base.window * factor for factor in (1, *sorted(self.study.factors))]

    @property
    def measurements(self) -> list[tuple[Arm, int, str]]:
        """Every arm, the steps after which it is measured, and how its texts are then read."""
        return [(arm, steps, reading) for arm in self.arms for steps in arm.steps for reading in arm.readings]

    def perplexity(self, reading: str) -> Measurement:
        """How perplexity is measured."""
        return self.how.model_copy(update={"reading": reading})

    def passkey(self, arm: Arm, reading: str) -> Passkey | None:
        """How an arm is asked for keys: at the windows up to that of its factor, or at all of them if it has none."""
        if not self.study.passkey:
            return None
        task, study = self.base.data.retrieval, self.study
        longest = max(self.windows) if arm.factor == 1 else self.base.window * arm.factor
        lengths = tuple(window for window in self.windows if window <= longest)
        return Passkey(template=task.template, digits=task.digits, keys=task.keys, lengths=lengths, reading=reading,
                       depths=study.depths, trials=study.trials, split=study.split)  # fmt: skip


def make_plan(scale: dict, overrides: Sequence[str], study: Study) -> Plan:
    """Everything a study is made of, from the settings of a scale and the overrides.

    Raises:
        BadInput: something of it cannot be had; one sentence.
    """
    from data.corpus import prepare

    bases = {position: base_config(scale, overrides, position) for position in study.positions}
    first = next(iter(bases.values()))
    check_batch(first, "study.factors", study.factors)
    if first.window < 8:
        raise BadInput(
            f"window={first.window} is too short for this study: an eighth of it is scored, at least 8 needed"
        )
    if study.passkey and not first.data.retrieval.fraction:
        raise BadInput("study.passkey=true needs models that learn to retrieve: set data.retrieval.fraction, as to 0.2")

    longest = first.window * max(study.factors)
    contexts = {first.window * factor for factor in study.factors}
    contexts |= {first.window * 2**power // 4 for power in range(longest.bit_length())}  # the quarter: is it used?
    contexts = sorted(context for context in contexts if context <= longest)
    how = Measurement(contexts=contexts, stride=first.window // 8, segments=study.segments, split=study.split)
    found, left_out = [], []
    for base in bases.values():
        its_arms, its_left_out = arms(base, study)
        found, left_out = found + its_arms, left_out + its_left_out
    corpus = prepare(first.data, Path(first.cache), progress=first.trainer.progress)
    segments = len(cut(corpus.split(study.split), longest + 1, study.segments).tokens)
    plan = Plan(study, bases, found, left_out, how, segments)
    if study.passkey:
        _check_passkey(plan, corpus)
    return plan


def _check_passkey(plan: Plan, corpus: "Corpus") -> None:
    """Refuse distances that a window does not have before it is trained on."""
    from data.retrieval import Task

    task = Task(plan.base.data.retrieval, corpus.encode, corpus.separator)
    try:
        task.distances(plan.base.window, plan.study.depths)
    except BadInput as error:
        raise BadInput(f"study.passkey=true with window={plan.base.window}: {error}") from None


def told(plan: Plan) -> str:
    """The plan in words: what runs, what is there already, what is left out and why, and how long it takes."""
    study, base = plan.study, plan.base
    tuned = [arm for arm in plan.arms if arm.tuning]
    to_train = [each for each in plan.bases.values() if _results(each, each.name) is None]
    to_tune = [arm for arm in tuned if _results(*_tuned_run(plan, arm)) is None]
    to_read = [each for each in plan.measurements if not _is_there(plan, *each)]
    per_step = base.batch * base.window
    training = per_step * (base.steps * len(to_train) + sum(arm.tuning for arm in to_tune))
    reading = sum(_tokens(plan, arm, how) for arm, _, how in to_read)
    reading += sum(base.window * arm.factor for arm in to_tune) * base.validation_windows

    lines = [
        f"The study: {base.model.name} models with {', '.join(plan.bases)}, trained on {base.window} tokens, "
        f"read at {', '.join(map(str, plan.how.contexts))}",
        f"  base runs        {len(plan.bases):>4}, {len(to_train):>3} to do: {base.steps} steps of {per_step:,}",
        f"  fine-tuning runs {len(tuned):>4}, {len(to_tune):>3} to do: {max(study.finetune_steps)} steps of "
        f"{per_step:,} tokens, at {', '.join(map(str, plan.windows))}{', from stage to stage' * study.progressive}",
        f"  readings         {len(plan.measurements):>4}, {len(to_read):>3} to do: {plan.segments} segments each"
        + f", and {study.depths} x {study.trials} keys at a length" * study.passkey,
    ]
    shown = {arm.extend["name"] for arm in plan.arms}
    for why in dict.fromkeys(ZERO_SHOT.values()):
        if names := [name for name in ZERO_SHOT if name in shown and ZERO_SHOT[name] == why]:
            lines.append(f"  not fine-tuned: {', '.join(names)}: {why}")
    if names := list(dict.fromkeys(arm.method for arm in plan.arms if arm.depends_on_length)):
        lines.append(f"  read twice, whole and as decoded: {', '.join(names)}: the length of the text matters to it")
    lines += [f"  left out: {sentence}" for sentence in plan.left_out]
    if not training and not reading:
        return "\n".join([*lines, "All of it is there already."])
    train_speed, how_trained = training_speed(base)
    read_speed = _reading_speed(base, max(plan.how.contexts))
    seconds = training / train_speed + reading / read_speed + PER_RUN * (len(to_train) + len(to_tune))
    lines.append(
        f"To do: {training / 1e6:.2f} M tokens to train on at {train_speed:,.0f} a second ({how_trained}), "
        f"{reading / 1e6:.2f} M to read at {read_speed:,.0f} (timed just now), {PER_RUN:.0f} s a run: "
        f"about {duration(seconds)}."
    )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Minutes, or hours if there are many."""
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _tokens(plan: Plan, arm: Arm, reading: str) -> int:
    """Tokens read to measure an arm once; as decoded, about as many times as a window has targets."""
    keys, decoded = plan.passkey(arm, reading), reading == "decoded"
    asked = 0 if keys is None else 2 * keys.trials * keys.depths * sum(keys.lengths) * (keys.digits if decoded else 1)
    return asked + plan.segments * sum(plan.how.contexts) * (plan.how.stride if decoded else 1)


def _tuned_run(plan: Plan, arm: Arm) -> tuple["Config", str]:
    base = plan.bases[arm.position]
    return base, tuned_name(base, arm, plan.study)


def _folder(base: "Config", name: str) -> RunFolder:
    return RunFolder(Path(base.runs) / base.group / name)


def _results(base: "Config", name: str) -> dict | None:
    """What a finished run beside the base run found, or None."""
    return _folder(base, name).results


def _is_there(plan: Plan, arm: Arm, steps: int, reading: str) -> bool:
    """Whether an arm has been measured after these steps, as this study asks it."""
    base, name = _tuned_run(plan, arm)
    name = name if steps else base.name
    results, folder = _results(base, name), _folder(base, name)
    if results is None:
        return False
    checkpoint = snapshot(folder.path, steps) if steps else folder.path / results["checkpoint"]
    asked = {"perplexity": plan.perplexity(reading), "passkey": plan.passkey(arm, reading)}
    return checkpoint.exists() and all(
        any((folder.path / kind).glob(f"{checkpoint.stem}-*-{digest(checkpoint, arm.extend, how)}.json"))
        for kind, how in asked.items()
        if how is not None
    )


def snapshot(folder: Path, steps: int) -> Path:
    """The checkpoint that a fine-tuning run leaves after so many steps."""
    return folder / "checkpoints" / f"snapshot-{steps:08d}.ckpt"


def training_speed(base: "Config") -> tuple[float, str]:
    """Tokens per second of training, and where it is known from."""
    from models.progress import Metrics

    place = _folder(base, base.name).metrics
    said = [row["speed/tokens_per_second"] for row in Metrics(place).rows() if "speed/tokens_per_second" in row]
    if said:
        return median(said), f"the median of {place}"

    import torch

    from train import build_model

    device = device_and_precision()["device"] if base.trainer.accelerator != "cpu" else "cpu"
    model = build_model(base).to(device)
    rows = min(base.batch // base.trainer.accumulate, -(-TIMED_TOKENS // base.window))
    tokens = torch.randint(0, 256, (rows, base.window), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss, _ = model(tokens, targets=tokens)
        loss.backward()

    return tokens.numel() * _passes_per_second(step), f"timed just now on {device}, forward and backward"


def _reading_speed(base: "Config", length: int) -> float:
    """Tokens per second of reading texts of this length."""
    import torch

    from train import build_model

    device = device_and_precision()["device"]
    model = build_model(base).to(device).eval()
    tokens = torch.randint(0, 256, (-(-TIMED_TOKENS // length), length), device=device)

    @torch.inference_mode()
    def read() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            model.hidden(tokens)

    return tokens.numel() * _passes_per_second(read)


def _passes_per_second(run: Callable[[], None]) -> float:
    """How often something runs in a second, after a first time that does not count."""
    import torch

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    run()
    wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < TIMED_SECONDS:
        run()
        wait()
        count += 1
    return count / (time.perf_counter() - start)
