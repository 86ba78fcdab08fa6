"""Tables of all schemes, extensions and plans by layer, as in models/positions/README.md.

python -m experiments.schemes
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from conf.base import BadInput
from conf.compose import program
from conf.overrides import FOLDER

if TYPE_CHECKING:
    from models.positions import Position


def read_comment(group: str, name: str) -> str:
    """The comment that opens a choice's YAML file."""
    lines = (FOLDER / group / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#")).rstrip(".")


def hooks(scheme: type[Position]) -> str:
    """The hooks that a scheme implements: those it does not leave as its base classes have them."""
    from models.positions import Position
    from models.positions.mixture import Mixture
    from models.positions.rotate import Rotary

    if scheme is Mixture:
        return "those of its parts"
    # A rotation implements the third only for an extension that regroups distances.
    inherited = {"embed": (Position,), "rotate": (Position,), "bias": (Position, Rotary)}
    implemented = [
        hook for hook, bases in inherited.items() if getattr(scheme, hook) not in [getattr(b, hook) for b in bases]
    ]
    return ", ".join(implemented) or "none"


def schemes_table() -> str:
    """A Markdown row per scheme: name, hooks, whether it is relative, what an extension may change, what it is."""
    from models.positions import SCHEMES
    from models.positions.mixture import Mixture

    lines = ["| position= | acts at | relative | an extension may change | what it is |", "|---|---|---|---|---|"]
    for name, scheme in SCHEMES.items():
        relative = "as its parts are" if scheme is Mixture else "yes" if scheme.relative else "no"
        stretches = ", ".join(sorted(scheme.stretches)) or "nothing"
        lines.append(f"| `{name}` | {hooks(scheme)} | {relative} | {stretches} | {read_comment('position', name)} |")
    return "\n".join(lines)


def extensions_table() -> str:
    """A Markdown row per extension: name, what it changes of a scheme, what it is."""
    from models.positions import EXTENSIONS
    from models.positions.switch import Switch

    lines = ["| extend= | changes | what it is |", "|---|---|---|"]
    for name, extension in EXTENSIONS.items():
        changes = "what the other does" if extension is Switch else extension.changes or "nothing"
        lines.append(f"| `{name}` | {changes} | {read_comment('extend', name)} |")
    return "\n".join(lines)


def plans_table() -> str:
    """A Markdown row per plan by layer: name, pattern, what it is."""
    from omegaconf import OmegaConf

    lines = ["| layers= | pattern | what it is |", "|---|---|---|"]
    for path in sorted((FOLDER / "layers").glob("*.yaml")):
        pattern = OmegaConf.load(path).get("pattern")
        lines.append(f"| `{path.stem}` | {f'`{pattern}`' if pattern else ''} | {read_comment('layers', path.stem)} |")
    return "\n".join(lines)


def rows_table() -> str:
    """A Markdown row per form of rows: name, what it is."""
    from models.positions.rows import ROWS

    lines = ["| extend.rows= | queries are multiplied by |", "|---|---|"]
    for name, form in ROWS.items():
        lines.append(f"| `{name}` | {(form.__doc__ or '').splitlines()[0].rstrip('.')} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    with program():
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(__doc__.strip())
            return
        if sys.argv[1:]:
            raise BadInput(f"{sys.argv[1]}: experiments.schemes takes no settings, it prints all there is")
        print("\n\n".join((schemes_table(), extensions_table(), rows_table(), plans_table())))


if __name__ == "__main__":
    main()
