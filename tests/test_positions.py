"""What is particular to the sinusoid and to rotations: golden values, the shift matrix, layouts, partial rotation."""

import math

import numpy as np
import pytest
import torch

from models.positions.pairs import rotate_pairs
from models.positions.rotate import interleaved_to_half_split
from tests.cases import HEADS, WIDTH, Case, vectors

pytestmark = pytest.mark.usefixtures("one_thread")

D = WIDTH // HEADS


def encoding(positions, channels: int = WIDTH) -> torch.Tensor:
    """The sinusoid at real positions, (T, C) in float64."""
    assert channels == WIDTH
    return Case("sinusoidal").position().prepare(torch.as_tensor(positions, dtype=torch.float64))


def shift_matrix(shift: float) -> np.ndarray:
    """M_φ with PE(p + φ) = M_φ PE(p), (C, C): one rotation of each (sine, cosine) pair, written without p."""
    matrix = np.zeros((WIDTH, WIDTH))
    for i in range(WIDTH // 2):
        angle = shift / 10_000 ** (2 * i / WIDTH)
        c, s = math.cos(angle), math.sin(angle)
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[c, s], [-s, c]]
    return matrix


def test_sinusoid_has_its_golden_values():
    table = encoding([0, 1, 100])
    assert table[0].tolist() == [0.0, 1.0] * (WIDTH // 2)
    # sin and cos of 1, of 10000^(-1/16) and of 10000^(-15/16), by an independent calculator.
    golden = {0: 0.8414709848, 1: 0.5403023059, 2: 0.5331684399, 3: 0.8460091103, 30: 0.0001778279, 31: 0.9999999842}
    for channel, value in golden.items():
        assert table[1, channel].item() == pytest.approx(value, abs=1e-9)
    assert table[2, 16].item() == pytest.approx(math.sin(1.0), abs=1e-12)  # channel 16 turns at 1/100


def test_sine_and_cosine_alternate_by_channel_not_by_position():
    """A known wrong reading picks sine for even positions and cosine for odd ones."""
    table = encoding([0, 1, 2, 3])
    assert (table[:, 0::2] ** 2 + table[:, 1::2] ** 2 - 1).abs().max() < 1e-12
    assert (table[0, 0::2] == 0).all()
    assert torch.equal(table[:, 0], torch.arange(4, dtype=torch.float64).sin())


@pytest.mark.parametrize("shift", [0, 1, 2.5, 64, -7])
def test_shifting_a_sinusoid_is_one_rotation_whatever_the_position(shift):
    positions = torch.arange(0, 512, dtype=torch.float64)
    before, after = encoding(positions).numpy(), encoding(positions + shift).numpy()
    np.testing.assert_allclose(before @ shift_matrix(shift).T, after, atol=1e-11)
    fitted = np.linalg.lstsq(before[::2], after[::2], rcond=None)[0]  # one matrix is enough, without the formula
    np.testing.assert_allclose(before @ fitted, after, atol=1e-6)


def test_shift_matrices_are_a_group_of_rotations():
    a, b = 3, 11.5
    np.testing.assert_allclose(shift_matrix(a) @ shift_matrix(b), shift_matrix(a + b), atol=1e-14)
    np.testing.assert_array_equal(shift_matrix(0), np.eye(WIDTH))
    np.testing.assert_allclose(shift_matrix(a) @ shift_matrix(a).T, np.eye(WIDTH), atol=1e-15)
    assert np.linalg.det(shift_matrix(a)) == pytest.approx(1)


def test_sinusoid_is_added_once_to_the_embeddings():
    position = Case("sinusoidal").position()
    prepared = position.prepare(torch.arange(5.0))
    x = vectors(1, 5, WIDTH, dtype=torch.float32)
    assert torch.equal(position.embed(x, prepared), x + prepared)
    assert position.rotate(x, x, prepared) == (x, x)
    assert position.bias(x, x, prepared) is None


def rotated(x: torch.Tensor, fraction: float = 1.0) -> torch.Tensor:
    position = Case("rope", {"fraction": fraction}).position()
    return position.rotate(x, x, position.prepare(torch.arange(x.shape[-2], dtype=torch.float64)))[0]


def interleaved(x: np.ndarray) -> np.ndarray:
    """RoFormer's own layout, in complex numbers: channels (2i, 2i+1) of position p times e^(i·p·θ_i). x (…, T, D)."""
    numbers = x[..., 0::2] + 1j * x[..., 1::2]
    frequencies = 10_000.0 ** (-2 * np.arange(D // 2) / D)
    numbers = numbers * np.exp(1j * np.arange(x.shape[-2])[:, None] * frequencies)
    return np.stack((numbers.real, numbers.imag), axis=-1).reshape(x.shape)


def test_half_split_rotation_is_the_interleaved_one_up_to_a_fixed_permutation():
    x, order = vectors(1, HEADS, 9, D), interleaved_to_half_split(D)
    np.testing.assert_allclose(rotated(x[..., order]), interleaved(x.numpy())[..., order], atol=1e-12)
    back = order.argsort()
    np.testing.assert_allclose(rotated(x)[..., back], interleaved(x.numpy()[..., back]), atol=1e-12)


def test_the_permutation_leaves_every_score_as_it_was():
    q, k = vectors(2, 1, HEADS, 9, D)
    order = interleaved_to_half_split(D)
    ours = rotated(q[..., order]) @ rotated(k[..., order]).mT
    np.testing.assert_allclose(ours, interleaved(q.numpy()) @ interleaved(k.numpy()).swapaxes(-1, -2), atol=1e-12)


def test_partial_rotation_leaves_the_rest_of_the_head_untouched():
    x = vectors(1, HEADS, 9, D)
    turned = rotated(x, fraction=0.5)
    assert torch.equal(turned[..., D // 2 :], x[..., D // 2 :])
    assert ((turned - x)[..., 1:, : D // 2].abs() > 0).all()


def rotated_as_written(x, cos, sin):
    """Equation 34 of Su et al. (2021), in the half-split layout, left to autograd."""
    half = cos.shape[-1]
    a, b, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


@pytest.mark.parametrize("rest", [0, 3])
@pytest.mark.parametrize("phases", [(7, 4), (2, 7, 4), (3, 1, 7, 4)])  # of all texts and heads, by head, by text
def test_a_rotation_with_fewer_arrays_is_the_formula_bit_for_bit(rest, phases):
    x = torch.randn(3, 7, 2, 8 + rest).transpose(1, 2).requires_grad_()  # as the projection leaves it
    phase, given = torch.randn(phases), torch.randn(3, 2, 7, 8 + rest)
    cos, sin = phase.cos(), phase.sin()
    ours, formula = rotate_pairs(x, cos, sin), rotated_as_written(x, cos, sin)
    assert torch.equal(ours, formula)
    pair = (torch.autograd.grad(out, x, given)[0] for out in (ours, formula))
    assert torch.equal(*pair)


def test_phases_that_are_learned_get_their_gradient_of_a_rotation():
    x, phase = torch.randn(1, 2, 7, 8), torch.randn(7, 4, requires_grad=True)
    pair = (
        torch.autograd.grad(turned(x, phase.cos(), phase.sin()).pow(3).sum(), phase)[0]
        for turned in (rotate_pairs, rotated_as_written)
    )
    assert torch.equal(*pair)


def test_position_zero_is_not_rotated():
    x = vectors(1, HEADS, 3, D)
    assert torch.equal(rotated(x)[..., 0, :], x[..., 0, :])
