"""Positions seen in training: sorted, in range, of the distances they promise, and nothing but a draw away."""

import pytest
import torch

from conf.base import BadInput
from models.positions import EXTENSIONS
from models.positions.seen import SEEN, Contiguous, Curriculum, Mixed, Offset, RandomFloats, Randomized, Skipwise

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH, LONGEST, BATCH = 16, 64, 400
SPREAD = [Randomized(longest=LONGEST), Curriculum(longest=LONGEST), Skipwise(longest=LONGEST)]
DRAWN = [*SPREAD, Offset(longest=LONGEST)]  # whole numbers


def draw(settings, seed: int = 0, batch: int = BATCH, done: float = 0.99) -> torch.Tensor:
    return settings.positions(LENGTH, batch, torch.Generator().manual_seed(seed), done)


def test_every_way_is_looked_at():
    assert {Contiguous, Mixed, RandomFloats, *map(type, DRAWN)} == set(SEEN.values())  # mixed: tests/test_mixed.py


@pytest.mark.parametrize("settings", [Contiguous(), Mixed()], ids=lambda s: s.name)
def test_plain_windows_leave_counting_to_the_model(settings):
    assert draw(settings) is None


@pytest.mark.parametrize("settings", DRAWN, ids=lambda s: s.name)
def test_positions_rise_and_stay_in_range(settings):
    positions = draw(settings)
    assert positions.shape == (BATCH, LENGTH)
    assert positions.dtype == torch.float32
    assert (positions.diff() >= 1).all()
    assert (positions == positions.round()).all()
    assert positions.min() >= 0 and positions.max() < LONGEST


@pytest.mark.parametrize("settings", [*DRAWN, RandomFloats(longest=LONGEST)], ids=lambda s: s.name)
def test_positions_do_not_depend_on_torchs_default_type(settings):
    """Which bf16-true changes; rounded to it, several tokens would stand at one place."""
    before = draw(settings)
    try:
        torch.set_default_dtype(torch.bfloat16)
        after = draw(settings)
    finally:
        torch.set_default_dtype(torch.float32)
    assert after.dtype == torch.float32 and torch.equal(before, after)


@pytest.mark.parametrize("settings", DRAWN, ids=lambda s: s.name)
def test_positions_are_a_function_of_the_generator(settings):
    assert torch.equal(draw(settings, seed=1), draw(settings, seed=1))
    assert not torch.equal(draw(settings, seed=1), draw(settings, seed=2))


@pytest.mark.parametrize("settings", SPREAD, ids=lambda s: s.name)
def test_training_on_short_windows_meets_every_distance_of_the_long_one(settings):
    seen = set()
    for seed in range(BATCH):
        for row in draw(settings, seed=seed, batch=2).unique(dim=0):
            seen.update((row[:, None] - row).flatten().int().tolist())
    assert set(range(LONGEST)) <= seen


@pytest.mark.parametrize("settings", DRAWN, ids=lambda s: s.name)
def test_a_range_shorter_than_the_window_is_refused(settings):
    with pytest.raises(BadInput, match="longest=8"):
        draw(type(settings)(longest=LENGTH // 2))


@pytest.mark.parametrize("settings", DRAWN, ids=lambda s: s.name)
def test_a_range_of_just_the_window_is_contiguous(settings):
    positions = draw(type(settings)(longest=LENGTH))
    assert torch.equal(positions, torch.arange(float(LENGTH)).expand(BATCH, LENGTH))


def test_skipwise_windows_are_two_chunks_and_the_first_starts_at_zero():
    positions = draw(Skipwise(longest=LONGEST))
    assert (positions[:, 0] == 0).all()
    jumps = (positions.diff() > 1).sum(dim=1)
    assert jumps.max() == 1
    gaps = (positions[:, -1] - (LENGTH - 1)).int().tolist()
    assert min(gaps) == 0 and max(gaps) == LONGEST - LENGTH  # both ends are reached
    cuts = {row.argmax().item() + 1 for row in positions.diff() if row.max() > 1}
    assert cuts == set(range(1, LENGTH))


def test_an_offset_moves_each_window_as_a_whole_to_every_place_alike():
    positions = draw(Offset(longest=LONGEST), batch=20_000)
    assert (positions.diff() == 1).all()
    counts = positions[:, 0].int().bincount(minlength=LONGEST - LENGTH + 1)
    assert len(counts) == LONGEST - LENGTH + 1  # the last window ends at the end of the range
    expected = 20_000 / len(counts)
    assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_a_randomized_batch_shares_its_positions_and_covers_the_range_evenly():
    positions = draw(Randomized(longest=LONGEST), batch=3)
    assert torch.equal(positions, positions[:1].expand(3, LENGTH))
    counts = torch.zeros(LONGEST)
    for seed in range(BATCH):
        counts[draw(Randomized(longest=LONGEST), seed=seed, batch=1)[0].long()] += 1
    expected = BATCH * LENGTH / LONGEST
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_the_range_of_a_curriculum_grows_in_equal_steps_from_the_window():
    settings = Curriculum(longest=LONGEST, stages=4)
    for done, reached in ((0.0, 16), (0.24, 16), (0.25, 32), (0.5, 48), (0.74, 48), (0.75, 64), (0.99, 64)):
        ends = {draw(settings, seed, batch=1, done=done).max().int().item() for seed in range(BATCH)}
        assert max(ends) == reached - 1 and (len(ends) > 1 or reached == LENGTH)
        same = Randomized(longest=reached).positions(LENGTH, 2, torch.Generator().manual_seed(3))
        assert torch.equal(draw(settings, 3, batch=2, done=done), same)


def test_random_floats_are_sorted_uniform_draws_of_each_sequence():
    positions = draw(RandomFloats(longest=LONGEST))
    assert positions.shape == (BATCH, LENGTH) and positions.dtype == torch.float32
    assert (positions.diff() >= 0).all() and positions.min() >= 0 and positions.max() < LONGEST
    assert torch.equal(positions, draw(RandomFloats(longest=LONGEST)))
    assert not torch.equal(positions[0], positions[1])
    expected = LONGEST * torch.arange(1, LENGTH + 1) / (LENGTH + 1)  # of order statistics
    assert (positions.mean(dim=0) - expected).abs().max() < 5 * LONGEST / 2 / (LENGTH * BATCH) ** 0.5


@pytest.mark.parametrize("length", [3, LENGTH, LENGTH + 1, 5 * LENGTH])
def test_a_text_of_any_length_is_read_where_random_floats_were_trained(length):
    """Shimizu et al. 2026: token i of n at (2i - 1)/(2 max(L, n)) of the range, but for half a spacing."""
    kind = EXTENSIONS["dynamic_interpolate"]
    extension = kind(kind.Knobs(), LENGTH)
    places = extension.positions(torch.arange(float(length), dtype=torch.float64))
    longer = max(LENGTH, length)
    published = LENGTH * (2 * torch.arange(1.0, length + 1, dtype=torch.float64) - 1) / (2 * longer)
    torch.testing.assert_close(places, published - LENGTH / longer / 2, rtol=1e-12, atol=1e-12)
    trained = draw(RandomFloats(longest=LENGTH))
    assert torch.equal(extension.positions(trained), trained)  # as it is trained
