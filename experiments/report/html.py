"""The page of all claims: one HTML file with style and figures inside, for screens, paper and screen readers."""

import re
from html import escape
from pathlib import Path

from experiments.report.gather import NOT_RUN, Report
from experiments.reproduce import blocks, cell, describe_gate, size

STYLE = Path(__file__).with_name("report.css")
BADGES = {
    "reproduced": ("yes", "✓"),
    "not reproduced": ("no", "✗"),
    "inconclusive": ("open", "?"),
    NOT_RUN: ("none", "–"),
}
NARROW_COLUMNS = 7  # columns of a table that fit beside the paper's numbers
# A browser may load nothing from outside the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(report: Report) -> str:
    """The whole page; the same results give the same bytes."""
    sections = [_conclusions(report.conclusions), _summary(report)]
    sections += [_claim(label, result, report.figures.get(label)) for label, result in report.results.items()]
    sections += [_missing(report.missing)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>Claims about positions, put to the test</title>
<link rel="icon" href="data:,">
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<a class="skip" href="#summary">Skip to the summary</a>
<header id="top">
<h1>Claims about positions, put to the test</h1>
<p>What papers say of how a transformer should know where its tokens are, held to rules that were written before the
runs. Each claim ends as {_badge("reproduced")}, {_badge("not reproduced")} or {_badge("inconclusive")} at the scale
that is given with it.</p>
</header>
<main>
{"".join(sections)}</main>
<footer><p>Made by <code>python -m experiments.report</code> from the JSON files beside this page, which hold every
number in full. Intervals are 95 %; comparisons are paired over seeds and documents.</p></footer>
</body>
</html>
"""


def _badge(word: str) -> str:
    kind, mark = BADGES.get(word, BADGES["inconclusive"])
    return f'<span class="badge {kind}"><span aria-hidden="true">{mark} </span>{escape(word)}</span>'


def _scroll_box(table: str, name: str) -> str:
    """Wrap a wide element in a box that scrolls, also by keyboard, so that the page does not."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">{table}</div>'


def _summary(report: Report) -> str:
    """The summary: whether each scale uses its window, and all claims with their parts, linked to their sections."""
    groups = []
    for label, result in report.results.items():
        rows = [(part["part"], part["word"]) for part in result["parts"]]
        groups.append(_group(label, result["title"], size(result.get("scale")), rows))
    for name, claim in report.missing.items():
        groups.append(_group(_missing_anchor(name), claim["title"], "", [(claim["statement"], NOT_RUN)]))
    gates = "".join(
        f"<p><strong>{escape(scale)}</strong>: {escape(text)}</p>\n" for scale, text in report.gates.items()
    )
    return f"""<nav id="summary" aria-labelledby="summary-title">
<h2 id="summary-title">Summary</h2>
{gates}<table class="summary">
<thead><tr><th scope="col">In question</th><th scope="col">Verdict</th></tr></thead>
{"".join(groups)}</table>
</nav>
"""


def _group(anchor: str, title: str, under: str, rows: list[tuple[str, str]]) -> str:
    small = f" <small>{escape(under)}</small>" if under else ""
    head = f'<tr><th scope="rowgroup" colspan="2"><a href="#{escape(anchor)}">{escape(title)}</a>{small}</th></tr>\n'
    body = "".join(f"<tr><td>{escape(part)}</td><td>{_badge(word)}</td></tr>\n" for part, word in rows)
    return f"<tbody>\n{head}{body}</tbody>\n"


def _claim(label: str, result: dict, figure: str | None) -> str:
    """The section of a claim: statement, verdicts, figure, our numbers beside the paper's, and the command."""
    name = escape(label)
    title = result["title"] + (f", scale {result['scale']['name']}" if result.get("scale") else "")
    parts = "".join(
        f"<li><p>{_badge(part['word'])} <strong>{escape(part['part'])}</strong></p>"
        f"<p>{escape(part['reason'])}</p></li>\n"
        for part in result["parts"]
    )
    gate = f"<p>{escape(describe_gate(result['gate']))}</p>\n" if result.get("gate") else ""
    changed = f"\n<p>Changed before these runs: {escape(result['rewritten'])}</p>" if result.get("rewritten") else ""
    paper = "".join(f"<li>{escape(number)}</li>" for number in result["paper"].split("; "))
    tables = blocks(result["rows"])
    beside = "beside wide" if max(len(block[0]) for block in tables) > NARROW_COLUMNS else "beside"
    numbers = "".join(_table(block, title) for block in tables)
    return f"""<article id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{escape(title)} {_badge(result["verdict"])}</h2>
<blockquote><p>{escape(result["statement"])}</p><footer>{escape(result["source"])}</footer></blockquote>
<h3>What came of it</h3>
{gate}<ul class="parts">
{parts}</ul>
{_figure(figure, title)}<div class="{beside}">
<section><h3>Our numbers</h3>
{numbers}</section>
<aside><h3>In the paper</h3><ul>{paper}</ul></aside>
</div>
<h3>The rule, written before</h3>
<p>{escape(result["rule"])}</p>{changed}
<h3>What would settle it</h3>
<p>{escape(result["settle"])}</p>
<h3>To have it again</h3>
{_provenance(result)}<p class="up"><a href="#top">Back to the top</a></p>
</article>
"""


def _figure(uri: str | None, title: str) -> str:
    if uri is None:
        return ""
    alternative = escape(f"Figure: {title}. The numbers are in the tables that follow.")
    image = f'<img src="{uri}" alt="{alternative}">'
    return f"<figure>{_scroll_box(image, f'Figure of {title}')}</figure>\n"


def _table(rows: list[dict], title: str) -> str:
    """A table of rows with the same columns, numbers right- and words left-aligned; the first column names the row."""
    words = {column for column in rows[0] if all(isinstance(row[column], str | None) for row in rows)}

    def table_cell(name: str, column: str, text: str, scope: str = "") -> str:
        kind = ' class="words"' if column in words else ""
        return f"<{name}{scope}{kind}>{escape(text)}</{name}>"

    head = "".join(table_cell("th", column, column, ' scope="col"') for column in rows[0])
    body = ""
    for row in rows:
        (first, value), *rest = row.items()
        cells = [table_cell("th", first, cell(value), ' scope="row"')]
        cells += [table_cell("td", column, cell(value)) for column, value in rest]
        body += f"<tr>{''.join(cells)}</tr>\n"
    by = f"by {next(iter(rows[0]))}"
    parts = f"<caption><span>{escape(by)}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>"
    return _scroll_box(f"<table>\n{parts}</table>", f"{title}, {by}") + "\n"


def _provenance(result: dict) -> str:
    """The origin of the numbers: command, scale, device, date, commit and versions."""
    commit, scale = result.get("commit"), result.get("scale")
    facts = {
        "Scale": size(scale) + (f"; a verdict takes {scale['seeds_needed']}" if scale else ""),
        "Device": ", ".join(filter(None, (result.get("device"), result.get("precision")))),
        "Date": result.get("date"),
        "Commit": commit and commit[:12] + (", with changes" if result.get("changed") else ""),
        "Versions": ", ".join(f"{name} {version}" for name, version in result.get("versions", {}).items() if version),
    }
    entries = "".join(f"<div><dt>{name}</dt><dd>{escape(fact)}</dd></div>\n" for name, fact in facts.items() if fact)
    return f"{_command(result['command'])}\n<dl>\n{entries}</dl>\n"


def _command(words: str) -> str:
    return _scroll_box(f"<pre><code>{escape(words)}</code></pre>", "Command")


def _missing(missing: dict[str, dict[str, str]]) -> str:
    """The claims without results, with the commands that run them."""
    if not missing:
        return ""
    articles = "".join(
        f'<article id="{_missing_anchor(name)}"><h3>{escape(claim["title"])} {_badge(NOT_RUN)}</h3>\n'
        f"<p>{escape(claim['statement'])}</p>\n{_command(claim['command'])}</article>\n"
        for name, claim in missing.items()
    )
    return f'<section aria-labelledby="not-run">\n<h2 id="not-run">Not run</h2>\n{articles}</section>\n'


def _missing_anchor(name: str) -> str:
    """The anchor of a claim without results, which no label has."""
    return f"{name}.not-run"


def _conclusions(text: str | None) -> str:
    if text is None:
        return ""
    return (
        '<section id="conclusions" aria-labelledby="conclusions-title">\n<h2 id="conclusions-title">Conclusions</h2>\n'
        f"{prose(text)}</section>\n"
    )


def prose(text: str) -> str:
    """Convert the Markdown of the conclusions to HTML: headings, paragraphs, lists of dashes, and in them **strong**,
    *emphasis*, `code` and [links](https://…). Everything else stays text.
    """
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if heading := re.fullmatch(r"(#+) (.+)", block):
            # The page has its own title, so the file's is left out.
            parts.append("" if len(heading[1]) == 1 else f"<h3>{_inline(heading[2])}</h3>\n")
        elif block.startswith("- "):
            items = re.split(r"\n- ", block.removeprefix("- "))
            parts.append(f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>\n")
        else:
            parts.append(f"<p>{_inline(block)}</p>\n")
    return "".join(parts)


def _inline(text: str) -> str:
    """Convert the marks within a line; text in backquotes stays as it is."""
    parts = []
    for number, piece in enumerate(re.split(r"`([^`]+)`", escape(" ".join(text.split())))):
        if number % 2:
            parts.append(f"<code>{piece}</code>")
            continue
        piece = re.sub(r"\[([^\]]+)\]\(((?:https?://|#|\.\./)[^)\s]+)\)", r'<a href="\2">\1</a>', piece)
        piece = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", piece)
        parts.append(re.sub(r"\*(?! )([^*]+)(?<! )\*", r"<em>\1</em>", piece))
    return "".join(parts)
