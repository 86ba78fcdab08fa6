"""How fast and how large: the lab beside the device's ceiling and its peers, measured in one process.

    python -m experiments.benchmark sections=[schemes] schemes_at=[micro/1024]

A section is a file of this package with `run`, which returns plain rows, and `table`, which prints them; its name is
in SECTIONS in settings.py.
"""

from experiments.lab.exports import lazy_exports

__getattr__ = lazy_exports(
    __name__,
    settings=("Rounds",),
    workbench=("Workbench",),
    timing=("spread", "spread_cell"),
    memory=("bound_memory",),
)
