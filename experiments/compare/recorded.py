"""Recorded runs, read from a run folder, an offline run of Weights & Biases, or a W&B server."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from conf.base import BadInput, first_line
from conf.files import Torn, read_json
from conf.run_folder import RunFolder, flatten
from conf.tracking import json_lines, offline_records

PATIENCE = 20  # seconds to wait for a server
ONLINE = re.compile(r"[^/\s]+/[^/\s]+/[^/\s]+")


@dataclass(frozen=True)
class Point:
    """Perplexity at a context length in tokens, with its 95 % interval over documents and its targets, if known.

    targets: a digest of which they are; count: how many; effective: on chains, the effective context in tokens.
    """

    context: int
    perplexity: float
    low: float | None = None
    high: float | None = None
    targets: str | None = None
    count: int | None = None
    effective: float | None = None


@dataclass(frozen=True)
class Recorded:
    """The record of a run.

    config: flat, by key; final: final metrics; curves: (tokens, value) by metric; readings: perplexity by context, by
    name of the reading; inputs: digests of texts and tokenizer, of a folder.
    """

    name: str
    source: str
    state: str
    config: dict[str, object]
    final: dict[str, float]
    curves: dict[str, list[tuple[float, float]]]
    readings: dict[str, list[Point]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)


def read(source: str) -> Recorded:
    """Read a run folder, an offline run's folder or .wandb file, or entity/project/id on a server.

    Raises:
        BadInput: the source is none of these, or the server cannot be reached.
    """
    path = Path(source)
    if (path / "config.json").is_file():
        return from_folder(path)
    files = [path] if path.suffix == ".wandb" and path.is_file() else sorted(path.glob("run-*.wandb"))
    if files:
        return from_offline(files[0], source)
    if path.exists():
        raise BadInput(f"{source} is no run: it has neither a config.json nor a run-*.wandb")
    if ONLINE.fullmatch(source):
        return from_server(source)
    raise BadInput(f"{source}: there is no such run folder or offline run, and it is no entity/project/id of W&B")


def from_folder(path: Path) -> Recorded:
    """Read runs/<group>/<name>/ as train.py wrote it, with the readings of experiments.perplexity in it."""
    folder = RunFolder(path)
    config = flatten(folder.config or {})
    rows = list(json_lines(folder.metrics.read_text(errors="replace"))) if folder.metrics.exists() else []
    results = folder.results
    final = results["metrics"] if results else _last(rows)
    readings = {}
    for place in sorted(path.glob("perplexity/*.json")):
        if (reading := _whole(place)) is None:
            continue
        if lacking := [key for key in ("label", "rows", "split", "step") if key not in reading]:
            raise BadInput(f"{place} is no reading: it lacks {', '.join(lacking)}")
        how = reading["rows"][0]["protocol"] + ", as decoded" * ("-decoded-" in place.name)
        count = f"{reading['rows'][0]['tokens']:,} targets"
        name = f"{reading['label']}, {how}, {reading['split']}, step {reading['step']}, {count}"
        while name in readings:  # read with other settings, whose digest is in the file's name
            name += f" ({place.stem[-10:]})"
        readings[name] = [_point(row) for row in reading["rows"]]
    inputs = _whole(path / "inputs.json") or {}
    return Recorded(path.name, str(path), folder.status["state"], config, final, _curves(rows), readings, inputs)


def _whole(place: Path) -> dict | None:
    """The contents of a file; None, which is said, of one that is torn."""
    try:
        return read_json(place)
    except Torn as error:
        print(f"{error}; it is left out", file=sys.stderr)
        return None


def _point(row: dict) -> Point:
    """A row of a reading, with its interval from resampling documents."""
    from experiments.lab.statistics import mean

    perplexity = mean(row["document_nll"], row["document_tokens"]).exp().plain()
    ends = perplexity["low"], perplexity["high"]
    effective = row.get("effective_context", {}).get("value")
    return Point(row["context"], row["perplexity"], *ends, row["token_set"], row["tokens"], effective)


def from_offline(file: Path, source: str) -> Recorded:
    """Read an offline run by `wandb leet`; a killed run is read as far as it was written.

    Raises:
        BadInput: leet cannot read it.
    """
    records, message = offline_records(file)
    run = next((record["run"] for record in records if "run" in record), None)
    if run is None:
        raise BadInput(f"{source} cannot be read as an offline run{': ' + message.splitlines()[-1] if message else ''}")
    config, summary, rows, state = {}, {}, [], "running"
    for record in records:
        config |= (record.get("config") or record.get("run", {}).get("config") or {}).get("update", {})
        summary |= record.get("summary", {}).get("update", {})
        if "history" in record:
            rows.append(record["history"]["item"])
        if "exit" in record:
            state = "failed" if record["exit"].get("exit_code") else "done"
    return _from_wandb(run.get("display_name") or run["run_id"], source, state, config, rows, summary)


def from_server(source: str) -> Recorded:
    """Read a run from a W&B server.

    Raises:
        BadInput: no key, no network or no such run.
    """
    import wandb

    try:
        run = wandb.Api(timeout=PATIENCE).run(source)
        rows = list(run.scan_history())
        return _from_wandb(run.name, source, run.state, dict(run.config), rows, dict(run.summary))
    except (wandb.Error, ValueError, OSError) as error:
        raise BadInput(
            f"{source}: there is no such run folder or offline run here, and W&B says: {first_line(error)}"
        ) from None


def _from_wandb(name: str, source: str, state: str, config: dict, rows: list[dict], summary: dict) -> Recorded:
    """A run from W&B's records. A reading has the configuration of the run it read."""
    config = {key: value for key, value in config.items() if key != "_wandb"}
    if "trained" in config:
        config = config["trained"] | {"extend": config["extend"]}
    points = [
        Point(row["context/length"], row["context/perplexity"], effective=row.get("context/effective"))
        for row in rows
        if "context/perplexity" in row
    ]
    final = {key.removeprefix("final/"): value for key, value in summary.items() if key.startswith("final/")}
    trained = [row for row in rows if "context/length" not in row]
    return Recorded(
        name,
        source,
        state,
        flatten(config),
        final or _last(trained),
        _curves(trained),
        {name.rpartition("-read-")[2]: points} if points else {},
    )


def _curves(rows: Iterable[dict]) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if "/" in key and isinstance(value, int | float) and "tokens" in row:
                curves.setdefault(key, []).append((row["tokens"], value))
    return curves


def _last(rows: Iterable[dict]) -> dict[str, float]:
    """The latest value of every metric, for an unfinished run."""
    latest = {key: value for row in rows for key, value in row.items()}
    return {key: value for key, value in latest.items() if "/" in key or key in ("step", "tokens")}
