"""The README says what is so: its tables are current, its commands compose, its example scheme works."""

import json
import re
import shlex
from typing import Literal

import torch

from conf.base import Settings
from conf.compose import FOLDER, compose_values
from experiments import schemes
from models.positions import EXTENSIONS, SCHEMES, Extension, Geometry, Position
from models.positions.frequencies import Geometric
from tests.runs import ROOT
from train import compose

README = (ROOT / "README.md").read_text()
COMMANDS = re.sub(r"\\\n\s*", "", README)


def test_the_tables_of_schemes_and_extensions_are_current_and_complete():
    assert schemes.table() in README and schemes.extensions() in README
    assert set(SCHEMES) == {path.stem for path in (FOLDER / "position").glob("*.yaml")}
    assert schemes.doors(SCHEMES["rope"]) == "rotate"  # what it adds for extensions is not the scheme's own
    assert set(EXTENSIONS) == {path.stem for path in (FOLDER / "extend").glob("*.yaml")}


def test_the_demo_is_quoted_as_measured():
    results = ROOT / "experiments" / "results" / "demo-cpu"
    tables = (results / "table.txt").read_text().split("\n\n")
    context, by_steps = tables[1], tables[3]
    for table in (context, by_steps):
        assert "\n".join(f"    {line}" for line in table.rstrip().splitlines()) in README
    for reading in json.loads((results / "results.json").read_text())["readings"]:
        assert all(f"{row['perplexity']:.2f}" in context for row in reading["rows"])


def test_every_spectrum_and_way_of_seeing_is_named():
    for group in ("frequencies", "seen"):
        for path in (FOLDER / group).glob("*.yaml"):
            assert f"`{path.stem}`" in README


def test_every_command_composes():
    """All but those that read a checkpoint, which tests of the experiments do."""
    configs = {"train.py": "config", "experiments.extend": "extend_study"}
    configs |= {f"experiments.{path.stem}": path.stem for path in FOLDER.glob("*.yaml")}
    checked = 0
    for line in re.findall(r"^    \.venv/bin/python (?:-m )?(.+)$", COMMANDS, re.M):
        program, *words = shlex.split(line.split("   #")[0])
        if program not in configs or "--help" in words:
            continue
        words = [word for word in words if word != "-m"]
        swept = [word for word in words if re.search(r"=[^\[{]*,", word)]  # a multirun's
        values = compose_values(configs[program], [word for word in words if word not in swept])
        if program == "train.py" and values["checkpoint"] is None and not swept:
            compose(words)
        checked += 1
    assert checked >= 8


def test_the_example_scheme_works():
    (code,) = re.findall(r"```python\n(.+?)```", README, re.S)
    names = {"torch": torch, "Position": Position, "Settings": Settings, "Literal": Literal}
    exec(code, names)
    scheme = names["Parity"]
    position = scheme(scheme.Knobs(), Geometry(8, 2, 1, 4), Geometric(), Extension(Extension.Knobs(), 4))
    x = position.embed(torch.zeros(1, 3, 8), position.prepare(torch.arange(3.0)))
    assert x[0, :, 0].tolist() == [1, -1, 1] and not x[..., 1:].any()
