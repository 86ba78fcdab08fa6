"""Extensions: every one is held to every law on RoPE, and to the identities that tie it to the others."""

import inspect
import math
import re

import pytest
import torch

from conf.base import BadInput
from models.positions import EXTENSIONS, SCHEMES, SPECTRA, Geometry, build_position
from models.positions.frequencies import Geometric
from models.positions.rotate import RoPE
from tests.cases import WINDOW, Case, readings, tokens
from tests.lawbook import moved
from tests.laws import APPLIES, LAWS, MARKS
from tests.runs import tiny
from train import compose

pytestmark = pytest.mark.usefixtures("one_thread")

READ = [Case("rope", read=reading) for reading in readings()]
# Laws that read a scheme in one way; the others compare readings by themselves.
ONE_READING = [name for name, law in LAWS.items() if not re.search(r"extensions\(|extend=", inspect.getsource(law))]
FAR = torch.arange(4 * WINDOW, dtype=torch.float64)


def label(case: Case) -> str:
    return EXTENSIONS[case.read[0]].Knobs(**case.read[1]).label


def rope(extend: str = "none", width: int = 32, window: int = 128, spectrum=None, **knobs):
    """RoPE with one head of so many channels."""
    settings = SCHEMES["rope"].Knobs(), spectrum or Geometric(), EXTENSIONS[extend].Knobs(**knobs)
    return build_position(*settings, Geometry(width=width, heads=1, layers=1, window=window))


def turned(position, length: int = 2) -> torch.Tensor:
    """What every pair turns by from one token to the next in a text of some length, (K,) in float64."""
    positions = position.extension.positions(torch.tensor([1.0, length - 1], dtype=torch.float64))
    return position.phase(positions)[0]


def test_every_extension_has_one_settings_file_and_every_file_an_extension():
    assert {name for name, _ in readings()} == set(EXTENSIONS)
    assert len(ONE_READING) > 12


@pytest.mark.parametrize(
    ("case", "law"),
    [
        pytest.param(case, law, id=f"{label(case)}-{law}", marks=MARKS.get(law, ()))
        for case in READ
        for law in ONE_READING
        if APPLIES[law](case)
    ],
)
def test_rope_obeys_every_law_however_it_is_read(case, law):
    if law not in EXTENSIONS[case.read[0]].exempt:
        LAWS[law](case)
    else:
        with pytest.raises(AssertionError):
            LAWS[law](case)


@pytest.mark.parametrize("case", READ, ids=label)
def test_exemptions_name_laws_and_outlive_no_reason(case):
    extension = EXTENSIONS[case.read[0]]
    assert set(extension.exempt) <= set(LAWS)
    if "factor_one_changes_nothing" in extension.exempt:
        assert not torch.equal(turned(rope(case.read[0], **case.read[1] | {"factor": 1.0})), turned(rope()))


K = 16
S = 8.0
NTK = [S ** (i / (K - 1)) for i in range(K)]  # s^(2i/(d-2)), d = 2K


@pytest.mark.parametrize(
    ("longrope", "other"),
    [
        ({"long": [1.0] * K}, ("none", {})),
        ({"long": [S] * K}, ("interpolate", {"factor": S})),
        ({"long": NTK}, ("ntk", {"factor": S})),
        ({}, ("ntk", {"factor": S})),
        ({"long": NTK, "n_hat": 4 * WINDOW}, ("none", {})),
        ({"long": NTK, "n_hat": 0}, ("ntk", {"factor": S})),
        ({"long": NTK, "short": [1.0] * K}, ("ntk", {"factor": S})),  # FAR is longer than the window
    ],
)
def test_longrope_holds_the_others_as_special_cases(longrope, other):
    ours = rope("longrope", window=WINDOW, factor=S, **longrope)
    theirs = rope(other[0], window=WINDOW, **other[1])
    a, b = (position.phase(position.extension.positions(FAR)) for position in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_longrope_leaves_the_first_tokens_where_they_were_and_falls_back_after_them():
    position = rope("longrope", factor=S, long=[S] * K, n_hat=64)
    phase = position.phase(torch.arange(66.0, dtype=torch.float64))[:, 0]  # of one radian per token
    assert phase[[63, 64, 65]].tolist() == [63, 8, 65 / 8]
    assert not position.relative and rope("longrope", factor=S, long=[S] * K).relative
    case = Case("rope", read=("longrope", {"factor": 3.0, "n_hat": 5}))
    LAWS["shift_invariant"](case)  # which for a scheme that is not relative demands that something moves
    LAWS["prefix_consistent"](case)


def test_longrope_switches_beyond_the_window_and_not_at_it():
    position = rope("longrope", window=WINDOW, factor=S, long=[S] * K, short=[2.0] * K)
    plain = turned(rope())
    for length, factor in ((2, 2), (WINDOW, 2), (WINDOW + 1, S), (4 * WINDOW, S)):
        assert torch.equal(turned(position, length), plain / factor)
    assert position.extension.depends_on_length and not position.relative
    case = Case("rope", read=("longrope", {"factor": 3.0, "long": [3.0] * 8, "short": [2.0] * 8}))
    model, text = case.model(), tokens(2 * WINDOW)
    moved(model(text)[:, :WINDOW], model(text[:, :WINDOW]))
    assert torch.equal(model(text[:, :WINDOW]), case.model()(text[:, :WINDOW]))  # nothing is remembered


def test_longrope_factors_go_by_the_speed_of_a_pair_not_by_its_place(tmp_path):
    (tmp_path / "list.yaml").write_text("[0.01, 1.0]")
    spectrum = SPECTRA["file"](path=str(tmp_path / "list.yaml"))
    assert turned(rope("longrope", width=4, spectrum=spectrum, factor=2.0, long=[1.0, 5.0])).tolist() == [0.002, 1.0]


@pytest.mark.parametrize("window", [128, 4096])
@pytest.mark.parametrize("ramp", ["rotations", "index"])
def test_yarn_keeps_the_fastest_pair_and_divides_the_slowest(window, ramp):
    betas = {} if ramp == "rotations" or window == 4096 else {"beta_fast": window / (8 * math.pi)}
    ratio = turned(rope(window=window)) / turned(rope("yarn", window=window, factor=S, ramp=ramp, **betas))
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(S, rel=1e-12)
    assert (ratio.diff() >= 0).all() and ((ratio > 1) & (ratio < S)).any()


def test_yarn_as_published_would_keep_nothing_in_a_small_window():
    """32 turns are more than any pair makes in 128 tokens: the unset beta_fast is another."""
    ratio = turned(rope()) / turned(rope("yarn", factor=S, beta_fast=32.0))
    assert ratio.min() > 1.4
    saved = turned(rope()) / turned(rope("yarn", factor=S)) == 1
    assert saved.sum() >= 2


@pytest.mark.parametrize(("width", "window", "factor", "gap"), [(128, 4096, 16.0, 3.0), (64, 256, 8.0, 2.2)])
def test_the_two_ramps_of_yarn_differ_by_as_much_as_is_known(width, window, factor, gap):
    one, two = (
        turned(rope("yarn", width, window, factor=factor, ramp=ramp, beta_fast=32.0)) for ramp in ("rotations", "index")
    )
    assert torch.maximum(one / two, two / one).max().item() == pytest.approx(gap, abs=0.06)


def new_base(position, width: int) -> float:
    """The base of a geometric series of frequencies."""
    frequencies = turned(position)
    return (frequencies[0] / frequencies[1]).item() ** (width / 2)


def test_the_new_bases_of_ntk_are_the_known_ones():
    classic = new_base(rope("ntk", 64, factor=8.0), 64)
    critical = new_base(rope("ntk", 64, factor=8.0, form="critical"), 64)
    assert classic == pytest.approx(10_000 * 8 ** (64 / 62), rel=1e-9)
    assert critical == pytest.approx(5.75e6, rel=2e-3)
    assert new_base(rope("base", 64, theta=500_000.0), 64) == pytest.approx(500_000, rel=1e-9)
    once = Geometric(base=(128 / (2 * math.pi)) ** 4)  # of which pair 8 of 32 turns once in 128 tokens
    ratio = turned(rope(width=64, spectrum=once)) / turned(rope("ntk", 64, spectrum=once, factor=8.0, form="critical"))
    assert ratio[8].item() == pytest.approx(8, rel=1e-9)


def test_the_mixed_radix_forms_of_ntk_divide_the_slowest_pair_by_the_factor_and_the_fastest_too():
    plain = turned(rope(width=64))
    fixed, mixed = (plain / turned(rope("ntk", 64, factor=8.0, form=form)) for form in ("fixed", "mixed"))
    torch.testing.assert_close(fixed.log2(), 3 * torch.arange(1, 33).double() / 32, rtol=1e-9, atol=0)  # even steps
    assert mixed[[0, 31]].tolist() == pytest.approx([8 ** (32**-0.625), 8], rel=1e-9)
    assert (mixed[:-1] > fixed[:-1]).all() and (mixed.log().diff().diff() < 0).all()


def test_dynamic_ntk_is_ntk_by_what_is_needed():
    for length in (2, 128, 129, 512):
        needed = max(1, length / 128)
        paper, theirs = (
            turned(rope("dynamic_ntk", factor=4.0, variant=variant), length) for variant in ("paper", "transformers")
        )
        assert torch.allclose(paper, turned(rope("ntk", factor=needed)), rtol=1e-12)
        assert torch.allclose(theirs, turned(rope("ntk", factor=4 * needed - 3)), rtol=1e-12)  # 13 at four windows


@pytest.mark.parametrize("case", [case for case in READ if "ntk" in case.read[0]], ids=label)
def test_nothing_is_remembered_from_one_text_to_the_next(case):
    model, fresh, short = case.model(), case.model(), tokens(WINDOW // 2)
    model(tokens(4 * WINDOW))
    assert torch.equal(model(short), fresh(short))


@pytest.mark.parametrize("variant", ["paper", "transformers"])
def test_every_row_of_a_batch_has_its_own_length(variant):
    model = Case("rope", read=("dynamic_ntk", {"factor": 3.0, "variant": variant})).model()
    rows, text = torch.stack((torch.arange(12), 3 * torch.arange(12), 9 * torch.arange(12))), tokens(12, batch=3)
    together = model(text, rows)
    for row in range(3):
        torch.testing.assert_close(together[row], model(text[row : row + 1], rows[row])[0], rtol=1e-5, atol=1e-5)


def test_resonance_alone_has_one_name_whatever_its_factor():
    """Its factor changes nothing, so that two names would be two arms of one reading."""
    two, eight = (rope("resonance", over="none", factor=factor) for factor in (2.0, 8.0))
    assert torch.equal(*(position.frequencies("cpu") for position in (two, eight)))
    assert {position.extension.knobs.label for position in (two, eight)} == {"resonance-none"}


def test_resonance_turns_whole_tokens_into_whole_turns():
    position = rope("resonance", factor=S)
    wavelengths = 2 * math.pi / turned(position)
    torch.testing.assert_close(wavelengths, wavelengths.round(), rtol=1e-12, atol=0)
    over = 2 * math.pi / turned(rope("yarn", factor=S))
    assert (wavelengths - over).abs().max() <= 0.5
    assert position.extension.temperature == rope("yarn", factor=S).extension.temperature
    assert wavelengths[0].item() == pytest.approx(6)


@pytest.mark.parametrize("case", [Case("rope"), Case("rope", {"fraction": 0.5}), Case("p_rope"), Case("learned_rope")])
def test_drop_is_no_position_at_all(case):
    text = tokens(3 * WINDOW)
    assert torch.equal(case.model(extend="drop")(text), Case("none").model()(text))


@pytest.mark.parametrize("extend", ["ntk", "dynamic_ntk", "yarn", "llama3", "longrope", "base", "self_extend", "dca"])
def test_learned_frequencies_learn_through_an_extension(extend):
    factor = {"factor": 3.0} if "factor" in EXTENSIONS[extend].Knobs.model_fields else {}
    LAWS["every_parameter_learns"](Case("learned_rope", read=(extend, factor)))


def spectra(tmp_path):
    (tmp_path / "list.yaml").write_text(str([0.01, 1.0, 0.3, 0.3, 0.001, 0.05, 0.5, 0.002]))  # in no order
    return [kind(path=str(tmp_path / "list.yaml")) if name == "file" else kind() for name, kind in SPECTRA.items()]


@pytest.mark.parametrize("case", READ, ids=label)
def test_an_extension_reads_any_spectrum_or_says_why_not(tmp_path, case):
    (extend, knobs), positions = case.read, torch.arange(3.0 * 128, dtype=torch.float64)
    for spectrum in spectra(tmp_path):
        geometric_only = label(case) in ("base500000", "yarn3-index") and spectrum.name != "geometric"
        needs_two = ("ntk" in label(case) or "longrope" in label(case)) and spectrum.name == "single_tone"
        if geometric_only or needs_two:
            with pytest.raises(BadInput, match=f"extend={extend if extend != 'switch' else 'longrope'}") as refusal:
                rope(extend, 16, spectrum=spectrum, **knobs)
            assert "\n" not in str(refusal.value)
            continue
        position = rope(extend, 16, spectrum=spectrum, **knobs)
        plain, phase = rope(width=16, spectrum=spectrum).phase(positions), position.phase(positions)
        assert phase.isfinite().all() and phase.dtype == torch.float64
        if extend not in ("base", "resonance", "drop"):
            assert (phase <= plain * (1 + 1e-12)).all()  # nothing turns faster
        if extend in ("ntk", "dynamic_ntk", "longrope") and knobs.get("form") not in ("fixed", "mixed"):
            fastest = spectrum.table(16).argmax()
            torch.testing.assert_close(phase[:, fastest], plain[:, fastest], rtol=1e-12, atol=0)


def test_temperatures_are_the_published_ones_unless_set():
    for factor, sharper in {1.0: 1.0, 2.0: 1.0693, 4.0: 1.1386, 8.0: 1.2079, 16.0: 1.2773, 32.0: 1.3466}.items():
        assert rope("yarn", factor=factor).extension.temperature ** -0.5 == pytest.approx(sharper, abs=5e-5)
    for window, sharper in {4096: 1.118, 64: 1.225}.items():
        extension = rope("longrope", window=window, factor=8.0).extension
        assert extension.temperature**-0.5 == pytest.approx(sharper, abs=5e-4)
    names = (
        "none",
        "interpolate",
        "ntk",
        "dynamic_ntk",
        "llama3",
        "base",
        "self_extend",
        "rerope",
        "leaky_rerope",
        "dca",
    )
    for name in (*names, "drop"):
        knobs = {"factor": 8.0} if "factor" in EXTENSIONS[name].Knobs.model_fields else {}
        assert rope(name, **knobs).extension.temperature == 1
    for name, kind in EXTENSIONS.items():
        if "temperature" in kind.Knobs.model_fields:
            knobs = {"factor": 8.0} if "factor" in kind.Knobs.model_fields else {}
            assert rope(name, temperature=0.7, **knobs).extension.temperature == 0.7


class Sloped(RoPE):
    """RoPE with a bias beside it, which no scheme of the table has."""

    def bias(self, q, k, prepared, first=0):
        rows = torch.arange(first, first + q.shape[-2])[:, None]
        return 0.1 * (torch.arange(k.shape[-2]) - rows).float().expand(q.shape[1], -1, -1)


def test_scores_beside_a_bias_are_divided_in_chunks_too():
    LAWS["chunks_are_the_whole"](Case("rope", scheme=Sloped, read=("yarn", {"factor": 8.0})))


SENTENCES = {
    ("extend=yarn", "extend.factor=0.5"): "extend.factor=0.5",
    ("extend=yarn", "extend.beta_fast=1"): "beta_fast=1 must be above beta_slow=1",
    ("extend=yarn", "extend.truncate=false"): "truncate=false changes nothing with ramp=rotations",
    ("frequencies.base=500", "frequencies.slowest=0.01"): "base=500 changes nothing beside slowest=0.01",
    ("extend=yarn", "extend.temperature=0"): "extend.temperature=0",
    ("extend=yarn", "extend.ramp=steps"): "extend.ramp='steps'",
    ("extend=yarn", "+extend.banana=1"): "extend.banana=1 is not a setting",
    ("extend=yarn", "extend.ramp=index", "frequencies=linear"): "frequencies=geometric",
    ("extend=base", "+extend.banana=1"): "extend.banana=1 is not a setting",
    ("extend=base", "extend.theta=1"): "extend.theta=1",
    ("extend=base", "frequencies=harmonic"): "frequencies=geometric",
    ("extend=ntk", "frequencies=single_tone"): "two different frequencies",
    ("extend=ntk", "extend.form=critical", "window=6"): "more than once in 6 tokens",
    ("extend=llama3", "extend.high_freq_factor=1"): "high_freq_factor=1 must be above low_freq_factor=1",
    ("extend=longrope", "extend.long=[1,2]"): "extend.long lists 2 factors for 8 pairs",
    ("extend=longrope", "extend.short=[1,2]"): "extend.short lists 2 factors for 8 pairs",
    ("extend=longrope", "extend.long=[1,-2]"): "extend.long.1=-2",
    ("extend=longrope", "extend.path=nowhere.yaml"): "path=nowhere.yaml cannot be read",
    ("extend=longrope", "extend.n_hat=-1"): "extend.n_hat=-1",
    ("extend=longrope", "window=1"): "extend.temperature",
    ("extend=self_extend", "extend.near=32"): "extend.near=32 must be below the window of 32",
    ("extend=rerope", "window=1"): "extend.near=1 must be below the window of 1",
    ("extend=leaky_rerope", "extend.near=32"): "extend.near=32 must be below the window of 32",
    ("extend=dca", "extend.chunk=32"): "extend.chunk=32 must be below the window of 32",
    ("extend=dca", "position=alibi"): "extend=dca changes plain rotation",
    ("extend=ntk", "extend.form=mixed", "frequencies=single_tone"): "two different frequencies",
    ("extend=yarn", "position=alibi"): "extend=yarn changes frequencies, and position=alibi has no frequencies",
    ("extend=drop", "position=learned"): "extend=drop changes plain rotation",
    ("extend=drop", "position=none"): "extend=drop",
    ("extend=self_extend", "position=pope"): "extend=self_extend",
    ("extend=rerope", "position=xpos"): "extend=rerope",
}


@pytest.mark.parametrize("overrides", SENTENCES, ids=" ".join)
def test_what_cannot_be_is_one_sentence(tmp_path, overrides):
    with pytest.raises(BadInput) as refusal:
        compose(tiny(tmp_path, *overrides))
    assert SENTENCES[overrides] in str(refusal.value) and "\n" not in str(refusal.value)


def test_found_factors_come_from_a_file_and_travel_with_the_settings(tmp_path):
    result = tmp_path / "found.yaml"
    result.write_text("long: [1, 1, 2, 2, 3, 3, 4, 4.5]\nn_hat: 2\nfactor: 4\nhistory: [{best: 3.2}]\n")
    config = compose(tiny(tmp_path, "extend=longrope", f"extend.path={result}", "name=x"))
    assert config.extend.long == (1, 1, 2, 2, 3, 3, 4, 4.5) and config.extend.n_hat == 2
    assert config.extend.label == "longrope4-n2"
    values = config.extend.model_dump(mode="json")
    assert EXTENSIONS["longrope"].Knobs(path=str(result)) == config.extend  # the file knows its factor
    result.unlink()
    assert EXTENSIONS["longrope"].Knobs.model_validate(values) == config.extend
    for text, fault in (
        ("[1, 2]", "mapping"),
        ("a: [", "no plain YAML"),
        ("long: 3", "mapping"),
        ("long: [1]\nfactor: 9", "9"),
    ):
        result.write_text(text)
        with pytest.raises(BadInput, match=fault):
            compose(tiny(tmp_path, "extend=longrope", f"extend.path={result}"))


def test_labels_tell_readings_apart():
    labels = [label(case) for case in READ]
    assert len(set(labels)) == len(labels)
    assert label(Case("rope", read=("yarn", {"factor": 8.0}))) == "yarn8"
    assert label(Case("rope", read=("longrope", {"factor": 8.0, "short": (1.0,), "n_hat": 4}))) == "longrope8-n4-switch"


def test_a_factor_is_all_a_study_needs_to_name_a_method():
    for name, extension in EXTENSIONS.items():
        if "factor" in extension.Knobs.model_fields:
            config = extension.Knobs.model_validate({"name": name, "factor": 4.0})
            assert rope(name, **config.model_dump(exclude={"name"})).extension.knobs == config
