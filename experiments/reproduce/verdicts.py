"""From a claim of a paper to a verdict: train what is missing, measure it, judge it by the rule written before.

    python -m experiments.reproduce claim=bound
    python -m experiments.reproduce claim=[convergence,spacing] scale=nano seeds=2
    python -m experiments.reproduce claim=all scale=pico launcher=joblib

Arms of a claim share, for each seed, the initial weights of all they have in common and the order of the data. A run
is trained once, whichever claims look at it, in runs/<group>/<name>/. The plan for all that is asked is printed first;
a claim is judged as soon as its runs are there; killed anywhere, the same command goes on, and tries again what failed.

Results: runs/claims/<claim>-<scale>/ with result.json, table.txt and the figure, and without the curves under
`results`, small enough to commit. The figure and the table are made of result.json's numbers.
"""

import json
import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.compose import command_line
from conf.environment import environment
from conf.files import write_json
from experiments.lab.launch import Progress
from experiments.lab.plan import Plan, make_plan, missing, told, train_all
from experiments.lab.runs import Asked
from experiments.reproduce.claim import INCONCLUSIVE, Claim, Found, Verdict
from experiments.reproduce.page import page, plain

if TYPE_CHECKING:
    from conf.schema import Config


def reproduce(claims: Sequence[str], asked: Asked, overrides: list[str]) -> dict[str, dict]:
    """Claims, from their common plan to their verdicts; returns result.json's values by claim.

    Raises:
        BadInput: a run failed, or what claims measure could not be measured; all other verdicts are there.
    """
    plan = make_plan(claims, asked)
    print(told(plan), flush=True)
    progress, results, failures, troubles = Progress(missing(list(plan.runs.values()))), {}, {}, {}
    for portion in plan.portions():
        failures = train_all(plan, portion, progress, failures)
        for claim in portion:
            if any(run.name in failures for run in plan.of([claim])):
                troubles[claim] = "some of its runs failed"
                continue
            try:
                results[claim] = conclude(claim, plan, overrides)
            except Exception as error:
                if not isinstance(error, BadInput):
                    traceback.print_exception(error)
                troubles[claim] = str(error) if isinstance(error, BadInput) else repr(error)
    for claim, result in results.items():
        print(f"{claim:<20} {result['verdict']:<15} {result['title']}")
    if failures or troubles:
        said = [f"{name}: {sentence}" for name, sentence in {**failures, **troubles}.items()]
        runs = f"{len(failures)} of {len(plan.runs)} runs failed" if failures else "all runs are there"
        raise BadInput(
            "\n".join(said) + f"\n{runs}, {len(troubles)} of {len(claims)} claims came to no verdict "
            f"({', '.join(troubles)}); the same command tries them again"
        )
    return results


def conclude(name: str, plan: Plan, overrides: list[str]) -> dict:
    """Measure and judge one claim whose runs are there; writes its files and returns result.json's values."""
    from experiments.lab.canvas import save
    from experiments.reproduce.claims import CLAIMS
    from experiments.reproduce.evidence import Evidence
    from train import train

    claim, asked, runs = CLAIMS[name](), plan.asked, plan.arms[name]
    trained = {arm: [train(run) for run in each] for arm, each in runs.items()}  # they are done: read back and checked
    first = next((arm[0] for arm in runs.values() if arm[0].checkpoint is None), None)
    found = claim.measure(Evidence(trained, first, asked.scale.segments))
    verdicts = enough(claim.judge(found), asked.count, asked.scale.seeds) if runs else claim.judge(found)
    result = record(name, claim, asked, first, found, verdicts, overrides)

    label = f"{name}-{asked.scale.name}" if runs else name
    place = Path(asked.runs) / "claims" / label
    place.mkdir(parents=True, exist_ok=True)
    write_json(
        place / "result.json",
        result | {"curves": plain(found.curves), "runs": [c.name for a in runs.values() for c in a]},
    )
    (place / "table.txt").write_text(page(result, found))
    save(claim.draw(found), place / "figure")
    summary = Path(asked.results)
    summary.mkdir(parents=True, exist_ok=True)
    write_json(summary / f"{label}.json", result)
    for suffix in ("png", "svg"):
        shutil.copyfile(place / f"figure.{suffix}", summary / f"{label}.{suffix}")
    if first is not None and first.logger.name == "wandb":
        track(result, first, place / "figure.png")
    files = f"Numbers: {place}/result.json   Figure: {place}/figure.png   Summary: {summary}/{label}.json"
    print(f"\n{page(result, found)}\n{files}\n", flush=True)
    return result


def track(result: dict, first: "Config", figure: Path) -> None:
    """A W&B run for the claim, in the group of its training runs: the verdicts in the summary, table and figure."""
    import wandb

    from conf.tracking import tracked

    name, scale = result["claim"], result["scale"]["name"]
    identity = {"id": f"claim-{name}-{scale}", "name": f"{name}-{scale}", "group": first.group, "job_type": "claim"}
    told = {key: result[key] for key in ("title", "statement", "rule", "settle", "scale", "commit")}
    tags = [name, scale, result["verdict"]]
    with tracked(first.logger, Path(first.runs), **identity, tags=tags, config=told, resume="allow") as run:
        run.summary["verdict"] = result["verdict"]
        run.summary.update({f"verdict/{each['part']}": each["word"] for each in result["parts"]})
        run.log({"figure": wandb.Image(str(figure))})


def enough(verdicts: dict[str, Verdict], seeds: int, needed: int) -> dict[str, Verdict]:
    """Verdicts of fewer seeds than a verdict takes are inconclusive, whatever the rule says of them."""
    if seeds >= needed:
        return verdicts
    few = f"{seeds} of the {needed} seeds that a verdict takes; so far"
    return {part: Verdict(INCONCLUSIVE, f"{few} {each.word}: {each.reason}") for part, each in verdicts.items()}


def record(name, claim: Claim, asked: Asked, first, found: Found, verdicts, overrides: list[str]) -> dict:
    """Everything a reader needs of a claim, as plain values."""
    from experiments.lab.measure.readings import device_and_precision

    told = {key: getattr(claim, key) for key in ("title", "source", "statement", "rule", "paper", "settle")}
    parts = [{"part": part, **asdict(each)} for part, each in verdicts.items()]
    scale = first and {
        "name": asked.scale.name,
        "seeds": asked.count,
        "seeds_needed": asked.scale.seeds,
        "window": first.window,
        "tokens": first.batch * first.window * first.steps,
        "model": f"{first.model.layers} layers of {first.model.width}",
        "data": first.data.name,
    }
    made = environment(overrides)
    words = [f"claim={name}"]
    if first:
        words += [f"scale={asked.scale.name}", *([f"seeds={asked.seeds}"] if asked.seeds else [])]
        words += [f"'train={json.dumps(asked.train)}'"] if asked.train else []
    return {
        "claim": name,
        **told,
        "verdict": parts[0]["word"],
        "parts": parts,
        "scale": scale,
        "command": "python -m experiments.reproduce " + " ".join(words),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **{key: made[key] for key in ("versions", "commit", "changed")},
        **device_and_precision(),
        "rows": plain(found.rows),
    }


def _main(values: dict, overrides: list[str]) -> None:
    from conf.schema import validate
    from experiments.reproduce.claims import CLAIMS

    asked = validate(Asked, values)
    claims = list(dict.fromkeys(asked.claim))
    for name in claims:
        if name not in (*CLAIMS, "all"):
            raise BadInput(f"claim={name} is not known; allowed: {', '.join(CLAIMS)}, all")
    reproduce(list(CLAIMS) if "all" in claims else claims, asked, overrides)


def main() -> None:
    """The command line."""
    command_line("reproduce", _main)


if __name__ == "__main__":
    main()
