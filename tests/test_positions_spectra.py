"""Spectra against their formulas, and what their diagnostics say against numbers worked out independently."""

import math

import numpy as np
import pytest
import torch

from conf.base import BadInput
from models.positions import SCHEMES, SPECTRA
from models.positions.diagnostics import alias, kernel, participation_rank
from models.positions.frequencies import (
    Cosh,
    Cosine,
    File,
    Gaussian,
    Geometric,
    Harmonic,
    Linear,
    LogUniform,
    Power,
    SingleTone,
    TwoTone,
)
from tests.cases import WIDTH, Case, leaves
from train import compose

pytestmark = pytest.mark.usefixtures("one_thread")

K = 32  # pairs of 64 channels
INDEX = np.arange(K)
U, SHARE = INDEX / K, INDEX / (K - 1)
TWINS = {
    "geometric": (Geometric(), 10_000.0**-U),
    "geometric to an end": (Geometric(slowest=0.01), 0.01**SHARE),
    "linear": (Linear(slowest=0.01), 1 - 0.99 * SHARE),
    "power": (Power(), 1 / (1 + INDEX) ** 2),
    "power to an end": (Power(slowest=0.01), (1 + 9 * SHARE) ** -2.0),
    "cosine": (Cosine(slowest=0.01), 0.01 + 0.99 * np.cos(np.pi * SHARE / 2) ** 2),
    "cosh": (Cosh(), 10_000.0 ** -(1 - np.arcsinh((1 - U) * np.sinh(2)) / 2)),
    "harmonic": (Harmonic(length=256), 2 * np.pi * (K - INDEX) / 512),
    "two tones": (TwoTone(slowest=0.01), np.where(INDEX < K // 2, 1, 0.01)),
    "one tone": (SingleTone(), np.full(K, 0.1)),
}


@pytest.mark.parametrize("name", TWINS)
def test_spectrum_is_its_formula(name):
    spectrum, expected = TWINS[name]
    table = spectrum.table(2 * K)
    assert table.dtype == torch.float64
    np.testing.assert_allclose(table, expected, rtol=1e-12)


def test_every_spectrum_is_looked_at():
    looked_at = {type(spectrum) for spectrum, _ in TWINS.values()} | {Gaussian, LogUniform, File}
    assert looked_at == set(SPECTRA.values())


@pytest.mark.parametrize("kind", [Gaussian, LogUniform])
def test_random_spectra_are_sorted_functions_of_their_seed(kind):
    table = kind(seed=3).table(2 * K)
    assert torch.equal(table, kind(seed=3).table(2 * K))
    assert not torch.equal(table, kind(seed=4).table(2 * K))
    assert (table.diff() <= 0).all() and (table > 0).all()


def test_random_spectra_have_the_distributions_they_name():
    many = 20_000
    logs = LogUniform(fastest=1.0, slowest=1e-4).table(2 * many).log() / math.log(1e-4)
    np.testing.assert_allclose(logs, np.arange(many) / many, atol=0.02)
    offsets = torch.arange(12)
    bell = torch.exp(-((0.3 * offsets.double()) ** 2) / 2)
    np.testing.assert_allclose(kernel(Gaussian(scale=0.3).table(2 * many), offsets), bell, atol=0.02)


def test_a_spectrum_can_be_listed_in_a_file(tmp_path):
    listed = [1.0, 0.5, 0.01]
    (tmp_path / "a.yaml").write_text("[1.0, 0.5, 0.01]")
    (tmp_path / "b.txt").write_text("1.0 0.5\n0.01\n")
    for name in ("a.yaml", "b.txt"):
        assert File(path=str(tmp_path / name)).table(6).tolist() == listed
    with pytest.raises(BadInput, match="lists 3 frequencies"):
        File(path=str(tmp_path / "a.yaml")).table(8)
    for text, fault in (("1.0 zero", "must hold"), ("1.0 -0.5", "positive"), ("1.0 .nan", "positive|must hold")):
        (tmp_path / "c.txt").write_text(text)
        with pytest.raises(ValueError, match=fault):
            File(path=str(tmp_path / "c.txt"))
    with pytest.raises(ValueError, match="cannot be read"):
        File(path=str(tmp_path / "missing"))


# 64 channels, 256 positions; computed in float64 before this code was written.
BASES = {  # base: 1 - g(1), pairs longer than the window, pairs that hardly move, participation rank
    1e1: (0.110, 0, 0, 44.5),
    1e2: (0.060, 6, 0, 22.3),
    1e3: (0.042, 14, 0, 7.8),
    1e4: (0.034, 19, 4, 4.0),
    1e5: (0.029, 21, 10, 2.8),
    1e6: (0.026, 23, 13, 2.3),
}
SPACINGS = {  # participation rank, 1 - g(1), largest g on [16, 256), on [256, 1024)
    "linear": (Linear(slowest=1 / 256), 56, 0.161, 0.90, 0.73),
    "geometric to 1/window": (Geometric(slowest=1 / 256), 13.7, 0.050, 0.39, 0.22),
    "geometric": (Geometric(), 4.0, 0.034, 0.63, 0.44),
    "power": (Power(), 2.1, 0.016, 0.88, 0.47),
    "harmonic": (Harmonic(length=256), 32.9, 0.027, 0.11, 1.00),
}


def drop_of(table: torch.Tensor) -> float:
    """1 - g(1): how well neighbours are told apart."""
    return 1 - kernel(table, torch.ones(1)).item()


@pytest.mark.parametrize("base", BASES)
def test_diagnostics_of_bases(base):
    drop, longer, still, rank = BASES[base]
    table = Geometric(base=base).table(64)
    assert drop_of(table) == pytest.approx(drop, abs=6e-4)
    assert ((table * 256 < 2 * math.pi).sum(), (table * 256 < 0.1).sum()) == (longer, still)
    assert participation_rank(table, 256) == pytest.approx(rank, abs=0.06)


@pytest.mark.parametrize("name", SPACINGS)
def test_diagnostics_of_spacings(name):
    spectrum, rank, drop, inside, beyond = SPACINGS[name]
    table = spectrum.table(64)
    assert participation_rank(table, 256) == pytest.approx(rank, abs=0.1)
    assert drop_of(table) == pytest.approx(drop, abs=6e-4)
    assert (alias(table, 16, 256), alias(table, 256, 1024)) == pytest.approx((inside, beyond), abs=6e-3)


@pytest.mark.parametrize(("channels", "turning"), [(64, [9, 11, 13, 16, 18]), (32, [5, 6, 7, 8, 9])])
def test_the_window_says_how_many_pairs_complete_a_turn(channels, turning):
    table = Geometric().table(channels)
    assert [(table * window >= 2 * math.pi).sum() for window in (64, 128, 256, 512, 1024)] == turning


def test_the_kernel_is_the_score_of_an_encoding_with_itself():
    position = Case("sinusoidal").position()
    encodings = position.prepare(torch.arange(40, dtype=torch.float64))
    g = kernel(Geometric().table(WIDTH), torch.arange(40))
    np.testing.assert_allclose(encodings @ encodings[0] / (WIDTH / 2), g, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in SCHEMES if "frequencies" in SCHEMES[name].stretches])
def test_a_scheme_turns_at_the_spectrum_it_is_given(name):
    window = 64  # long enough for something to turn in it
    positions = torch.arange(5.0)
    one, two = (Case(name).position(spectrum=s, window=window).prepare(positions) for s in (Geometric(), Linear()))
    flat = [torch.cat([x.flatten() for x in leaves(prepared)]) for prepared in (one, two)]
    assert not torch.equal(*flat)


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 10)}]\n" for before, after in zip("abcdefg", "bcdefgh", strict=True)
)
UNREADABLE = {
    "aliases that stand for gigabytes": (BOMB + "long: *h\n", "is no plain YAML"),
    "lists without end": ("[" * 60_000, "is no plain YAML"),
    "a long file": ("1.0 " * 40_000, "is longer than 131,072 bytes"),
    "an object": ("long: !!python/object/apply:os.system [exit]\n", "is no plain YAML"),
    "no text": ("\x00\x01", "is no plain YAML"),
    "a number beyond any": (f"[{'9' * 400}]", "must"),
}


@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("kind", ["frequencies=file frequencies", "extend=longrope extend"])
def test_a_file_that_is_no_short_list_is_refused_at_once(tmp_path, kind, what):
    content, sentence = UNREADABLE[what]
    (tmp_path / "f.yaml").write_text(content)
    group, key = kind.split()
    with pytest.raises(BadInput) as refusal:
        compose([group, f"{key}.path={tmp_path / 'f.yaml'}", "logger=none"])
    assert sentence in str(refusal.value) and len(str(refusal.value)) < 400 and "\n" not in str(refusal.value)


@pytest.mark.parametrize("path", ["/dev/zero", "/tmp", "/no/such.yaml"])
@pytest.mark.parametrize("kind", ["frequencies=file frequencies", "extend=longrope extend"])
def test_what_is_no_file_is_not_read(kind, path):
    group, key = kind.split()
    with pytest.raises(BadInput, match=f"path={path} (is not a file|cannot be read)"):
        compose([group, f"{key}.path={path}", "logger=none"])
