"""The figures: every one is drawn, and what it draws is what the schemes are known to do."""

import math
import re

import pytest
import torch

from conf.base import BadInput
from conf.compose import compose_values
from conf.overrides import FOLDER, choices
from conf.validation import validate
from experiments.extend.figures import study_figures
from experiments.figures import decay as decays
from experiments.figures.__main__ import run_command as program
from experiments.figures.distance import added_scores, curves, scores
from experiments.figures.gallery import FIGURES, page
from experiments.figures.rotary import rotated
from experiments.figures.schemes import default_scheme, make_scheme, scheme_names
from experiments.figures.settings import Gallery
from experiments.figures.sinusoid import codes, encoding, fitted_errors, shift_errors, shift_matrix, step_lengths
from experiments.figures.spectra import spacings
from experiments.lab.canvas import pyplot
from models.positions.bias import alibi_slopes
from models.positions.diagnostics import kernel
from models.positions.frequencies import phases
from tests.runs import CACHE, ROOT, run_program, tiny
from train import compose, train

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTH = 48


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    words = tiny(folder, "name=base", "model.qk_norm=true")
    checkpoint = str(train(compose(words), words).checkpoint)
    return Gallery(only=None, folder=str(folder / "figures"), checkpoint=checkpoint, runs=str(folder), cache=str(CACHE))


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_says_what_it_shows(name, gallery):
    drawing = FIGURES[name](gallery)
    panels = [panel for panel in drawing.figure.axes if panel.get_label() != "<colorbar>"]
    for panel in panels:
        assert panel.lines or panel.images or panel.patches, "an empty panel"
        for curve in panel.lines:
            assert all(math.isfinite(float(y)) for y in curve.get_ydata())
    pyplot().close(drawing.figure)
    assert drawing.title and not re.search(r"\bnan\b", drawing.text)


def test_the_committed_page_shows_every_figure_as_it_was_drawn():
    folder = ROOT / "experiments" / "gallery"
    assert (folder / "README.md").read_text() == page(folder)
    for name in FIGURES:
        assert f"]({name}.png)" in page(folder)
        for suffix in ("png", "svg"):
            assert 10_000 < (folder / f"{name}.{suffix}").stat().st_size < 400_000


def one(name, **knobs):
    return make_scheme(name, width=16, heads=4, **knobs).double()


Q, K = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EVEN = torch.arange(LENGTH, dtype=torch.float64)


def test_distance_alibi_falls_by_its_slopes():
    (result,) = curves(one("alibi"), Q, K, LENGTH)
    slopes = torch.tensor(alibi_slopes(4), dtype=torch.float64)
    torch.testing.assert_close(result, (Q @ K) / 2 - slopes[:, None] * EVEN)


def test_distance_rope_is_the_mean_cosine_for_constant_q_and_k():
    position, ones = make_scheme("rope", width=32).double(), torch.ones(1, 1, 32, dtype=torch.float64)
    expected = kernel(position.frequencies("cpu"), EVEN)
    torch.testing.assert_close(scores(position, 0, ones, ones, LENGTH)[0, 0], expected * 32**0.5)
    torch.testing.assert_close(decays.cosines(position, 0, 3 * ones, ones, LENGTH)[0, 0], expected)


def test_distance_counts_from_the_query_to_keys_before_it():
    """One pair that is far from symmetric: the score of q at i with k at j is q·k turned by -(i - j)."""
    position = make_scheme("rope", width=2).double()
    q, k = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    result = scores(position, 0, q.view(1, 1, 2), k.view(1, 1, 2), LENGTH)[0, 0]
    torch.testing.assert_close(result, EVEN.sin() * 2**-0.5)


def test_distance_without_positions_is_flat():
    result = curves(one("none"), Q, K, LENGTH)
    assert result.shape == (1, 1, LENGTH)
    torch.testing.assert_close(result, ((Q @ K) / 2).expand(1, 1, LENGTH))


def test_distance_what_is_added_to_the_embeddings_scores_by_itself():
    position = make_scheme("sinusoidal", width=32)
    expected = kernel(position.spectrum.table(32), EVEN) * 16 * 32**-0.5
    torch.testing.assert_close(added_scores(position, LENGTH)[0, 0], expected)


def test_distance_the_temperature_divides_scores_and_no_bias():
    position = one("alibi")
    position.extension.temperature = 2.0
    slopes = torch.tensor(alibi_slopes(4), dtype=torch.float64)
    torch.testing.assert_close(curves(position, Q, K, LENGTH)[0], (Q @ K) / 4 - slopes[:, None] * EVEN)


@pytest.mark.slow
def test_distance_every_scheme_is_found_and_none_but_nope_is_flat():
    assert sorted(scheme_names()) == choices("position")
    for name in scheme_names():
        position = default_scheme(name)
        q = torch.randn(position.geometry.head_width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        result = curves(position, q, q, LENGTH)
        assert (result[0].std(dim=-1) > 1e-3).all() == (name != "none")
    mixed = curves(default_scheme("mixture"), q, q, LENGTH)
    assert len(mixed) == 4 and mixed[0].std() > 0.1 and mixed[-1].std() < 1e-9  # its last layer has no positions


def test_the_shift_matrix_moves_every_position_alike():
    position = make_scheme("sinusoidal", 32)
    for offset in (1, 7):
        assert shift_errors(position, offset, 500).max() < 1e-12
        matrix = shift_matrix(position, offset)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(32, dtype=torch.float64))
        torch.testing.assert_close(matrix @ shift_matrix(position, 5), shift_matrix(position, 5 + offset))
    torch.testing.assert_close(shift_matrix(position, 0), torch.eye(32, dtype=torch.float64))
    assert 1e-6 < shift_errors(position, 1, 500, torch.float32).max() < 1e-3


def test_no_matrix_shifts_the_bits_but_one_shifts_the_sinusoid():
    assert fitted_errors(make_scheme("binary", 32), 1, 500, 10).max() > 0.5
    assert fitted_errors(make_scheme("sinusoidal", 8), 1, 500, 8).max() < 1e-6


def test_a_step_of_the_sinusoid_is_as_long_everywhere_and_of_the_bits_is_not():
    lengths = step_lengths(encoding(make_scheme("binary", 32, bits=3), 0, 8)[:, :3])
    torch.testing.assert_close((lengths**2 / 4).round(), torch.tensor([1, 2, 1, 3, 1, 2, 1.0]).double())
    steps = step_lengths(encoding(make_scheme("sinusoidal", 32), 0, 100))
    torch.testing.assert_close(steps, steps[:1].expand(99))


def test_a_query_turns_pair_by_pair_by_its_frequencies():
    position = make_scheme("rope", 8)
    path = rotated(position, torch.arange(1, 9, dtype=torch.float64), LENGTH)
    assert path.shape == (LENGTH, 4, 2) and path[0, 1].tolist() == [2, 6]
    angle = torch.atan2(path[..., 1], path[..., 0])
    expected = angle[0] + phases(EVEN, position.frequencies("cpu"))
    torch.testing.assert_close((angle - expected).cos(), torch.ones(LENGTH, 4, dtype=torch.float64))
    torch.testing.assert_close(path.norm(dim=-1), path[:1].norm(dim=-1).expand(LENGTH, 4))


def test_spacings_are_all_that_need_no_file_and_share_their_slowest_frequency():
    result = spacings()
    assert set(result) == {path.stem for path in (FOLDER / "frequencies").glob("*.yaml")} - {"file"}
    for name in ("geometric", "linear", "power", "cosine", "cosh"):
        table = result[name].table(16)
        torch.testing.assert_close(table[[0, -1]], torch.tensor([1, 1e-4], dtype=torch.float64))


def test_the_bound_of_roformer_starts_at_its_mean_count_and_holds():
    frequencies = make_scheme("rope", 32).frequencies("cpu")
    assert decays.decay_bound(frequencies, torch.zeros(1)).item() == pytest.approx((16 + 1) / 2)
    h = torch.randn(16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)  # q k*, here real
    jump = torch.cat((h, torch.zeros(1))).diff().abs().max()
    score = (torch.cat([h, h]) * torch.cat([phases(EVEN, frequencies).cos()] * 2, dim=-1)).sum(-1) / 2
    assert (score.abs() / 16 <= jump * decays.decay_bound(frequencies, EVEN) + 1e-9).all()


def test_trained_queries_and_keys_are_those_the_second_door_gets(gallery):
    model = decays.trained(gallery, count=10)
    assert len(model.pairs) == 2 and model.window == 32
    for q, k in model.pairs:
        assert q.shape == k.shape == (10, 2, 16)
        torch.testing.assert_close(q.norm(dim=-1), torch.full((10, 2), 4.0).double(), rtol=1e-3, atol=1e-3)  # QK-norm
    result = decays.decay_curves(model, LENGTH)
    assert result.constant.shape == (LENGTH,) and result.trained.shape == (2, 10, 2, LENGTH)
    assert (result.gaussian.mean(0).abs() < 0.1).all() and result.trained.abs().max() <= 1 + 1e-9


def test_the_decay_curve_is_drawn_of_a_model_of_states(gallery):
    chains = ["data=chains", "data.length=256", "data.documents={train: 8, validation: 8, test: 8}"]
    words = [word for word in tiny(gallery.runs, "name=chains", "steps=1") if not word.startswith("data.")] + chains
    states = train(compose(words), words).folder
    model = decays.trained(gallery.model_copy(update={"checkpoint": str(states)}), count=4)
    assert "128 tokens at window 32" in model.description


def test_the_decay_curve_is_about_rope(gallery):
    words = tiny(gallery.runs, "name=other", "position=alibi", "steps=1", "checkpoint_every=1", "validate_every=1")
    other = train(compose(words), words).folder
    with pytest.raises(BadInput, match="position=alibi"):
        decays.trained(gallery.model_copy(update={"checkpoint": str(other)}))


@pytest.mark.slow
def test_the_command_draws_what_is_asked_and_refuses_the_rest(tmp_path, capsys):
    folder = tmp_path / "new" / "figures"
    program(compose_values("figures", ["only=codes", f"folder={folder}"]), [])
    assert "[1/1]" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"README.md", "codes.png", "codes.svg"}
    assert (folder / "README.md").read_text() == page(folder) and page(folder).count("![") == 1
    assert f"{codes(None).text} ([codes.svg]" in page(folder)
    with pytest.raises(BadInput, match="cannot be made"):
        program(compose_values("figures", ["only=codes", f"folder={folder}/README.md"]), [])
    status, _, err = run_program("only=[nothing]", f"folder={folder}", module="experiments.figures")
    assert status == 1 and err.count("\n") == 1 and "nothing" in err and all(name in err for name in FIGURES)


def test_the_figure_of_the_study_keeps_its_label_clear_of_the_curves(tmp_path, monkeypatch):
    """Drawn from made-up readings; the label of the trained window stands above the axes."""
    import matplotlib.pyplot as plt

    from experiments.extend.arms import Study
    from experiments.extend.findings import Findings, Measured, Reading

    options = compose_values("extend_study", ["study.positions=[rope]", "study.extends=[none]", "study.factors=[2]"])
    study = validate(Study, options["study"] | {"finetune_steps": [1]})
    rows = [{"context": context, "perplexity": 3.0 + context} for context in (16, 32, 64)]
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    arms = (("none", 1, 0), ("none", 2, 1), ("control", 1, 1))
    study_figures(tmp_path, Findings(32, study, [Reading("rope", *arm, [Measured(1, rows)]) for arm in arms], []))
    (label,) = [text for text in drawn[0].axes[0].texts if text.get_text() == "trained window"]
    axes = drawn[0].axes[0]
    assert label.get_window_extent().y0 >= axes.get_window_extent().y1
    assert not label.get_window_extent().overlaps(axes.title.get_window_extent())
    assert (tmp_path / "figure.png").is_file() and (tmp_path / "figure.svg").is_file()
