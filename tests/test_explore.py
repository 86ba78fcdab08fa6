"""The explorable page: its numbers are the lab's, it draws at a phone's and a desk's width, knobs work by keyboard."""

import itertools
import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from experiments.explore.measured import _studies, measured
from experiments.explore.page import render
from models.positions import EXTENSIONS, SPECTRA
from models.positions.base import Geometry
from models.positions.diagnostics import kernel
from models.positions.embed import Binary, Sinusoidal
from models.positions.extensions import Extension
from models.positions.frequencies import phases
from tests.browser import MISSING, open_page
from tests.runs import ROOT

pytestmark = pytest.mark.slow  # a browser is started

RESULTS = ROOT / "experiments" / "results"
PAGE = RESULTS / "explore.html"
SECTIONS = ("clocks", "table", "shift", "rope", "seen", "stretch", "results")
browser = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def test_the_page_is_current_small_and_whole():
    """After new results, or a change of the page: make explore."""
    page = render(measured(RESULTS))
    assert PAGE.read_text(encoding="utf-8") == page
    assert len(page.encode()) < 1.5e6 and "/*" not in page.split("</style>")[1].split("<script")[0]
    assert all(f'<section id="{name}"' in page for name in SECTIONS)


def test_an_imported_model_is_named_by_the_text_it_read_and_not_by_tokens_it_never_saw():
    entries = measured(RESULTS)["studies"]
    studies = {study["title"]: study["note"] for study in entries}
    assert len(studies) == len(entries), "two studies of one title"
    assert ", 16,384,000 in all;" in studies["rope, nano on sotu, windows of 256: 4 methods"]
    assert "in all" not in studies["rope, smollm2 on books, windows of 8192: 13 methods"]


def test_of_several_seeds_the_first_is_drawn_and_named():
    results = json.loads((RESULTS / "demo-cpu" / "summary.json").read_text(encoding="utf-8"))
    alone = _studies(results)
    results["readings"] += [reading | {"seed": 2} for reading in results["readings"]]
    for study, one in zip(_studies(results), alone, strict=True):
        assert study["curves"] == one["curves"]
        assert "One seed:" in one["note"] and "Seed 1 of 2:" in study["note"]


def test_every_formula_has_its_paper_and_every_knob_its_label():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<cite>") >= 6
    for kind in ("input", "select"):
        for part in page.split(f"<{kind} ")[1:]:
            if part.startswith("type") and 'id="' not in part.split(">")[0]:
                continue
            name = part.split('id="')[1].split('"')[0]
            assert f'for="{name}"' in page or "${" in name, name


@pytest.fixture(scope="module")
def page():
    with open_page(PAGE, 1280) as opened:
        yield opened


def spectra() -> list[tuple[dict, torch.Tensor]]:
    """Settings of the page beside the table that the lab makes of them."""
    cases = []
    for channels, base in itertools.product((2, 16, 64, 128, 256), (100.0, 10_000.0, 500_000.0)):
        for family in ("geometric", "cosh", "power", "cosine", "linear", "harmonic"):
            ours = {"base": base} if family in ("geometric", "cosh") else {"slowest": 1 / base}
            ours = {"length": 512} if family == "harmonic" else ours
            settings = {"family": family, "channels": channels, "base": base, "slowest": 1 / base, "length": 512}
            cases.append((settings, SPECTRA[family](**ours).table(channels)))
    return cases


@browser
def test_frequencies_phases_and_kernels_are_the_labs(page):
    cases = spectra()
    theirs = page.evaluate(f"{json.dumps([settings for settings, _ in cases])}.map(lab.frequencies)")
    for (settings, ours), values in zip(cases, theirs, strict=True):
        torch.testing.assert_close(
            torch.tensor(values, dtype=torch.float64), ours, rtol=1e-9, atol=0, msg=str(settings)
        )
    table, positions = cases[12][1], [0, 1, 17, 1000, 131_071]
    listed = json.dumps(table.tolist())
    turned = page.evaluate(f"{positions}.map(p => {listed}.map(w => lab.phase(p, w)))")
    place = torch.tensor(positions, dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(turned, dtype=torch.float64), phases(place, table), rtol=1e-9, atol=0)
    scores = page.evaluate(f"{positions}.map(r => lab.kernel({listed}, r))")
    torch.testing.assert_close(torch.tensor(scores, dtype=torch.float64), kernel(table, place), rtol=1e-9, atol=1e-9)


@browser
def test_rows_of_the_table_and_bits_are_the_labs(page):
    positions = torch.tensor([0, 1, 5, 40, 127, 1023], dtype=torch.float64)
    geometry = Geometry(64, 1, 1, 128)
    spectrum, plain = SPECTRA["geometric"](), Extension(Extension.Knobs(), 128)
    ours = Sinusoidal(Sinusoidal.Knobs(), geometry, spectrum, plain).prepare(positions)
    theirs = page.evaluate(
        f"{positions.int().tolist()}.map(p => lab.row(p, lab.frequencies({{channels: 64, base: 1e4}})))"
    )
    torch.testing.assert_close(torch.tensor(theirs, dtype=torch.float64), ours, rtol=1e-9, atol=1e-9)
    bits = Binary(Binary.Knobs(bits=11), geometry, spectrum, plain).prepare(positions)[:, :11]
    theirs = page.evaluate(f"{positions.int().tolist()}.map(p => lab.bits(p, 11))")
    assert torch.equal(torch.tensor(theirs, dtype=torch.float64), bits)


def extension(name: str, factor: float, window: int, long: list[float]):
    kind = EXTENSIONS[name]
    settings = {} if name == "none" else {"factor": factor}
    return kind(kind.Knobs(**settings, **({"long": long} if name == "longrope" else {})), window)


@browser
def test_factors_temperatures_and_scores_are_the_labs(page):
    grid = list(itertools.product((32, 256, 4096, 32768), (1.0, 2.0, 8.0, 2**0.5 * 4), (32, 128), (1e4, 1e6)))
    for name, (window, factor, width, base) in itertools.product(EXTENSIONS, grid):
        if name not in ("none", "interpolate", "ntk", "yarn", "llama3", "longrope"):
            continue
        table = SPECTRA["geometric"](base=base).table(width)
        long = [1 + 0.3 * k for k in range(width // 2)]
        ours = extension(name, factor, window, long)
        changed = ours.phases(torch.ones(1, dtype=torch.float64), table)[0] if name == "longrope" else None
        changed = ours.frequencies(table, torch.ones(1, 1)) if changed is None else changed
        changed = changed / factor if name == "interpolate" else changed
        settings = json.dumps({"L": window, "s": factor, "long": long})
        call = f"lab.frequencies({{channels: {width}, base: {base}}}), {settings}"
        theirs = page.evaluate(f"[lab.extended('{name}', {call}), lab.factors('{name}', {call})]")
        theirs = torch.tensor(theirs, dtype=torch.float64)
        torch.testing.assert_close(theirs[0], changed, rtol=1e-9, atol=0)
        torch.testing.assert_close(theirs[1], table / changed, rtol=1e-9, atol=0)
        assert page.evaluate(f"lab.temperature('{name}', {settings})") == pytest.approx(ours.temperature, rel=1e-9)
        if name == "longrope":  # a temperature that was found with the factors
            assert page.evaluate(f"lab.temperature('longrope', {{...{settings}, t: 0.7}})") == 0.7
        distances = [0, 1, 7, 300]
        scores = page.evaluate(f"lab.scores('{name}', {call}, 5000, {distances}).map(([, score]) => score)")
        expected = kernel(changed, torch.tensor(distances, dtype=torch.float64)) / ours.temperature
        torch.testing.assert_close(torch.tensor(scores, dtype=torch.float64), expected, rtol=1e-9, atol=1e-9)


@browser
def test_self_extends_groups_and_distances_are_the_labs(page):
    for window, factor in itertools.product((16, 256, 4096), (1, 2, 8, 32)):
        ours = extension("self_extend", factor, window, [])
        settings = json.dumps({"L": window, "s": factor})
        theirs = page.evaluate(f"lab.groups({settings})")
        assert theirs["group"] == ours.group
        last = factor * window - 1
        moved = ours.moved(torch.arange(last + 1, dtype=torch.float64))
        for distance in {0, 1, window // 4, window // 2, last // 2, last}:
            seen = page.evaluate(f"lab.distance('self_extend', {last}, {distance}, {settings})")
            near = not moved or distance < moved[0].first
            assert seen == (distance if near else int(moved[0].queries[last] - moved[0].keys[last - distance])), (
                window,
                factor,
                distance,
            )
            assert seen < window


@browser
def test_an_angle_is_new_beyond_the_arc_that_was_turned(page):
    assert page.evaluate("[0.9, 1, 1.1].map(turn => lab.seen(0.01, turn, 100))") == [True, True, False]
    assert page.evaluate("lab.seen(0.01, 2 * Math.PI + 0.5, 100)"), "the same angle, a turn later"
    assert page.evaluate(f"lab.seen({2 * math.pi / 100}, 12345.6, 100)"), "a whole turn leaves nothing new"


@browser
@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_every_section_draws_asks_for_nothing_and_passes_axe(width, dark):
    axe = Path(find_spec("axe_core_python").origin).with_name("axe.min.js").read_text()
    with open_page(PAGE, width, dark) as page:
        assert not page.complaints
        assert all(address.startswith(("file:", "data:")) for address in page.requests) and page.requests
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for section in SECTIONS:
            inside = (
                f"[...document.querySelectorAll('#{section} svg')].filter(each => each.closest('[hidden]') === null)"
            )
            assert page.evaluate(f"{inside}.length && {inside}.every(svg => svg.children.length > 3)"), section
            texts = f"{inside}.flatMap(svg => [...svg.querySelectorAll('text')].map(t => t.textContent)).join()"
            assert "NaN" not in page.evaluate(texts) and "undefined" not in page.evaluate(texts)
        colours = (
            "[...document.querySelectorAll('canvas')].map(c => new Set(new Uint32Array(c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data.buffer)).size)"
        )
        assert sum(count > 1 for count in page.evaluate(colours)) >= 6
        page.evaluate(f"eval({json.dumps(axe)})")
        rules = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'best-practice']}"
        faults = page.wait(f"axe.run({rules}).then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html))")
        assert not faults


@browser
def test_knobs_work_by_keyboard_and_change_the_picture(page):
    knobs = page.evaluate("[...document.querySelectorAll('input[type=range]')].map(each => each.id)")
    assert len(knobs) >= 15
    for knob in knobs:
        figure = f"document.getElementById('{knob}').closest('section').querySelectorAll('svg, figcaption, p.small')"
        look = f"[...{figure}].map(each => each.innerHTML).join()"
        before = page.evaluate(look)
        page.press(knob, "LEFT")
        assert page.evaluate(look) != before, knob
    page.press("clock-play", "SPACE")
    assert page.evaluate("document.getElementById('clock-play').getAttribute('aria-pressed')") == "true"
    page.press("clock-play", "SPACE")


# Milliseconds of script in each of the frames that follow as many moves of a knob.
REDRAWS = """async (id, count) => {
    const knob = document.getElementById(id), frame = requestAnimationFrame, spent = [], first = knob.value;
    window.requestAnimationFrame = (run) => frame((now) => {
        const start = performance.now();
        run(now);
        spent.push(performance.now() - start);
    });
    for (let i = 0; i < count; i += 1) {
        knob.stepDown();
        knob.dispatchEvent(new Event("input", {bubbles: true}));
        await new Promise((done) => frame(() => frame(done)));
    }
    window.requestAnimationFrame = frame;
    knob.value = first;
    knob.dispatchEvent(new Event("input", {bubbles: true}));
    return spent;
}"""


@browser
def test_what_moves_moves_at_sixty_frames(page):
    """No redraw is slow; the goal, 8 ms of script in a frame, is for a quiet machine to tell."""
    for knob in ("clock-position", "shift-by", "rope-query"):
        spent = page.wait(f"({REDRAWS})('{knob}', 15)")
        assert min(spent) < 50, (knob, spent)
