"""Every claim with results as one page to look at, and as a table.

    python -m experiments.report
    python -m experiments.report readme=experiments/reproduce/README.md

The page, report.html beside the results, is one file that needs no other and asks no server for anything: figures are
inside. conclusions.md beside the results, a few sentences written by hand, opens it.
"""

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

from conf.base import BadInput, Settings
from conf.compose import command_line

START, END = "<!-- claims -->", "<!-- /claims -->"
NEEDED = ("claim", "title", "source", "statement", "rule", "paper", "settle", "verdict", "parts", "command", "rows")
NOT_RUN = "not run"
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


class Asked(Settings):
    """Where results are and which file has their table, as in conf/report.yaml."""

    results: str
    readme: str | None


@dataclass(frozen=True)
class Report:
    """All there is to show: results by label, their figures as data URIs, what was not run, and the conclusions.

    Labels are names of files, <claim> or <claim>-<scale>; missing: title, statement and command by claim.
    """

    results: dict[str, dict]
    figures: dict[str, str]
    missing: dict[str, dict[str, str]]
    conclusions: str | None


def gather(folder: Path) -> Report:
    """Read what `experiments.reproduce` left in a folder, in the order of the claims, at each from small to large.

    Raises:
        BadInput: no such folder, or a JSON file in it that is no result.
    """
    from experiments.reproduce.claims import CLAIMS

    if not folder.is_dir():
        raise BadInput(f"results={folder} is no folder; allowed: where experiments.reproduce puts its summaries")
    found = {path.stem: _result(path) for path in sorted(folder.glob("*.json"))}
    order = list(CLAIMS)

    def rank(label: str) -> tuple:
        claim, scale = found[label]["claim"], found[label].get("scale") or {"tokens": 0}
        return order.index(claim) if claim in order else len(order), scale["tokens"], label

    results = {label: found[label] for label in sorted(found, key=rank)}
    figures = {label: uri for label in results if (uri := figure(folder / label)) is not None}
    done = {result["claim"] for result in results.values()}
    missing = {
        name: {
            "title": claim.title,
            "statement": claim.statement,
            "command": f"python -m experiments.reproduce claim={name}",
        }
        for name, claim in CLAIMS.items()
        if name not in done
    }
    said = folder / "conclusions.md"
    return Report(results, figures, missing, said.read_text(encoding="utf-8") if said.is_file() else None)


def _result(path: Path) -> dict:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        result = None
    lacking = [key for key in NEEDED if key not in result] if isinstance(result, dict) else ["everything"]
    if lacking:
        raise BadInput(f"{path} is no result of experiments.reproduce: it lacks {', '.join(lacking)}")
    return result


def figure(stem: Path) -> str | None:
    """The smaller of a result's two files as a data URI; None if there is neither."""
    files = [path for suffix in TYPES if (path := stem.parent / f"{stem.name}{suffix}").is_file()]
    if not files:
        return None
    smaller = min(files, key=lambda path: path.stat().st_size)
    return f"data:{TYPES[smaller.suffix]};base64,{base64.b64encode(smaller.read_bytes()).decode()}"


def scale(result: dict) -> str:
    """The scale of a result in two words, and in full where it was computed."""
    from experiments.reproduce.page import size

    told = result.get("scale")
    return size(None) if told is None else f"{told['name']}, {told['seeds']} seeds"


def markdown(report: Report, folder: Path, page: Path) -> str:
    """A Markdown row for each part of a claim: the statement, the verdict and its numbers, the scale.

    page: the Markdown file it goes into, from which the results in `folder` are linked.
    """
    folder = Path(os.path.relpath(folder, page.parent))
    lines = ["| claim | in question | verdict | what was found | scale |", "|---|---|---|---|---|"]
    for label, result in report.results.items():
        name = f"[{_plain(result['title'])}]({folder.as_posix()}/{label}.json)"
        for number, part in enumerate(result["parts"]):
            cells = [name if number == 0 else "", _plain(part["part"]), f"**{part['word']}**", _plain(part["reason"])]
            lines.append(f"| {' | '.join([*cells, scale(result) if number == 0 else ''])} |")
    for claim in report.missing.values():
        lines.append(
            f"| {_plain(claim['title'])} | {_plain(claim['statement'])} | {NOT_RUN} | `{claim['command']}` | |"
        )
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else, in one cell."""
    for mark in "\\|<*_`[":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def updated(text: str, table: str, path: str) -> str:
    """A Markdown text whose part between the two markers is this table.

    Raises:
        BadInput: the markers are not there, or not once each and in this order.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise BadInput(f"readme={path} must have one {START} and, after it, one {END}: the table goes between them")
    before, rest = text.split(START)
    return f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}"


def _main(values: dict, overrides: list[str]) -> None:
    from conf.schema import validate
    from experiments.report.html import render

    asked = validate(Asked, values)
    folder = Path(asked.results)
    report = gather(folder)
    readme = Path(asked.readme or "README.md")
    table, page = markdown(report, folder, readme), folder / "report.html"
    page.write_text(render(report), encoding="utf-8")
    print(f"{table}\n\nPage: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    if asked.readme is not None:
        if not readme.is_file():
            raise BadInput(f"readme={readme}: there is no such file")
        readme.write_text(updated(readme.read_text(encoding="utf-8"), table, asked.readme), encoding="utf-8")
        print(f"Table: {readme}")


def main() -> None:
    """The command line."""
    command_line("report", _main)


if __name__ == "__main__":
    main()
