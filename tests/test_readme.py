"""The pages say what is so: their tables are current, their commands compose, their links lead somewhere."""

import re
import shlex
import subprocess
from typing import Literal

import torch

from conf.base import Settings
from conf.compose import compose_values
from conf.overrides import FOLDER
from experiments import schemes
from models.positions import EXTENSIONS, SCHEMES, Extension, Geometry, Position
from models.positions.frequencies import Geometric
from tests.runs import ROOT
from train import compose

TRACKED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
PAGES = {path: (ROOT / path).read_text() for path in TRACKED or map(str, ROOT.glob("*.md"))}
README, SCHEME_PAGE = PAGES["README.md"], PAGES["models/positions/README.md"]
COMMANDS = re.sub(r"\\\n\s*", "", "\n".join(PAGES.values()))


def test_the_tables_of_schemes_and_extensions_are_current_and_complete():
    tables = (schemes.schemes_table(), schemes.extensions_table(), schemes.rows_table(), schemes.plans_table())
    assert all(table in SCHEME_PAGE for table in tables)
    assert set(SCHEMES) == {path.stem for path in (FOLDER / "position").glob("*.yaml")}
    assert schemes.hooks(SCHEMES["rope"]) == "rotate"  # what it adds for extensions is not the scheme's own
    assert set(EXTENSIONS) == {path.stem for path in (FOLDER / "extend").glob("*.yaml")}


def test_the_readme_is_short_and_quotes_the_demo_as_measured():
    assert len(README.splitlines()) <= 150
    by_steps = (ROOT / "experiments/results/demo-cpu/table.txt").read_text().split("\n\n")[3].rstrip().splitlines()
    for page, rows in ((README, [row for row in by_steps[1:] if row.split()[2] == "512"]),
                       (PAGES["experiments/extend/README.md"], by_steps[1:])):  # fmt: skip
        assert quoted(by_steps[0], *rows) in page
    for scheme in ("rope", "sinusoidal"):
        table = (ROOT / f"experiments/results/demo-text-{scheme}-cpu/table.txt").read_text().split("\n\n")[3]
        heading, *rows = table.rstrip().splitlines()
        for page in (README, PAGES["experiments/extend/README.md"]):
            assert quoted(heading) in page and quoted(*rows) in page


def quoted(*rows):
    """Rows of a table as a page quotes them."""
    return "\n".join(f"    {row.rstrip()}" for row in rows)


def test_links_lead_somewhere():
    broken = []
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            if not (ROOT / page).parent.joinpath(target).exists():
                broken.append(f"{page}: {target}")
    assert not broken


def test_every_spectrum_and_way_of_seeing_is_named():
    for group in ("frequencies", "seen"):
        for path in (FOLDER / group).glob("*.yaml"):
            assert f"`{path.stem}`" in SCHEME_PAGE


def test_every_command_composes():
    """All but those that read a checkpoint, which tests of the experiments do."""
    configs = {"train.py": "config", "experiments.extend": "extend_study"}
    configs |= {f"experiments.{path.stem}": path.stem for path in FOLDER.glob("*.yaml")}
    checked = 0
    for line in re.findall(r"^    \.venv/bin/python (?:-m )?(.+)$", COMMANDS, re.M):
        program, *words = shlex.split(re.split(r"\s{2,}#", line)[0])
        if program not in configs or "--help" in words:
            continue
        words = [word for word in words if word != "-m"]
        swept = [word for word in words if re.search(r"=[^\[{]*,", word)]  # a multirun's
        values = compose_values(configs[program], [word for word in words if word not in swept])
        if program == "train.py" and values["checkpoint"] is None and not swept:
            compose(words)
        checked += 1
    assert checked >= 20


def test_the_example_scheme_works():
    (code,) = re.findall(r"```python\n(.+?)```", SCHEME_PAGE, re.S)
    names = {"torch": torch, "Position": Position, "Settings": Settings, "Literal": Literal}
    exec(code, names)
    scheme = names["Parity"]
    position = scheme(scheme.Knobs(), Geometry(8, 2, 1, 4), Geometric(), Extension(Extension.Knobs(), 4))
    x = position.embed(torch.zeros(1, 3, 8), position.prepare(torch.arange(3.0)))
    assert x[0, :, 0].tolist() == [1, -1, 1] and not x[..., 1:].any()
