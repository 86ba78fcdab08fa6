"""The text of --help: the comment that opens a program's YAML file, its groups, and its settings."""

import re
from collections.abc import Iterator

from conf.overrides import FOLDER, list_choices


def help_text(config_name: str) -> str:
    """All of --help but the composed settings, which follow it."""
    lines = [line.removeprefix("#").removeprefix(" ") for line in _opening(config_name)]
    if groups := list(_groups(config_name)):
        lines += ["", "Groups, chosen as group=choice; what is in them is set as group.key=value:", ""]
        lines += [f"  {group}: {list_choices(group)}" for group in groups]
    lines += [
        "",
        f"Settings, set as key=value; conf/{config_name}.yaml and the files of the groups say what each means.",
    ]
    lines += [
        "-m runs one job for each of key=a,b; --cfg job prints the settings alone; --hydra-help has Hydra's own flags."
    ]
    return "\n".join(lines) + "\n"


def _opening(config_name: str) -> Iterator[str]:
    for line in (FOLDER / f"{config_name}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            return
        yield line


def _groups(config_name: str) -> Iterator[str]:
    """The groups of a program's defaults, those of the programs it builds on too, and the groups inside them."""
    for name, choice in re.findall(r"^  - (\w+)(:?)", (FOLDER / f"{config_name}.yaml").read_text(), re.M):
        if not choice and (FOLDER / f"{name}.yaml").exists():
            yield from _groups(name)
        elif choice and (FOLDER / name).is_dir():
            yield name
            yield from (f"{name}/{path.name}" for path in sorted((FOLDER / name).iterdir()) if path.is_dir())
