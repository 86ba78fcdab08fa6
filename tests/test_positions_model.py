"""Positions inside the model: documents kept apart, weights shared between schemes, refusals in one sentence."""

import pytest
import torch

import models.gpt
from conf.base import BadInput
from models.gpt import GPT, Shape, isolate_documents
from models.positions import EXTENSIONS, SCHEMES, Geometry, build_position
from models.positions.extensions import length_of
from models.positions.frequencies import Geometric
from tests.cases import VOCABULARY, WINDOW, Case, discover, tokens

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = discover()
SEPARATOR = 0
FIRST, SECOND = [SEPARATOR, 5, 6, 7, 8], [SEPARATOR, 9, 3, 11]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_document_does_not_hear_of_the_one_before_it(case):
    """To the bit: with documents isolated, changing one leaves the next one's logits where they were."""
    model = case.model()
    model.separator = SEPARATOR
    before, after = model(torch.tensor([FIRST + SECOND])), model(torch.tensor([[SEPARATOR, 1, 2, 1, 2, *SECOND]]))
    assert torch.equal(before[:, len(FIRST) :], after[:, len(FIRST) :])
    assert not torch.equal(before[:, 1 : len(FIRST)], after[:, 1 : len(FIRST)])


def test_that_test_sees_positions_that_restart_without_a_mask(monkeypatch):
    """Restarting positions alone does not keep documents apart, though it has been taken to."""

    def restarts_only(tokens, separator):
        mask, positions = isolate_documents(tokens, separator)
        return torch.ones_like(mask).tril(), positions

    monkeypatch.setattr(models.gpt, "isolate_documents", restarts_only)
    with pytest.raises(AssertionError):
        test_a_document_does_not_hear_of_the_one_before_it(Case("rope"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_isolated_document_reads_as_if_it_were_alone(case):
    model = case.model()
    model.separator = SEPARATOR
    together, alone = model(torch.tensor([FIRST + SECOND])), model(torch.tensor([SECOND]))
    torch.testing.assert_close(together[:, len(FIRST) :], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "pairs"), [("rope", 8), ("sinusoidal", 16)])
def test_short_factors_are_for_each_document_that_fits_the_window(name, pairs):
    """And for none beside it; the long factors are for those beyond the window alone."""
    factors = {"long": [4.0 + i for i in range(pairs)], "short": [1.0 + i / 4 for i in range(pairs)], "n_hat": 2}
    model = Case(name).model(extend="longrope", factor=4.0, **factors).double()
    short, long = (torch.tensor([[SEPARATOR, *(5 + i % 17 for i in range(n - 1))]]) for n in (12, 40))
    expected = torch.cat((model(short), model(long)), dim=1)
    model.separator = SEPARATOR
    together = model(torch.cat((short, long), dim=1))
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)


def test_the_length_of_a_text_begins_anew_where_positions_fall():
    rows = torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 2, 5, 9, 11, 12, 30]]).float()
    assert length_of(rows)[..., 0].tolist() == [[3, 3, 3, 2, 2, 1, 1], [31] * 7]
    assert length_of(torch.arange(4.0))[:, 0].tolist() == [4] * 4


def test_positions_count_from_the_separator_and_the_mask_stops_there():
    mask, positions = isolate_documents(torch.tensor([[4, 4, *FIRST, *SECOND[:2]]]), SEPARATOR)
    assert positions.tolist() == [[0, 1, 0, 1, 2, 3, 4, 0, 1]]
    documents = [0, 0, 1, 1, 1, 1, 1, 2, 2]
    for t, own_result in enumerate(documents):
        assert mask[0, 0, t].tolist() == [other == own_result and s <= t for s, other in enumerate(documents)]


def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
    position = Case(name).position()
    model = GPT(Shape(name="tiny", layers=2, heads=2, width=32), VOCABULARY, position, seed=seed)
    return {key: value for key, value in model.named_parameters() if not key.startswith("position.")}


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_start_from_the_same_bits_in_all_they_share(name):
    shared, other = weights("none", seed=3), weights(name, seed=3)
    assert shared.keys() == other.keys()
    for key, value in shared.items():
        assert torch.equal(value, other[key]), key


def test_another_seed_gives_other_weights():
    one, two = weights("rope", seed=3), weights("rope", seed=4)
    assert all(not torch.equal(one[key], two[key]) for key in one if one[key].dim() > 1)


def build(name: str, extend: str = "none", spectrum=None, **knobs):
    case = Case(name)
    extension = EXTENSIONS[extend].Knobs(**knobs)
    return build_position(
        case.position().knobs, spectrum or Geometric(), extension, Geometry(width=32, heads=2, layers=2, window=WINDOW)
    )


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_refuses_in_one_sentence_what_it_cannot_do(name):
    for extend, extension in EXTENSIONS.items():
        knobs = {"factor": 2.0} if "factor" in extension.Knobs.model_fields else {}
        changes = extension(extension.Knobs(**knobs), WINDOW).changes
        if changes is None or changes in SCHEMES[name].stretches:
            assert build(name, extend, **knobs).extension.knobs.name == extend
            continue
        with pytest.raises(BadInput) as refusal:
            build(name, extend, **knobs)
        sentence = str(refusal.value)
        assert extend in sentence and name in sentence and "\n" not in sentence


@pytest.mark.parametrize("name", SCHEMES)
def test_only_a_scheme_with_frequencies_takes_another_spectrum(name):
    if "frequencies" in SCHEMES[name].stretches:
        build(name, spectrum=Geometric(base=500.0))
        return
    with pytest.raises(BadInput, match=f"position={name}") as refusal:
        build(name, spectrum=Geometric(base=500.0))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [n for n in SCHEMES if "frequencies" in SCHEMES[n].stretches])
def test_another_base_is_another_encoding(name):
    text = tokens(WINDOW)
    assert not torch.equal(Case(name).model()(text), Case(name).model(spectrum=Geometric(base=100.0))(text))
