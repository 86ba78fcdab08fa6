"""Imports run one way: questions → lab → train → conf → models, data → conf's base; a file is read in one sitting.

A question is what stands directly under experiments/, but for lab. Its exports are what its file, or its package's
__init__, holds; everything deeper is its inside.
"""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.runs import ROOT

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("conf", "data", "models", "experiments")
    for path in [ROOT / "train.py", *sorted((ROOT / folder).rglob("*.py"))]
}
LAYERS = ("conf.base", ("data", "models"), "conf", "train", "experiments.lab", "experiments")  # each knows those before
STRANGERS = {"hydra", "omegaconf", "wandb", "Trainer"}  # that models/ and data/ do not know
LONGEST = 300


def imported(source: str) -> set[str]:
    """Every name that a file imports anywhere, dotted; a name taken from a module stands behind it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module(name: str) -> str:
    """The project's module that an imported name is, or is taken from; empty for a library's."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name


def room(name: str) -> str:
    """Where a module belongs: experiments.<question>, experiments.lab, conf.base, or the folder at the top."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "experiments" or name == "conf.base" else parts[0]


def layer(room: str) -> int:
    """The place of a room in LAYERS."""
    return next(index for index, rooms in enumerate(LAYERS) if room.startswith(rooms))


def may_import(importer: str, target: str) -> bool:
    """Whether a module may import another: below it, in its own room, or what another question exports."""
    ours, theirs = room(importer), room(target)
    if ours == theirs or layer(theirs) < layer(ours):
        return True
    return layer(ours) == layer(theirs) == len(LAYERS) - 1 and target == theirs


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a circle, or none; an import inside a function is one too."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


@pytest.fixture(scope="module")
def names() -> dict[str, set[str]]:
    return {name: imported(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


@pytest.fixture(scope="module")
def imports(names) -> dict[str, set[str]]:
    return {name: {module(item) for item in names[name]} - {"", name} for name in FILES}


def test_imports_run_one_way(imports):
    wrong = {(name, other) for name, others in imports.items() for other in others if not may_import(name, other)}
    assert not wrong


def test_models_and_data_know_no_hydra_no_wandb_and_no_trainer(names):
    for name, path in FILES.items():
        if room(name) not in ("models", "data"):
            continue
        known = {part for item in names[name] for part in item.split(".")}
        known |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not known & STRANGERS, name


def test_no_files_import_each_other_in_a_circle(imports):
    assert not circle(imports)


def test_files_are_read_in_one_sitting():
    long = {name for name, path in FILES.items() if len(path.read_text().splitlines()) > LONGEST}
    assert not long


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("experiments.extend.study", "experiments.lab.plan", True),
        ("experiments.extend.study", "experiments.extend.arms", True),
        ("experiments.reproduce.claims.search", "experiments.longrope", True),
        ("experiments.reproduce.claims.search", "experiments.longrope.search", False),
        ("experiments.lab.plan", "experiments.longrope", False),
        ("experiments.lab.measure.protocols", "train", True),
        ("train", "experiments.lab.runs", False),
        ("conf.schema", "models.gpt", True),
        ("models.gpt", "conf.schema", False),
        ("models.gpt", "conf.base", True),
        ("data.sources", "models.gpt", False),
        ("conf.base", "data.sources", False),
    ],
)
def test_the_rules_themselves(importer, target, allowed):
    assert may_import(importer, target) == allowed


def test_imports_are_found_wherever_they_stand():
    source = "import a.b\ndef f():\n    from data.sources import texts\n    from models import gpt\n"
    assert imported(source) == {"a.b", "data.sources.texts", "models.gpt"}
    assert [module(name) for name in ("data.sources.texts", "models.gpt", "torch.nn")] == [
        "data.sources",
        "models.gpt",
        "",
    ]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) and not circle({"a": {"b", "c"}, "b": {"c"}})


def test_lightning_comes_from_one_module():
    """Which keeps from it what it would load for nothing."""
    ours = {
        name
        for name, path in FILES.items()
        if any(word.split(".")[0] == "lightning" for word in imported(path.read_text()))
    }
    assert ours == {"models.lightning"}
