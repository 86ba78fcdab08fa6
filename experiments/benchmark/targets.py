"""Targets for the speed of this project, beside what was measured.

    python -m experiments.benchmark.targets experiments/results/benchmark-amd-epyc-avx2

Reads the sections saved in the folder. The worst of a target's rows decides, or the best where `any_one` is set; rows
that failed do not count.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from conf.base import BadInput
from conf.compose import program
from conf.files import read_json
from experiments.benchmark.sweep import start_up
from experiments.lab.tables import format_table

REGROUPING = ("self_extend", "rerope", "leaky_rerope", "dca")  # whose steps leave the fast attention
Numbers = Iterator[tuple[str, float]]  # a row in words, and its number


@dataclass(frozen=True)
class Target:
    """A bound on a number that the rows of a section hold; gpu: of a GPU's or a CPU's alone."""

    what: str
    section: str
    numbers: Callable[[list[dict]], Numbers]
    limit: float
    at_least: bool  # else at most
    any_one: bool = False  # the best row decides, not the worst
    gpu: bool | None = None

    def judge(self, rows: list[dict]) -> tuple[str, float, bool] | None:
        """The row that decides, its number and whether it meets the target; None where nothing was measured."""
        choose = max if self.at_least == self.any_one else min
        row, value = choose(self.numbers(rows), key=lambda number: number[1], default=(None, None))
        if row is None:
            return None
        return row, value, value >= self.limit if self.at_least else value <= self.limit


def trainer_over_bare(rows: list[dict]) -> Numbers:
    for row in rows:
        if row["model"] == "nano" and row["contestant"] == "ours, train.py" and "speed_over_bare" in row:
            yield _shape(row), row["speed_over_bare"]["median"]


def ours_over_fastest_peer(rows: list[dict]) -> Numbers:
    """Of our bare loop, paired by round with each peer."""
    for shape in dict.fromkeys(map(_shape, rows)):
        peers = [row for row in rows if _shape(row) == shape and not row["contestant"].startswith("ours")]
        peers = [row for row in peers if "speed_over_bare" in row]
        if peers:
            fastest = max(peers, key=lambda row: row["speed_over_bare"]["median"])
            yield f"{shape}, {fastest['contestant']}", 1 / fastest["speed_over_bare"]["median"]


def share_of_ceiling(model: str) -> Callable[[list[dict]], Numbers]:
    def numbers(rows: list[dict]) -> Numbers:
        for row in rows:
            if row["model"] == model and row["contestant"] == "ours, bare loop" and "mfu" in row:
                yield _shape(row), row["mfu"]["median"]

    return numbers


def over_reference(part: str, *left_out: str) -> Callable[[list[dict]], Numbers]:
    """The step or the forward pass of every scheme or extension but these."""

    def numbers(rows: list[dict]) -> Numbers:
        for row in rows:
            if row["name"] not in (row["reference"], *left_out) and "seconds_over_reference" in row[part]:
                yield f"{_shape(row)}, {row['name']}", row[part]["seconds_over_reference"]["median"]

    return numbers


def reading_over_plain(rows: list[dict]) -> Numbers:
    for row in rows:
        if "speed_over_plain" in row and row["context"] == 32_768 and row["protocol"] != "plain forward":
            name = f"{row['model']}, {row['context']} tokens, {row['scheme']}, {row['protocol']}"
            yield name, row["speed_over_plain"]["median"]


def time_over_first(rows: list[dict]) -> Numbers:
    best = [row for row in rows if row["kind"] == "best"]
    for row in best[1:]:
        if row["seconds_over_reference"] is not None:
            yield f"{row['optimizer']} over {best[0]['optimizer']}", row["seconds_over_reference"]


def until_first_step(rows: list[dict]) -> Numbers:
    """Of jobs by themselves the quickest."""
    if parts := [row for row in rows if row["kind"] == "part" and not row["failure"]]:
        yield "the best job", min(start_up(parts))


def until_help(rows: list[dict]) -> Numbers:
    for row in rows:
        if row["kind"] == "help":
            yield "the best of --help", min(row["seconds"])


def of_model(model: str, numbers: Callable[[list[dict]], Numbers]) -> Callable[[list[dict]], Numbers]:
    """The numbers of one model's rows alone."""
    return lambda rows: numbers([row for row in rows if row["model"] == model])


def _shape(row: dict) -> str:
    return f"{row['model']} at {row['window']}"


BIASED_BY_LAYER = ("cope", "grape_ap")  # schemes that make a bias of their own in every layer

TARGETS = (
    Target("train.py over the bare loop, nano", "step", trainer_over_bare, 0.97, True),
    Target("ours over the fastest peer", "step", ours_over_fastest_peer, 1.0, True, gpu=False),
    Target("ours over the fastest peer, nano", "step", of_model("nano", ours_over_fastest_peer), 1.03, True, gpu=False),
    Target("ours over the fastest peer", "step", ours_over_fastest_peer, 1.2, True, gpu=True),
    Target("ours over the fastest peer, all compiled", "compiled", ours_over_fastest_peer, 1.0, True),
    Target("share of the ceiling (MFU), micro", "step", share_of_ceiling("micro"), 0.76, True, gpu=False),
    Target("share of the ceiling (MFU), small", "step", share_of_ceiling("small"), 0.5, True, gpu=True),
    Target(
        "step of a scheme over RoPE, but CoPE, GRAPE-AP",
        "schemes",
        over_reference("step", *BIASED_BY_LAYER),
        1.5,
        False,
        gpu=False,
    ),
    Target("step of a scheme over RoPE", "schemes", over_reference("step"), 1.15, False, gpu=True),
    Target("step of a rotary extension over none", "extensions", over_reference("step", *REGROUPING), 1.03, False),
    Target("forward pass of an extension over none", "extensions", over_reference("forward"), 1.3, False),
    Target("reading 32,768 tokens over plain forward", "evaluation", reading_over_plain, 0.9, True),
    Target("seconds to loss, best optimizer over AdamW", "time_to_loss", time_over_first, 0.7, False, any_one=True),
    Target("seconds until the first step", "sweep", until_first_step, 3.0, False),
    Target("seconds of train.py --help", "sweep", until_help, 1.0, False),
)


def table(folder: Path) -> str:
    """A line for each target: the bound, the number, the verdict and the row that decided."""
    sections = {path.stem: read_json(path, "rows") for path in folder.glob("*.json")}
    on_gpu = any(section.get("precision") == "bf16 autocast" for section in sections.values())
    lines = []
    for target in (target for target in TARGETS if target.gpu in (None, on_gpu)):
        bound = f"{'≥' if target.at_least else '≤'} {target.limit:.2f}"
        try:
            judged, missing = target.judge(sections.get(target.section, {}).get("rows", [])), "not measured"
        except KeyError:  # rows as another version of the lab wrote them
            judged, missing = None, "to be rerun"
        row, value, met = judged or ("", None, None)
        outcome = missing if judged is None else "met" if met else "missed"
        lines.append([target.what, bound, value and f"{value:.3f}", outcome, row])
    return format_table(["target", "bound", "measured", "", "row"], lines)


def main() -> None:
    """The command line: a folder."""
    with program():
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(__doc__.strip())
            return
        if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
            raise BadInput("usage: python -m experiments.benchmark.targets FOLDER")
        folder = Path(sys.argv[1])
        if not any((folder / f"{target.section}.json").exists() for target in TARGETS):
            raise BadInput(f"{folder} holds no section of the benchmark, such as step.json")
        print(table(folder))


if __name__ == "__main__":
    main()
