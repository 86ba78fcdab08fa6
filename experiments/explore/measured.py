"""Measured results for the page: curves of studies, verdicts, spacings and searched factors."""

import json
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from conf.base import BadInput

TITLES = {
    "none": "extrapolation, fine-tuned directly",
    "control": "control, fine-tuned at the window",
    "interpolate": "interpolation (PI)",
    "dynamic_interpolate": "interpolation by length",
    "ntk": "NTK",
    "ntk-formcritical": "NTK, critical form",
    "ntk-formmixed": "NTK, mixed radix",
    "dynamic_ntk": "NTK by length",
    "yarn": "YaRN",
    "yarn-rampindex": "YaRN, ramp over pairs",
    "llama3": "Llama 3",
    "base": "another base",
    "resonance": "Resonance",
    "longrope": "LongRoPE, factors of NTK",
    "longrope-searched": "LongRoPE, searched factors",
    "self_extend": "Self-Extend",
    "rerope": "ReRoPE",
    "leaky_rerope": "Leaky ReRoPE",
    "dca": "Dual Chunk Attention",
    "drop": "DroPE, rotation taken away",
    "none-rowssu": "extrapolation, rows sharpened (Su)",
}


def measured(results: Path) -> dict:
    """Read the measured contents of the page from the committed results.

    Returns:
        {"studies", "claims", "spacing", "longrope"}; plain values.
    """
    return {
        "studies": [study for path in sorted(results.glob("*/summary.json")) for study in _read(path, _studies)],
        "claims": [_read(path, _claim) for path in sorted((results / "claims").glob("*.json"))],
        "spacing": _read(results / "claims" / "spacing-pico.json", _spacing),
        "longrope": _longrope(results / "longrope-cpu"),
    }


def _read(path: Path, part: Callable[[dict], Any]) -> Any:
    """A part of the page from a file of JSON or, which JSON is too, of YAML.

    Raises:
        BadInput: it holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return part(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} holds no results that go on the page ({type(error).__name__}: {error})") from None


def _studies(results: dict) -> list[dict]:
    """The curves of a study (its summary.json), one entry for every positional scheme; none of another question's."""
    if "study" not in results:
        return []
    base, text, entries = results["base"], results["text"]["name"], []
    tokens = base["batch"] * base["window"] * base["steps"]
    in_all = f", {tokens:,} in all" if base["steps"] > 1 else ""  # of an imported model it is not known
    for position in results["study"]["positions"]:
        readings = [one for one in results["readings"] if one["position"] == position]
        first, seeds = readings[0]["seed"], len({one["seed"] for one in readings})
        readings = [one for one in readings if one["seed"] == first]
        longest = max(reading["factor"] for reading in readings)
        curves = [_curve(reading) for reading in readings if reading["factor"] in (1, longest)]
        methods = list(dict.fromkeys(curve["method"] for curve in curves))
        entries.append(
            {
                "title": f"{position}, {base['model']['name']} on {text}, windows of {base['window']}: "
                f"{len(methods)} methods",
                "window": base["window"],
                "steps": sorted({curve["steps"] for curve in curves}),
                "methods": [[method, TITLES.get(method, method)] for method in methods],
                "curves": curves,
                "optimum": _optimum(readings),
                "note": f"{position}: trained on windows of {base['window']} tokens{in_all}; methods at factor "
                f"{longest}. {'One seed' if seeds == 1 else f'Seed {first} of {seeds}'}: the intervals say nothing of "
                "another seed's model.",
            }
        )
    return entries


def _curve(reading: dict) -> dict:
    """Perplexity by context, [context, value, low, high], with 95 % over documents."""
    points, effective = [], []
    for row in reading["rows"]:
        value, *ends = (row[key] for key in ("perplexity", "low", "high"))  # a single document has no interval
        points.append([row["context"], *(round(value if end is None else end, 4) for end in (value, *ends))])
        if "effective_context" in row:
            effective.append([row["context"], round(row["effective_context"]["value"], 2)])
    return {"method": reading["arm"], "steps": reading["steps"], "points": points, "effective": effective}


def _optimum(readings: list[dict]) -> list[list[float]]:
    """Perplexity of the best possible reader by context, if it is known."""
    rows = readings[0]["rows"]
    return [[row["context"], round(row["optimum"]["perplexity"], 4)] for row in rows if "optimum" in row]


def _claim(result: dict) -> dict:
    """Title, verdict, its reason and the models it is of."""
    scale = result["scale"]
    size = "computed"
    if scale:
        seeds = f"{scale['seeds']} seed{'s' * (scale['seeds'] > 1)}"
        size = f"{scale['name']} on {scale['data']}, {seeds}, windows of {scale['window']}"
    return {
        "title": result["title"],
        "verdict": result["verdict"],
        "reason": result["parts"][0]["reason"],
        "scale": size,
    }


def _spacing(result: dict) -> str:
    """A sentence on the measured effect of the spacing."""
    rows = [row for row in result["rows"] if row["over usual"] is not None]
    best = min(rows, key=lambda row: row["over usual"]["ratio"][0])
    value, low, high = best["over usual"]["ratio"]
    scale = result["scale"]
    return (
        f"The lab measured it on models of {scale['model']} and windows of {scale['window']} tokens: of {len(rows)} "
        f"other spacings the best was {best['spectrum'].replace('_', ' ')}, with {value:.3f} [{low:.3f}, {high:.3f}] "
        "of the perplexity of 10000^(−2k/d) within the window."
    )


def _longrope(folder: Path) -> dict:
    """The factors and the temperature of a search and the model they belong to, of RoPE's usual spectrum."""
    found = _read(
        folder / "factors.yaml",
        lambda factors: {"s": factors["factor"], "long": [*factors["long"]], "t": factors.get("temperature")},
    )
    window, frequencies = _read(folder / "results.json", itemgetter("window", "frequencies"))
    return found | {"L": window, "base": round(frequencies[1] ** -len(frequencies)), "width": 2 * len(frequencies)}
