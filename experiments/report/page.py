"""The results of all claims as one HTML page and as a Markdown table.

    python -m experiments.report
    python -m experiments.report readme=experiments/reproduce/README.md

The page, report.html beside the results, is self-contained: figures are inside, and it loads nothing from a server. It
opens with conclusions.md beside the results, a few sentences written by hand.
"""

import os
from pathlib import Path

from conf.base import BadInput, PathText, Settings
from conf.files import write_text
from conf.validation import validate
from experiments.report.gather import NOT_RUN, Report, gather
from experiments.report.html import render
from experiments.reproduce import size

START, END = "<!-- claims -->", "<!-- /claims -->"


class ReportSettings(Settings):
    """The folder of the results and the file with their table, as in conf/report.yaml."""

    results: PathText
    readme: PathText | None


def scale(result: dict) -> str:
    """The scale of a result: its name and seeds, or that it was computed."""
    values = result.get("scale")
    return size(None) if values is None else f"{values['name']}, {values['seeds']} seed{'s' * (values['seeds'] > 1)}"


def markdown(report: Report, folder: Path, page: Path) -> str:
    """Whether each scale uses its window, then a row for each part of a claim: statement, verdict, its numbers, scale.

    page: the Markdown file it goes into, from which the results in `folder` are linked.
    """
    folder = Path(os.path.relpath(folder, page.parent))
    lines = [f"{scale}: {_escape(text)}\n" for scale, text in report.gates.items()]
    lines += ["| claim | in question | verdict | what was found | scale |", "|---|---|---|---|---|"]
    for label, result in report.results.items():
        name = f"[{_escape(result['title'])}]({folder.as_posix()}/{label}.json)"
        for number, part in enumerate(result["parts"]):
            cells = [name if number == 0 else "", _escape(part["part"]), f"**{part['word']}**", _escape(part["reason"])]
            lines.append(f"| {' | '.join([*cells, scale(result) if number == 0 else ''])} |")
    for claim in report.missing.values():
        lines.append(
            f"| {_escape(claim['title'])} | {_escape(claim['statement'])} | {NOT_RUN} | `{claim['command']}` | |"
        )
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Escape text for one cell of a Markdown table."""
    for mark in "\\|<*_`[":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def insert_table(text: str, table: str, path: str) -> str:
    """A Markdown text with the part between the two markers replaced by this table.

    Raises:
        BadInput: the markers are not there, or not once each and in this order.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise BadInput(f"readme={path} must have one {START} and, after it, one {END}: the table goes between them")
    before, rest = text.split(START)
    return f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}"


def run_command(values: dict, overrides: list[str]) -> None:
    """Write the page and, if one is named, the table in a Markdown file."""
    settings = validate(ReportSettings, values)
    folder = Path(settings.results)
    report = gather(folder)
    readme = Path(settings.readme or "README.md")
    table, page = markdown(report, folder, readme), folder / "report.html"
    write_text(page, render(report))
    print(f"{table}\n\nPage: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    if settings.readme is not None:
        if not readme.is_file():
            raise BadInput(f"readme={readme}: there is no such file")
        write_text(readme, insert_table(readme.read_text(encoding="utf-8"), table, settings.readme))
        print(f"Table: {readme}")
