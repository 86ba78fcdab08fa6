"""From a claim of a paper to a verdict: train what is missing, measure it, judge it by the rule written before.

    python -m experiments.reproduce claim=bound
    python -m experiments.reproduce claim=convergence scale=nano seeds=2
    python -m experiments.reproduce claim=all

Arms of a claim share, for each seed, the initial weights of all they have in common and the order of the data. A run
is trained once, whichever claims look at it, in runs/<group>/<name>/; killed anywhere, the same command goes on.

Results: runs/claims/<claim>-<scale>/ with result.json, table.txt and the figure, and without the curves under
`results`, small enough to commit. The figure and the table are made of result.json's numbers.
"""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.compose import command_line
from conf.run_folder import environment, write_json
from experiments.claims.claim import INCONCLUSIVE, Claim, Found, Verdict
from experiments.claims.page import page, plain
from experiments.claims.plan import Asked, folder, plan

if TYPE_CHECKING:
    from conf.schema import Config
    from train import Result


def said(name: str, asked: Asked, runs: dict[str, list["Config"]]) -> str:
    """What is about to happen: runs, those that are done, and the tokens of the rest."""
    if not runs:
        return f"{name}: computed, nothing to train"
    configs = [config for arm in runs.values() for config in arm]
    left = [config for config in configs if folder(config).status["state"] != "done"]
    tokens = sum(config.batch * config.window * config.steps for config in left)
    finished = [done["metrics"]["speed/tokens_per_second"] for config in configs if (done := folder(config).results)]
    time = f"about {tokens / mean(finished) / 60:.0f} min" if finished else "how long is told after the first"
    return (
        f"{name} at scale {asked.scale.name}: {len(runs)} arms ({', '.join(runs)}) with {asked.count} seeds, "
        f"{len(configs)} runs; {len(configs) - len(left)} are done, {len(left)} to train: {tokens / 1e6:.1f} M tokens"
        + (f", {time}" if left else "")
    )


def train_all(runs: dict[str, list["Config"]]) -> dict[str, list["Result"]]:
    """Every run, trained if it is missing; a failing one stops no other.

    Raises:
        BadInput: some failed; they are listed, and trained again when the same is asked again.
    """
    from train import train

    configs = [config for arm in runs.values() for config in arm]
    results, failed, spent = {}, [], []
    for number, config in enumerate(configs, 1):
        done, start = folder(config).status["state"] == "done", time.perf_counter()
        try:
            results[config.name] = train(config)
        except Exception as error:
            failed.append(f"{config.name}: {error if isinstance(error, BadInput) else repr(error)}")
            print(f"[{number}/{len(configs)}] failed: {failed[-1]}", flush=True)
            continue
        if not done:
            spent.append(time.perf_counter() - start)
            left = sum(folder(each).status["state"] != "done" for each in configs[number:])
            loss = results[config.name].metrics["validation/perplexity"]
            ahead = f"about {left * sum(spent) / len(spent) / 60:.0f} min of training left"
            print(f"[{number}/{len(configs)}] {config.name}: validation perplexity {loss:.3f}; {ahead}", flush=True)
    if failed:
        raise BadInput(f"{len(failed)} of {len(configs)} runs failed, and the same command tries them again: {failed}")
    return {arm: [results[config.name] for config in each] for arm, each in runs.items()}


def reproduce(name: str, asked: Asked, overrides: list[str]) -> dict:
    """One claim, from its plan to its verdict; writes its files and returns result.json's values.

    Raises:
        BadInput: a run failed.
    """
    from experiments.claims import CLAIMS
    from experiments.claims.evidence import Evidence
    from experiments.figures.canvas import save

    claim = CLAIMS[name]()
    runs = plan(claim, asked)
    print(said(name, asked, runs), flush=True)
    trained = train_all(runs)
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
    files = f"Numbers: {place}/result.json   Figure: {place}/figure.png   Summary: {summary}/{label}.json"
    print(f"\n{page(result, found)}\n{files}\n")
    return result


def enough(verdicts: dict[str, Verdict], seeds: int, needed: int) -> dict[str, Verdict]:
    """Verdicts of fewer seeds than a verdict takes are inconclusive, whatever the rule says of them."""
    if seeds >= needed:
        return verdicts
    few = f"{seeds} of the {needed} seeds that a verdict takes; so far"
    return {part: Verdict(INCONCLUSIVE, f"{few} {each.word}: {each.reason}") for part, each in verdicts.items()}


def record(name, claim: Claim, asked: Asked, first, found: Found, verdicts, overrides: list[str]) -> dict:
    """Everything a reader needs of a claim, as plain values."""
    from experiments.readings import where

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
        **{key: made[key] for key in ("versions", "commit", "changed")},
        **where(),
        "rows": plain(found.rows),
    }


def _main(values: dict, overrides: list[str]) -> None:
    from conf.schema import validate
    from experiments.claims import CLAIMS

    asked = validate(Asked, values)
    if asked.claim not in (*CLAIMS, "all"):
        raise BadInput(f"claim={asked.claim} is not known; allowed: {', '.join(CLAIMS)}, all")
    verdicts, failed = {}, []
    for name in CLAIMS if asked.claim == "all" else [asked.claim]:
        try:
            verdicts[name] = reproduce(name, asked, overrides)
        except BadInput as error:
            if asked.claim != "all":
                raise
            failed.append(name)
            print(f"{name}: {error}", flush=True)
    for name, result in verdicts.items():
        print(f"{name:<20} {result['verdict']:<15} {result['title']}")
    if failed:
        raise BadInput(f"{len(failed)} of {len(verdicts) + len(failed)} claims came to no verdict: {', '.join(failed)}")


def main() -> None:
    """The command line."""
    command_line("reproduce", _main)


if __name__ == "__main__":
    main()
