"""Test a claim of a paper: train missing runs, measure them, and judge them by a rule written beforehand.

    python -m experiments.reproduce claim=bound
    python -m experiments.reproduce claim=[convergence,spacing] scale=nano seeds=2
    python -m experiments.reproduce claim=all scale=pico launcher=joblib
    python -m experiments.reproduce claim=[extrapolation,spacing] scale=nano corpus=chains

For each seed, arms of a claim share the order of the data and the initial weights of their common parameters. A run in
runs/<group>/<name>/ is trained once and shared by all claims that use it. The plan is printed first, and a claim is
judged as soon as its runs are done. If the command is killed, the same command resumes and retries failed runs.

Results are in runs/claims/<claim>-<scale>/, with -<group> where one is named and -s<seeds> where they are fewer than a
verdict takes: result.json, table.txt and the figure, both made from the numbers of result.json. A copy without the
curves, small enough to commit, is in `results`. The gate, whether the models use their window at all, stands above the
verdicts.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.environment import environment
from conf.files import write_json, write_text
from conf.validation import validate
from experiments.lab.plan import Arms, carry_out, describe, make_plan
from experiments.reproduce.arms import Request, arms_of
from experiments.reproduce.claim import INCONCLUSIVE, Claim, Findings, Verdict
from experiments.reproduce.page import page, plain

if TYPE_CHECKING:
    from conf.schema import Config
    from experiments.reproduce.evidence import Evidence
    from train import Result


def reproduce(claims: Sequence[str], request: Request, overrides: list[str]) -> dict[str, dict]:
    """Train and judge claims under a common plan; returns the values of result.json by claim.

    Raises:
        BadInput: a run or a measurement failed; all other claims are judged before.
    """
    from experiments.reproduce.claims import CLAIMS

    known: dict[str, Config] = {}
    arms = {claim: arms_of(CLAIMS[claim](), request, known) for claim in claims}
    plan = make_plan(arms, request.launcher, request.jobs_on_gpu)
    title = f"The plan at scale {request.scale.name}, with {request.count} seeds of every arm:"
    notes = ["measuring them takes about half as long again (an estimate)"] if plan.runs else []
    print(describe(plan, title, notes), flush=True)
    results, failures = carry_out(
        plan,
        lambda claim, trained: conclude(claim, request, arms[claim], trained, overrides),
        partial(read, arms, request.scale.segments),
    )
    for claim, result in results.items():
        print(f"{claim:<20} {result['verdict']:<15} {result['title']}")
    if failures:
        raise BadInput(failures)
    return results


def read(arms: dict[str, Arms], segments: int, name: str, trained: dict[str, list["Result"]]) -> None:
    """Measure some seeds of a claim, for its readings, which are kept."""
    from experiments.reproduce.claims import CLAIMS

    claim, evidence = CLAIMS[name](), evidence_of(arms[name], trained, segments)
    claim.measure_gate(evidence, arms[name])
    claim.measure(evidence)


def evidence_of(arms: Arms, trained: dict[str, list["Result"]], segments: int) -> "Evidence":
    """The evidence of a claim; its config is None if nothing was trained."""
    from experiments.reproduce.evidence import Evidence

    return Evidence(trained, next((arm[0] for arm in arms.values() if arm[0].checkpoint is None), None), segments)


def conclude(name: str, request: Request, arms: Arms, trained: dict[str, list["Result"]], overrides: list[str]) -> dict:
    """Measure and judge one claim whose runs are done; writes its files and returns the values of result.json."""
    from experiments.lab.canvas import save
    from experiments.reproduce.claims import CLAIMS

    claim, evidence = CLAIMS[name](), evidence_of(arms, trained, request.scale.segments)
    first = evidence.config
    gate, findings = claim.measure_gate(evidence, arms), claim.measure(evidence)
    verdicts = claim.judge(findings)
    if arms:
        verdicts = require_seeds(verdicts, request.count, request.scale.seeds)
    result = record(name, claim, request, first, findings, verdicts, overrides) | {"gate": gate}

    label = f"{name}-{request.results_label}" if arms else name
    folder, summary = Path(request.runs) / "claims" / label, Path(request.results)
    folder.mkdir(parents=True, exist_ok=True)
    summary.mkdir(parents=True, exist_ok=True)
    runs = [run.name for arm in arms.values() for run in arm]
    write_json(folder / "result.json", result | {"curves": plain(findings.curves), "runs": runs})
    write_text(folder / "table.txt", page(result, findings))
    save(claim.draw(findings, verdicts), folder / "figure")
    write_json(summary / f"{label}.json", result)
    for suffix in ("png", "svg"):
        shutil.copyfile(folder / f"figure.{suffix}", summary / f"{label}.{suffix}")
    if first is not None and first.logger.name == "wandb":
        track(label, result, first, folder / "figure.png")
    files = f"Numbers: {folder}/result.json   Figure: {folder}/figure.png   Summary: {summary}/{label}.json"
    print(f"\n{page(result, findings)}\n{files}\n", flush=True)
    return result


def track(label: str, result: dict, first: "Config", figure: Path) -> None:
    """A W&B run for the claim, in the group of its training runs: the verdicts in the summary, and the figure."""
    from conf.tracking import tracked_page

    name, scale = result["claim"], label.removeprefix(f"{result['claim']}-")
    identity = {"id": f"claim-{label}", "name": label, "group": first.group, "job_type": "claim"}
    settings = {key: result[key] for key in ("title", "statement", "rule", "settle", "scale", "commit")}
    summary = {"verdict": result["verdict"], **{f"verdict/{part['part']}": part["word"] for part in result["parts"]}}
    identity |= {"tags": [name, scale, result["verdict"]], "config": settings, "resume": "allow"}
    tracked_page(first.logger, Path(first.runs), identity, summary, {"figure": figure})


def require_seeds(verdicts: dict[str, Verdict], seeds: int, needed: int) -> dict[str, Verdict]:
    """Make all verdicts inconclusive if there are fewer seeds than needed."""
    if seeds >= needed:
        return verdicts
    few = f"{seeds} of the {needed} seeds that a verdict takes; so far"
    return {part: Verdict(INCONCLUSIVE, f"{few} {v.word}: {v.reason}") for part, v in verdicts.items()}


def record(name, claim: Claim, request: Request, first, findings: Findings, verdicts, overrides: list[str]) -> dict:
    """The result of a claim as plain values."""
    from experiments.lab.measure.subject import device_and_precision

    keys = ("title", "source", "statement", "rule", "rewritten", "paper", "settle")
    texts = {key: getattr(claim, key) for key in keys}
    parts = [{"part": part, **asdict(verdict)} for part, verdict in verdicts.items()]
    scale = first and {
        "name": request.scale.name,
        "seeds": request.count,
        "seeds_needed": request.scale.seeds,
        "window": first.window,
        "tokens": first.batch * first.window * first.steps,
        "model": f"{first.model.layers} layers of {first.model.width}",
        "data": first.data.name,
    }
    provenance = environment(overrides)
    words = [f"claim={name}"]
    if first:
        words += [f"scale={request.scale.name}", *([f"seeds={request.seeds}"] if request.seeds else [])]
        words += [f"{key}={value}" for key in ("corpus", "group") if (value := getattr(request, key))]
        words += [f"'train={json.dumps(request.train)}'"] if request.train else []
    return {
        "claim": name,
        **texts,
        "verdict": parts[0]["word"],
        "parts": parts,
        "scale": scale,
        "command": "python -m experiments.reproduce " + " ".join(words),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **{key: provenance[key] for key in ("versions", "commit", "changed")},
        **device_and_precision(),
        "rows": plain(findings.rows),
    }


def run_command(values: dict, overrides: list[str]) -> None:
    """Reproduce the claims of the request."""
    from conf.schema import Computed
    from experiments.reproduce.claims import CLAIMS

    request = validate(Request, values)
    validate(Computed, {"trainer": request.trainer, "logger": request.logger})
    claims = list(dict.fromkeys(request.claim))
    for name in claims:
        if name not in (*CLAIMS, "all"):
            raise BadInput(f"claim={name} is not known; allowed: {', '.join(CLAIMS)}, all")
    if "all" in claims:
        claims = [name for name, claim in CLAIMS.items() if request.scale.name not in claim.not_at]
        if left_out := [name for name in CLAIMS if name not in claims]:
            print(f"Not at scale={request.scale.name}: {', '.join(left_out)}")
    reproduce(claims, request, overrides)
