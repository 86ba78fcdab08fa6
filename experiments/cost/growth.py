"""How the cost of a training step grows: seconds and peak memory against window, width, layers, batch and devices.

    python -m experiments.cost

Each axis is scaled alone from one starting point; with the width scale the heads, so that a head keeps its width, and
the network's width where the model sets one. A power law c·x^a is fitted to every axis by least squares in the
logarithms and holds only in the range it was fitted in. It is compared with the exponent of the operations counted in
models/compute.py over the same range. The cost on more devices is estimated, not measured (`on_devices`).
"""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator, Field

from conf.base import BadInput, Count, Counts, Different, Listed
from conf.environment import environment
from conf.files import write_json, write_text
from conf.validation import validate
from experiments.benchmark import Rounds
from experiments.lab.tables import format_rows

if TYPE_CHECKING:
    from conf.schema import Config
    from experiments.benchmark import Workbench

AXES = ("window", "width", "layers", "batch")
STATE = 16  # bytes for each weight: itself, its gradient and AdamW's two moments, all float32
Numbers = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Listed]


def _possible(factors: tuple[float, ...]) -> tuple[float, ...]:
    if max(factors) > 1e6:
        raise ValueError(f"factors={list(factors)} has one above a million")
    return factors


class Cost(Rounds):
    """The settings of the cost measurements, as in conf/cost.yaml."""

    model: str
    window: Count
    factors: Annotated[Numbers, Different, Field(min_length=2), AfterValidator(_possible)]
    devices: Annotated[Counts, Field(min_length=1)]
    bandwidths: Annotated[Numbers, Field(min_length=1)]


def scaled(config: "Config", axis: str, factor: float) -> "Config":
    """A run with one of its sizes multiplied by `factor`.

    Raises:
        BadInput: the product is no whole number.
    """
    shape = config.model
    with_width = [key for key in ("heads", "kv_heads", "network_width") if getattr(shape, key) is not None]
    sizes = {}
    for size in (axis, *with_width) if axis == "width" else (axis,):
        before = getattr(config if axis in ("window", "batch") else shape, size)
        if (before * factor) % 1:
            raise BadInput(f"factors: {factor:g} times {size} {before} is no whole number")
        sizes[size] = int(before * factor)
    if axis == "window":
        sizes["original_window"] = sizes["window"]
    return config.model_copy(update=sizes if axis in ("window", "batch") else {"model": shape.model_copy(update=sizes)})


def measure(bench: "Workbench") -> Iterator[list[dict]]:
    """The rows of each axis: by factor its size, seconds a step in every round, peak bytes, operations and weights."""
    import torch

    from models.compute import flops_per_token
    from train import build_model

    base = bench.config(bench.settings.model, "rope", bench.settings.window)
    factors = sorted(bench.settings.factors)
    for axis, configs in {axis: {factor: scaled(base, axis, factor) for factor in factors} for axis in AXES}.items():

        def build(config: "Config"):
            tokens = config.batch * config.window
            return replace(bench, settings=bench.settings.model_copy(update={"tokens": tokens})).lab_loop(config)

        outcomes = bench.compare(axis, {factor: lambda c=config: build(c) for factor, config in configs.items()})
        rows = []
        for factor, config in configs.items():
            with torch.device("meta"):  # what did not fit is counted too
                gpt = build_model(config)
            operations = flops_per_token(gpt, config.window) * config.batch * config.window
            size = getattr(config.model, axis, None) or getattr(config, axis)
            weights = sum(parameter.numel() for parameter in gpt.parameters())
            row = {"axis": axis, "factor": factor, "size": size, "operations": operations, "weights": weights}
            rows.append(row | asdict(outcomes[factor]))
        yield rows


def power_law(x, y) -> tuple[float, float]:
    """The exponent a and the constant c of y = c·x^a, by least squares in the logarithms."""
    exponent, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return float(exponent), float(np.exp(intercept))


def fits(rows: list[dict]) -> list[dict]:
    """Fit a power law to every axis with two points or more; a row each with its range, exponents and constants.

    The exponent of the seconds is also fitted to each round alone, which gives its median and quartiles. `off` is the
    largest factor between a point and its fit.
    """
    from experiments.benchmark import spread

    results = []
    for axis in AXES:
        points = [row for row in rows if row["axis"] == axis and row["failure"] is None]
        if len(points) < 2:
            continue
        x, rounds = [row["size"] for row in points], min(len(row["seconds"]) for row in points)
        fit = {"axis": axis, "low": min(x), "high": max(x)}
        exponents = [power_law(x, [row["seconds"][number] for row in points])[0] for number in range(rounds)]
        fit["rounds"] = asdict(spread(exponents))
        values = {"seconds": [float(np.median(row["seconds"])) for row in points]}
        values |= {key: [row[key] for row in points] for key in ("peak", "operations")}
        for key, y in values.items():
            exponent, constant = power_law(x, y)
            off = np.exp(np.abs(np.log(y) - np.log(constant * np.power(x, exponent))).max())
            fit[key] = {"exponent": exponent, "constant": constant, "off": float(off)}
        results.append(fit)
    return results


def on_devices(seconds: float, exponent: float, weights: int, devices, bandwidths) -> list[dict]:
    """The estimated cost of a step of the same batch shared by n devices.

    ddp averages G = 4 bytes of gradient for each weight: in a ring each device sends 2·(n - 1)/n·G (Patarasuk and
    Yuan 2009), and every device keeps the whole state. fsdp gathers the weights twice and scatters the gradient once,
    3·(n - 1)/n·G, and keeps 1/n of the state (Rajbhandari et al. 2020, ZeRO, section 7). Seconds are
    seconds·n^-exponent + bytes/bandwidth: nothing overlaps, and latency is left out.

    Args:
        seconds: a step on one device; exponent: of the seconds in the batch, fitted.
        weights: their number; bandwidths: bytes a second a device can send.

    Returns:
        Rows of strategy, devices, bytes sent a step, state bytes a device, and seconds for each bandwidth.
    """
    rows = []
    for strategy, passes in (("ddp", 2), ("fsdp", 3)):
        for n in devices:
            sent = passes * (n - 1) / n * 4 * weights
            times = [seconds * n**-exponent + sent / bandwidth for bandwidth in bandwidths]
            state = STATE * weights / (n if strategy == "fsdp" else 1)
            rows.append({"strategy": strategy, "devices": n, "sent": sent, "state": state, "seconds": times})
    return rows


def table(laws: list[dict], paper: list[dict], bandwidths) -> str:
    """The exponents, then the devices."""
    from experiments.benchmark import spread_cell

    exponents = {"axis": "{axis}", "fitted in": "{low} - {high}", "seconds: exponent": spread_cell("rounds")}
    exponents |= {"seconds: off": "{seconds[off]:.2f}", "operations: exponent": "{operations[exponent]:.2f}"}
    exponents |= {"peak: exponent": "{peak[exponent]:.2f}", "peak: off": "{peak[off]:.2f}"}
    costs = {"": "{strategy}", "devices": "{devices}", "MB sent": lambda row: f"{row['sent'] / 1e6:,.1f}"}
    costs["MB of state"] = lambda row: f"{row['state'] / 1e6:,.1f}"
    for place, bandwidth in enumerate(bandwidths):
        costs[f"seconds at {bandwidth / 1e9:g} GB/s"] = f"{{seconds[{place}]:.4g}}"
    return (
        f"{format_rows(laws, exponents)}\n\nEstimated for a step of the same batch shared by all devices, nothing "
        f"overlapping:\n{format_rows(paper, costs)}"
    )


def run_cost(settings: Cost, overrides: list[str]) -> Path:
    """Measure, fit and print the costs, and write cost.json, .txt, .png and .svg; returns their folder."""
    import torch

    from experiments.benchmark import Workbench, bound_memory
    from experiments.cost.figure import cost_figure

    bench = Workbench.set_up(settings)
    if bench.device.type == "cpu":
        bound_memory()
    folder = Path(settings.folder or f"runs/cost/{bench.label}")
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()  # refused before minutes of measuring, and not after
    about = environment(overrides) | {"device": bench.name, "precision": bench.precision}
    about |= {"threads": torch.get_num_threads(), "settings": settings.model_dump(mode="json")}
    rows = []
    for its in measure(bench):
        rows += its
        write_json(folder / "cost.json", {**about, "rows": rows})
    laws = fits(rows)
    if not laws:
        reasons = dict.fromkeys(row["failure"] for row in rows if row["failure"])
        raise BadInput(f"no size was measured at two factors, so nothing can be fitted: {'; '.join(reasons)}")
    base = next((row for row in rows if row["axis"] == "batch" and row["factor"] == 1 and row["failure"] is None), None)
    fitted = [fit["seconds"]["exponent"] for fit in laws if fit["axis"] == "batch"]
    paper = []
    if base is not None and fitted:
        seconds = float(np.median(base["seconds"]))
        devices = [n for n in settings.devices if base["size"] % n == 0]  # each has whole sequences
        paper = on_devices(seconds, fitted[0], base["weights"], devices, settings.bandwidths)
    write_json(folder / "cost.json", {**about, "rows": rows, "fits": laws, "devices": paper})
    printed = table(laws, paper, settings.bandwidths)
    write_text(folder / "cost.txt", printed + "\n")
    cost_figure(folder / "cost", rows, laws, paper, about)
    print(f"{bench.name}, {about['threads']} threads, {bench.precision}\n{printed}\nNumbers and figure: {folder}/")
    return folder


def run_command(values: dict, overrides: list[str]) -> None:
    """Measure, fit, print and draw the costs."""
    run_cost(validate(Cost, values), overrides)
