"""What people look at: the page of claims is whole, safe, readable in a real browser, and says the measured numbers."""

import json
import re
from html.parser import HTMLParser

import pytest

from conf.base import BadInput
from conf.compose import compose_values
from experiments.report import page as program
from experiments.report.gather import figure
from experiments.report.html import prose, render
from experiments.reproduce.claims import CLAIMS
from experiments.reproduce.page import cell
from tests.browser import MISSING, open_page
from tests.runs import ROOT

RESULTS = ROOT / "experiments" / "results" / "claims"
VOID = {"meta", "link", "img", "br", "hr"}
RATIO = {"ratio": [0.6309573, 0.622999, 0.641], "p": 0.001, "seeds": 5}
ENDLESS = {"ratio": [1.25, 0.0, None], "p": 1.0, "seeds": 1}
ALONE = {"ratio": [1.5, None, None], "p": 1.0, "seeds": 1}  # which has no interval


class Outline(HTMLParser):
    """A page's elements in order; complains of one that is not closed where it should be."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += f"{data} "

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The result that is there, with its figure, one of a trained claim with awkward words, and conclusions."""
    place = tmp_path_factory.mktemp("results")
    for name in ("bound.json", "bound.png", "bound.svg"):
        (place / name).write_bytes((RESULTS / name).read_bytes())
    result = json.loads((RESULTS / "bound.json").read_text())
    scale = {"name": "nano", "seeds": 5, "seeds_needed": 5, "window": 32, "tokens": 1638400, "model": "4 layers of 128"}
    result |= {
        "claim": "convergence",
        "scale": scale | {"data": "sotu"},
        "date": "2026-11-24",
        "device": "NVIDIA <H100>",
    }
    result |= {
        "title": 'Loss < 1 & "falling"',
        "paper": "<script>alert(1)</script>; a & b",
        "verdict": "not reproduced",
        "rewritten": "32 steps <in all>, not 16",
        "changed": True,
    }
    result["rows"] = [
        {"position": "rope <fast>", "steps": 800, "share": RATIO, "share: p": 0.00012345, "share is": "lower"},
        {"position": "none", "steps": 800, "share": ENDLESS, "share: p": None, "share is": None},
        {"mean k_max": {"value": 57.4, "low": 55.61, "high": 58.78}, "over direct": ALONE},
    ]
    (place / "convergence-nano.json").write_text(json.dumps(result))
    (place / "convergence-nano.svg").write_bytes((RESULTS / "bound.svg").read_bytes())
    (place / "conclusions.md").write_text(
        "# Conclusions\n\nTake **YaRN** & go.\n\n## Surprises\n\n- 1 < 2\n- two\n  lines\n"
    )
    return place


@pytest.fixture(scope="module")
def page(folder):
    return render(program.gather(folder))


def test_the_page_is_well_formed_whole_and_asks_no_server_for_anything(page):
    outline = Outline(page)
    assert dict(outline.elements)["html"] == {"lang": "en"}
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = {link["href"].removeprefix("#") for link in outline.all("a") if link["href"].startswith("#")}
    assert anchors <= set(ids) and {"bound", "convergence-nano", "spacing.not-run"} <= anchors
    labels = {attributes["aria-labelledby"] for _, attributes in outline.elements if "aria-labelledby" in attributes}
    assert labels <= set(ids)
    loads = [a[key] for _, a in outline.elements for key in ("src", "srcset", "data", "poster") if key in a]
    loads += [link["href"] for link in outline.all("link")]
    assert loads and all(item.startswith("data:") for item in loads)
    assert not outline.all("script") and "@import" not in page and not re.search(r"url\((?!['\"]?data:)", page)
    assert len(page) < 2e6


def test_the_page_says_every_number_and_escapes_every_word(page, folder):
    outline = Outline(page)
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text())
        for row in result["rows"]:
            for column, value in row.items():
                assert column in outline.text and cell(value) in outline.text
        for key in ("title", "source", "statement", "rule", "settle", "command"):
            assert result[key] in outline.text, key
        for part in result["parts"]:
            assert part["part"] in outline.text and part["reason"] in outline.text
        assert all(item in outline.text for item in result["paper"].split("; "))
        assert result["commit"][:12] in outline.text
    assert outline.text.count("Changed before these runs: ") == 1
    assert "Changed before these runs: 32 steps <in all>, not 16" in outline.text
    assert outline.text.count(", with changes") == 1
    assert "0.631 [0.623, 0.641]" in outline.text and "1.250 [0.000, inf]" in outline.text
    assert "57.400 [55.610, 58.780]" in outline.text and "1.500 " in outline.text and "1.500 [" not in outline.text
    assert "2026-11-24" in outline.text and "NVIDIA <H100>" in outline.text and "4 layers of 128" in outline.text
    assert "<script>alert" not in page and "rope <fast>" not in page


def test_the_page_can_be_read_without_seeing_it(page):
    outline = Outline(page)
    assert len(outline.all("img")) == 2 and all(image["alt"] for image in outline.all("img"))
    assert {"header", "main", "nav", "footer", "article", "h1"} <= {name for name, _ in outline.elements}
    assert all(head["scope"] in ("col", "row", "rowgroup") for head in outline.all("th"))
    assert all("tabindex" in box and box["aria-label"] for box in outline.all("div") if box.get("role") == "region")
    for word in ("reproduced", "not reproduced", "inconclusive", "not run"):
        assert re.search(rf'<span class="badge \w+"><span aria-hidden="true">. </span>{word}</span>', page)


def test_claims_without_results_stand_there_with_their_command(page, tmp_path):
    waiting = set(CLAIMS) - {"bound", "convergence"}
    assert all(f"experiments.reproduce claim={name}</code>" in page for name in waiting)
    assert "claim=convergence</code>" not in page
    empty = program.gather(tmp_path)
    assert set(empty.missing) == set(CLAIMS) and "Conclusions" not in render(empty)
    assert program.markdown(empty, tmp_path, tmp_path / "R.md").count("| not run |") == len(CLAIMS)


def test_conclusions_are_plain_sentences_with_little_markdown():
    printed = prose(
        "# Twice\n\nTake `a*b*c` **now** & *then*, [there](#bound), 2 * 3 * 4 <b>.\n\n## What\n\n- one\n- two\n  lines"
    )
    assert printed == (
        "\n<p>Take <code>a*b*c</code> <strong>now</strong> &amp; <em>then</em>, "
        '<a href="#bound">there</a>, 2 * 3 * 4 &lt;b&gt;.</p>\n'
        "<h3>What</h3>\n<ul><li>one</li><li>two lines</li></ul>\n"
    ).removeprefix("\n")
    assert prose("[far](../../extend/README.md#all)") == '<p><a href="../../extend/README.md#all">far</a></p>\n'
    assert "javascript" not in re.sub(r"\[.*", "", prose("[x](javascript:alert(1))")) and "<a" not in prose(
        "[x](file:///)"
    )


def test_the_smaller_figure_is_taken(folder):
    png, svg = (figure(folder / name)[:15] for name in ("bound", "convergence-nano"))
    assert (png, svg) == ("data:image/png;", "data:image/svg+")
    assert (folder / "bound.png").stat().st_size < (folder / "bound.svg").stat().st_size


def test_the_table_is_markdown_and_goes_between_its_markers(folder):
    table = program.markdown(program.gather(folder), folder, folder / "R.md")
    gates, others, rows = table.split("\n\n")
    assert all(len(re.split(r"(?<!\\)\|", line)) == 7 for line in rows.splitlines()), "five columns each"
    assert gates == "nano on sotu, windows of 32: Whether it uses its window was not measured."
    assert others.startswith("micro, mini, pico, small: No claim was run"), "all scales but that of tests"
    assert r"0.434 max\|h\|" in table and r"Loss \< 1" in table and "| nano, 5 seeds |" in table
    text = f"before\n{program.START}\nold\n{program.END}\nafter\n"
    new = program.insert_table(text, table, "R.md")
    assert new == f"before\n{program.START}\n{table}\n{program.END}\nafter\n"
    assert program.insert_table(new, table, "R.md") == new
    for broken in ("none", text + program.START, f"{program.END}{program.START}"):
        with pytest.raises(BadInput, match=r"R\.md must have one"):
            program.insert_table(broken, table, "R.md")


def test_what_is_no_result_is_one_sentence(tmp_path):
    (tmp_path / "notes.json").write_text('{"claim": "bound"}')
    with pytest.raises(BadInput, match=r"notes\.json is no result of experiments\.reproduce: it lacks title, source"):
        program.gather(tmp_path)
    (tmp_path / "notes.json").write_text('{"claim": "bou')
    with pytest.raises(BadInput, match="it lacks everything"):
        program.gather(tmp_path)


def test_results_from_when_a_gate_had_its_gain_in_a_part_of_its_own_still_read(tmp_path):
    result = json.loads((RESULTS / "locality-pico.json").read_text())
    (row,) = result["gate"]["arms"]
    row["gain"] = {end: row.pop(end) for end in ("value", "low", "high")}
    (tmp_path / "locality-pico.json").write_text(json.dumps(result))
    found = program.gather(tmp_path)
    assert "from 32 to 64 tokens of context they gain 0.2" in found.gates["pico on chains, windows of 64"]


def test_the_command_writes_page_and_readme(folder, tmp_path, capsys):
    readme = tmp_path / "R.md"
    readme.write_text(f"a\n{program.START}{program.END}\nb\n")
    program.run_command(compose_values("report", [f"results={folder}", f"readme={readme}"]), [])
    out, table = capsys.readouterr().out, program.markdown(program.gather(folder), folder, readme)
    assert table in out and str(folder / "report.html") in out
    assert readme.read_text() == f"a\n{program.START}\n{table}\n{program.END}\nb\n"
    assert (folder / "report.html").read_text() == render(program.gather(folder))
    with pytest.raises(BadInput, match="there is no such file"):
        program.run_command(compose_values("report", [f"results={folder}", f"readme={tmp_path}/none.md"]), [])
    with pytest.raises(BadInput, match="is no folder"):
        program.gather(tmp_path / "nowhere")


def test_page_and_readme_agree_with_the_results():
    """After new results: make report."""
    results = program.gather(RESULTS)
    assert (RESULTS / "report.html").read_text(encoding="utf-8") == render(results)
    page = ROOT / "experiments" / "reproduce" / "README.md"
    text = page.read_text(encoding="utf-8")
    assert program.insert_table(text, program.markdown(results, RESULTS, page), str(page)) == text


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_a_real_browser_shows_it(page, tmp_path, width, dark):
    """Every figure is drawn, nothing is asked of the network, the console is silent, only boxes scroll sideways."""
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    with open_page(file, width, dark) as displayed:
        wide = "i => i.naturalWidth && i.getBoundingClientRect().width > 300"
        assert displayed.evaluate(f"[...document.images].filter({wide}).length") == 2
        assert displayed.evaluate("document.documentElement.scrollWidth") <= displayed.evaluate("innerWidth") == width
        assert displayed.evaluate("(scrollTo(500, 0), scrollX)") == 0
        boxes = "[...document.querySelectorAll('.scroll')]"
        assert displayed.evaluate(f"{boxes}.every(box => box.getBoundingClientRect().right <= innerWidth)")
        assert displayed.evaluate(f"{boxes}.some(box => box.scrollWidth > box.clientWidth)") or width > 1000
        colours = (displayed.evaluate(f"getComputedStyle(document.body).{key}") for key in ("color", "backgroundColor"))
        ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
        assert (ink > paper) == dark and abs(ink - paper) > 400
        radius = displayed.evaluate("getComputedStyle(document.querySelector('.badge')).borderRadius")
        assert radius != "0px", "style is applied"
        assert not displayed.complaints
        assert all(url.startswith(("file:", "data:")) for url in displayed.requests) and len(displayed.requests) >= 3


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_what_a_page_does_wrong_is_seen(tmp_path):
    """The browser reports requests and complaints, so that their absence above means something."""
    file = tmp_path / "page.html"
    file.write_text('<img src="missing.png"><script>console.error("ouch"); throw Error("worse")</script>')
    with open_page(file, 400) as displayed:
        assert any(url.endswith("missing.png") for url in displayed.requests)
        messages = " ".join(entry["message"] for entry in displayed.complaints)
        assert all(word in messages for word in ("missing.png", "ouch", "worse"))
