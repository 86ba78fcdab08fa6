"""What do positions look like? Every figure as PNG and SVG, and a page that says what to see in each.

python -m experiments.figures
python -m experiments.figures only=[shift,distance] folder=figures
"""

import time
from pathlib import Path

from conf.base import BadInput
from conf.compose import command_line
from conf.files import write_text
from conf.validation import validate


def run_command(values: dict, overrides: list[str]) -> None:
    """Draw the figures and write their page."""
    from experiments.figures.gallery import FIGURES, TITLE, page
    from experiments.figures.settings import Gallery
    from experiments.lab.canvas import save

    gallery = validate(Gallery, values)
    names = tuple(dict.fromkeys(gallery.only or FIGURES))
    if unknown := [name for name in names if name not in FIGURES]:
        raise BadInput(f"only={unknown[0]} is no figure; allowed: {', '.join(FIGURES)}")
    folder = Path(gallery.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"folder={folder} cannot be made: {error.strerror}") from None
    readme = folder / "README.md"
    if readme.exists() and not readme.read_text(encoding="utf-8").startswith(f"{TITLE}\n"):
        raise BadInput(f"folder={folder} has a README.md of something else: name another folder, or move that file")
    for number, name in enumerate(names, 1):
        start = time.perf_counter()
        save(FIGURES[name](gallery), folder / name)
        print(f"[{number}/{len(names)}] {folder / name}.png, {time.perf_counter() - start:.1f} s", flush=True)
    write_text(readme, page(folder))
    print(f"Page with all figures: {readme}")


if __name__ == "__main__":
    command_line("figures", run_command)
