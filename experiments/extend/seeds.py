"""Extension studies of several seeds as one table: does what one model shows hold for another seed's?

    python -m experiments.extend -m seed=1,2,3
    python -m experiments.extend_seeds 'studies=runs/extend-nano/study-nano-s*'

Studies must differ in the seed alone. Every arm is held to extrapolation after as many steps, at the window of the arm,
and to the base model within the trained window; intervals are over seeds and documents (statistics.compare), and the
verdicts of each of the two columns are adjusted together (Holm 1979). Results go beside the first study.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from glob import glob
from pathlib import Path
from statistics import mean, median

from conf.base import BadInput
from conf.compose import command_line
from conf.run_folder import differing_keys, flatten, write_json
from experiments.extend.arms import PLAIN, asked
from experiments.extend.report import Findings, Reading
from experiments.lab.statistics import Comparison, compare, holm

# What may differ between studies that are one: the seed and its names, and where and how a run was computed.
FREE = ("seed", "name", "runs", "cache", "trainer", "logger")


def read_studies(folders: list[Path]) -> dict[int, Findings]:
    """The findings of finished studies by seed, ascending.

    Raises:
        BadInput: fewer than two, one that is not finished, a seed twice, or more than the seed differs.
    """
    found, first = {}, None
    for folder in folders:
        if not (folder / "results.json").is_file():
            raise BadInput(f"studies={folder}: there is no results.json of a finished study")
        held = json.loads((folder / "results.json").read_text())
        if not {"study", "base", "readings"} <= set(held):
            raise BadInput(f"studies={folder}: its results.json is not that of a study")
        what = flatten({"study": held["study"], "base": {k: v for k, v in held["base"].items() if k not in FREE}})
        first = what if first is None else first
        if keys := differing_keys(first, what):
            raise BadInput(
                f"studies={folder} differs from {folders[0]} in {', '.join(keys)}: the seed alone may differ"
            )
        seed = held["base"]["seed"]
        if seed in found:
            raise BadInput(f"studies={folder} has seed {seed}, which another one has: a seed counts once")
        readings = [Reading(**reading) for reading in held["readings"]]
        found[seed] = Findings(held["base"]["original_window"], asked(held["study"]), readings)
    if len(found) < 2:
        raise BadInput(f"studies: {len(found)} found, and an interval over seeds takes at least two")
    return dict(sorted(found.items()))


def table(found: dict[int, Findings]) -> tuple[str, list[dict]]:
    """All arms in columns, and the same as plain values."""
    studies = list(found.values())
    first, rows = studies[0], []
    for reading in first.ordered:
        trained = [1] * (reading is first.base(reading.position))
        every = [*trained, *sorted(first.study.factors)]  # an arm without a factor of its own reads all windows
        rows += [_arm(studies, reading, factor) for factor in ([reading.factor] if reading.factor > 1 else every)]
    for column in ("over extrapolation", "cost"):
        compared = [row for row in rows if row[column] is not None]
        for row, p in zip(compared, holm([row[column].p for row in compared]), strict=True):
            row[column] = {**asdict(row[column].ratio), "p": p, "word": row[column].word(p)}
    return "\n".join([_line(first, None), *(_line(first, row) for row in rows)]), rows


def _arm(studies: list[Findings], reading: Reading, factor: int) -> dict:
    """One arm at one window, over seeds."""
    key, window = (reading.position, reading.arm, factor, reading.steps), studies[0].window * factor
    ours = [each.get(*key) for each in studies]
    plain = [each.get(reading.position, PLAIN, factor, reading.steps) for each in studies]
    bases = [each.base(reading.position) for each in studies]
    values = [each.at(window)["perplexity"] for each in ours]
    keys = [k["value"] for each in ours if (k := each.k_max(window)) is not None]
    return {
        "position": reading.position,
        "arm": reading.arm,
        "window": window,
        "steps": reading.steps,
        "perplexity": math.exp(mean(map(math.log, values))),
        "by seed": values,
        "over extrapolation": None if None in plain else _compared(ours, plain, lambda each: each.at(window)),
        "cost": _compared(ours, bases, lambda each: each.at(studies[0].window)),
        "k_max": keys,
    }


def _compared(ours: list[Reading], theirs: list[Reading], row: Callable) -> Comparison | None:
    """Ours over theirs by seed; None where they are the same."""
    if ours[0] is theirs[0]:
        return None
    return compare([row(each) for each in ours], [row(each) for each in theirs])


def _line(found: Findings, row: dict | None) -> str:
    if row is None:
        head = f"{'position':<12} {'arm':<{found.widest}} {'window':>6} {'steps':>5} {'perplexity':>10}"
        head += f" {'over extrapolation':>29} {'cost in the window':>29}"
        return head + "  k_max by seed" * found.study.passkey
    told = f"{row['position']:<12} {found.name(row['arm']):<{found.widest}} {row['window']:>6} {row['steps']:>5}"
    told += f" {row['perplexity']:>10.2f}"
    for column in ("over extrapolation", "cost"):
        each = row[column]
        cell = "" if each is None else f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}] {each['word']:<6}"
        told += f" {cell:>29}"
    if row["k_max"]:
        told += f"  {median(row['k_max']):g} ({', '.join(map(str, row['k_max']))})"
    return told.rstrip()


def _main(values: dict, overrides: list[str]) -> None:
    given = values["studies"]
    if isinstance(given, str):
        folders = sorted(Path(path) for path in glob(given))
    elif isinstance(given, list) and all(isinstance(each, str) for each in given):
        folders = [Path(each) for each in given]
    else:
        raise BadInput(f"studies={given} must be a pattern or a list of folders")
    found = read_studies(folders)
    printed, rows = table(found)
    seeds = ", ".join(map(str, found))
    text = (
        f"Over seeds {seeds}: perplexity is the geometric mean at the window of the row; ratios with 95 % intervals "
        "over seeds and documents, to extrapolation after as many steps there and to the base model at its own window "
        "(lower, higher, equal to within half a per cent, or open, adjusted for the whole column)"
        + "; k_max: median (every seed)" * any(row["k_max"] for row in rows)
        + f":\n\n{printed}\n"
    )
    first = folders[0]
    place = first.parent / f"seeds-{first.name.removeprefix('study-')}"
    place.mkdir(exist_ok=True)
    (place / "table.txt").write_text(text)
    write_json(place / "results.json", {"studies": list(map(str, folders)), "seeds": list(found), "rows": rows})
    print(f"{text}\nIn {place}: table.txt, results.json")


def main() -> None:
    """The command line."""
    command_line("extend_seeds", _main)


if __name__ == "__main__":
    main()
