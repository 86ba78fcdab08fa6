"""What does a transformer see of positions? One HTML file with knobs, which needs no server and no network.

python -m experiments.explore
"""

from pathlib import Path

from conf.base import PathText, Settings
from conf.compose import command_line
from conf.files import write_text
from conf.validation import validate
from experiments.explore.measured import measured
from experiments.explore.page import render


class Explore(Settings):
    """The folder of the measured curves and the file of the page, as in conf/explore.yaml."""

    results: PathText
    out: PathText


def run_command(values: dict, overrides: list[str]) -> None:
    """Write the page."""
    settings = validate(Explore, values)
    page, out = render(measured(Path(settings.results))), Path(settings.out)
    write_text(out, page)
    print(f"Page: {out} ({len(page.encode()) / 1e6:.2f} MB)")


if __name__ == "__main__":
    command_line("explore", run_command)
