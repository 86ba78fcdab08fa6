"""LongRoPE's progressive extension: search, fine-tune, search again from there, as far as the last window.

    python -m experiments.progressive checkpoint=runs/demo/rope-nano-s1 factors=[4,16] steps=[100,0]

At every stage the factors for its window are searched on the checkpoint so far (longrope/search.py), which is then
fine-tuned with them, by train.train and with as many tokens a step as the base model had; a stage of no steps is a
search alone, as the paper's last one (Ding et al. 2024, section 3.3). Factors are always over the window of the base
model. At the end the factors for texts within that window are recovered (longrope/recovery.py). Beside it the direct
path: the factors of the last stage searched on the base model, and all steps of fine-tuning at the last window, on
equally many tokens. It has no recovery, so the two paths compare beyond the window.

Every reading is perplexity of the same held-out targets (`fixed_targets`), so that all compare in pairs. What is to
come is printed first; killed anywhere, the same command goes on, and what is there already is read back.

Results: beside the base run, in progressive/<checkpoint>-<stages>-<digest>/: results.json, table.txt and figures.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import Field, model_validator

from conf.base import BadInput, Count, CountOrZero, Listed, Settings
from conf.compose import command_line
from conf.run_folder import write_json
from experiments.extend.arms import Factors, check_batch, tuning_config
from experiments.lab.measure.perplexity import Measurement, measure_checkpoint
from experiments.lab.measure.readings import digest, read_request, trained_corpus
from experiments.longrope.recovery import Recovery, recover
from experiments.longrope.search import Longer, Search, search
from experiments.longrope.searching import Searching, overfit, search_progress
from experiments.progressive.report import Stretch, compared, said, table

if TYPE_CHECKING:
    from conf.schema import Config

Steps = Annotated[tuple[CountOrZero, ...], Listed]
READ = ("factor", "n_hat", "temperature", "long", "short")  # what of a file of factors a model is read with


class Progressive(Settings):
    """The stages, how each is searched and tuned, and how all is measured, as in conf/progressive.yaml."""

    factors: Factors
    steps: Steps
    lr: float | None = Field(None, gt=0)
    search: Longer
    segments: Count = 128
    split: Literal["validation", "test"] = "test"

    @model_validator(mode="after")
    def _stages(self):
        if len(self.factors) < 2 or list(self.factors) != sorted(set(self.factors)):
            raise ValueError(f"factors={list(self.factors)} must be two or more, each above the one before it")
        if len(self.steps) != len(self.factors):
            raise ValueError(f"steps={list(self.steps)} must have a number for each of factors={list(self.factors)}")
        if not any(self.steps):
            raise ValueError(f"steps={list(self.steps)} tune nothing: a search at factors[-1] alone is the same")
        return self

    @property
    def recovery(self) -> Recovery:
        """The search at the end, which is like those before it."""
        return Recovery(**self.search.model_dump(include=set(Searching.model_fields)))


@dataclass(frozen=True)
class Plan:
    """A progressive extension made ready to run; base: what fine-tuning runs have from the base model."""

    checkpoint: Path
    how: Progressive
    base: "Config"
    reading: Measurement
    searched: dict[int, int]  # texts a candidate is scored on, by their length

    @property
    def windows(self) -> list[int]:
        """Those of the stages, in tokens."""
        return [self.base.window * factor for factor in self.how.factors]

    @property
    def folder(self) -> Path:
        stages = "-".join(f"x{s}-n{steps}" for s, steps in zip(self.how.factors, self.how.steps, strict=True))
        name = f"{self.checkpoint.stem}-{stages}-{digest(self.checkpoint, None, self.how)}"
        return self.checkpoint.parent.parent / "progressive" / name


def make_plan(checkpoint: Path, how: Progressive, cache: str, **changes) -> Plan:
    """Everything a progressive extension is made of, refused here if it cannot be done.

    Args:
        changes: plain values in place of the base run's in its fine-tuning runs, such as {"logger": {…}}.

    Raises:
        BadInput: the model was extended already or has no frequencies, or texts or batches do not fit; one sentence.
    """
    from conf.schema import Config, validate
    from experiments.lab.measure.perplexity import cut
    from experiments.longrope.candidates import needles
    from train import load_model

    longrope = {"name": "longrope", "factor": float(how.factors[-1])}
    _, config, record = load_model(checkpoint, longrope)
    trained = record["config"]
    if trained["extend"]["name"] != "none" or trained["window"] != trained["original_window"]:
        raise BadInput(f"checkpoint={checkpoint} was extended already: progressive extension starts from a base model")
    run = checkpoint.parent.parent
    run = run if len(run.parts) > 1 else run.resolve()
    place = {"runs": str(run.parent.parent), "group": run.parent.name, "cache": cache}
    base = validate(Config, {**trained, **place, **changes})
    check_batch(base, "factors", how.factors)

    corpus, window = trained_corpus(checkpoint, config, record, cache), base.window
    if window < 8:
        raise BadInput(f"window={window} of the base model is too short: an eighth of it is scored, at least 8 needed")
    for factor, steps in (*zip(how.factors, how.steps, strict=True), (how.factors[-1], sum(how.steps))):
        if steps:  # what training would refuse, before anything is searched
            tuning_config(base, checkpoint, base.name, longrope, window * factor, steps, how.lr)
    lengths = [window, *(window * factor for factor in how.factors)]
    doubled = (window * 2**power for power in range(1, how.factors[-1].bit_length()))
    contexts = sorted({window // 2, *lengths, *doubled})
    reading = Measurement(contexts=contexts, stride=max(1, window // 8), segments=how.segments, split=how.split)
    few = {length: max(1, how.search.tokens // length) for length in lengths}
    cut(corpus.split(how.split), lengths[-1] + 1, how.segments)
    if how.search.fitness == "needle":
        needles(corpus, config.data.retrieval, "validation", window, 1, 0)
    searched = {length: len(cut(corpus.split("validation"), length + 1, few[length]).tokens) for length in lengths}
    return Plan(checkpoint, how, base, reading, few if how.search.fitness == "needle" else searched)


def told(plan: Plan) -> str:
    """The plan in words: stages, tokens, candidates."""
    how, base = plan.how, plan.base
    each, per_step, last = how.search.candidates, base.batch * base.window, plan.windows[-1]

    def searching(length: int) -> str:
        return f"search at {length} tokens, about {each} candidates on {plan.searched[length]} texts"

    def tuning(steps: int) -> str:
        return f"fine-tune {steps} steps of {per_step:,} tokens" if steps else "no fine-tuning"

    lines = [f"Progressive extension of {base.name}, trained on {base.window} tokens:"]
    for number, (window, steps) in enumerate(zip(plan.windows, how.steps, strict=True), 1):
        lines.append(f"  stage {number}: {searching(window)}; {tuning(steps)}")
    lines.append(f"  recovery: {searching(base.window)}")
    lines.append(f"  direct: {searching(last)}, on the base model; {tuning(sum(how.steps))}")
    read = each * sum(plan.searched[length] * length for length in (*plan.windows, base.window, last))
    trained = 2 * per_step * sum(how.steps)
    lines.append(
        f"To do, but for what is there already: {read / 1e6:.1f} M tokens to search on, {trained / 1e6:.2f} M to train "
        f"on, and readings at {', '.join(map(str, plan.reading.contexts))} tokens."
    )
    return "\n".join(lines)


def run_progressive(plan: Plan) -> dict:
    """Search and fine-tune along both paths, and read what there is after every step of them.

    Returns:
        {"run", "position", "window", "factors", "steps", "stages": what each search found and where its fine-tuning
        ended, "direct" and "recovery" likewise, "readings": plain values of Stretch with rows as measure_checkpoint
        gives them, "ratios": paired estimates by name and context}.

    Raises:
        SystemExit: a signal stopped a fine-tuning run, after it was saved.
    """
    how, base, readings = plan.how, plan.base, []

    def read(name: str, factor: int, steps: int, checkpoint: Path, extend: dict) -> None:
        rows = measure_checkpoint(checkpoint, extend, plan.reading, base.cache)["rows"]
        readings.append(Stretch(name, factor, steps, rows))
        curve = ", ".join(f"{row['perplexity']:.2f} at {row['context']}" for row in rows)
        print(f"{readings[-1].label}: {curve}", flush=True)

    def stage(name: str, start: Path, factor: int, steps: int, before: int = 0) -> tuple[dict, Path]:
        """Search from this checkpoint, fine-tune, read both; what was found, and where it ended."""
        asked = Search(factor=float(factor), **how.search.model_dump())
        with search_progress(f"{name} x{factor}", asked) as tell:
            result, folder = search(start, asked, base.cache, tell)
        extend = read_with(folder / "factors.yaml")
        read(name, factor, before, start, extend)
        ended = start if not steps else _tuned(base, start, extend, factor, steps, how.lr, folder.name)
        if steps:
            read(name, factor, before + steps, ended, extend)
        inside, outside, gap = overfit(result)
        kept = {"factor": factor, "steps": steps, "search": str(folder), "checkpoint": str(ended)}
        kept |= {"n_hat": result["n_hat"], "long": result["vectors"]["found"], "evaluations": result["evaluations"]}
        return kept | {"searched over best": inside, "held out over best": outside, "overfit gap": gap}, ended

    read("base", 1, 0, plan.checkpoint, {"name": "none"})
    stages, here, done = [], plan.checkpoint, 0
    for factor, steps in zip(how.factors, how.steps, strict=True):
        found, here = stage("progressive", here, factor, steps, done)
        stages.append(found)
        done += steps
    with search_progress("recovery", how.recovery) as tell:
        factors = Path(stages[-1]["search"]) / "factors.yaml"
        recovered, folder = recover(here, factors, how.recovery, base.cache, tell)
    read("recovered", how.factors[-1], done, here, read_with(folder / "factors.yaml"))
    direct, _ = stage("direct", plan.checkpoint, how.factors[-1], done)
    inside, outside, gap = overfit(recovered)
    short = {"search": str(folder), "short": recovered["vectors"]["found"], "evaluations": recovered["evaluations"]}
    short |= {"searched over best": inside, "held out over best": outside, "overfit gap": gap}
    result = {
        "run": base.name,
        "position": base.position.name,
        "window": base.window,
        "checkpoint": str(plan.checkpoint),
    }
    result |= {"factors": list(how.factors), "steps": list(how.steps), "tokens": done * base.batch * base.window}
    result |= {"stages": stages, "recovery": short, "direct": direct, "readings": [asdict(each) for each in readings]}
    return result | {"ratios": compared(readings)}


def read_with(factors: Path) -> dict:
    """The extension that a file of factors describes, without the file."""
    held = yaml.safe_load(factors.read_text())
    return {"name": "longrope"} | {key: held[key] for key in READ if key in held}


def _tuned(base: "Config", start: Path, extend: dict, factor: int, steps: int, lr: float | None, searched: str) -> Path:
    """The checkpoint that fine-tuning with these factors ends with; the run is named by the search they come from."""
    from train import train

    mark = hashlib.sha256(f"{searched} {lr}".encode()).hexdigest()[:10]
    name = f"{base.name[:70]}-tuned-longrope{factor}-n{steps}-{mark}"
    config = tuning_config(base, start, name, extend, base.window * factor, steps, lr)
    return train(config).checkpoint


def _main(values: dict, overrides: list[str]) -> None:
    from conf.schema import validate
    from experiments.progressive.figure import progressive_figure

    trainer, logger = values.pop("trainer"), values["logger"]
    asked = read_request(values)
    how = validate(Progressive, values)
    plan = make_plan(asked.checkpoint, how, asked.cache, trainer=trainer, logger=logger)
    print(told(plan), flush=True)
    result = run_progressive(plan)
    readings = [Stretch(**each) for each in result["readings"]]
    printed, sentences, folder = table(readings), said(result), plan.folder
    folder.mkdir(parents=True, exist_ok=True)
    short = [{**asdict(each), "rows": each.brief} for each in readings]  # sums by document are kept with the readings
    kept = {"settings": how.model_dump(mode="json")} | result | {"readings": short, "found": sentences}
    write_json(folder / "results.json", kept)
    (folder / "table.txt").write_text(f"{printed}\n\n{sentences}\n")
    progressive_figure(folder / "figure", readings, result)
    print(f"\n{printed}\n\n{sentences}\n\nIn {folder}: table.txt, results.json, figure.png")
    if asked.logger.name == "wandb":
        _to_wandb(asked, plan, readings, kept)


def _to_wandb(asked, plan: Plan, readings: list[Stretch], kept: dict) -> None:
    """The curves of every reading over context length, the table and the figure."""
    import wandb

    from conf.tracking import tracked

    name = f"{plan.base.name}-{plan.folder.name}"
    identity = {"name": name, "group": plan.base.group, "job_type": "progressive", "tags": [kept["position"]]}
    with tracked(asked.logger, Path(asked.runs), config=kept["settings"], **identity) as run:
        for number, context in enumerate(plan.reading.contexts):
            curves = {f"context/{each.label}": each.rows[number]["perplexity"] for each in readings}
            run.log({"context/length": context, **curves})
        cells = [[each.label, row["context"], row["perplexity"]] for each in readings for row in each.rows]
        run.log({"table": wandb.Table(columns=["reading", "context", "perplexity"], data=cells)})
        run.log({"figure": wandb.Image(str(plan.folder / "figure.png"))})
        run.summary["found"] = kept["found"]


def main() -> None:
    """The command line."""
    command_line("progressive", _main)


if __name__ == "__main__":
    main()
