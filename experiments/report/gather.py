"""Read the results and figures of all claims from their files."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from conf.base import BadInput
from conf.overrides import choices

NEEDED = ("claim", "title", "source", "statement", "rule", "paper", "settle", "verdict", "parts", "command", "rows")
NOT_RUN = "not run"
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Report:
    """The contents of the page: results by label, their figures as data URIs, claims not run, and the conclusions.

    Labels are names of files, <claim> or <claim>-<scale>; gates: a sentence by scale and corpus; missing: title,
    statement and command by claim.
    """

    results: dict[str, dict]
    gates: dict[str, str]
    figures: dict[str, str]
    missing: dict[str, dict[str, str]]
    conclusions: str | None


def gather(folder: Path) -> Report:
    """Read the results of `experiments.reproduce` in a folder, ordered by claim and then by scale from small to large.

    Raises:
        BadInput: no such folder, or a JSON file in it that is no result.
    """
    from experiments.reproduce import CLAIMS

    if not folder.is_dir():
        raise BadInput(f"results={folder} is no folder; allowed: where experiments.reproduce puts its summaries")
    results = {path.stem: _result(path) for path in sorted(folder.glob("*.json"))}
    order = list(CLAIMS)

    def rank(label: str) -> tuple:
        claim, scale = results[label]["claim"], results[label].get("scale") or {"tokens": 0}
        return order.index(claim) if claim in order else len(order), scale["tokens"], label

    results = {label: results[label] for label in sorted(results, key=rank)}
    figures = {label: uri for label in results if (uri := figure(folder / label)) is not None}
    done = {result["claim"] for result in results.values()}
    missing = {
        name: {
            "title": claim.title,
            "statement": claim.statement,
            "command": f"python -m experiments.reproduce claim={name}",
        }
        for name, claim in CLAIMS.items()
        if name not in done
    }
    conclusions = folder / "conclusions.md"
    text = conclusions.read_text(encoding="utf-8") if conclusions.is_file() else None
    return Report(results, gates(results) | not_run(results), figures, missing, text)


def gates(results: dict[str, dict]) -> dict[str, str]:
    """Whether the models of each scale use their window, in a sentence, by scale and corpus.

    Claims may call different models by one name: if some use their window and some do not, the claim is named too.
    """
    from experiments.reproduce import describe_gate

    rows: dict[str, dict[tuple[str, bool], dict]] = {}
    for result in results.values():
        if scale := result.get("scale"):
            arms = rows.setdefault(f"{scale['name']} on {scale['data']}, windows of {scale['window']}", {})
            for row in (result.get("gate") or {"arms": []})["arms"]:
                arms[row["arm"], row["passed"]] = row | {"claim": result["claim"]}
    sentences = {}
    for scale, arms in rows.items():
        named = [
            row | {"arm": f"{arm} ({row['claim']})"} if (arm, not passed) in arms else row
            for (arm, passed), row in arms.items()
        ]
        sentences[scale] = describe_gate({"arms": named}) if named else "Whether it uses its window was not measured."
    return sentences


def not_run(results: dict[str, dict]) -> dict[str, str]:
    """A sentence on the scales at which no claim was run, but that of the tests; none if there are none."""
    done = {scale["name"] for result in results.values() if (scale := result.get("scale"))}
    left = [scale for scale in choices("scale") if scale not in done and scale != "tiny"]
    sentence = "No claim was run, and so no gate measured (conf/scale says what is known)."
    return {", ".join(left): sentence} if left else {}


def _result(path: Path) -> dict:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        result = None
    lacking = [key for key in NEEDED if key not in result] if isinstance(result, dict) else ["everything"]
    if lacking:
        raise BadInput(f"{path} is no result of experiments.reproduce: it lacks {', '.join(lacking)}")
    for row in (result.get("gate") or {"arms": []})["arms"]:
        row |= row.pop("gain", {})  # where the number and its interval stood in older results
    return result


def figure(stem: Path) -> str | None:
    """The smaller of a result's two files as a data URI; None if there is neither."""
    files = [path for suffix in TYPES if (path := stem.parent / f"{stem.name}{suffix}").is_file()]
    if not files:
        return None
    smaller = min(files, key=lambda path: path.stat().st_size)
    return f"data:{TYPES[smaller.suffix]};base64,{base64.b64encode(smaller.read_bytes()).decode()}"
